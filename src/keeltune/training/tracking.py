"""What experiment trackers (`training.report_to`) are told besides the curves, which the Trainer sends them itself.

config      the recipe, as `recipe.FIELD`, beside the Trainer's arguments, where a tracker keeps a run's settings
at the end  the test scores (`test/…`), those of the older domain, the verdict, and the recipe as a text

A tracker closes its run when training ends; the scores are known later. So it hears of that end last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

FOLDER = "tensorboard"
"""Where TensorBoard's files lie in a run's folder, unless TENSORBOARD_LOGGING_DIR names another one."""


@dataclass
class RecipeArguments(TrainingArguments):
    """The Trainer's arguments, which tell trackers the recipe too; no path of this machine is in them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.recipe: dict[str, Any] = {}
        self.placed = False

    @property
    def place_model_on_device(self) -> bool | None:
        """Whether the Trainer moves the model: not where parts of it lie where they are meant to (`sharding.py`)."""
        return False if self.placed else super().place_model_on_device

    def to_dict(self) -> dict[str, Any]:
        """What trackers are handed as a run's settings."""
        told = {f"recipe.{name}": value for name, value in self.recipe.items()}
        return {**super().to_dict(), "output_dir": Path(self.output_dir).name, **told}


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested values by dotted names; a list is one value, as text."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = (
                value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
            )
    return found


class Deferred:
    """A tracker's callback that hears of the end of training when it is told to; of everything else at once."""

    def __init__(self, tracker: TrainerCallback):
        self.tracker = tracker

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tracker, name)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Not yet: the scores come first."""


def defer(handler: Any, folder: Path) -> None:
    """Puts each tracker among a trainer's callbacks into a `Deferred`; TensorBoard writes into the run's folder."""
    kinds = tuple(INTEGRATION_TO_CALLBACK.values())
    for number, callback in enumerate(handler.callbacks):
        if isinstance(callback, kinds):
            if isinstance(callback, INTEGRATION_TO_CALLBACK["tensorboard"]) and callback.logging_dir is None:
                callback.logging_dir = str(folder / FOLDER)
            handler.callbacks[number] = Deferred(callback)


@contextmanager
def told_at_the_end(trainer: Any) -> Iterator[Callable[[Mapping[str, Any], str], None]]:
    """Within: `tell(result, recipe)` sends the scores. Behind it every tracker's run is closed, whatever happened."""
    trackers = _trackers(trainer)

    def tell(result: Mapping[str, Any], recipe: str) -> None:
        scores, said = scores_of(result), {"verdict": verdict_of(result), "recipe": recipe}
        for tracker in trackers:
            tracker.on_log(trainer.args, trainer.state, trainer.control, logs=dict(scores), model=trainer.model)
            if (write := _WRITERS.get(type(tracker).__name__)) is not None:
                write(tracker, said, scores, trainer.args.recipe)

    try:
        yield tell
    finally:
        close(trainer)


def close(trainer: Any) -> None:
    """Tells every tracker that the training has ended."""
    for tracker in _trackers(trainer):
        tracker.on_train_end(trainer.args, trainer.state, trainer.control, model=trainer.model, processing_class=None)


def _trackers(trainer: Any) -> list[Any]:
    """The trackers that were deferred; of the first process alone, which is the one that sends."""
    deferred = [c.tracker for c in trainer.callback_handler.callbacks if isinstance(c, Deferred)]
    return deferred if trainer.state.is_world_process_zero else []


def scores_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Every score of the test rows, and of the older domain's, as the Trainer names those of a test set."""
    metrics = result["metrics"]
    splits = {"test": metrics["test"], "test_source": metrics["source"]["after"]}
    splits |= {"test_source_before": metrics["source"]["before"]}
    return {
        f"{split}_{name}": float(value)
        for split, scores in splits.items()
        for name, value in (scores or {}).items()
        if isinstance(value, int | float)
    }


def verdict_of(result: Mapping[str, Any]) -> str:
    return str((result.get("overfitting") or {}).get("verdict") or "none")


# Where each tracker keeps what is no number

Said = Mapping[str, str]
Scores = Mapping[str, float]


def _tensorboard(tracker: Any, said: Said, scores: Scores, recipe: Mapping[str, Any]) -> None:
    """Texts; and the hyperparameters of a run whose scores are its scalars already."""
    from torch.utils.tensorboard.summary import hparams

    writer = tracker.tb_writer
    for name, text in said.items():
        writer.add_text(name, f"```\n{text}\n```" if "\n" in text else text)
    settings = {name: value for name, value in recipe.items() if value is not None}
    for summary in hparams(settings, {name.replace("test_", "test/", 1): value for name, value in scores.items()}):
        writer.file_writer.add_summary(summary)
    writer.flush()


def _wandb(tracker: Any, said: Said, scores: Scores, recipe: Mapping[str, Any]) -> None:
    tracker._wandb.run.summary["verdict"] = said["verdict"]
    tracker._wandb.config.update({"recipe.yaml": said["recipe"]}, allow_val_change=True)


def _mlflow(tracker: Any, said: Said, scores: Scores, recipe: Mapping[str, Any]) -> None:
    tracker._ml_flow.set_tag("verdict", said["verdict"])
    tracker._ml_flow.log_text(said["recipe"], "recipe.yaml")


def _trackio(tracker: Any, said: Said, scores: Scores, recipe: Mapping[str, Any]) -> None:
    tracker._trackio.config.update({"verdict": said["verdict"], "recipe.yaml": said["recipe"]}, allow_val_change=True)


_WRITERS: dict[str, Callable[[Any, Said, Scores, Mapping[str, Any]], None]] = {
    "TensorBoardCallback": _tensorboard,
    "WandbCallback": _wandb,
    "MLflowCallback": _mlflow,
    "DagsHubCallback": _mlflow,
    "TrackioCallback": _trackio,
}
