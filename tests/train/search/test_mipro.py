from __future__ import annotations

import sys
from pathlib import Path

import pytest

from medtask.errors import MissingExtra
from medtask.privacy import no_network
from medtask.train.search import mipro
from medtask.train.search.proposer import Proposer
from train.search.planted import PlantedEngine, make_bench, never, wants_examples, write_task

SAID = """\
[[ ## observations ## ]]
Short texts.

[[ ## summary ## ]]
Short texts about operations.

[[ ## proposed_instruction ## ]]
Decide it by its aim.

[[ ## completed ## ]]
"""


def test_without_dspy_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
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
    engine = PlantedEngine(wants_examples, proposals=(SAID,))
    bench = make_bench(write_task(tmp_path), engine, budget_s=60)
    with no_network() as guard:
        mipro.search_mipro(bench, Proposer(engine, bench.clock))
    assert guard.attempts == 0
    assert bench.value > bench.base_value + 0.3
    train = {str(lesson.record.fields["procedure"]) for lesson in bench.train}
    assert bench.best.examples
    assert {str(example.fields["procedure"]) for example in bench.best.examples} <= train
    assert "litellm" not in sys.modules
    assert not (tmp_path / "home").exists()
    shown = capfd.readouterr()
    assert not shown.out + shown.err
    told = "\n".join(engine.read)
    assert not any(lesson.prompt.text in told for lesson in bench.validation)


@pytest.mark.slow
def test_a_proposer_that_cannot_keep_to_a_form_ends_it_in_good_order(tmp_path: Path) -> None:
    pytest.importorskip("dspy", reason="dspy is not installed")
    from medtask.train.search.clock import Halt

    engine = PlantedEngine(never, proposals=("anything",))
    bench = make_bench(write_task(tmp_path), engine, budget_s=60)
    with pytest.raises(Halt, match="MIPROv2 could not go on"):
        mipro.search_mipro(bench, Proposer(engine, bench.clock))
