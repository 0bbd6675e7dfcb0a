from __future__ import annotations

import sys
from pathlib import Path

import pytest

from medtask.errors import MissingExtra
from medtask.privacy import block_network
from medtask.training.search import mipro_search as mipro
from medtask.training.search.proposer import Proposer
from support.prompt_search import (
    PromptSensitiveEngine,
    make_evaluator,
    prefers_examples,
    prefers_nothing,
    write_task,
)

PROPOSER_ANSWER = """\
[[ ## observations ## ]]
Short texts.

[[ ## summary ## ]]
Short texts about operations.

[[ ## proposed_instruction ## ]]
Decide it by its aim.

[[ ## completed ## ]]
"""


def test_without_dspy_it_explains_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mipro, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        mipro.check_dspy()
    assert "medtask[dspy]" in caught.value.fix


@pytest.mark.slow
def test_it_finds_examples_asks_nobody_else_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dspy", reason="dspy is not installed")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DSPY_CACHEDIR", str(tmp_path / "home" / "cache"))
    engine = PromptSensitiveEngine(prefers_examples, proposals=(PROPOSER_ANSWER,))
    bench = make_evaluator(write_task(tmp_path), engine, budget_s=60)
    with block_network() as guard:
        mipro.search_mipro(bench, Proposer(engine, bench.budget))
    assert guard.attempts == 0
    assert bench.value > bench.baseline_value + 0.3
    train = {str(training_example.record.fields["procedure"]) for training_example in bench.train}
    assert bench.best.examples
    assert {str(example.fields["procedure"]) for example in bench.best.examples} <= train
    assert "litellm" not in sys.modules
    assert not (tmp_path / "home").exists()
    shown = capfd.readouterr()
    assert not shown.out + shown.err
    output = "\n".join(engine.generation_texts)
    assert not any(training_example.prompt.text in output for training_example in bench.validation)


@pytest.mark.slow
def test_a_proposer_that_cannot_keep_to_a_form_ends_it_in_good_order(tmp_path: Path) -> None:
    pytest.importorskip("dspy", reason="dspy is not installed")
    from medtask.training.search.search_budget import SearchStopped

    engine = PromptSensitiveEngine(prefers_nothing, proposals=("anything",))
    bench = make_evaluator(write_task(tmp_path), engine, budget_s=60)
    with pytest.raises(SearchStopped, match="MIPROv2 could not go on"):
        mipro.search_mipro(bench, Proposer(engine, bench.budget))
