"""Faults planted in the code on which every number rests are found by the fast tests beside it.

A mutant is one replacement of a piece of source that occurs once in the package. The tests of its
area run against a copy of the package that has it, in a separate process, and must fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.source_tree import MODULES, SOURCE

TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.scale


@dataclass(frozen=True)
class Mutant:
    name: str
    original: str
    mutated: str


LEDGER_MUTANTS = (
    Mutant(
        "damaged rows are recovered",
        "if record.row is None or not is_intact(stored):",
        "if record.row is None:",
    ),
    Mutant("damaged rows are not found", "sum(not is_intact(row) for", "sum(row is None for"),
    Mutant(
        "the index is trusted",
        "if stored and stored[2] == key and is_intact(stored):",
        "if stored:",
    ),
    Mutant(
        "probabilities have no checksum",
        'repr(texts).encode() + (row.probabilities or b"")',
        "repr(texts).encode()",
    ),
    Mutant("a later row's answer is found", "(row < ? OR row >= ?)", "(row != ? OR row >= ?)"),
)
TRIE_MUTANTS = (
    Mutant(
        "the bound forgets a label",
        "error = np.exp(mass) * (count - 1) / count",
        "error = np.exp(mass) * (count - 2) / count",
    ),
    Mutant("unread labels have all of the mass", "mass[unread] - np.log(count)", "mass[unread]"),
    Mutant(
        "only the last slack counts", "np.fmax(scores.slack[rows], error[unread])", "error[unread]"
    ),
    Mutant(
        "probabilities are not renormalised",
        "node_logprob + logprob - total",
        "node_logprob + logprob",
    ),
)
ATTENTION_MUTANTS = (
    Mutant(
        "a token sees the next one",
        "masked, prefix_masked = slot > place,",
        "masked, prefix_masked = slot > place + 1,",
    ),
    Mutant(
        "a window is one token too wide",
        "place - key_place >= window",
        "place - key_place > window",
    ),
    Mutant("forks see each other", "key_count] <= place", "key_count] < 0"),
    Mutant(
        "slots of the padding count",
        "out[self.token_mask][None]",
        "out.flatten(0, 1)[: int(self.token_mask.sum())][None]",
    ),
)
ACCEPTANCE_MUTANTS = (
    Mutant("walks do not share the risk", "risk / len(starts))", "risk)"),
    Mutant(
        "a walk goes on after it has failed", "            carried = 0.0\n", "            pass\n"
    ),
    Mutant("one error is forgiven", "binom.cdf(wrong, ends + 1,", "binom.cdf(wrong - 1, ends + 1,"),
    Mutant("the threshold itself is not accepted", "confidence >= limits)", "confidence > limits)"),
)
DECIDING_MUTANTS = (
    Mutant(
        "any slack is small enough", "probabilities.slack <= MAX_SLACK", "probabilities.slack <= 1"
    ),
    Mutant(
        "the label nearest to its threshold wins",
        "key=lambda name: -margins[name]",
        "key=lambda name: margins[name]",
    ),
    Mutant(
        "an abstention is an answer", "winner == self.task.abstain_name", "winner == self.task.name"
    ),
    Mutant(
        "quotes that are missing or disagree raise no doubt",
        "doubts += check_fields(",
        "check_fields(",
    ),
)
# gemma2 has all that attention has: windows, heads that share keys, packed prefixes.
GEMMA = ("-k", "gemma2")
AREAS: dict[tuple[str, ...], Sequence[Mutant]] = {
    ("runs/test_ledger.py",): LEDGER_MUTANTS,
    ("engines/tokens/test_trie.py", "engines/tokens/test_trie_scoring.py"): TRIE_MUTANTS,
    ("engines/hf/test_branches.py", "engines/hf/test_exact.py", *GEMMA): ATTENTION_MUTANTS,
    ("evaluation/calibration/test_acceptance.py",): ACCEPTANCE_MUTANTS,
    ("prediction/kinds", "prediction/test_deciding.py"): DECIDING_MUTANTS,
}


def plant_mutant(mutant: Mutant, folder: Path) -> Path:
    """A copy of the package in ``folder`` that has the mutant; returns the path to import from."""
    homes = [name for name in MODULES if mutant.original in MODULES[name].read_text("utf-8")]
    assert len(homes) == 1, f"the mutant's source is in {homes or 'no module'}: adapt the mutant"
    shutil.copytree(SOURCE, folder / SOURCE.name, ignore=shutil.ignore_patterns("__pycache__"))
    mutated = folder / SOURCE.name / homes[0]
    source = mutated.read_text("utf-8")
    assert source.count(mutant.original) == 1, "the mutant's source occurs twice: adapt the mutant"
    mutated.write_text(source.replace(mutant.original, mutant.mutated), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("tests", "mutant"),
    [
        pytest.param(tests, mutant, id=mutant.name)
        for tests, mutants in AREAS.items()
        for mutant in mutants
    ],
)
def test_a_mutant_is_killed(tests: Sequence[str], mutant: Mutant, tmp_path: Path) -> None:
    planted = plant_mutant(mutant, tmp_path)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    words = [str(TESTS / word) if (TESTS / word).exists() else word for word in tests]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *words],
        cwd=TESTS.parent,
        # Importing the plugins would take longer than the tests.
        env={
            **os.environ,
            "PYTHONPATH": str(planted),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout[-2000:]
