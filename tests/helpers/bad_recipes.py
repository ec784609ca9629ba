"""Broken recipes, each with what its message must say: its place and field, what was found, how to fix it."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    name: str
    text: str
    overrides: tuple[str, ...]
    needles: tuple[str, ...]


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


def bad(name: str, text: str, *needles: str, overrides: tuple[str, ...] = ()) -> Case:
    return Case(name, text, overrides, needles)


def line(name: str, text: str, *needles: str, base: str = FINE_TUNING) -> Case:
    """A case of lines added to a sound recipe."""
    return Case(name, base + text + "\n", (), needles)


TEXT = [
    bad("not closed", FINE_TUNING + "training: {epochs: 3", "recipe.yaml:7:21", "expected ',' or '}'"),
    bad("tab", "task: sentiment-analysis\ndata:\n\ttrain: x\n", "recipe.yaml:3:1", "indent with spaces, not with tabs"),
    bad("colon in text", "task: a: b\n", "recipe.yaml:1:8", "in quotes"),
    bad("at sign", FINE_TUNING + "reference: @teacher\n", "recipe.yaml:7:12", "put the text in quotes"),
    bad("two documents", FINE_TUNING + "---\ntask: x\n", "recipe.yaml:7:1", "take out the line ---"),
    bad("unknown alias", FINE_TUNING + "prompt: *none\n", "recipe.yaml:7:9", "none"),
    bad("empty", "", "recipe.yaml\n", "found:    nothing", "a mapping of fields"),
    bad("comments alone", "# a recipe\n", "found:    nothing"),
    bad("a list", "- task: sentiment-analysis\n", "a single value, or a list"),
    bad("control character", FINE_TUNING + "prompt: \x07\n", "#x0007"),
    bad("alias bomb", FINE_TUNING + BOMB, "more than 10000 values", "write the values without aliases"),
    bad("alias inside itself", FINE_TUNING + "prompt: &p [*p]\n", "do not end"),
    bad("too deep", FINE_TUNING + "prompt: " + "[" * 500 + "]" * 500, "do not end"),
    line(
        "duplicate", "  train: other.jsonl", "recipe.yaml:7:3 · data.train", "recipe.yaml:6 too", "keep one of the two"
    ),
    line("duplicate at the top", "task: x", "recipe.yaml:7:1 · task", "task again", "recipe.yaml:1 too"),
    line("python tag", "prompt: !!python/object/apply:os.system [exit]", "recipe.yaml:7:9 · prompt", "runs no code"),
    line("python name", "prompt: !!python/name:os.system x", "recipe.yaml:7:9 · prompt", "take the tag out"),
    line("own tag", "prompt: !secret x", "recipe.yaml:7:9 · prompt", '"!secret" (text)'),
    line(
        "labels yes and no",
        "  labels: [yes, no]",
        "recipe.yaml:7:12 · data.labels.0",
        "recipe.yaml:7:17 · data.labels.1",
        'quote it: "yes"',
        'quote it: "no"',
    ),
    line("label on as a name", "  class_weights: {on: 2, off: 1}", "recipe.yaml:7:19", 'quote it: "on"'),
    line("switch yes", "  multi_label: yes", "recipe.yaml:7:16 · data.multi_label", "or write true or false"),
    line("labels true and false", "  labels: [true, false]", "7:12 · data.labels.0", "found:    true", '"true"'),
    line("null as a name", "  columns: {~: text}", "recipe.yaml:7:13", "nothing) as a name"),
    line("list as a name", "  columns: {[a]: text}", "recipe.yaml:7:13", "a list or a mapping as a name"),
    line("endless number", "max_length: " + "9" * 5000, "recipe.yaml:7:13 · max_length", "plain digits"),
    line("terminal codes", '"\\e[31m": 1', "recipe.yaml:7:1 · \\x1b[31m"),
]

FIELDS = [
    line(
        "unknown field",
        "training: {learning_rte: 1.0e-4}",
        "recipe.yaml:7:26 · training.learning_rte",
        'did you mean "learning_rate"?',
    ),
    line("unknown at the top", "trainin: {epochs: 3}", "recipe.yaml:7:1 · trainin", 'did you mean "training"?'),
    line("in the wrong section", "epochs: 3", "recipe.yaml:7:1 · epochs", "write it as training.epochs"),
    line("other program's name", "training: {lr: 1.0e-4}", "training.lr", "use training.learning_rate"),
    line("number in quotes", 'training: {learning_rate: "1e-4"}', '"1e-4" (text)', "write it without quotes: 1e-4"),
    line("word for a number", "training: {learning_rate: fast}", "recipe.yaml:7:27", '"fast" (text)', "a number"),
    line("negative rate", "training: {learning_rate: -1}", "training.learning_rate", "greater than 0"),
    line("rate nan", "training: {learning_rate: .nan}", "nan (a number)", "finite"),
    line("rate inf", "training: {learning_rate: 1e999}", "inf (a number)", "finite"),
    line("half a batch", "training: {batch_size: 2.5}", "2.5 (a number)", "a whole number"),
    line("batch with a point", "training: {batch_size: 8.0}", "write 8"),
    line("batch in words", "training: {batch_size: eight}", "recipe.yaml:7:24 · training.batch_size", "a whole number"),
    line("true for a number", "training: {batch_size: true}", "true (true/false)", "a whole number"),
    line("no epochs", "training: {epochs: 0}", "training.epochs", "greater than 0"),
    line("no length", "max_length: 0", "recipe.yaml:7:13 · max_length", "greater than 0"),
    line("dropout 3", "training: {lora: {dropout: 3}}", "recipe.yaml:7:28 · training.lora.dropout", "less than 1"),
    line("unknown precision", "training: {precision: fb16}", "'bf16'", 'did you mean "bf16"?'),
    line(
        "epochs and max_steps", "training: {epochs: 3, max_steps: 9}", "7:34 · training.max_steps", "recipe.yaml:7:20"
    ),
    line("two measures", "training: {batch_size: 8, tokens_per_batch: 99}", "training.tokens_per_batch", "batch_size"),
    line("neither measure", "training: {epochs: null}", "training.epochs", "either epochs or max_steps"),
    line("huge seed", "training: {seed: 4294967296}", "less than 4294967296"),
    line("share of one", "  validation: 1", "recipe.yaml:7:15 · data.validation", "less than 1"),
    line("number as a path", "  test: 5", "recipe.yaml:7:9 · data.test", 'put it in quotes, if text is meant: "5"'),
    line("empty path", '  test: ""', "recipe.yaml:7:9 · data.test", "not empty"),
    line("NUL in a path", '  test: "a\\0b"', "recipe.yaml:7:9 · data.test", "a\\x00b"),
    line("path without a value", "  columns: {text: }", "data.columns.text", "found:    nothing", "expected: text"),
    line("label twice", "  labels: [a, b, a]", "recipe.yaml:7:11 · data.labels", "twice there: a"),
    line(
        "unknown file format", "  format: csvs", "7:11 · data.format", 'did you mean "csv"?', "csv, json, parquet, tsv"
    ),
    line("one label", "  labels: [a]", "recipe.yaml:7:11 · data.labels", "two names at least"),
    line(
        "weight of no label",
        "  labels: [good, bad]\n  class_weights: {god: 2}",
        "8:24 · data.class_weights.god",
        'did you mean "good"?',
    ),
    line("word for weights", "  class_weights: balance", "'balanced' or a mapping", 'did you mean "balanced"?'),
    line("often", "evaluation: {every: often}", "recipe.yaml:7:21 · evaluation.every", "'auto' or a number"),
    line("patience without rows", "evaluation: {patience: 3}", "evaluation.patience", "data.validation"),
    line("section as a number", "training: 5", "recipe.yaml:7:11 · training", "a mapping"),
    bad("no fields", "{}", *(f"recipe.yaml · {f}\n" for f in ("task", "method", "model", "data", "output"))),
    bad("method null", FINE_TUNING.replace("fine-tuning", ""), "method", "nothing", "'cross-domain'"),
    bad("misspelt method", FINE_TUNING.replace("fine-t", "finet"), "2:9 · method", 'did you mean "fine-tuning"?'),
    bad(
        "misspelt task", FINE_TUNING.replace("analysis", "analysys"), "1:7 · task", 'did you mean "sentiment-analysis"?'
    ),
    bad("nothing to learn from", FINE_TUNING.replace("train:", "test:"), "recipe.yaml:5:1 · data.train", "nothing"),
    bad("model as a list", FINE_TUNING.replace("encoder", "[a]"), "3:8 · model", "{from, layers} or {new, tokenizer}"),
    bad(
        "student without layers", FINE_TUNING.replace("encoder", "{from: t}"), "3:8 · model.layers", "add model.layers"
    ),
    bad(
        "half a layer", FINE_TUNING.replace("encoder", "{from: t, layers: 2.5}"), "3:26 · model.layers", "whole number"
    ),
    bad(
        "layer -1", FINE_TUNING.replace("encoder", "{from: t, layers: [0, -1]}"), "3:30 · model.layers.1", "equal to 0"
    ),
    bad("misspelt key of model", FINE_TUNING.replace("encoder", "{form: t, layers: 2}"), 'did you mean "from"?'),
]

METHODS = [
    line("fine-tuning near a teacher", "reference: teacher", "7:12 · reference", "method: distillation"),
    line("fine-tuning with a weight", "objective: {weight: 0.3}", "7:21 · objective.weight", "cross-domain"),
    line("fine-tuning with a divergence", "objective: {divergence: forward-kl}", "7:25 · objective.divergence"),
    line("fine-tuning without labels", "  unlabeled: texts.jsonl", "7:14 · data.unlabeled", "labels alone"),
    bad("no teacher", DISTILLATION.replace("reference: teacher\n", ""), "recipe.yaml · reference", "needs one"),
    bad("no labels across domains", CROSS_DOMAIN.replace("train:", "unlabeled:"), "data.train", "labelled rows"),
    line("negative weight", "objective: {weight: -1}", "8:21 · objective.weight", "equal to 0", base=DISTILLATION),
    line("weight as text", "objective: {weight: '1'}", "without quotes: 1", "a number or a mapping", base=DISTILLATION),
    line("unsure", "objective: {weight: {confidence: 0.5}}", "8:34 · objective.weight.confidence", base=DISTILLATION),
    line("two rules", "objective: {weight: {}}", "exactly one of confidence", base=DISTILLATION),
    line("unknown rule", "objective: {weight: {confidense: 0.9}}", 'did you mean "confidence"?', base=DISTILLATION),
    line(
        "no confidence for it",
        "objective: {divergence: jensen-shannon}",
        "7:12 · objective.weight",
        "{confidence: 0.999} for cross-domain",
        "only reverse-kl and forward-kl",
        base=CROSS_DOMAIN,
    ),
    line(
        "confidence at T = 2",
        "objective: {weight: {confidence: 0.9}, divergence: forward-kl, temperature: 2}",
        "temperature 1 only",
        base=DISTILLATION,
    ),
    bad(
        "confidence without labels",
        DISTILLATION.replace("train:", "unlabeled:"),
        "override objective.weight.confidence=0.9 · objective.weight",
        "against labels",
        overrides=("objective.weight.confidence=0.9",),
    ),
    line("misspelt divergence", "objective: {divergence: reverse_kl}", 'did you mean "reverse-kl"?', base=DISTILLATION),
    line(
        "T of total variation",
        "objective: {divergence: total-variation, temperature: 2}",
        "objective.temperature",
        base=DISTILLATION,
    ),
    line(
        "beta 2",
        "objective: {divergence: {name: jensen-shannon, beta: 2}}",
        "8:54 · objective.divergence.beta",
        "from 0 to 1",
        base=DISTILLATION,
    ),
    line(
        "parameter of another",
        "objective: {divergence: {name: skewed-kl, beta: 0.5}}",
        "a parameter of skewed-kl: a",
        base=DISTILLATION,
    ),
    line("a of 1", "objective: {divergence: {name: skewed-kl, a: 1}}", "between 0 and 1", base=DISTILLATION),
    bad(
        "weights of two",
        DISTILLATION.replace("teacher", "{model: [a, b], weight: [1]}"),
        "reference.weight",
        "each of the 2 models",
        "objective.weight",
    ),
    bad(
        "one weight", DISTILLATION.replace("teacher", "{model: [a, b], weight: 1}"), "4:36 · reference.weight", "a list"
    ),
    bad(
        "temperatures of two",
        DISTILLATION.replace("teacher", "{model: [a, b], temperature: [1.5]}"),
        "reference.temperature",
        "each of the 2 models",
    ),
    bad(
        "temperature 0",
        DISTILLATION.replace("teacher", "{model: t, temperature: 0}"),
        "reference.temperature",
        "greater than 0",
    ),
    bad(
        "calibrated by name",
        DISTILLATION.replace("teacher", "{model: t, temperature: calibrated}"),
        "reference.temperature",
        "a number",
    ),
    bad(
        "temperature of an old self",
        CROSS_DOMAIN + "reference: {temperature: 2.0}\n",
        "reference.temperature",
        "the student's old self",
    ),
    bad(
        "temperature of an adapter",
        DISTILLATION.replace("teacher", "{model: t, from: adapter-off, temperature: 2.0}") + "training: {lora: {}}\n",
        "reference.temperature",
        "the student's old self",
    ),
    bad(
        "adapter-off without one",
        CROSS_DOMAIN + "reference: {from: adapter-off}\n",
        "7:19 · reference.from",
        "training.lora",
    ),
    line("multi-label sentiment", "  multi_label: true", "7:16 · data.multi_label", "task: text-classification"),
    line(
        "nothing to mix", "  mix: {unlabeled: 2}", "data.mix.unlabeled", "data.unlabeled is missing", base=DISTILLATION
    ),
    line("nothing to label", "  unlabeled_as: labels", "8:17 · data.unlabeled_as", "rows that", base=DISTILLATION),
    line("no kind of answer", "  unlabeled_as: logits", "8:17 · data.unlabeled_as", "'labels'", base=DISTILLATION),
    line("variants without a teacher", "  augment: {}", "7:12 · data.augment", "no reference to speak on them"),
    line("no variants to mix", "  mix: {augmented: 2}", "data.mix.augmented", "augment is missing", base=DISTILLATION),
    line("every word left out", "  augment: {word_dropout: 1.0}", "data.augment.word_dropout", "less than 1"),
    line(
        "variants that vary nothing",
        "  augment: {word_dropout: 0, crops: false}",
        "8:12 · data.augment",
        "the texts as they are",
        base=DISTILLATION,
    ),
]

UNBUILT = [
    bad("served", DISTILLATION.replace("teacher", "{model: t, from: served}"), "reference.url", "where the server is"),
    bad(
        "cache",
        DISTILLATION.replace("teacher", "{model: t, from: online, cache: c}"),
        "reference.cache",
        "caches nothing",
    ),
    line(
        "mix of nothing", "  mix: {source: 0.25}", "data.mix.source", "data.source.train is missing", base=CROSS_DOMAIN
    ),
    line(
        "source anchor without inputs",
        "objective: {anchor_on: source, weight: 1}",
        "objective.anchor_on",
        "inputs of the source domain",
        "data.source.unlabeled",
        base=CROSS_DOMAIN,
    ),
    line(
        "source inputs for nothing",
        "  source: {unlabeled: s.jsonl}",
        "data.source.unlabeled",
        "nothing would be computed on them",
        base=CROSS_DOMAIN,
    ),
    line(
        "source inputs without a source",
        "  source: {unlabeled: s.jsonl}",
        "data.source.unlabeled",
        "nothing would be computed on them",
    ),
    line("an anchor of fine-tuning", "objective: {anchor_on: both}", "objective.anchor_on", "no source domain"),
    line(
        "texts of a classifier",
        "objective: {anchor_on: generated}",
        "objective.anchor_on",
        "writes no text",
        base=CROSS_DOMAIN,
    ),
    line(
        "confidence on rows without labels",
        "  source: {unlabeled: s.jsonl}\nobjective: {anchor_on: source, weight: {confidence: 0.99}}",
        "objective.weight",
        "has none",
        base=CROSS_DOMAIN,
    ),
    line(
        "drop without a control slice",
        "objective: {weight: {max_source_drop: 0.01}}",
        "max_source_drop",
        "data.source.validation",
        base=CROSS_DOMAIN,
    ),
    line(
        "divergence without held-out rows",
        "objective: {weight: {max_kl: 0.1}}",
        "max_kl",
        "add data.validation",
        base=CROSS_DOMAIN,
    ),
    line(
        "two who choose the point",
        "  validation: v.jsonl\n  source: {validation: s.jsonl}\n"
        "objective: {weight: {max_kl: 0.1}}\ntraining: {interpolate: 0.5}",
        "training.interpolate",
        "a budget chooses",
        base=CROSS_DOMAIN,
    ),
    line("a point between", "training: {interpolate: best}", "training.interpolate", "auto, recommended"),
    line(
        "a recommendation without rows",
        "training: {interpolate: recommended}",
        "training.interpolate",
        "data.source.validation",
    ),
    line("near weights that stay", "training: {l2_sp: 0.1, lora: {}}", "training.l2_sp", "no l2_sp with lora"),
    line("beams", "generation: {beams: 4}", "generation", "writes no text"),
    line("languages", "languages: {source: de, target: en}", "languages", "writes no text"),
    line("target length", "target_max_length: 9", "target_max_length", "writes no text"),
    bad("new model", FINE_TUNING.replace("encoder", "{new: {model_type: bert}}"), "model.tokenizer", "train: bpe"),
]

PASSED = [
    line("void", "training: {label_smoothing_factor: 0.1}", "no label_smoothing_factor", "no smoothing"),
    line("void although false", "training: {use_liger_kernel: false}", "not computed inside the model"),
    line("ours", "training: {num_train_epochs: 3}", "recipe.yaml:7:30", "use training.epochs"),
    line(
        "both precisions", "training: {fp16: true, bf16: true}", "training.fp16", "training.bf16", "training.precision"
    ),
    line("sharding", "training: {fsdp: full_shard}", "training.fsdp", "not built yet"),
    line("unknown schedule", "training: {lr_scheduler_type: cosin}", "cosine_with_restarts", 'mean "cosine"?'),
    line("unknown optimizer", "training: {optim: adamw_torhc}", 'did you mean "adamw_torch"?'),
    line("never saving", "training: {save_steps: 0}", "training.save_steps", "greater than 0"),
    line("decay nan", "training: {weight_decay: .nan}", "training.weight_decay", "finite"),
    line("norm in words", "training: {max_grad_norm: high}", "training.max_grad_norm", "a number"),
    line("one for true", "training: {gradient_checkpointing: 1}", "training.gradient_checkpointing", "true or false"),
    line("unknown tracker", "training: {report_to: tensorbord}", 'did you mean "tensorboard"?'),
    line("schedule's keyword", "training: {lr_scheduler_kwargs: {foo: 1}}", "training.lr_scheduler_kwargs", "'foo'"),
    line("not together", "training: {dataloader_prefetch_factor: 2}", "dataloader_prefetch_factor", "num_workers"),
]

OVERRIDES = [
    bad(
        "unknown override",
        FINE_TUNING,
        "override trainin.epochs=3 · trainin",
        "training",
        overrides=("trainin.epochs=3",),
    ),
    bad("override of text", FINE_TUNING, 'model is "encoder"', "model={from: …}", overrides=("model.from=t",)),
    bad("override without =", FINE_TUNING, "override epochs", "training.epochs=5", overrides=("epochs",)),
    bad("override without a name", FINE_TUNING, "override =5", "field=value", overrides=("=5",)),
    bad("override of bad YAML", FINE_TUNING, "override output=[1", "YAML", overrides=("output=[1",)),
    bad("override with code", FINE_TUNING, "runs no code", overrides=("output=!!python/name:os.system x",)),
    bad("override of a wrong type", FINE_TUNING, "override max_length=1.5", overrides=("max_length=1.5",)),
]

CASES = [*TEXT, *FIELDS, *METHODS, *UNBUILT, *PASSED, *OVERRIDES]
