"""Labels, tags and answers."""

from __future__ import annotations

import unicodedata

from tests.bad_inputs.case import Case, bad, good
from tests.bad_inputs.rows import ROWS, changed, json_lines

CLASSIFYING = ("sentiment-analysis", "text-classification")
NUMBERED = [{"text": "a film", "label": 0}, {"text": "a plot", "label": 1}]
SEVERAL = ("data.multi_label=true",)


def held_out(*labels: object) -> dict[str, bytes]:
    return {"v.jsonl": json_lines([{"text": f"a film {n}", "label": label} for n, label in enumerate(labels)])}


def of_classes(task: str) -> list[Case]:
    validation = ("data.validation=v.jsonl",)
    return [
        bad("L1", "misspelt", "v.jsonl:2", 'did you mean "positive"?', task=task, files=held_out("negative", "postive"), overrides=validation),
        bad("L1", "not in the recipe's list", "train.jsonl:2", '"dull"', task=task, train=changed(task, label="dull"),
            overrides=("data.labels=[positive, negative]",)),
        bad("L2", "7 of two classes", "v.jsonl:1", "7", task=task, train=json_lines(NUMBERED), files=held_out(7, 1), overrides=validation),
        bad("L2", "2 of a list of two", "train.jsonl:3", task=task, train=json_lines([*NUMBERED, {"text": "x", "label": 2}]), overrides=("data.labels=[0, 1]",)),
        bad("L3", "-1", "train.jsonl:2", "from 0", task=task, train=changed(task, label=-1)),
        bad("L3", "-1 as text", "train.jsonl:2", "from 0", task=task, train=changed(task, label="-1")),
        bad("L4", "true", "train.jsonl:2", 'quote it: "true"', task=task, train=changed(task, label=True)),
        bad("L4", "half", "train.jsonl:2", "0.5 (a number)", task=task, train=changed(task, label=0.5)),
        bad("L4", "nothing", "train.jsonl:2", "data.unlabeled", task=task, train=changed(task, label=None)),
        bad("L5", "a class that only the test rows have", "v.jsonl:1", '"dull"', task=task, files=held_out("dull", "positive"), overrides=("data.test=v.jsonl",)),
        bad("L6", "one class", '"positive"', "two", task=task, train=json_lines([{"text": t, "label": "positive"} for t in "abc"])),
        bad("L6", "one class beside rows of the other that are skipped", "two", task=task, overrides=("data.bad_rows=skip",),
            train=json_lines([{"text": "a", "label": "positive"}, {"text": "b", "label": None}, {"text": "c", "label": "positive"}])),
        good("L1", "a list that names them", task=task, overrides=("data.labels=[positive, negative]",)),
        good("L1", "a map to the model's names", task=task, overrides=("data.labels={bad: negative, good: positive}",),
             train=[{"text": "a", "label": "good"}, {"text": "b", "label": "bad"}]),
        good("L2", "numbers from 0", task=task, train=NUMBERED),
        good("L2", "numbers with a class between that no row has", task=task, train=NUMBERED, overrides=("data.labels=[0, 1, 2]",)),
        good("L3", "a name with a dash before it", task=task, train=[{"text": "a", "label": "-"}, {"text": "b", "label": "non-"}]),
        good("L3", "rows without a label, where they belong", task=task, files={"pool.jsonl": b'{"text": "a film"}\n{"text": "b", "label": -1}\n'},
             overrides=("data.test=train.jsonl",)),
        good("L4", "numbers in quotes", task=task, train=[{"text": "a", "label": "0"}, {"text": "b", "label": "1"}]),
        good("L4", '"true" and "false"', task=task, train=[{"text": "a", "label": "true"}, {"text": "b", "label": "false"}]),
        good("L5", "a class that the test rows lack", task=task, files=held_out("positive"), overrides=("data.test=v.jsonl",)),
        good("L6", "two classes, one of them once", task=task, train=[{"text": t, "label": "positive"} for t in "abc"] + ROWS[task][1:2]),
        good("L6", "a test file of one class", task=task, files=held_out("negative", "negative"), overrides=("data.test=v.jsonl",)),
    ]  # fmt: skip


MULTIPLE = [
    bad("L7", "one name", "train.jsonl:2", '["news"]', task="text-classification", train=json_lines([{"text": "a", "label": ["x"]}, {"text": "b", "label": "x"}]), overrides=SEVERAL),
    bad("L7", "a list", "train.jsonl:2", "multi_label: true", task="sentiment-analysis", train=changed("sentiment-analysis", label=["positive"])),
    bad("L7", "a name twice", "train.jsonl:1", "once", task="text-classification", train=json_lines([{"text": "a", "label": ["x", "x"]}]), overrides=SEVERAL),
    bad("L7", "no name anywhere", "none in 2 rows", task="text-classification", train=json_lines([{"text": "a", "label": []}, {"text": "b", "label": []}]), overrides=SEVERAL),
    good("L7", "lists, some empty", task="text-classification", train=[{"text": "a", "label": ["x", "y"]}, {"text": "b", "label": []}], overrides=SEVERAL),
    good("L7", "one class that is there or not", task="text-classification", train=[{"text": "a", "label": ["x"]}, {"text": "b", "label": []}], overrides=SEVERAL),
]  # fmt: skip

SRL = "semantic-role-labeling"
TAGS = [
    bad("L8", "a tag too few", "train.jsonl:2", "tags", task=SRL, train=changed(SRL, tags=["B-ARG0", "B-V", "O"])),
    bad("L8", "a tag too many", "train.jsonl:2", "tags", task=SRL, train=changed(SRL, tags=["B-ARG0", "B-V", "O", "O", "O"])),
    bad("L8", "I- without B-", "train.jsonl:2", "I-ARG1", task=SRL, train=changed(SRL, tags=["B-ARG0", "B-V", "I-ARG1", "O"])),
    bad("L8", "I- after another kind", "train.jsonl:2", "I-ARG1", task=SRL, train=changed(SRL, tags=["B-ARG0", "I-ARG1", "O", "O"])),
    bad("L8", "a tag that is no BIO", "train.jsonl:2", "ARG0", task=SRL, train=changed(SRL, tags=["ARG0", "B-V", "O", "O"])),
    bad("L8", "a predicate past the end", "train.jsonl:2", "predicate_index", "0 to 3", task=SRL, train=changed(SRL, predicate_index=4)),
    bad("L8", "a predicate before the start", "train.jsonl:2", "predicate_index", task=SRL, train=changed(SRL, predicate_index=-1)),
    bad("L8", "a predicate in halves", "train.jsonl:2", "predicate_index", task=SRL, train=changed(SRL, predicate_index=0.5)),
    bad("L8", "a token that is nothing", "train.jsonl:2", "tokens", task=SRL, train=changed(SRL, tokens=["he", None, "fish", "!"])),
    good("L8", "a predicate as text", task=SRL, train=changed(SRL, predicate_index="1")),
    good("L8", "a span of two right after one of its kind", task=SRL, train=changed(SRL, tags=["B-ARG0", "B-ARG0", "I-ARG0", "B-V"])),
]  # fmt: skip

QA = "question-answering"
CAFE = "A café, 文 and 🙂: then Ann Lee came."
NFD = unicodedata.normalize("NFD", CAFE)


def answered(context: str, text: object, start: object, **more: object) -> bytes:
    return changed(QA, context=context, answers={"text": text, "answer_start": start}, **more)


ANSWERS = [
    bad("Q1", "another place", "train.jsonl:2", "23", task=QA, train=changed(QA, answers={"text": ["Ann Lee"], "answer_start": [5]})),
    bad("Q1", "not in the text", "train.jsonl:2", "Bob", task=QA, train=changed(QA, answers={"text": ["Bob"], "answer_start": [0]})),
    bad("Q1", "other letters", "train.jsonl:2", "ann lee", task=QA, train=changed(QA, answers={"text": ["ann lee"], "answer_start": [23]})),
    bad("Q2", "negative", "train.jsonl:2", "count characters from 0", task=QA, train=changed(QA, answers={"text": ["The"], "answer_start": [-1]})),
    bad("Q2", "far past the end", "train.jsonl:2", "answers", task=QA, train=changed(QA, answers={"text": ["The"], "answer_start": [4000]})),
    bad("Q2", "in halves", "train.jsonl:2", "answers", task=QA, train=changed(QA, answers={"text": ["The"], "answer_start": [0.5]})),
    bad("Q3", "in bytes", "train.jsonl:2", "bytes", task=QA, train=answered(CAFE, ["Ann Lee"], [len(CAFE[: CAFE.index("Ann")].encode())])),
    bad("Q3", "in UTF-16", "train.jsonl:2", "UTF-16", task=QA, train=answered(CAFE, ["Ann Lee"], [len(CAFE[: CAFE.index("Ann")].encode("utf-16-le")) // 2])),
    bad("Q4", "no answer, said to be possible", "train.jsonl:2", "is_impossible", task=QA, train=answered(CAFE, [], [], is_impossible=False)),
    bad("Q4", "an answer, said to be impossible", "train.jsonl:2", "is_impossible", task=QA, train=answered(CAFE, ["Ann Lee"], [CAFE.index("Ann")], is_impossible=True)),
    bad("Q5", "no room for a word of the text", "max_length", "at least 11", task=QA, overrides=("max_length=10",)),
    bad("Q5", "no room beside a question of the file", "max_length", task=QA, overrides=("max_length=5",)),
    bad("Q6", "a place too many", "train.jsonl:2", "1 and 2", task=QA, train=answered(CAFE, ["A"], [0, 0])),
    bad("Q6", "a text alone", "train.jsonl:2", "answers", task=QA, train=changed(QA, answers="Ann Lee")),
    bad("Q6", "no places", "train.jsonl:2", "answer_start", task=QA, train=changed(QA, answers={"text": ["The"]})),
    bad("Q7", "NFC in a text of NFD", "train.jsonl:2", "normalis", task=QA, train=answered(NFD, ["café"], [2])),
    bad("Q7", "NFD in a text of NFC", "train.jsonl:2", "normalis", task=QA, train=answered(CAFE, [NFD[2:7]], [2])),
    good("Q1", "a word that is there twice, the second meant", task=QA, train=answered("dull, dull film", ["dull"], [6])),
    good("Q1", "several answers", task=QA, train=answered(CAFE, ["Ann", "Ann Lee"], [CAFE.index("Ann")] * 2)),
    good("Q2", "at the very start", task=QA, train=answered(CAFE, ["A"], [0])),
    good("Q2", "at the very end", task=QA, train=answered(CAFE, ["."], [len(CAFE) - 1])),
    good("Q3", "after letters of two bytes", task=QA, train=answered(CAFE, ["Ann Lee"], [CAFE.index("Ann")])),
    good("Q3", "an emoji as the answer", task=QA, train=answered(CAFE, ["🙂"], [CAFE.index("🙂")])),
    good("Q4", "no answer", task=QA, train=answered(CAFE, [], [], is_impossible=True)),
    good("Q4", "an answer, said to be possible", task=QA, train=answered(CAFE, ["A"], [0], is_impossible=False)),
    good("Q5", "a text longer than the window", task=QA, train=answered("a film and " * 90 + "Ann Lee", ["Ann Lee"], [990])),
    good("Q5", "a question longer than the window, which is cut and warned of", task=QA, train=changed(QA, question="who " * 400)),
    good("Q5", "a window of sixteen", task=QA, overrides=("max_length=16",)),
    good("Q6", "empty lists", task=QA, train=answered(CAFE, [], [])),
    good("Q6", "places as text", task=QA, train=answered(CAFE, ["A"], ["0"])),
    good("Q7", "both in NFD", task=QA, train=answered(NFD, [NFD[2:7]], [2])),
    good("Q7", "both in NFC", task=QA, train=answered(CAFE, ["café"], [2])),
]  # fmt: skip

CASES = [*(case for task in CLASSIFYING for case in of_classes(task)), *MULTIPLE, *TAGS, *ANSWERS]
