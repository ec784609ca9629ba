"""The fields of `training`: how long, how fast, in which precision, of which weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from keeltune.recipe.field_types import (
    AsList,
    AsNumber,
    AsText,
    Auto,
    AutoOrKind,
    ByKind,
    Declared,
    Section,
    Seed,
    Share,
    Text,
)
from keeltune.recipe.regularizer_fields import Regularizers

Precision = Literal["auto", "fp32", "bf16"]


class Lora(Declared):
    """Low-rank adapters (PEFT) in place of all weights. `lora: {}` means the defaults."""

    rank: PositiveInt = Field(default=16, description="Rank of each adapter.")
    alpha: PositiveFloat | None = Field(
        default=None,
        description="The update is multiplied by alpha / rank (rslora: alpha / √rank); null: twice the rank "
        "(rslora: 8, the same factor at rank 16).",
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="Dropout on an adapter's input.")
    target_modules: Annotated[AsText | AsList[Text], ByKind] = Field(
        default="all-linear", description="The modules that get an adapter: all-linear, a pattern, or a list of names."
    )
    dora: bool = Field(
        default=False,
        description="Weight-decomposed adapters (arXiv:2402.09353): the length of each column of a weight is trained "
        "beside its direction. Somewhat slower; most often better at a small rank.",
    )
    rslora: bool = Field(
        default=False, description="Rank-stabilised scale alpha / √rank (arXiv:2312.03732), for ranks of 64 and more."
    )
    base: Literal["auto", "fp32", "bf16", "4bit"] = Field(
        default="auto",
        description="How the frozen weights are held while training; adapters and heads are float32. bf16 needs half "
        "the memory; auto: bf16 where `training.precision` is, or is found to be, bf16. 4bit needs an eighth and "
        "rounds far more: NF4 by bitsandbytes, which takes a GPU and `pip install 'keeltune[4bit]'`.",
    )

    @property
    def factor_alpha(self) -> float:
        """`alpha`, or what stands for it by default."""
        return self.alpha if self.alpha is not None else (8.0 if self.rslora else 2.0 * self.rank)

    def base_in(self, precision: str) -> str:
        """How the frozen weights are held in a run of this precision, but for those in four bits: fp32 or bf16."""
        return {"auto": precision, "4bit": "bf16"}.get(self.base, self.base)


class Fsdp(Declared):
    """Fully sharded data parallel training (FSDP2). `fsdp: {}` means the defaults."""

    reshard_after_forward: bool = Field(
        default=True,
        description="Whether a layer's weights are let go of between its forward and its backward pass: true as ZeRO "
        "stage 3, false as stage 2, which sends a third less and holds all weights from the one to the other.",
    )
    cpu_offload: bool = Field(
        default=False,
        description="Whether parts of weights, gradients and moments lie in the machine's memory, and the optimizer "
        "steps there: a GPU holds what it computes with alone.",
    )


class Distributed(Declared):
    """How several processes share a training."""

    fsdp: Fsdp | None = Field(
        default=None,
        description="{}: each process holds a part of every weight, its gradient and its moments (FSDP2), of the "
        "student and of a reference that is no cache; null: each holds all of them (DDP).",
    )


class Training(Declared):
    """How to train. Fields that are not declared here are passed to transformers.TrainingArguments, checked first."""

    model_config = ConfigDict(extra="allow")

    epochs: Annotated[Auto | AsNumber[PositiveInt], AutoOrKind] | None = Field(
        default="auto",
        description="Passes over `train` (over `unlabeled` if there is none); auto: 3, and of few rows as many as a "
        "new head takes: 20, but at least 200 steps and at most 1,000; null where `max_steps` is given.",
    )
    max_steps: PositiveInt | None = Field(default=None, description="Optimizer steps, in place of `epochs`.")
    learning_rate: Annotated[Auto | AsNumber[PositiveFloat], AutoOrKind] = Field(
        default="auto",
        description="AdamW's peak; weight decay 0.01, 10 % warm-up, linear decay and clip 1.0 unless given. auto: "
        "5e-5; with a new head 5e-5 · 768 / width, from 1e-5 to 5e-4; for a model of random weights 5e-4.",
    )
    head_learning_rate: Annotated[Auto | AsNumber[PositiveFloat], AutoOrKind] = Field(
        default="auto",
        description="The peak for weights that no checkpoint held, such as a new head's; auto: ten times "
        "`learning_rate`, and the same where you name that one.",
    )
    batch_size: PositiveInt | None = Field(
        default=32,
        description="Labelled rows of one forward pass on one process; null where `tokens_per_batch` is given.",
    )
    tokens_per_batch: PositiveInt | None = Field(
        default=None, description="Tokens of one forward pass on average, in place of `batch_size`."
    )
    gradient_accumulation_steps: PositiveInt = Field(default=1, description="Forward passes of one optimizer step.")
    precision: Precision = Field(
        default="auto",
        description="bf16: float32 weights under autocast. auto: bf16 where this machine is faster in it.",
    )
    attention: Literal["auto", "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"] = Field(
        default="auto",
        description="How the student computes attention; auto: what transformers chooses, sdpa for most models. The "
        "numbers differ by rounding. flash_attention_2 and 3 need a GPU and their package; where numbers are in full "
        "precision, as in all scores, sdpa stands in for them.",
    )
    packing: bool = Field(
        default=False,
        description="Decoders: the texts of a forward pass lie one behind the other in as few sequences as they fill, "
        "and none reads another. The loss and its gradient stay what they are; the padding goes.",
    )
    lora: Lora | None = Field(default=None, description="{rank: 16, ...}: train low-rank adapters; null: all weights.")
    l2_sp: PositiveFloat | None = Field(
        default=None,
        description="λ of λ/2 · ‖θ − θ₀‖², the squared distance from the weights before training, added to the loss.",
    )
    regularizers: Section[Regularizers] = Field(
        default_factory=Regularizers,
        description="Options against overfitting, all off by default: names of `keeltune/training/regularizers/`, or "
        "my_package.my_module:Name, each with its value.",
    )
    distributed: Distributed | None = Field(
        default=None,
        description="{fsdp: {}}: the processes that torchrun starts hold a part each of weights, gradients and "
        "moments; null: all of them.",
    )
    interpolate: Annotated[AsNumber[Share] | AsText, ByKind] | None = Field(
        default="auto",
        description="The weights start + γ · (tuned − start), which cost no training. auto: where the source domain "
        "has validation rows, their scores along the way; recommended: and the recommended γ is kept; a number: that "
        "γ is kept; null: none are looked at.",
    )
    dataloader_timeout: PositiveInt = Field(
        default=20,
        description="Seconds after which a data worker (`dataloader_num_workers`) that is waited for and neither "
        "computes nor reads nor waits for a disk is ended, and the run with it; one that does may take its time.",
    )
    keep_checkpoints: bool = Field(
        default=False,
        description="Whether a finished run keeps its checkpoints: to train it on with more epochs, or to make its "
        "model again where a file of it is lost. false: they go once the model, the predictions and the result lie on "
        "the disk as they were written.",
    )
    save_dtype: Literal["auto", "source", "fp32"] = Field(
        default="auto",
        description="What model/ is stored in: source, the precision that the model came in; fp32; auto: the source's "
        "unless its rounding would take more than a fiftieth of what was learnt, as it does where few steps moved the "
        "weights by less than bfloat16 can tell.",
    )
    seed: Annotated[AsNumber[Seed] | AsList[Seed], ByKind] = Field(
        default=0, description="One seed, or a list: one run each."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_measure(cls, values: Any) -> Any:
        """`max_steps` takes the place of the default of `epochs`, and `tokens_per_batch` that of `batch_size`."""
        if isinstance(values, dict):
            for usual, other in (("epochs", "max_steps"), ("batch_size", "tokens_per_batch")):
                if values.get(other) is not None:
                    values = {usual: None, **values}
        return values

    @property
    def rates(self) -> tuple[float, float]:
        """`learning_rate` and `head_learning_rate` as numbers; where nothing has chosen them yet, a named one's."""
        rate = self.learning_rate if self.learning_rate != "auto" else 5e-5
        return rate, (self.head_learning_rate if self.head_learning_rate != "auto" else rate)

    @property
    def passes(self) -> int:
        """`epochs` as a number: 1 where steps are counted."""
        return 1 if self.epochs is None else 3 if self.epochs == "auto" else self.epochs

    @property
    def all_regularizers(self) -> dict[str, Any]:
        """Those that are on, with their values; `l2_sp` is a field of its own too."""
        return self.regularizers.used | ({} if self.l2_sp is None else {"l2_sp": self.l2_sp})

    def regularizer_field(self, name: str) -> str:
        """The dotted field of the recipe that has a regulariser on."""
        return f"training.{name}" if name not in self.regularizers.used else f"training.regularizers.{name}"

    @property
    def passed(self) -> dict[str, Any]:
        """The fields that are passed to transformers.TrainingArguments."""
        return dict(self.model_extra or {})
