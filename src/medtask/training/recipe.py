"""How a model is trained: every choice that can change the result, by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from medtask.engines.load_options import Dtype
from medtask.errors import UsageError

Method = Literal["lora", "rslora", "qlora", "dora", "full", "encoder", "linear", "hybrid"]
LANGUAGE_METHODS = ("lora", "rslora", "qlora", "dora", "full")

# What was measured to serve: an adapter takes steps a hundred times as long as the weights
# themselves.
_RATES = {"full": 2e-5, "encoder": 5e-5}
_MINILM_RATE = 3e-4  # small models take longer steps than BERT
_ADAPTER_RATE = 1e-3


@dataclass(frozen=True, slots=True)
class Recipe:
    """``bases``: references of what training begins with, one but for a hybrid; ``rate``: the
    highest learning rate of a cosine schedule, None for what suits the method; ``batch``: rows of
    one step; ``warmup``: share of the steps in which the rate rises. ``rank``, ``alpha``,
    ``dropout``: of adapters (``alpha`` None: see scale_adapter). ``patience``: how many validations
    without a lower loss end the training. ``validations``: how often an epoch is validated.
    ``row_tokens``: longer rows are left out, and told. ``pack``: rows share one reading of their
    prefix. ``checkpointing``: activations are computed again in the backward pass, which spares
    memory and costs a third more time. ``dtype``, ``device``, ``memory`` (bytes): see load_model.
    """

    method: Method = "rslora"
    bases: tuple[str, ...] = ()
    epochs: float = 3.0
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

    @property
    def base(self) -> str:
        return self.bases[0] if self.bases else ""

    @property
    def learning_rate(self) -> float:
        if self.rate is not None:
            return self.rate
        small = self.method == "encoder" and self.base in ("", "minilm")
        return _MINILM_RATE if small else _RATES.get(self.method, _ADAPTER_RATE)

    def check(self) -> None:
        """UsageError for the first number that no training can have."""
        positive = {
            name: getattr(self, name)
            for name in ("epochs", "batch", "rank", "patience", "validations", "row_tokens")
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

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON, with what was chosen for the user."""
        return {**asdict(self), "bases": list(self.bases), "rate": self.learning_rate}
