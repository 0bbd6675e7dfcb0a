"""The public API: documented names, verbs that are functions, and the README's lines."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

import pytest

import medtask

ROOT = Path(__file__).parents[1]
VERBS = ("run", "evaluate", "compare", "audit", "judge", "train", "tune", "predict")
TASK = """\
name: surgery-purpose
instruction: Decide the main purpose of the operation.
input: "{{ procedure }}"
id: case_id
gold: purpose
answer: {kind: label, labels: {curative: removes the tumour, staging: finds out the stage}}
"""


@pytest.mark.parametrize("name", [*VERBS, "load_task", "load_model", "read_table"])
def test_verbs_are_functions_with_documented_options(name: str) -> None:
    function = getattr(medtask, name)
    assert inspect.isfunction(function)
    assert inspect.getdoc(function)


@pytest.mark.parametrize("name", [name for name in medtask.__all__ if name != "__version__"])
def test_a_public_name_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(medtask, name))


@pytest.mark.parametrize("verb", ["run", "evaluate", "compare", "audit", "judge"])
def test_every_option_of_a_verb_is_documented(verb: str) -> None:
    function = getattr(medtask, verb)
    text = inspect.getdoc(function) or ""
    for name in inspect.signature(function).parameters:
        assert f"    {name}: " in text, name
    assert "Returns:" in text and "Raises:" in text


@pytest.mark.parametrize("name", ["Run", "Evaluation", "Comparison"])
def test_results_have_json_and_a_report(name: str) -> None:
    result = getattr(medtask, name)
    assert callable(result.to_json)
    assert hasattr(result, "report")


def read_python_lines() -> str:
    readme = (ROOT / "README.md").read_text("utf-8")
    block = readme[readme.index("    import medtask\n") :]
    lines = block.splitlines()
    end = next(i for i, line in enumerate(lines) if line and not line.startswith("    "))
    return textwrap.dedent("\n".join(lines[:end]))


def test_the_lines_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "surgery-purpose"
    folder.mkdir()
    (folder / "task.yaml").write_text(TASK)
    texts = ("resection of the tumour", "laparoscopy for staging")
    for name, first in (("procedures.csv", 0), ("labelled.csv", 80)):
        rows = [
            f"{row},{texts[row % 2]} number {row} {'abcdefg'[row % 7] * (1 + row // 7)},"
            f"{('curative', 'staging')[row % 2]}"
            for row in range(first, first + 80)
        ]
        Path(name).write_text("\n".join(["case_id,procedure,purpose", *rows]) + "\n")
    exec(compile(read_python_lines(), "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 80 + 3
    assert Path("models/surgery/medtask.json").is_file()
