"""How model families think: what opens and closes their thoughts, in one table.

Sources: the chat templates of the families' own repositories. MedGemma's vocabulary is that of
every Gemma 3, so it is known by its name only; whoever keeps it under another name gets thoughts
aloud, which it can do too.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thinking:
    """``open`` begins the thoughts, each of ``stops`` ends them, ``close`` stands between them and
    the answer.

    ``native``: the family was trained to think so. ``template``: text in the chat template, and
    ``tokens``: tokens of the vocabulary, of which any one tells the family; ``name``: or a part of
    the model's name, where tokens do not.
    """

    family: str
    open: str
    close: str
    stops: tuple[str, ...]
    template: str = ""
    tokens: tuple[str, ...] = ()
    name: str = ""
    native: bool = True


FAMILIES = (
    Thinking(
        "Harmony (GPT-OSS)",
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        ("<|end|>", "<|channel|>final"),
        template="<|channel|>analysis",
    ),
    Thinking(
        "Gemma 4", "<|channel>thought\n", "<channel|>", ("<channel|>",), tokens=("<|channel>",)
    ),
    Thinking(
        "MedGemma",
        "<unused94>thought\n",
        "<unused95>",
        ("<unused95>",),
        tokens=("<unused94>",),
        name="medgemma",
    ),
    Thinking(
        "Magistral", "[THINK]", "[/THINK]", ("[/THINK]",), template="[THINK]", tokens=("[THINK]",)
    ),
    Thinking(
        "Command A",
        "<|START_THINKING|>",
        "<|END_THINKING|><|START_RESPONSE|>",
        ("<|END_THINKING|>",),
        tokens=("<|START_THINKING|>",),
    ),
    Thinking(
        "Seed-OSS",
        "<seed:think>",
        "</seed:think>",
        ("</seed:think>",),
        template="<seed:think>",
        tokens=("<seed:think>",),
    ),
    # Qwen 3, DeepSeek R1, SmolLM3, Granite and most others.
    Thinking(
        "<think>",
        "<think>\n",
        "\n</think>\n\n",
        ("</think>",),
        template="<think>",
        tokens=("<think>",),
    ),
)
ALOUD = Thinking("aloud", "Reasoning: ", "\n\nAnswer: ", ("\nAnswer:", "\n\nAnswer"), native=False)


def find_thinking(name: str, template: str, vocabulary: Container[str]) -> Thinking:
    """The family of a model by its name, chat template and vocabulary; ALOUD where it has no
    markers of its own.
    """
    for family in FAMILIES:
        known = any(token in vocabulary for token in family.tokens) or bool(
            family.template and family.template in template
        )
        if known and family.name in name.casefold():
            return family
    return ALOUD
