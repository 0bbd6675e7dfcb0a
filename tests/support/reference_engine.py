"""Comparison of other engines with plain passes of the same model by the hf engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtask.engines.hf.engine import HfEngine
from medtask.engines.hf.load import load_hf
from medtask.engines.load_options import LoadOptions
from medtask.records import Generated, Limits, Prompt, Scores


def load_reference_engine(folder: Path) -> HfEngine:
    engine = load_hf(str(folder), LoadOptions(dtype="float32", device="cpu"))
    engine.disable_packing("it is the reference that other engines are compared with")
    return engine


def score_prompts(engine: Any, prompts: list[Prompt], **more: Any) -> dict[str, Scores]:
    found = {result.record_id: result for result in engine.score(prompts, **more)}
    assert all(isinstance(result, Scores) for result in found.values())
    return found


def generate_texts(
    engine: Any, prompts: list[Prompt], limits: Limits, **more: Any
) -> dict[str, Generated]:
    written = {result.record_id: result for result in engine.generate(prompts, limits, **more)}
    assert all(isinstance(result, Generated) for result in written.values())
    return written


def assert_sampling_depends_on_seed_and_record(
    engine: Any, prompts: list[Prompt], limits: Limits
) -> None:
    """A sampled text is the same whatever other prompts are asked with it."""
    limits, alone = replace(limits, seed=5), prompts[3:4]
    record_id = alone[0].record_id
    text = generate_texts(engine, prompts, limits)[record_id].text
    assert generate_texts(engine, alone, limits)[record_id].text == text
    assert generate_texts(engine, alone, replace(limits, seed=6))[record_id].text != text


def assert_scores_match(engine: Any, reference: HfEngine, prompts: list[Prompt]) -> None:
    found = score_prompts(engine, prompts)
    for unit in reference.tokenize_prompts(prompts):
        for answer, slow in zip(
            found[unit.prompt.record_id].branches,
            reference.score_reference(unit.tokenized_branches),
            strict=True,
        ):
            assert np.exp(answer.logprobs) == pytest.approx(np.exp(slow.logprobs), abs=1e-4)
            assert answer.off_set == pytest.approx(slow.off_set, abs=1e-4)
