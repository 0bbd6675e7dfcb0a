"""The settings of a training: every choice that can change the result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from medtask.engines.files.model_files import BUILT_IN_MODEL
from medtask.engines.load_options import DEFAULT_OPTIONS, Dtype, LoadOptions
from medtask.errors import UsageError
from medtask.training.methods import METHODS, Method, MethodSpec

if TYPE_CHECKING:
    from medtask.tasks.task import Task

DEFAULT_EPOCHS = 3.0
MAX_EPOCHS = 20.0  # chosen for few rows; --epochs can be higher


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of a training.

    Attributes:
        method: See `methods`.
        bases: References of the models to start from: one, or several for a hybrid.
        epochs: Passes over the training rows; None for 3, or more if an encoder has few rows.
        rate: The highest learning rate of the cosine schedule; None for the method's default.
        batch: Rows per step.
        warmup: The share of steps in which the learning rate rises, in [0, 1).
        decay: AdamW's weight decay.
        rank: The rank of an adapter.
        alpha: The alpha of an adapter; None for `lora_alpha`.
        dropout: The dropout of an adapter, in [0, 1).
        layers: The number of last layers that get an adapter; None for all.
        patience: Epochs without a lower validation loss after which training stops.
        validations: Validations per epoch.
        row_tokens: Longer rows are left out (language models) or truncated (encoders).
        seed: The seed of all random choices.
        injections: The share of training rows that language models also read with an instruction
            planted in the text, so that they learn to ignore it; see `injections`.
        pack: Whether rows share one pass over their common prefix.
        checkpointing: Whether activations are recomputed in the backward pass: less memory, a
            third slower.
        dtype: See `load_model`, as for ``device``.
        memory: The memory that training may use, in bytes; None for all that is free.
        budget: The time for the method "auto", in seconds; None for ten minutes.
    """

    method: Method = "rslora"
    bases: tuple[str, ...] = ()
    epochs: float | None = None
    rate: float | None = None
    batch: int = 32
    warmup: float = 0.05
    decay: float = 0.0
    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    patience: int = 3
    validations: int = 1
    row_tokens: int = 2048
    seed: int = 0
    pack: bool = True
    checkpointing: bool = False
    dtype: Dtype = "auto"
    device: str = "auto"
    memory: int | None = None
    budget: float | None = None
    layers: int | None = None
    injections: float = 0.0

    @property
    def spec(self) -> MethodSpec:
        """Properties of the method."""
        return METHODS[self.method]

    @property
    def base(self) -> str:
        """The first base; default: the method's base, or "" without one."""
        return self.bases[0] if self.bases else self.spec.default_base or ""

    @property
    def learning_rate(self) -> float:
        """The learning rate; default: that of the method and base."""
        if self.rate is not None:
            return self.rate
        spec = self.spec
        uses_default = spec.default_base_rate is not None and self.base == spec.default_base
        return spec.default_base_rate or spec.rate if uses_default else spec.rate

    @property
    def lora_alpha(self) -> float:
        """LoRA's alpha; default: 16 for rsLoRA (divided by the root of the rank) and twice the rank
        for LoRA (divided by the rank).

        AdamW's steps have a fixed size, so the update of an rsLoRA adapter grows with alpha times
        the root of the rank: with alpha equal to the rank, small ranks would train too slowly and
        large ones diverge.
        """
        if self.alpha is not None:
            return self.alpha
        return 16.0 if self.spec.scales_by_root else 2.0 * self.rank

    @property
    def lora_scale(self) -> float:
        """The factor of an adapter's product, for libraries without an alpha."""
        return self.lora_alpha / (math.sqrt(self.rank) if self.spec.scales_by_root else self.rank)

    @property
    def load_options(self) -> LoadOptions:
        """How the trained model is loaded to be evaluated."""
        if not self.spec.language:
            return DEFAULT_OPTIONS
        return LoadOptions(dtype=self.dtype, device=self.device, memory=self.memory)

    def count_epochs(self, epoch_steps: int) -> float:
        """The passes over rows that make ``epoch_steps`` steps.

        Training ends earlier if the validation loss stops falling.
        """
        if self.epochs is not None:
            return self.epochs
        needed = math.ceil(self.spec.min_steps / max(1, epoch_steps))
        return float(min(MAX_EPOCHS, max(DEFAULT_EPOCHS, needed)))

    def check(self) -> None:
        """Raise UsageError for the first value that is not valid."""
        positive = {
            name: getattr(self, name)
            for name in ("batch", "rank", "patience", "validations", "row_tokens")
        }
        if self.epochs is not None:
            positive["epochs"] = self.epochs
        positive |= {
            name: value
            for name in ("budget", "layers")
            if (value := getattr(self, name)) is not None
        }
        positive["learning rate"] = self.learning_rate
        for name, value in positive.items():
            if not value > 0:
                flag = "rate" if name == "learning rate" else name.replace("_", "-")
                raise UsageError(
                    f"{name} is {value:g}, and must be above 0",
                    fix=f"give --{flag} a positive number",
                )
        for name, value in (("warmup", self.warmup), ("dropout", self.dropout)):
            if not 0 <= value < 1:
                raise UsageError(
                    f"{name} is {value:g}, and must be a share below 1",
                    fix=f"give --{name} a number from 0 to 1",
                )

        if not 0 <= self.injections <= 1:
            raise UsageError(
                f"injections is {self.injections:g}, and must be a share of the training rows",
                fix="give --injections a number from 0 to 1",
            )

    def to_json(self) -> dict[str, Any]:
        """All settings as JSON values, with the learning rate that is used."""
        epochs = self.epochs if self.epochs is not None or self.spec.min_steps else DEFAULT_EPOCHS
        settings = {
            **asdict(self),
            "bases": list(self.bases),
            "rate": self.learning_rate,
            "epochs": epochs,
        }
        for name in ("budget", "layers", "injections"):  # not in manifests of earlier versions
            if not settings[name]:
                del settings[name]
        return settings


DEFAULT_RECIPE = Recipe()
RECIPE_FIELDS = tuple(field.name for field in fields(Recipe))


def choose_method(task: Task, base: str | Sequence[str] | None) -> Method:
    """The default method: "auto" where no base is named and the task has a fixed set of labels."""
    return "auto" if not base and task.kind_spec.has_labels else DEFAULT_RECIPE.method


def build_recipe(
    method: Method,
    base: str | Sequence[str] | None,
    settings: Mapping[str, Any],
    *,
    task_model: str | None = None,
) -> Recipe:
    """A recipe from settings by name.

    Args:
        method: The method.
        base: One base or several; default: the method's base, or else ``task_model``.
        settings: Further fields of `Recipe`.
        task_model: The model named by the task.

    Raises:
        UsageError: A setting is not a field of `Recipe`.
    """
    if unknown := sorted(set(settings) - set(RECIPE_FIELDS)):
        raise UsageError(
            f"{unknown[0]!r} is not a setting of a training",
            fix=f"choose from {', '.join(RECIPE_FIELDS)}",
        )
    spec = METHODS[method]
    default = task_model if spec.extra_base and task_model else spec.default_base
    if not base:
        base = default if default is not None else task_model or BUILT_IN_MODEL
    bases = (base,) if isinstance(base, str) else tuple(base)
    return Recipe(**{"method": method, "bases": tuple(filter(None, bases)), **settings})
