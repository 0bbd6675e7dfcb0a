from __future__ import annotations

import pytest

from medtask.engines.tokens.thinking import (
    PROMPTED_THINKING,
    THINKING_FORMATS,
    detect_thinking_format,
)

# Name, a characteristic part of the chat template, tokens: as the families' repositories have them.
MODELS = [
    (
        "openai/gpt-oss-20b",
        "<|start|>assistant<|channel|>analysis<|message|>",
        ("<|channel|>", "<|end|>"),
        "Harmony (GPT-OSS)",
    ),
    (
        "google/gemma-4-E4B-it",
        "{{- '<|channel>thought\\n<channel|>' -}}",
        ("<|channel>", "<channel|>", "<unused94>"),
        "Gemma 4",
    ),
    (
        "google/medgemma-27b-text-it",
        "<start_of_turn>model",
        ("<unused94>", "<unused95>"),
        "MedGemma",
    ),
    ("/models/MedGemma-1.5-4b", "<start_of_turn>model", ("<unused94>", "<unused95>"), "MedGemma"),
    ("google/gemma-3-4b-it", "<start_of_turn>model", ("<unused94>", "<unused95>"), "aloud"),
    ("mistralai/Magistral-Small", "[THINK]", ("[THINK]", "[/THINK]"), "Magistral"),
    ("CohereLabs/command-a-reasoning", "", ("<|START_THINKING|>", "<|END_THINKING|>"), "Command A"),
    (
        "ByteDance-Seed/Seed-OSS-36B-Instruct",
        "<seed:think>",
        ("<seed:think>", "</seed:think>"),
        "Seed-OSS",
    ),
    ("Qwen/Qwen3-4B", "<think>\\n\\n</think>", ("<think>", "</think>"), "<think>"),
    ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "<｜Assistant｜><think>\\n", (), "<think>"),
    ("HuggingFaceTB/SmolLM2-135M-Instruct", "<|im_start|>assistant", ("<|im_start|>",), "aloud"),
    ("gpt2", "", (), "aloud"),
]


@pytest.mark.parametrize(("name", "template", "tokens", "family"), MODELS)
def test_a_family_is_known_by_its_own_signs(
    name: str, template: str, tokens: tuple[str, ...], family: str
) -> None:
    assert detect_thinking_format(name, template, tokens).family == family


@pytest.mark.parametrize(
    "thinking", [*THINKING_FORMATS, PROMPTED_THINKING], ids=lambda thinking: thinking.family
)
def test_what_closes_thoughts_also_ends_them(thinking) -> None:
    # Else a model that closes its thoughts by itself would be heard to think on.
    assert any(stop in thinking.end_text for stop in thinking.stop_texts)
    assert all(stop and stop not in thinking.start_text for stop in thinking.stop_texts)


def test_only_those_who_were_not_made_to_think_do_it_aloud() -> None:
    assert not PROMPTED_THINKING.is_native
    assert all(family.is_native for family in THINKING_FORMATS)
