"""A model is recognised in another wrapping."""

from __future__ import annotations

import pytest

from medtask.prediction.model_identity import find_same_model, normalise_model_name

WEIGHTS = "3b" * 32


@pytest.mark.parametrize(
    ("judge", "judged"),
    [
        ({"model": "google/gemma-3-4b-it"}, {"model": "google/gemma-3-4b-it@abc123"}),
        (
            {"model": "google/gemma-3-4b-it"},
            {"model": "models/gemma-3-4b-it-Q4_K_M.gguf", "engine": "llamacpp"},
        ),
        (
            {"reference": "ollama:gemma3:4b-it-q4_K_M", "model": "gemma3:4b-it-q4_K_M"},
            {"model": "google/gemma-3-4b-it"},
        ),
        (
            {"reference": "http://127.0.0.1:8000/v1#google/gemma-3-4b-it"},
            {"model": "mlx-community/gemma-3-4b-it-4bit"},
        ),
        ({"model": "unsloth/Qwen3-8B-bnb-4bit"}, {"model": "Qwen/Qwen3-8B"}),
        ({"model": "smollm2-135m"}, {"model": "HuggingFaceTB/SmolLM2-135M-Instruct"}),
        ({"reference": "fake:", "seed": "1"}, {"reference": "fake:", "seed": "2"}),
        (
            {"model": "a/b", "weights": WEIGHTS},
            {"model": "runs/tuned", "weights": WEIGHTS, "adapter": "4c" * 32},
        ),
    ],
)
def test_one_model_in_two_wrappings_is_one_model(
    judge: dict[str, str], judged: dict[str, str]
) -> None:
    assert find_same_model(judge, judged)
    assert find_same_model(judged, judge)


@pytest.mark.parametrize(
    ("judge", "judged"),
    [
        ({"model": "google/gemma-3-4b-it"}, {"model": "google/gemma-3-27b-it"}),
        ({"model": "google/gemma-3-4b-it"}, {"model": "google/medgemma-4b-it"}),
        ({"model": "Qwen/Qwen3-8B"}, {"model": "Qwen/Qwen2.5-8B"}),
        ({"model": "/a/model", "dtype": "float32"}, {"model": "/b/model", "dtype": "float32"}),
        (
            {"reference": "http://one/v1", "model": "x"},
            {"reference": "http://two/v1", "model": "y"},
        ),
        ({"model": "a.gguf", "weights": "float16"}, {"model": "b.gguf", "weights": "float16"}),
        ({}, {}),
    ],
)
def test_two_models_are_two_models(judge: dict[str, str], judged: dict[str, str]) -> None:
    assert find_same_model(judge, judged) is None


@pytest.mark.parametrize("reference", ["", "/", "q4", "....gguf", "ollama:"])
def test_any_reference_has_a_name(reference: str) -> None:
    assert isinstance(normalise_model_name(reference), str)
