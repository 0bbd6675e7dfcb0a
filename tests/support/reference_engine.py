"""Other engines held against the hf engine's plain passes of the same model."""

from __future__ import annotations

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
    engine.disable_packing("it is the plain way that others are held against")
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
