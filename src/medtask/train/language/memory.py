"""What a training needs of a machine's memory, before anything is loaded; and how it is made to
fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medtask.errors import TooBig
from medtask.hardware import format_bytes
from medtask.train.recipe import Recipe

PACK_TOKENS = {
    "cpu": 2048,
    "cuda": 16384,
    "mps": 4096,
}  # more of them would be no faster, only larger
WORKING_BYTES = 900_000_000  # Python, torch and the logits of one piece
# What allocators keep beside what is asked of them: the built-in model's trainings were seen to
# take up to 1.4 times the sum.
_MARGIN = 1.5
# Bytes of a trained weight besides itself: its gradient and AdamW's two moments, in float32.
_TRAINED = 12.0
_WEIGHT = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "4bit": 0.65}


@dataclass(frozen=True, slots=True)
class Layout:
    """The sizes of a model that decide what a token costs. ``weights``: how many there are;
    ``ffn``: of the widest layer between.
    """

    weights: int
    layers: int
    hidden: int
    ffn: int
    heads: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """``pack_tokens``: tokens of one forward and backward pass. ``needed`` and ``allowed`` in
    bytes. ``notes``: what was chosen for the user.
    """

    pack_tokens: int
    checkpointing: bool
    trained: int
    needed: int
    allowed: int
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """In a line, for a person."""
        again = ", activations computed again" if self.checkpointing else ""
        return (
            f"memory {format_bytes(self.needed)} of {format_bytes(self.allowed)}: "
            f"{self.trained:,} trained weights, "
            f"packs of {self.pack_tokens:,} tokens{again}"
        )


def read_layout(config: Any, weights: int) -> Layout:
    """From a model's configuration and the number of its weights."""
    text = config.get_text_config()
    hidden = int(text.hidden_size)
    ffn = int(getattr(text, "intermediate_size", None) or 4 * hidden)
    return Layout(weights, int(text.num_hidden_layers), hidden, ffn, int(text.num_attention_heads))


def count_trained(layout: Layout, recipe: Recipe) -> int:
    """How many weights are trained, about: of an adapter's two matrices beside each of a layer's
    seven.
    """
    if recipe.method == "full":
        return layout.weights
    ends = 4 * 2 * layout.hidden + 3 * (layout.hidden + layout.ffn)
    return recipe.rank * ends * layout.layers


def plan_memory(
    layout: Layout, recipe: Recipe, *, number: str, device: str, allowed: int, longest: int
) -> MemoryPlan:
    """How large packs may be, and whether activations have to be computed again.

    ``number``: format of the weights; ``allowed``: bytes; ``longest``: tokens of the longest row.
    TooBig where nothing fits.
    """
    trained = count_trained(layout, recipe)
    fixed = layout.weights * _WEIGHT[number] + trained * (_TRAINED + 4.0) + WORKING_BYTES
    size = 2.0 if number in ("bfloat16", "float16", "4bit") else 4.0
    most = PACK_TOKENS[device.partition(":")[0]]
    for checkpointing in (True,) if recipe.checkpointing else (False, True):
        token = _count_token_bytes(layout, size, recipe, checkpointing, longest)
        fits = int((allowed / _MARGIN - fixed) / token)
        if fits >= min(longest, most):
            tokens = max(longest, min(most, fits))
            notes = (
                ()
                if recipe.checkpointing or not checkpointing
                else ("--checkpointing, to stay within the memory (a third slower)",)
            )
            return MemoryPlan(
                tokens, checkpointing, trained, int(fixed + tokens * token), allowed, notes
            )
    needed = int((fixed + longest * token) * _MARGIN)
    lighter = [
        "--method qlora (on CUDA)"
        if recipe.method != "qlora" and device.startswith("cuda")
        else "",
        "--method lora" if recipe.method == "full" else "",
        f"--row-tokens {longest // 2}" if longest > 512 else "",
        "a smaller base model",
    ]
    raise TooBig(
        f"training {recipe.base} by {recipe.method} needs about {format_bytes(needed)}; "
        f"{format_bytes(allowed)} may be used here",
        fix=f"take {', or '.join(filter(None, lighter))}",
    )


def _count_token_bytes(
    layout: Layout, size: float, recipe: Recipe, checkpointing: bool, longest: int
) -> float:
    """Bytes that one token of a pack keeps until its backward pass: what each layer's products were
    made of, and its scores.
    """
    inner = layout.hidden * 12 + layout.ffn * 5 + recipe.rank * 7
    scores = layout.heads * min(longest, 512) * (4.0 / size)
    layer = (inner + scores) * size
    if checkpointing:  # one layer's at a time, and what went into each
        return layer + layout.layers * layout.hidden * size
    return layer * layout.layers
