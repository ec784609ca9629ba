"""The Hugging Face Trainer, handed our plan, our counts and our formula.

Nine public methods are overridden: `get_train_dataloader` (the plan), `get_batch_samples` (the counts of the whole
step), `compute_loss` (the objective), `training_step` (once more, where embeddings are moved), `create_optimizer` (a
rate for each layer), `evaluate`, `log`, `save_model` (the names of the weights) and `floating_point_ops` (none are
counted). The loop, saving, resuming, PEFT, DDP and the trackers are the Trainer's, tested by others. What its own loss
gets wrong (a mean per micro-batch, so that gradients grow with accumulation and world size) never runs.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch.distributed
from accelerate.utils import DistributedType
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import SAFE_WEIGHTS_NAME

from keeltune.models.surgery import batch_norms
from keeltune.objective.formula import Counts, Objective, Terms, divide
from keeltune.objective.matching.matching import Matching
from keeltune.objective.predictions import Rows
from keeltune.objective.references.model import Model
from keeltune.objective.references.reference import Reference
from keeltune.recipe.regularizer_fields import Regularizers
from keeltune.tasks.common.batches import to_device
from keeltune.tasks.common.example import NOTE_SAMPLE, Example
from keeltune.tasks.task import Task
from keeltune.training.batch_plan import Plan
from keeltune.training.budget import Budget, DualAscent
from keeltune.training.callbacks import EvaluateEvery, TrainingTotals
from keeltune.training.checkpoint_averaging import PairAverage
from keeltune.training.early_stopping import EarlyStopping, EvaluationSchedule
from keeltune.training.regularizers.fgm import Fgm
from keeltune.training.regularizers.layer_decay import cut_by_layer
from keeltune.training.regularizers.regularizer import added
from keeltune.training.regularizers.weight_average import WeightAverage
from keeltune.utils.device import in_eval_mode
from keeltune.utils.distributed import summed_over_ranks
from keeltune.utils.errors import Diverged


class KeelTrainer(Trainer):
    """`transformers.Trainer` with the objective of this package.

    Args:
        plan: the dataset of micro-batches. reference: None for plain fine-tuning.
        matching: the further terms of a distillation, whose projections are the model's own parameters.
        validate: called at each evaluation; returns the task's metrics and `loss`.
        pace: when that is, and when it ends training.
        best: the file that keeps the best weights; it is none of the rotated checkpoints.
        budget: what moves the objective's weight, or None. beside: the second head, which carries D then, or None.
        tether: weights near which the model's are held by their squared distance, λ/2 · ‖θ − θ₀‖², and λ; or None
            (L2-SP: Li et al. 2018, https://arxiv.org/abs/1802.01483).
        regularizers: those of a recipe; what is done to a model before it trains is not done here.
    """

    control: Any
    loss_is_scaled_for_ga = True  # `compute_loss` has divided by the whole step's counts

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        plan: Plan,
        *,
        task: Task,
        objective: Objective,
        reference: Reference | None,
        matching: Matching | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        validate: Callable[[], dict[str, float]] | None = None,
        schedule: EvaluationSchedule | None = None,
        best: Path | None = None,
        budget: Budget | None = None,
        beside: Any = None,
        l2_sp: tuple[Mapping[str, Tensor], float] | None = None,
        regularizers: Regularizers | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ):
        if args.n_gpu > 1:
            raise ValueError(
                f"found {args.n_gpu} GPUs in one process, expected one process a GPU; "
                f"start with: torchrun --nproc_per_node {args.n_gpu} -m keeltune train RECIPE.yaml"
            )
        self.schedule = schedule or EvaluationSchedule()
        cadence = [EvaluateEvery(self.schedule.every)] if validate is not None else []
        super().__init__(model, args, train_dataset=plan, callbacks=[TrainingTotals(), *cadence, *(callbacks or [])])
        processes, kind = int(os.environ.get("WORLD_SIZE", "1")), self.accelerator.distributed_type
        if processes > 1 and kind == DistributedType.NO:
            raise RuntimeError(f"found {processes} processes that do not know of each other ({kind}), expected DDP")
        self.remove_callback(PrinterCallback)
        self.budget, self.l2_sp, self.beside = budget, l2_sp, beside
        self.regularizers = asked = regularizers or Regularizers()
        self.fgm = Fgm(model, asked.fgm) if asked.fgm else None
        self.average = WeightAverage(model, asked.weight_average) if asked.weight_average else None
        if self.average is not None:
            self.add_callback(self.average)
        self.pair_average = PairAverage(model) if self.schedule.averages and best is not None else None
        if self.pair_average is not None:
            self.add_callback(self.pair_average)
        if budget is not None:
            self.add_callback(DualAscent(self))
        self.add_callback(EarlyStopping(self))
        self.norms = batch_norms(model)
        self.plan, self.task, self.objective, self.reference, self.matching = plan, task, objective, reference, matching
        self.autocast, self.validate, self.best = autocast, validate, best

    @property
    def formula(self) -> Objective:
        """The objective, with the weight that a budget has reached."""
        weight = self.training_totals.weight
        return self.objective if weight is None else replace(self.objective, weight=weight)

    def _l2_sp_penalty(self) -> Tensor:
        """λ/2 · ‖θ − θ₀‖²."""
        assert self.l2_sp is not None
        start, strength = self.l2_sp
        squares = [(p - start[name]).square().sum() for name, p in self.model.named_parameters() if name in start]
        return 0.5 * strength * torch.stack(squares).sum()

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        fresh = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if fresh and self.regularizers.layer_decay is not None:
            cut_by_layer(optimizer, self.model, self.regularizers.layer_decay)
        return optimizer

    @property
    def training_totals(self) -> TrainingTotals:
        """Looked up each time: the Trainer puts another one in its place when it resumes."""
        return next(c for c in self.callback_handler.callbacks if isinstance(c, TrainingTotals))

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader = DataLoader(
            self.plan,
            batch_size=1,  # an item is a whole micro-batch; accelerate loses batches of a loader without a batch size
            shuffle=False,
            collate_fn=_only,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
        )
        return self.accelerator.prepare(loader)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """A step's micro-batches, and n_CE, n_D, n_B of the whole step over all ranks, before any forward pass."""
        training_totals = self.training_totals
        training_totals.started = time.perf_counter()
        batches = [self._drawn(batch, cut, device) for cut, batch in enumerate(islice(epoch_iterator, num_batches))]
        totals = torch.tensor([[*self._counts(b), *_work(b)] for b in batches], dtype=torch.float64).sum(0)
        totals = torch.cat([totals, torch.tensor([float(training_totals.stop_asked)])])
        totals = summed_over_ranks(totals, device)
        counts, work = totals[:2], totals[2:6].tolist()
        training_totals.stopping = bool(totals[6] > 0)
        examples = totals[2:3]
        training_totals.add([*counts.tolist(), *examples.tolist(), 1.0], slice(4, 8))
        training_totals.work = [a + b for a, b in zip(training_totals.work, work, strict=True)]
        return batches, torch.cat([counts, examples]).to(device, torch.float32)

    def _counts(self, batch: Mapping[str, Any]) -> tuple[float, float]:
        """n_CE and n_D of a micro-batch; a second head counts predictions of its own."""
        labelled, anchored = self.task.counts(batch)
        if self.beside is not None:
            anchored = float(len(batch["anchored_batch"]["targets"])) if "anchored_batch" in batch else 0.0
        return labelled, anchored

    def _drawn(self, batch: dict[str, Any], cut: int, device: Any) -> dict[str, Any]:
        """A batch whose texts the student draws itself, before anything is counted; other batches as they are.

        Eval mode, no gradient: nothing is propagated through the drawing. The draw is a function of the seed, the step,
        the rank and the micro-batch, and leaves the random state as it was.
        """
        if "examples" not in batch:
            return batch
        examples: list[Example] = batch["examples"]
        asked = [i for i, example in enumerate(examples) if NOTE_SAMPLE in example.notes]
        if asked:
            place = f"{self.args.seed}:{self.state.global_step}:{self.args.process_index}:{cut}"
            seed = int.from_bytes(hashlib.sha256(place.encode()).digest()[:7], "big")
            with in_eval_mode(self.model), torch.random.fork_rng(), self.autocast():
                torch.manual_seed(seed)
                texts = self.task.sample(self.model, [examples[i] for i in asked], str(device))
            for i, example in zip(asked, texts, strict=True):
                examples[i] = example
        return to_device(self.task.collate_anchored(examples), device)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """A micro-batch forward and backward; where a recipe moves the embeddings, a second time there."""
        with self.fgm.noted() if self.fgm else nullcontext():
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.fgm is not None:
            with self.fgm.moved():
                super().training_step(model, inputs, num_items_in_batch)
        return loss

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Σ CE / n_CE + weight · Σ D / n_D of a micro-batch, times the world size, because DDP averages over ranks.

        Where a recipe matches hidden states or attention, + Σ M / n_B. With R-Drop all of them are means of two passes.
        At moved embeddings it is the formula alone, in one pass, and none of it is reported.
        """
        for norm in self.norms:
            norm.eval()  # here, as the Trainer puts the whole model into train mode before each micro-batch
        n_ce, n_d, n_b = num_items_in_batch
        moved = self.fgm is not None and self.fgm.moving
        drop, smoothing = None if moved else self.regularizers.r_drop, self.regularizers.label_smoothing
        matching = None if moved else self.matching
        asked = inputs if matching is None else matching.ask(inputs)
        with self.autocast():
            outputs = [self.task.forward(model, asked) for _ in range(1 if drop is None else 2)]
        rows = [self.task.rows(each, inputs) for each in outputs]
        matched = torch.zeros((), device=n_b.device)
        if matching is None:
            speaks = bool(inputs["anchored"].any())
            reference = self.reference.rows(inputs.get("anchored_batch", inputs)) if self.reference and speaks else None
        else:
            assert isinstance(self.reference, Model)
            theirs = self.reference.outputs(asked)
            reference = self.reference.read(theirs, inputs)
            matched = torch.stack([matching(each, theirs, inputs) for each in outputs]).mean(0)
        terms = [torch.stack(self._terms(model_rows, reference, inputs, Counts(n_ce, n_d))) for model_rows in rows]
        loss, cross_entropy, divergence = torch.stack(terms).mean(0)
        total = loss + matched / n_b
        if drop is not None or smoothing is not None:
            extra = added(rows, inputs["targets"], inputs["weights"], smoothing=smoothing, drop=drop)
            total = total + divide(extra, n_ce)
        if self.l2_sp is not None and not moved:
            total = total + self._l2_sp_penalty() / self.plan.micro_batches  # each micro-batch carries its share
        sums = torch.stack([cross_entropy, divergence, matched, total])
        cross_entropy, divergence, matched, value = sums.tolist()  # one transfer from the device, not four
        if not math.isfinite(value):
            raise Diverged(
                f"step {self.state.global_step + 1}: the loss is {value} "
                f"(Σ CE {cross_entropy}, Σ D {divergence}, Σ M {matched}); no update was made. "
                f"Rows: {', '.join(key[:12] for key in inputs['keys'][:8])}… "
                "Lower learning_rate, or use precision: fp32."
            )
        if not moved:
            self.training_totals.add([cross_entropy, divergence, matched, value], slice(0, 4))
        scaled = total * self.args.world_size
        return (scaled, outputs[0]) if return_outputs else scaled

    def _terms(self, rows: Rows, reference: Rows | None, inputs: Mapping[str, Any], counts: Counts) -> Terms:
        """The formula of one pass; D is the second head's where there is one, of all that it reads."""
        sliced = self.task.sliced_cross_entropy(inputs)
        cross_entropy = self.task.cross_entropy(rows, inputs) if sliced is None or self.beside else sliced
        anchored: Tensor | None = inputs["anchored"]
        if self.beside is not None and reference is not None:
            with self.autocast():
                second = self.beside.task.forward(self.beside.model, inputs["anchored_batch"])
            rows, anchored = self.beside.task.rows(second, inputs["anchored_batch"]), None
        return self.formula(cross_entropy, rows, reference, anchored, counts=counts)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Our validation; keeps the best weights (by the primary metric; ties: lower loss, then earlier)."""
        assert self.validate is not None
        loss = f"{metric_key_prefix}_loss"
        earlier = self._merits(self.state, metric_key_prefix)
        with self.averaged(), self._pair_averaged():
            metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.validate().items()}
        if not math.isfinite(metrics[loss]):
            raise Diverged(
                f"after step {self.state.global_step} the validation loss is {metrics[loss]}; lower learning_rate"
            )
        self.log(metrics)
        merit = self._merits(self.state, metric_key_prefix)[-1]
        with self.averaged():
            if all(merit > other for other in earlier) and self.best is not None:
                with self._pair_averaged():
                    self.keep_best()
            if self.pair_average is not None:
                self.pair_average.move(1.0)
        if self.out_of_patience(self.state):
            self.control.should_training_stop = True
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def averaged(self) -> AbstractContextManager[None]:
        """Within: the model holds the average of its weights, where a recipe keeps one."""
        return nullcontext() if self.average is None else self.average.in_place()

    def _pair_averaged(self) -> AbstractContextManager[None]:
        """Within: the model holds the mean of its weights and those of the evaluation before, where that is kept."""
        return nullcontext() if self.pair_average is None else self.pair_average.in_place()

    @property
    def used_regularizers(self) -> dict[str, Any]:
        """Those that were on, with their values; of an average's β the one that `auto` stood for."""
        used = self.regularizers.used
        return used if self.average is None else used | {"weight_average": self.average.beta(self.state.max_steps)}

    def _merits(self, state: Any, prefix: str) -> list[tuple[float, float]]:
        """(primary metric, −loss) of each evaluation of a state's history; larger is better."""
        primary, sign = f"{prefix}_{self.task.metrics[0]}", self.task.primary_sign
        return [(sign * entry[primary], -entry[f"{prefix}_loss"]) for entry in state.log_history if primary in entry]

    def out_of_patience(self, state: Any) -> bool:
        """Whether the last `patience` evaluations of a state's history brought no gain, past step `not_before`."""
        if self.schedule.patience is None or state.global_step < self.schedule.not_before:
            return False
        merits = self._merits(state, "eval")
        return bool(merits) and len(merits) - 1 - merits.index(max(merits)) >= self.schedule.patience

    def floating_point_ops(self, inputs: Any) -> int:
        """None are counted: a batch of ours holds mappings, where the Trainer would count a tensor's numbers."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The loss since the last log, a step's mean, and its two terms in nats a prediction."""
        if "train_runtime" in logs:
            return  # the Trainer's closing line counts evaluation and saving in; `result.json` says it without them
        if "loss" in logs:
            training_totals = self.training_totals
            cross_entropy, divergence, matched, loss = self.means(training_totals.window)
            logs = {**logs, "loss": loss, "cross_entropy": cross_entropy}  # the Trainer forgets its sum when it resumes
            if self.reference is not None:
                logs["divergence"] = divergence
            if self.matching is not None:
                logs["matching"] = matched
            training_totals.window = [0.0] * 8
        super().log(logs, start_time)

    def means(self, sums: list[float]) -> tuple[float, float, float, float]:
        """Σ CE / n_CE, Σ D / n_D, Σ M / n_B and the loss of a step, over all ranks (as the counts are already)."""
        totals = summed_over_ranks(torch.tensor(sums[:4], dtype=torch.float64), self.args.device).tolist()
        cross_entropy, divergence, matched, loss = (s / n if n else 0.0 for s, n in zip(totals, sums[4:], strict=True))
        return cross_entropy, divergence, matched, loss

    def keep_best(self) -> None:
        """The weights that training changes, to the file of the best ones."""
        assert self.best is not None
        if self.args.should_save:
            frozen = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
            state = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items() if k not in frozen}
            staging = self.best.with_name(f".staging-{self.best.name}")
            save_file(state, staging)
            staging.replace(self.best)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """A checkpoint's weights, under the names that the live model has.

        Those of many architectures (GPT-NeoX, ViT, Llava) are saved under the names of their first release. The Trainer
        does not translate them back: it would find none of its own, and go on from the weights of the start.
        """
        if _internal_call:
            self._pool_sums()
        attributes = self.model.__dict__
        if isinstance(self.model, PreTrainedModel):  # an adapter is saved alone, under its own names
            attributes["save_pretrained"] = partial(self.model.save_pretrained, save_original_format=False)
        try:
            super().save_model(output_dir, _internal_call)
        finally:
            attributes.pop("save_pretrained", None)
        if _internal_call and self.args.should_save:
            for average in filter(None, (self.average, self.pair_average)):
                average.save(Path(str(output_dir)))

    def _pool_sums(self) -> None:
        """The first rank takes over what the others have added up: its ledger is the one that a checkpoint keeps."""
        for sums in (self.training_totals.epoch, self.training_totals.window):
            total = summed_over_ranks(torch.tensor(sums[:4], dtype=torch.float64), self.args.device).tolist()
            sums[:4] = [0.0] * 4 if self.args.process_index else total

    def unexpected_keys(self, checkpoint: Path) -> list[str]:
        """The weights of a checkpoint that this model has no place for; the Trainer would pass over them in silence."""
        file = checkpoint / SAFE_WEIGHTS_NAME
        if not file.is_file():  # an adapter's
            return []
        with safe_open(file, "pt") as stored:
            return sorted({*stored.keys()} - {*self.model.state_dict()})

    def release(self) -> None:
        """Lets go of the DDP wrapper, which holds the process group, and of the optimizer; the model stays."""
        self.model_wrapped = self.model
        self.accelerator.free_memory()

    def load_best(self) -> None:
        """The best weights back into the model; the last ones stay where there was no validation."""
        if self.best is not None and self.best.is_file():
            self.model.load_state_dict(load_file(self.best), strict=False)
        elif self.average is not None:
            self.average.settle()


def _only(items: list[Any]) -> Any:
    (item,) = items
    return item


def _work(batch: Mapping[str, Any]) -> list[float]:
    """Examples, tokens, slots (tokens and padding) and predictions of a micro-batch."""
    return [len(batch["keys"]), *batch["work"], len(batch["targets"])]
