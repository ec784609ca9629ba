"""The Hugging Face Trainer, handed our plan, our counts and our formula.

Eight public methods are overridden: `get_train_dataloader` (the plan), `get_batch_samples` (the counts of the whole
step), `compute_loss` (the objective), `training_step` (once more, where a regulariser repeats it; and its gradients
looked at), `create_optimizer` (the groups that regularisers change), `evaluate`, `log` and `floating_point_ops` (none
are counted). Four private ones hand what is saved and loaded to `checkpoints.py`, as the Trainer's own files are
neither verified nor free of pickles; `tests/training/test_supported_transformers.py` holds them against the oldest and
the newest transformers. The loop, PEFT, DDP and the trackers are the Trainer's, tested by others. What its own loss
gets wrong (a mean per micro-batch, so that gradients grow with accumulation and world size) never runs.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed
from accelerate.utils import DistributedType
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from keeltune.models import known_padding
from keeltune.models.surgery import batch_norms
from keeltune.objective import host_counts
from keeltune.objective.formula import Objective
from keeltune.training import callbacks as own
from keeltune.training import checkpoints, tracking
from keeltune.training.batch_plan import Plan, work_of
from keeltune.training.budget import DualAscent
from keeltune.training.callbacks import TrainingTotals, means
from keeltune.training.checkpoint_averaging import PairAverage, put_back
from keeltune.training.data_workers import DataWorkers
from keeltune.training.early_stopping import selection_keys
from keeltune.training.early_stopping_callback import EarlyStopping
from keeltune.training.finite_check import FiniteCheck
from keeltune.training.memory_advice import at_hand
from keeltune.training.monitoring import Monitoring
from keeltune.training.new_weights import NewWeights
from keeltune.training.on_policy import with_own_texts
from keeltune.training.optimizer_state import group_numbers
from keeltune.training.regularizers.regularizer import Regularizer
from keeltune.training.step_loss import StepLoss
from keeltune.utils.distributed import summed_over_ranks
from keeltune.utils.errors import Diverged
from keeltune.utils.sharded_tensors import outer_weights


class KeelTrainer(Trainer):
    """`transformers.Trainer` with the objective of this package.

    Args:
        plan: the dataset of micro-batches. step_loss: what a loss is made of; its regularisers begin here.
        monitoring: how the training is measured, and what follows. fresh: the weights that no checkpoint held.
    """

    control: Any
    loss_is_scaled_for_ga = True  # `compute_loss` has divided by the whole step's counts

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        plan: Plan,
        step_loss: StepLoss,
        *,
        monitoring: Monitoring | None = None,
        fresh: NewWeights = NewWeights(),  # noqa: B008 (it cannot change)
        callbacks: list[TrainerCallback] | None = None,
    ):
        if args.n_gpu > 1:
            raise ValueError(
                f"found {args.n_gpu} GPUs in one process, expected one process a GPU; "
                f"start with: torchrun --nproc_per_node {args.n_gpu} -m keeltune train RECIPE.yaml"
            )
        monitoring = monitoring or Monitoring()
        self.validate, self.schedule = monitoring.validate, monitoring.schedule
        self.best = checkpoints.BestWeights(Path(args.output_dir)) if monitoring.keeps_best else None
        self.budget, self.run = monitoring.budget, monitoring.run
        every = [own.EvaluateEvery(self.schedule.every or plan.steps)] if self.validate is not None else []
        super().__init__(model, args, train_dataset=plan, callbacks=[TrainingTotals(), *every, *(callbacks or [])])
        processes, kind = int(os.environ.get("WORLD_SIZE", "1")), self.accelerator.distributed_type
        if processes > 1 and kind == DistributedType.NO:
            raise RuntimeError(f"found {processes} processes that do not know of each other ({kind}), expected DDP")
        own.tell_callbacks(self, step_loss.task, self.schedule.every or plan.steps)
        self.plan, self.step_loss, self.fresh = plan, step_loss, fresh
        self.workers = DataWorkers(plan, args.dataloader_num_workers)
        self.repeated = False
        self.finite = FiniteCheck(args.device)
        self.begun: list[dict[str, Any]] = []
        self.checkpoint: checkpoints.Checkpoint | None = None
        self.batch_norms = batch_norms(model)
        for regularizer in self.regularizers:
            regularizer.begin(model, fresh.names)
        averages = self.schedule.averages and self.best is not None
        self.pair_average = PairAverage(model) if averages else None
        self.stateful: list[checkpoints.Stateful] = [*self.regularizers]
        self.stateful += [self.pair_average] if self.pair_average is not None else []
        self.add_callback(own.RegularizerHooks(self.regularizers))
        if self.budget is not None:
            self.add_callback(DualAscent(self))
        self.add_callback(EarlyStopping(self))
        self.add_callback(own.MeasuredStop(self))
        tracking.defer(self.callback_handler, Path(args.output_dir).parent)

    @property
    def regularizers(self) -> list[Regularizer]:
        return list(self.step_loss.regularizers)

    @property
    def formula(self) -> Objective:
        """The objective, with the weight that a budget has reached."""
        return self.step_loss.weighted(self.training_totals.weight)

    @property
    def training_totals(self) -> TrainingTotals:
        """Looked up each time: the Trainer puts another one in its place when it resumes."""
        return next(c for c in self.callback_handler.callbacks if isinstance(c, TrainingTotals))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        made = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if made:
            self.fresh.set_rate(optimizer, self.model)
        for regularizer in self.regularizers if made else ():
            regularizer.on_optimizer(optimizer)
        self.begun = group_numbers(optimizer) if made else self.begun
        return optimizer

    def get_train_dataloader(self) -> DataLoader[Any]:
        pin_memory = self.args.dataloader_pin_memory and torch.cuda.is_available()
        return self.accelerator.prepare(self.workers.loader(pin_memory=pin_memory))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """A step's micro-batches, and n_CE, n_D, n_B of the whole step over all ranks, before any forward pass."""
        totals = self.training_totals
        totals.started = time.perf_counter()
        key = f"{self.args.seed}:{self.state.global_step}:{self.args.process_index}"
        batches = [
            with_own_texts(batch, self.model, self.step_loss, f"{key}:{number}", device)
            for number, batch in enumerate(self.workers.take(epoch_iterator, num_batches))
        ]
        sums = np.array([[*self.step_loss.counts(b), *work_of(b), 0.0] for b in batches]).sum(0)
        sums[6] = totals.stop_asked
        sums = summed_over_ranks(torch.from_numpy(sums), device).numpy()
        totals.stopping = bool(sums[6] > 0)
        totals.add_counts(sums[:3].tolist())
        totals.work = [a + b for a, b in zip(totals.work, sums[2:6].tolist(), strict=True)]
        return batches, torch.tensor(sums[:3], dtype=torch.float32).to(device, non_blocking=True)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """A micro-batch forward and backward; once more for each regulariser that repeats it."""
        with ExitStack() as around:
            around.enter_context(at_hand(inputs))
            for regularizer in self.regularizers:
                around.enter_context(regularizer.on_micro_batch(repeated=False))
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        for regularizer in (r for r in self.regularizers if r.repeats):
            with self._repetition(), at_hand(inputs), regularizer.on_micro_batch(repeated=True):
                super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self.finite.refuse_broken(self.model, self.state.global_step + 1)
        return loss

    @contextmanager
    def _repetition(self) -> Iterator[None]:
        self.repeated = True
        try:
            yield
        finally:
            self.repeated = False

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The micro-batch's loss (`step_loss.py`), times the world size, as DDP averages; no repeated one is logged."""
        for norm in self.batch_norms:
            norm.eval()  # here, as the Trainer puts the whole model into train mode before each micro-batch
        how: dict[str, Any] = {"weight": self.training_totals.weight, "micro_batches": self.plan.micro_batches}
        with known_padding.known(host_counts.padded(inputs)):
            loss = self.step_loss(model, inputs, num_items_in_batch, repeated=self.repeated, **how)
        sums = loss.sums.detach()  # on the device until the log is written
        self.finite.note(sums, inputs["keys"])
        if not self.repeated:
            self.training_totals.add_sums(sums)
        scaled = loss.total * self.args.world_size
        return (scaled, loss.outputs) if return_outputs else scaled

    def floating_point_ops(self, inputs: Any) -> int:
        """None are counted: a batch of ours holds mappings, where the Trainer would count a tensor's numbers."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The loss since the last log, a step's mean, and its two terms in nats a prediction."""
        if "train_runtime" in logs:
            return  # the Trainer's closing line counts evaluation and saving in; `result.json` says it without them
        if "loss" in logs:
            totals = self.training_totals
            totals.read()
            cross_entropy, divergence, matched, loss = means(totals.window, self.args.device)
            logs = {**logs, "loss": loss, "cross_entropy": cross_entropy}  # the Trainer forgets its sum when it resumes
            if self.step_loss.reference is not None:
                logs["divergence"] = divergence
            if self.step_loss.matching is not None:
                logs["matching"] = matched
            totals.window = [0.0] * 8
        super().log(logs, start_time)

    # An evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Our validation; keeps the best weights (by the primary metric; ties: lower loss, then earlier)."""
        assert self.validate is not None
        earlier = self._selection_keys(self.state, metric_key_prefix)
        with self.averaged(), self._pair_averaged(), outer_weights(self.model):
            metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.validate().items()}
        loss = metrics.get(f"{metric_key_prefix}_loss", 0.0)  # rows that are answered in parts have none
        if not math.isfinite(loss):
            raise Diverged(f"after step {self.state.global_step} the validation loss is {loss}; lower learning_rate")
        self.log(metrics)
        key = self._selection_keys(self.state, metric_key_prefix)[-1]
        with self.averaged():
            if all(key > other for other in earlier) and self.best is not None:
                with self._pair_averaged():
                    self.best.save(self.model, self.state.global_step)
            if self.pair_average is not None:
                self.pair_average.remember()
        if self.out_of_patience(self.state):
            self.control.should_training_stop = True
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within: the model holds what is measured and kept, where a regulariser puts other weights in their place."""
        with put_back(self.model):
            for regularizer in self.regularizers:
                regularizer.on_evaluate()
            yield

    @contextmanager
    def _pair_averaged(self) -> Iterator[None]:
        """Within: the model holds the mean of its weights and those of the evaluation before, where that is kept."""
        with put_back(self.model) if self.pair_average else nullcontext():
            if self.pair_average is not None:
                self.pair_average.use()
            yield

    def _selection_keys(self, state: Any, prefix: str) -> list[tuple[float, float]]:
        task = self.step_loss.task
        return selection_keys(state.log_history, prefix, task.metrics[0], task.primary_sign)

    def out_of_patience(self, state: Any) -> bool:
        """Whether the last evaluations of a state's history brought no gain."""
        return self.schedule.out_of_patience(self._selection_keys(state, "eval"), state.global_step)

    # What is saved and loaded (`checkpoints.py`)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.training_totals.pool(self.args.device, self.args.process_index)
        checkpoints.save(self)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.checkpoint = checkpoints.Checkpoint(Path(resume_from_checkpoint), self.args.process_index, self.model)
        self.checkpoint.load_weights(self.model)
        if self.best is not None:
            self.best.kept = self.checkpoint.best

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.checkpoint is not None:
            self.checkpoint.load_optimizer(self)
            self.training_totals.taken_up(self.args.process_index)
            self.state.compute_steps(self.args, self.state.max_steps)  # the recipe's, where they may change

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self.checkpoint is not None:
            self.checkpoint.load_random()
            self.checkpoint = None  # its tensors are not needed any more

    def load_best(self) -> None:
        """The best weights back into the model; what regularisers make of the last ones where none were kept."""
        if self.best is not None and self.best.kept is not None:
            self.best.load(self.model)
        else:
            for regularizer in self.regularizers:
                regularizer.on_evaluate()

    def release(self) -> None:
        """Lets go of the DDP wrapper, which holds the process group, and of the optimizer; the model stays."""
        self.model_wrapped = self.model
        self.accelerator.free_memory()
