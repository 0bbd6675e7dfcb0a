from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medtask.errors import EngineError, UsageError
from medtask.training.search.gepa_search import PATIENCE, search_with_gepa
from medtask.training.search.proposer import Proposer, check_proposer
from medtask.training.search.search_budget import SearchStopped
from support.prompt_search import (
    PromptSensitiveEngine,
    make_evaluator,
    prefers_care,
    prefers_nothing,
    write_task,
)

pytest.importorskip("gepa", reason="gepa is not installed")


def test_an_instruction_that_helps_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proposals = (
        "```\nDecide.\n```",
        "no fences here",
        "```\nDecide it carefully, by its aim.\n```",
    )
    engine = PromptSensitiveEngine(prefers_care, accuracy=1.0, proposals=proposals)
    bench = make_evaluator(write_task(tmp_path), engine)
    search_with_gepa(bench, Proposer(engine, bench.budget))
    assert bench.best.instruction == "Decide it carefully, by its aim."
    assert bench.value > 0.8
    assert capsys.readouterr().out == ""


def test_better_definitions_are_found_and_a_label_keeps_its_name(tmp_path: Path) -> None:
    proposals = ("```\ncurative: looked at carefully\nunknown: x\n```",)
    engine = PromptSensitiveEngine(prefers_care, accuracy=1.0, proposals=proposals)
    bench = make_evaluator(write_task(tmp_path), engine)
    search_with_gepa(bench, Proposer(engine, bench.budget))
    assert bench.value > 0.8
    words = [bench.best.instruction, *(bench.best.definitions or {}).values()]
    assert any("carefully" in text for text in words)
    assert list(bench.best.definitions or {}) == ["curative", "palliative", "staging"]


def test_it_reflects_on_training_rows_alone(tmp_path: Path) -> None:
    engine = PromptSensitiveEngine(prefers_nothing, proposals=("```\nOther words.\n```",))
    bench = make_evaluator(write_task(tmp_path), engine)
    search_with_gepa(bench, Proposer(engine, bench.budget))
    shown = "\n".join(engine.generation_texts)
    assert any(example.prompt.text in shown for example in bench.train)
    assert not any(example.prompt.text in shown for example in bench.validation)
    assert len(engine.generation_texts) <= PATIENCE + 5


def test_a_proposer_that_fails_ends_the_search_with_the_reason(tmp_path: Path) -> None:
    class _FailingEngine(PromptSensitiveEngine):
        def generate(self, *args: object, **more: object) -> object:  # type: ignore[override]
            raise EngineError("the server is gone", fix="start it")

    engine = _FailingEngine(prefers_nothing)
    bench = make_evaluator(write_task(tmp_path), engine)
    with pytest.raises(SearchStopped, match="the server is gone"):
        search_with_gepa(bench, Proposer(engine, bench.budget))


def test_a_proposer_has_to_write_and_may_not_be_elsewhere_for_patients_texts(
    tmp_path: Path,
) -> None:
    engine = PromptSensitiveEngine(prefers_nothing)
    check_proposer(write_task(tmp_path), engine)
    destinations = {"https://far.example": ("203.0.113.7",)}
    engine.info = replace(engine.info, destinations=destinations)
    check_proposer(write_task(tmp_path), engine)
    with pytest.raises(UsageError, match="phi"):
        check_proposer(write_task(tmp_path, "phi: true\n"), engine)
    engine.caps = type(engine.caps)(score="exact")
    with pytest.raises(EngineError, match="cannot write"):
        check_proposer(write_task(tmp_path), engine)
