"""The thinking formats of model families: the texts that start and end their thoughts.

Sources: the chat templates in the families' own repositories. MedGemma has the same vocabulary as
every Gemma 3 model, so it is detected by its name only. Under another name it gets
PROMPTED_THINKING, which it supports too.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ThinkingFormat:
    """The thinking format of a model family.

    Attributes:
        family: Name of the family.
        start_text: Text that starts the thoughts.
        end_text: Text between the thoughts and the answer.
        stop_texts: Texts of which each ends the thoughts.
        template_marker: Text in the chat template that identifies the family.
        marker_tokens: Tokens of the vocabulary of which any one identifies the family.
        model_name_part: Part of the model's name that identifies a family without marker tokens.
        is_native: True if the family was trained to think in this format.
    """

    family: str
    start_text: str
    end_text: str
    stop_texts: tuple[str, ...]
    template_marker: str = ""
    marker_tokens: tuple[str, ...] = ()
    model_name_part: str = ""
    is_native: bool = True


THINKING_FORMATS = (
    ThinkingFormat(
        "Harmony (GPT-OSS)",
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        ("<|end|>", "<|channel|>final"),
        template_marker="<|channel|>analysis",
    ),
    ThinkingFormat(
        "Gemma 4",
        "<|channel>thought\n",
        "<channel|>",
        ("<channel|>",),
        marker_tokens=("<|channel>",),
    ),
    ThinkingFormat(
        "MedGemma",
        "<unused94>thought\n",
        "<unused95>",
        ("<unused95>",),
        marker_tokens=("<unused94>",),
        model_name_part="medgemma",
    ),
    ThinkingFormat(
        "Magistral",
        "[THINK]",
        "[/THINK]",
        ("[/THINK]",),
        template_marker="[THINK]",
        marker_tokens=("[THINK]",),
    ),
    ThinkingFormat(
        "Command A",
        "<|START_THINKING|>",
        "<|END_THINKING|><|START_RESPONSE|>",
        ("<|END_THINKING|>",),
        marker_tokens=("<|START_THINKING|>",),
    ),
    ThinkingFormat(
        "Seed-OSS",
        "<seed:think>",
        "</seed:think>",
        ("</seed:think>",),
        template_marker="<seed:think>",
        marker_tokens=("<seed:think>",),
    ),
    # Qwen 3, DeepSeek R1, SmolLM3, Granite and most others.
    ThinkingFormat(
        "<think>",
        "<think>\n",
        "\n</think>\n\n",
        ("</think>",),
        template_marker="<think>",
        marker_tokens=("<think>",),
    ),
)
PROMPTED_THINKING = ThinkingFormat(
    "aloud", "Reasoning: ", "\n\nAnswer: ", ("\nAnswer:", "\n\nAnswer"), is_native=False
)


def detect_thinking_format(name: str, template: str, vocabulary: Container[str]) -> ThinkingFormat:
    """Detect the family of a model by its name, chat template and vocabulary. Returns
    PROMPTED_THINKING if no marker is found.
    """
    for thinking_format in THINKING_FORMATS:
        has_markers = any(token in vocabulary for token in thinking_format.marker_tokens) or bool(
            thinking_format.template_marker and thinking_format.template_marker in template
        )
        if has_markers and thinking_format.model_name_part in name.casefold():
            return thinking_format
    return PROMPTED_THINKING
