"""S8 on a real engine: what other rows say changes no number and no text of a row.

Rows share the instruction's keys and values, and are read in the same passes. The texts of every
second row are replaced by others of other lengths: the rest must be answered as before.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

from medtask.engines.hf.engine import HfEngine
from medtask.engines.hf.load import load_hf
from medtask.engines.load_options import LoadOptions
from medtask.records import Branch, Generated, Limits, Message, Prompt, Scores
from support.tiny_models import save_model

HEAD = "Which of these apply?\n- eye\n- ear\n\nText: "
BRANCHES = (Branch("eye: ", ("yes", "no")), Branch("", ("CT Brain", "CT Brain/Neck", "none")))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HfEngine]:
    folder = save_model(tmp_path_factory.mktemp("rows"), "llama", "chatml")
    engine = load_hf(str(folder), LoadOptions(dtype="float32", device="cpu"))
    assert engine.packed  # else each row is read by itself, and nothing is shown
    yield engine
    engine.close()


def make_prompts(count: int, *, replaced: bool) -> list[Prompt]:
    texts = [f"CANARY-{row}- pain in the left wrist" for row in range(count)]
    if replaced:
        texts[1::2] = [f"OTHER-{row}- " + "MRI knee " * (row % 7) for row in range(1, count, 2)]
    return [
        Prompt(str(row), (Message("user", HEAD + text),), BRANCHES, text)
        for row, text in enumerate(texts)
    ]


def compute_probabilities(engine: HfEngine, prompts: list[Prompt]) -> dict[str, np.ndarray]:
    found = {}
    for scores in engine.score(prompts):
        assert isinstance(scores, Scores), scores
        found[scores.record_id] = np.exp(np.concatenate([b.logprobs for b in scores.branches]))
    return found


@pytest.mark.parametrize("rows", [60, pytest.param(10_000, marks=pytest.mark.scale)])
def test_other_rows_change_no_probability(engine: HfEngine, rows: int) -> None:
    before = compute_probabilities(engine, make_prompts(rows, replaced=False))
    after = compute_probabilities(engine, make_prompts(rows, replaced=True))
    change = [float(np.abs(before[str(row)] - after[str(row)]).max()) for row in range(rows)]
    assert max(change[::2]) < 1e-5
    assert min(change[1::2]) > 1e-5  # a text does change the numbers of its own row


@pytest.mark.parametrize("rows", [60, pytest.param(2_000, marks=pytest.mark.scale)])
def test_other_rows_change_no_text(engine: HfEngine, rows: int) -> None:
    texts: list[dict[str, str]] = []
    for replaced in (False, True):
        results = list(engine.generate(make_prompts(rows, replaced=replaced), Limits(max_tokens=8)))
        assert all(isinstance(result, Generated) for result in results)
        texts.append({result.record_id: result.text for result in results})  # type: ignore[union-attr]
    before, after = texts
    assert all(before[str(row)] == after[str(row)] for row in range(0, rows, 2))
    assert sum(before[str(row)] != after[str(row)] for row in range(1, rows, 2)) > rows / 4
