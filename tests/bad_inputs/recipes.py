"""Recipes: broken ones with what their message must say, and unusual ones that are well."""

from __future__ import annotations

from tests.bad_inputs.case import Case, good

FINE_TUNING = """\
task: sentiment-analysis
method: fine-tuning
model: encoder
output: run
data:
  train: train.jsonl
"""  # what is added stands in line 7: indented by two it is data's
DISTILLATION = FINE_TUNING.replace("fine-tuning", "distillation").replace("output", "reference: teacher\noutput")
CROSS_DOMAIN = FINE_TUNING.replace("fine-tuning", "cross-domain")
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


def whole(kind: str, name: str, text: str, *needles: str, overrides: tuple[str, ...] = ()) -> Case:
    """A case of a whole recipe."""
    return Case(kind, name, needles=needles, recipe=text, overrides=overrides)


def line(kind: str, name: str, text: str, *needles: str, base: str = FINE_TUNING) -> Case:
    """A case of lines added to a sound recipe."""
    return whole(kind, name, base + text + "\n", *needles)


def encoded(kind: str, name: str, data: bytes, *needles: str) -> Case:
    """A case of a file that is no text."""
    return Case(kind, name, needles=needles, files={"recipe.yaml": data})


def well(kind: str, name: str, text: str, base: str = FINE_TUNING, **more: object) -> Case:
    """An unusual recipe that is well."""
    return good(kind, name, recipe=base + text, **more)  # type: ignore[arg-type]


TEXT = [
    whole("R1", "not closed", FINE_TUNING + "training: {epochs: 3", "recipe.yaml:7:21", "expected ',' or '}'"),
    whole(
        "R1",
        "tab",
        "task: sentiment-analysis\ndata:\n\ttrain: x\n",
        "recipe.yaml:3:1",
        "indent with spaces, not with tabs",
    ),
    whole("R1", "colon in text", "task: a: b\n", "recipe.yaml:1:8", "in quotes"),
    whole("R1", "at sign", FINE_TUNING + "reference: @teacher\n", "recipe.yaml:7:12", "put the text in quotes"),
    whole("R1", "two documents", FINE_TUNING + "---\ntask: x\n", "recipe.yaml:7:1", "take out the line ---"),
    whole("R1", "unknown alias", FINE_TUNING + "prompt: *none\n", "recipe.yaml:7:9", "none"),
    whole("R12", "empty", "", "recipe.yaml\n", "found:    nothing", "a mapping of fields"),
    whole("R12", "comments alone", "# a recipe\n", "found:    nothing"),
    whole("R12", "a list", "- task: sentiment-analysis\n", "a single value, or a list"),
    whole("R1", "control character", FINE_TUNING + "prompt: \x07\n", "#x0007"),
    whole("R12", "alias bomb", FINE_TUNING + BOMB, "more than 10000 values", "write the values without aliases"),
    whole("R12", "alias inside itself", FINE_TUNING + "prompt: &p [*p]\n", "do not end"),
    whole("R12", "too deep", FINE_TUNING + "prompt: " + "[" * 500 + "]" * 500, "do not end"),
    line(
        "R3",
        "duplicate",
        "  train: other.jsonl",
        "recipe.yaml:7:3 · data.train",
        "recipe.yaml:6 too",
        "keep one of the two",
    ),
    line("R3", "duplicate at the top", "task: x", "recipe.yaml:7:1 · task", "task again", "recipe.yaml:1 too"),
    line(
        "R11",
        "python tag",
        "prompt: !!python/object/apply:os.system [exit]",
        "recipe.yaml:7:9 · prompt",
        "runs no code",
    ),
    line("R11", "python name", "prompt: !!python/name:os.system x", "recipe.yaml:7:9 · prompt", "take the tag out"),
    line("R11", "own tag", "prompt: !secret x", "recipe.yaml:7:9 · prompt", '"!secret" (text)'),
    line(
        "R5",
        "labels yes and no",
        "  labels: [yes, no]",
        "recipe.yaml:7:12 · data.labels.0",
        "recipe.yaml:7:17 · data.labels.1",
        'quote it: "yes"',
        'quote it: "no"',
    ),
    line("R5", "label on as a name", "  class_weights: {on: 2, off: 1}", "recipe.yaml:7:19", 'quote it: "on"'),
    line("R5", "switch yes", "  multi_label: yes", "recipe.yaml:7:16 · data.multi_label", "or write true or false"),
    line("R5", "labels true and false", "  labels: [true, false]", "7:12 · data.labels.0", "found:    true", '"true"'),
    line("R5", "null as a name", "  columns: {~: text}", "recipe.yaml:7:13", "nothing) as a name"),
    line("R5", "list as a name", "  columns: {[a]: text}", "recipe.yaml:7:13", "a list or a mapping as a name"),
    line("R7", "endless number", "max_length: " + "9" * 5000, "recipe.yaml:7:13 · max_length", "plain digits"),
    line("R1", "terminal codes", '"\\e[31m": 1', "recipe.yaml:7:1 · \\x1b[31m"),
]

FIELDS = [
    line(
        "R2",
        "unknown field",
        "training: {learning_rte: 1.0e-4}",
        "recipe.yaml:7:26 · training.learning_rte",
        'did you mean "learning_rate"?',
    ),
    line("R2", "unknown at the top", "trainin: {epochs: 3}", "recipe.yaml:7:1 · trainin", 'did you mean "training"?'),
    line("R2", "in the wrong section", "epochs: 3", "recipe.yaml:7:1 · epochs", "write it as training.epochs"),
    line("R14", "other program's name", "training: {lr: 1.0e-4}", "training.lr", "use training.learning_rate"),
    line(
        "R4", "number in quotes", 'training: {learning_rate: "1e-4"}', '"1e-4" (text)', "write it without quotes: 1e-4"
    ),
    line("R4", "word for a number", "training: {learning_rate: fast}", "recipe.yaml:7:27", '"fast" (text)', "a number"),
    line("R7", "negative rate", "training: {learning_rate: -1}", "training.learning_rate", "greater than 0"),
    line("R7", "rate nan", "training: {learning_rate: .nan}", "nan (a number)", "finite"),
    line("R7", "rate inf", "training: {learning_rate: 1e999}", "inf (a number)", "finite"),
    line("R6", "half a batch", "training: {batch_size: 2.5}", "2.5 (a number)", "a whole number"),
    line("R6", "batch with a point", "training: {batch_size: 8.0}", "write 8"),
    line(
        "R4",
        "batch in words",
        "training: {batch_size: eight}",
        "recipe.yaml:7:24 · training.batch_size",
        "a whole number",
    ),
    line("R6", "true for a number", "training: {batch_size: true}", "true (true/false)", "a whole number"),
    line("R7", "no epochs", "training: {epochs: 0}", "training.epochs", "greater than 0"),
    line("R7", "no length", "max_length: 0", "recipe.yaml:7:13 · max_length", "greater than 0"),
    line(
        "R7", "dropout 3", "training: {lora: {dropout: 3}}", "recipe.yaml:7:28 · training.lora.dropout", "less than 1"
    ),
    line("R8", "unknown precision", "training: {precision: fb16}", "'bf16'", 'did you mean "bf16"?'),
    line(
        "R9",
        "epochs and max_steps",
        "training: {epochs: 3, max_steps: 9}",
        "7:34 · training.max_steps",
        "recipe.yaml:7:20",
    ),
    line(
        "R9",
        "two measures",
        "training: {batch_size: 8, tokens_per_batch: 99}",
        "training.tokens_per_batch",
        "batch_size",
    ),
    line("R10", "neither measure", "training: {epochs: null}", "training.epochs", "either epochs or max_steps"),
    line("R7", "huge seed", "training: {seed: 4294967296}", "less than 4294967296"),
    line("R7", "share of one", "  validation: 1", "recipe.yaml:7:15 · data.validation", "less than 1"),
    line(
        "R4", "number as a path", "  test: 5", "recipe.yaml:7:9 · data.test", 'put it in quotes, if text is meant: "5"'
    ),
    line("R13", "empty path", '  test: ""', "recipe.yaml:7:9 · data.test", "not empty"),
    line("R13", "NUL in a path", '  test: "a\\0b"', "recipe.yaml:7:9 · data.test", "a\\x00b"),
    line(
        "R10", "path without a value", "  columns: {text: }", "data.columns.text", "found:    nothing", "expected: text"
    ),
    line("R9", "label twice", "  labels: [a, b, a]", "recipe.yaml:7:11 · data.labels", "twice there: a"),
    line(
        "R8",
        "unknown file format",
        "  format: csvs",
        "7:11 · data.format",
        'did you mean "csv"?',
        "csv, json, parquet, tsv",
    ),
    line("R9", "one label", "  labels: [a]", "recipe.yaml:7:11 · data.labels", "two names at least"),
    line(
        "R9",
        "weight of no label",
        "  labels: [good, bad]\n  class_weights: {god: 2}",
        "8:24 · data.class_weights.god",
        'did you mean "good"?',
    ),
    line("R4", "word for weights", "  class_weights: balance", "'balanced' or a mapping", 'did you mean "balanced"?'),
    line("R4", "often", "evaluation: {every: often}", "recipe.yaml:7:21 · evaluation.every", "'auto' or a number"),
    whole(
        "R10",
        "patience without rows",
        FINE_TUNING.replace("train.jsonl\n", "train.jsonl\n  validation: null\n") + "evaluation: {patience: 3}\n",
        "evaluation.patience",
        "data.validation",
    ),
    line("R8", "section as a number", "training: 5", "recipe.yaml:7:11 · training", "a mapping"),
    whole("R10", "no fields", "{}", *(f"recipe.yaml · {f}\n" for f in ("task", "method", "model", "data", "output"))),
    whole("R8", "method null", FINE_TUNING.replace("fine-tuning", ""), "method", "nothing", "'cross-domain'"),
    whole(
        "R8", "misspelt method", FINE_TUNING.replace("fine-t", "finet"), "2:9 · method", 'did you mean "fine-tuning"?'
    ),
    whole(
        "R8",
        "misspelt task",
        FINE_TUNING.replace("analysis", "analysys"),
        "1:7 · task",
        'did you mean "sentiment-analysis"?',
    ),
    whole(
        "R10",
        "nothing to learn from",
        FINE_TUNING.replace("train:", "test:"),
        "recipe.yaml:5:1 · data.train",
        "nothing",
    ),
    whole(
        "R8",
        "model as a list",
        FINE_TUNING.replace("encoder", "[a]"),
        "3:8 · model",
        "{from, layers} or {new, tokenizer}",
    ),
    whole(
        "R10",
        "student without layers",
        FINE_TUNING.replace("encoder", "{from: t}"),
        "3:8 · model.layers",
        "add model.layers",
    ),
    whole(
        "R6",
        "half a layer",
        FINE_TUNING.replace("encoder", "{from: t, layers: 2.5}"),
        "3:26 · model.layers",
        "whole number",
    ),
    whole(
        "R7",
        "layer -1",
        FINE_TUNING.replace("encoder", "{from: t, layers: [0, -1]}"),
        "3:30 · model.layers.1",
        "equal to 0",
    ),
    whole(
        "R2", "misspelt key of model", FINE_TUNING.replace("encoder", "{form: t, layers: 2}"), 'did you mean "from"?'
    ),
]

METHODS = [
    line("R9", "fine-tuning near a teacher", "reference: teacher", "7:12 · reference", "method: distillation"),
    line("R9", "fine-tuning with a weight", "objective: {weight: 0.3}", "7:21 · objective.weight", "cross-domain"),
    line("R9", "fine-tuning with a divergence", "objective: {divergence: forward-kl}", "7:25 · objective.divergence"),
    line("R9", "fine-tuning without labels", "  unlabeled: texts.jsonl", "7:14 · data.unlabeled", "labels alone"),
    whole(
        "R10", "no teacher", DISTILLATION.replace("reference: teacher\n", ""), "recipe.yaml · reference", "needs one"
    ),
    whole(
        "R10", "no labels across domains", CROSS_DOMAIN.replace("train:", "unlabeled:"), "data.train", "labelled rows"
    ),
    line(
        "R7", "negative weight", "objective: {weight: -1}", "8:21 · objective.weight", "equal to 0", base=DISTILLATION
    ),
    line(
        "R4",
        "weight as text",
        "objective: {weight: '1'}",
        "without quotes: 1",
        "a number or a mapping",
        base=DISTILLATION,
    ),
    line(
        "R7",
        "unsure",
        "objective: {weight: {confidence: 0.5}}",
        "8:34 · objective.weight.confidence",
        base=DISTILLATION,
    ),
    line("R9", "two rules", "objective: {weight: {}}", "exactly one of confidence", base=DISTILLATION),
    line(
        "R2", "unknown rule", "objective: {weight: {confidense: 0.9}}", 'did you mean "confidence"?', base=DISTILLATION
    ),
    line(
        "R9",
        "no confidence for it",
        "objective: {divergence: jensen-shannon}",
        "7:12 · objective.weight",
        "{confidence: 0.999} for cross-domain",
        "only reverse-kl and forward-kl",
        base=CROSS_DOMAIN,
    ),
    line(
        "R9",
        "confidence at T = 2",
        "objective: {weight: {confidence: 0.9}, divergence: forward-kl, temperature: 2}",
        "temperature 1 only",
        base=DISTILLATION,
    ),
    whole(
        "R9",
        "confidence without labels",
        DISTILLATION.replace("train:", "unlabeled:"),
        "override objective.weight.confidence=0.9 · objective.weight",
        "against labels",
        overrides=("objective.weight.confidence=0.9",),
    ),
    line(
        "R8",
        "misspelt divergence",
        "objective: {divergence: reverse_kl}",
        'did you mean "reverse-kl"?',
        base=DISTILLATION,
    ),
    line(
        "R7",
        "T of total variation",
        "objective: {divergence: total-variation, temperature: 2}",
        "objective.temperature",
        base=DISTILLATION,
    ),
    line(
        "R7",
        "beta 2",
        "objective: {divergence: {name: jensen-shannon, beta: 2}}",
        "8:54 · objective.divergence.beta",
        "from 0 to 1",
        base=DISTILLATION,
    ),
    line(
        "R8",
        "parameter of another",
        "objective: {divergence: {name: skewed-kl, beta: 0.5}}",
        "a parameter of skewed-kl: a",
        base=DISTILLATION,
    ),
    line("R7", "a of 1", "objective: {divergence: {name: skewed-kl, a: 1}}", "between 0 and 1", base=DISTILLATION),
    whole(
        "R9",
        "weights of two",
        DISTILLATION.replace("teacher", "{model: [a, b], weight: [1]}"),
        "reference.weight",
        "each of the 2 models",
        "objective.weight",
    ),
    whole(
        "R8",
        "one weight",
        DISTILLATION.replace("teacher", "{model: [a, b], weight: 1}"),
        "4:36 · reference.weight",
        "a list",
    ),
    whole(
        "R9",
        "temperatures of two",
        DISTILLATION.replace("teacher", "{model: [a, b], temperature: [1.5]}"),
        "reference.temperature",
        "each of the 2 models",
    ),
    whole(
        "R7",
        "temperature 0",
        DISTILLATION.replace("teacher", "{model: t, temperature: 0}"),
        "reference.temperature",
        "greater than 0",
    ),
    whole(
        "R8",
        "calibrated by name",
        DISTILLATION.replace("teacher", "{model: t, temperature: calibrated}"),
        "reference.temperature",
        "a number",
    ),
    whole(
        "R9",
        "temperature of an old self",
        CROSS_DOMAIN + "reference: {temperature: 2.0}\n",
        "reference.temperature",
        "the student's old self",
    ),
    whole(
        "R9",
        "temperature of an adapter",
        DISTILLATION.replace("teacher", "{model: t, from: adapter-off, temperature: 2.0}") + "training: {lora: {}}\n",
        "reference.temperature",
        "the student's old self",
    ),
    whole(
        "R9",
        "adapter-off without one",
        CROSS_DOMAIN + "reference: {from: adapter-off}\n",
        "7:19 · reference.from",
        "training.lora",
    ),
    line("R9", "multi-label sentiment", "  multi_label: true", "7:16 · data.multi_label", "task: text-classification"),
    line(
        "R10",
        "nothing to mix",
        "  mix: {unlabeled: 2}",
        "data.mix.unlabeled",
        "data.unlabeled is missing",
        base=DISTILLATION,
    ),
    line(
        "R9", "nothing to label", "  unlabeled_as: labels", "8:17 · data.unlabeled_as", "rows that", base=DISTILLATION
    ),
    line(
        "R8", "no kind of answer", "  unlabeled_as: logits", "8:17 · data.unlabeled_as", "'labels'", base=DISTILLATION
    ),
    line("R9", "variants without a teacher", "  augment: {}", "7:12 · data.augment", "no reference to speak on them"),
    line(
        "R9",
        "no variants to mix",
        "  mix: {augmented: 2}",
        "data.mix.augmented",
        "augment is missing",
        base=DISTILLATION,
    ),
    line("R7", "every word left out", "  augment: {word_dropout: 1.0}", "data.augment.word_dropout", "less than 1"),
    line(
        "R9",
        "variants that vary nothing",
        "  augment: {word_dropout: 0, crops: false}",
        "8:12 · data.augment",
        "the texts as they are",
        base=DISTILLATION,
    ),
]

UNBUILT = [
    whole(
        "R10",
        "served",
        DISTILLATION.replace("teacher", "{model: t, from: served}"),
        "reference.url",
        "where the server is",
    ),
    whole(
        "R9",
        "cache",
        DISTILLATION.replace("teacher", "{model: t, from: online, cache: c}"),
        "reference.cache",
        "caches nothing",
    ),
    line(
        "R10",
        "mix of nothing",
        "  mix: {source: 0.25}",
        "data.mix.source",
        "data.source.train is missing",
        base=CROSS_DOMAIN,
    ),
    line(
        "R10",
        "source anchor without inputs",
        "objective: {anchor_on: source, weight: 1}",
        "objective.anchor_on",
        "inputs of the source domain",
        "data.source.unlabeled",
        base=CROSS_DOMAIN,
    ),
    line(
        "R9",
        "source inputs for nothing",
        "  source: {unlabeled: s.jsonl}",
        "data.source.unlabeled",
        "nothing would be computed on them",
        base=CROSS_DOMAIN,
    ),
    line(
        "R9",
        "source inputs without a source",
        "  source: {unlabeled: s.jsonl}",
        "data.source.unlabeled",
        "nothing would be computed on them",
    ),
    line("R9", "an anchor of fine-tuning", "objective: {anchor_on: both}", "objective.anchor_on", "no source domain"),
    line(
        "R9",
        "texts of a classifier",
        "objective: {anchor_on: generated}",
        "objective.anchor_on",
        "writes no text",
        base=CROSS_DOMAIN,
    ),
    line(
        "R9",
        "confidence on rows without labels",
        "  source: {unlabeled: s.jsonl}\nobjective: {anchor_on: source, weight: {confidence: 0.99}}",
        "objective.weight",
        "has none",
        base=CROSS_DOMAIN,
    ),
    line(
        "R10",
        "drop without a control slice",
        "objective: {weight: {max_source_drop: 0.01}}",
        "max_source_drop",
        "data.source.validation",
        base=CROSS_DOMAIN,
    ),
    line(
        "R10",
        "divergence without held-out rows",
        "objective: {weight: {max_kl: 0.1}}",
        "max_kl",
        "add data.validation",
        base=CROSS_DOMAIN,
    ),
    line(
        "R9",
        "two who choose the point",
        "  validation: v.jsonl\n  source: {validation: s.jsonl}\n"
        "objective: {weight: {max_kl: 0.1}}\ntraining: {interpolate: 0.5}",
        "training.interpolate",
        "a budget chooses",
        base=CROSS_DOMAIN,
    ),
    line("R8", "a point between", "training: {interpolate: best}", "training.interpolate", "auto, recommended"),
    line(
        "R10",
        "a recommendation without rows",
        "training: {interpolate: recommended}",
        "training.interpolate",
        "data.source.validation",
    ),
    line("R9", "near weights that stay", "training: {l2_sp: 0.1, lora: {}}", "training.l2_sp", "no l2_sp with lora"),
    line("R9", "beams", "generation: {beams: 4}", "generation", "writes no text"),
    line("R9", "languages", "languages: {source: de, target: en}", "languages", "writes no text"),
    line("R9", "target length", "target_max_length: 9", "target_max_length", "writes no text"),
    whole(
        "R10", "new model", FINE_TUNING.replace("encoder", "{new: {model_type: bert}}"), "model.tokenizer", "train: bpe"
    ),
]

PASSED = [
    line("R14", "void", "training: {label_smoothing_factor: 0.1}", "no label_smoothing_factor", "no smoothing"),
    line("R14", "void although false", "training: {use_liger_kernel: false}", "not computed inside the model"),
    line("R14", "ours", "training: {num_train_epochs: 3}", "recipe.yaml:7:30", "use training.epochs"),
    line(
        "R9",
        "both precisions",
        "training: {fp16: true, bf16: true}",
        "training.fp16",
        "training.bf16",
        "training.precision",
    ),
    line("R14", "sharding", "training: {fsdp: full_shard}", "training.fsdp", "use training.distributed.fsdp"),
    line("R8", "unknown schedule", "training: {lr_scheduler_type: cosin}", "cosine_with_restarts", 'mean "cosine"?'),
    line("R8", "unknown optimizer", "training: {optim: adamw_torhc}", 'did you mean "adamw_torch"?'),
    line("R7", "never saving", "training: {save_steps: 0}", "training.save_steps", "greater than 0"),
    line("R7", "decay nan", "training: {weight_decay: .nan}", "training.weight_decay", "finite"),
    line("R4", "norm in words", "training: {max_grad_norm: high}", "training.max_grad_norm", "a number"),
    line(
        "R6",
        "one for true",
        "training: {gradient_checkpointing: 1}",
        "training.gradient_checkpointing",
        "true or false",
    ),
    line(
        "R9",
        "recomputing that loses gradients",
        "training: {gradient_checkpointing: true, gradient_checkpointing_kwargs: {use_reentrant: true}}",
        "training.gradient_checkpointing_kwargs",
        "no use_reentrant",
    ),
    line("R8", "unknown tracker", "training: {report_to: tensorbord}", 'did you mean "tensorboard"?'),
    line(
        "R2", "schedule's keyword", "training: {lr_scheduler_kwargs: {foo: 1}}", "training.lr_scheduler_kwargs", "'foo'"
    ),
    line(
        "R9", "not together", "training: {dataloader_prefetch_factor: 2}", "dataloader_prefetch_factor", "num_workers"
    ),
]

OVERRIDES = [
    whole(
        "R15",
        "unknown override",
        FINE_TUNING,
        "override trainin.epochs=3 · trainin",
        "training",
        overrides=("trainin.epochs=3",),
    ),
    whole("R15", "override of text", FINE_TUNING, 'model is "encoder"', "model={from: …}", overrides=("model.from=t",)),
    whole("R15", "override without =", FINE_TUNING, "override epochs", "training.epochs=5", overrides=("epochs",)),
    whole("R15", "override without a name", FINE_TUNING, "override =5", "field=value", overrides=("=5",)),
    whole("R15", "override of bad YAML", FINE_TUNING, "override output=[1", "YAML", overrides=("output=[1",)),
    whole("R11", "override with code", FINE_TUNING, "runs no code", overrides=("output=!!python/name:os.system x",)),
    whole("R15", "override of a wrong type", FINE_TUNING, "override max_length=1.5", overrides=("max_length=1.5",)),
]

FILES = [
    encoded("R12", "UTF-16", FINE_TUNING.encode("utf-16"), "UTF-16", "save the recipe as UTF-8"),
    encoded("R12", "UTF-16 without a mark", FINE_TUNING.encode("utf-16-le"), "binary", "save the recipe as UTF-8"),
    encoded("R12", "a zip archive", b"PK\x03\x04\x00\x00", "binary", "save the recipe as UTF-8"),
    encoded("R12", "Latin-1", b"task: caf\xe9\n", "recipe.yaml:1", "save the recipe as UTF-8"),
    encoded("R12", "larger than any recipe", b"#" * (2**20 + 1), "more than 1048576 bytes"),
]

MISSING = [
    line("R13", "no such file", "  test: tset.jsonl", "recipe.yaml:7:9", "tset.jsonl", "no file or folder"),
    whole(
        "R13", "no such folder", FINE_TUNING.replace("train.jsonl", "data/train.jsonl"), "6:10", "there is no folder"
    ),
    whole("R13", "nearly its name", FINE_TUNING.replace("train.jsonl", "trian.jsonl"), 'did you mean "train.jsonl"?'),
    whole("R13", "a folder without data", FINE_TUNING.replace("train.jsonl", "empty"), "no data file in the folder"),
    whole("R13", "a model that is a file", FINE_TUNING.replace("encoder", "train.jsonl"), "3:8 · model", "(a file)"),
    whole("R14", "a field of a later version", "version: 2\n" + FINE_TUNING, "recipe.yaml:1:1 · version"),
    line(
        "R14",
        "a recipe of another program",
        "load_in_4bit: true\nmicro_batch_size: 2",
        "load_in_4bit",
        "micro_batch_size",
    ),
]

WELL = [
    well("R1", "flow style over several lines", "training: {max_steps: 1,\n  batch_size: 1}\n"),
    well("R1", "a document's start and end, comments", "# the end\n...\n", base="---\n# a recipe\n" + FINE_TUNING),
    well("R2", "every section, each empty", "training:\nobjective:\nevaluation:\ngeneration:\n"),
    well("R2", "names in quotes", '"max_length": 16\n\'training\': {batch_size: 1}\n'),
    well("R3", "one name in two sections", "evaluation: {metric: accuracy}\nreport: {language: en}\n"),
    well("R3", "one value twice", "  validation: train.jsonl\n  test: train.jsonl\n"),
    well("R4", "a number without a point", "training: {learning_rate: 1e-4, batch_size: 1}\n"),
    well("R4", "a number as YAML 1.1 wants it", "training: {learning_rate: 1.0e-4, batch_size: 1}\n"),
    well("R5", "labels in quotes", '  labels: ["no", "yes"]\n',
         train=[{"text": "a film", "label": "yes"}, {"text": "a plot", "label": "no"}]),
    well("R5", "labels that are numbers", "  labels: [0, 1]\n",
         train=[{"text": "a film", "label": 1}, {"text": "a plot", "label": 0}]),
    well("R6", "whole numbers", "training: {batch_size: 1, max_steps: 2, seed: 0}\n"),
    well("R6", "a share where one is meant", "  validation: 0.4\ntraining: {batch_size: 1}\n"),
    well("R7", "the smallest that is allowed", "training: {batch_size: 1, seed: 0, learning_rate: 1.0e-30}\n"),
    well("R7", "nothing held near", "objective: {weight: 0}\ntraining: {batch_size: 1}\n", base=CROSS_DOMAIN,
         files={"train.jsonl": b'{"text": "a film", "label": "negative"}\n{"text": "a plot", "label": "positive"}\n'}),
    well("R8", "a choice in the other case of letters is none, this one is", "training: {precision: fp32, batch_size: 1}\n"),
    well("R8", "names with a dash", "training: {lr_scheduler_type: cosine_with_restarts, batch_size: 1}\n"),
    well("R9", "steps alone", "training: {max_steps: 1, batch_size: 1}\n"),
    well("R9", "tokens alone", "training: {tokens_per_batch: 8}\n"),
    well("R10", "nothing but what is needed", "training: {batch_size: 1}\n"),
    well("R10", "what is optional, as nothing", "max_length: null\ntraining: {batch_size: 1, lora: null}\n"),
    well("R11", "a tag of YAML's own", "max_length: !!int 16\ntraining: {batch_size: 1}\n"),
    well("R11", "text that looks like code", "training: {batch_size: 1}\n",
         base=FINE_TUNING.replace("output: run", 'output: "os.system"')),
    well("R12", "a mark of UTF-8, CRLF", "", base="\ufeff" + (FINE_TUNING + "training: {batch_size: 1}\n").replace("\n", "\r\n")),
    well("R12", "JSON, which YAML is", "", base='{"task": "sentiment-analysis", "method": "fine-tuning", "model": "encoder", '
         '"output": "run", "data": {"train": "train.jsonl"}, "training": {"batch_size": 1}}'),
    well("R12", "some aliases", "  validation: *rows\ntraining: {batch_size: 1}\n",
         base=FINE_TUNING.replace("train.jsonl", "&rows train.jsonl")),
    well("R13", "a path with a point and blanks", "training: {batch_size: 1}\n",
         base=FINE_TUNING.replace("train.jsonl", "./my data/t.jsonl"),
         files={"my data/t.jsonl": b'{"text": "a film", "label": "x"}\n{"text": "a plot", "label": "y"}\n'}),
    well("R13", "a folder of data", "training: {batch_size: 1}\n", base=FINE_TUNING.replace("train.jsonl", "parts"),
         files={"parts/a.jsonl": b'{"text": "a film", "label": "x"}\n', "parts/b.csv": b"text,label\na plot,y\n"}),
    well("R14", "what is handed on to transformers", "training: {weight_decay: 0.1, adam_beta2: 0.98, batch_size: 1}\n"),
    well("R14", "no report to others", "training: {report_to: none, batch_size: 1}\n"),
    well("R15", "a change, and one of a section", "", overrides=("training.batch_size=1", "evaluation={rows: 5}")),
    well("R15", "a value that holds =", "", overrides=("training.batch_size=1", "output=a=b")),
]  # fmt: skip

RECIPES = [*TEXT, *FIELDS, *METHODS, *UNBUILT, *PASSED, *OVERRIDES, *FILES, *MISSING]
CASES = [*RECIPES, *WELL]
