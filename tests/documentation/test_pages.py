"""The code blocks of every page run, in order, in one folder, as a reader would run them."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from documentation.code_blocks import CodeBlock, join_lines, read_blocks, read_data_names
from documentation.example_tables import write_example_tables

from medtask.cli.main import main

ROOT = Path(__file__).parents[2]
ROWS = 60  # of every table: a page shows what it shows on few rows too
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN_PAGES = [page for page in PAGES if any(block.is_run for block in read_blocks(page))]
# Their commands take ten seconds and more: trainings, and answers that the built-in model writes.
LONG_PAGES = {
    "docs/how-to/fields_with_quotes.md",
    "docs/how-to/multiple_choice.md",
    "docs/how-to/thinking_models.md",
    "docs/tutorials/data_manager.md",
}
KNOWN_REASONS = (
    "installs", "needs Ollama", "needs a GPU", "needs Slurm", "starts a server", "needs a network",
    "needs the server", "needs the bundle",
    "downloads a model", "takes minutes", "opens a page", "a form",
)  # fmt: skip


class PageRunner:
    """Runs the blocks of one page; Python blocks share their names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def run_block(self, block: CodeBlock) -> None:
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text, "utf-8")
        elif block.is_run and block.language == "python":
            exec(compile(block.text, f"line {block.line}", "exec"), self.names)
        elif block.is_run:
            for line in filter(str.strip, join_lines(block.text)):
                self._run_line(line)

    def _run_line(self, line: str) -> None:
        words = shlex.split(line, comments=True)
        if words and words[0] == "medtask":
            self.monkeypatch.setattr(sys, "argv", words)
            self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
            with pytest.raises(SystemExit) as left:
                main()
            assert left.value.code in (0, None), line
        elif words[:1] == ["python"]:
            subprocess.run([sys.executable, *words[1:]], check=True)
        elif words:
            subprocess.run(["bash", "-ec", line], check=True)


def mark_page(name: str) -> Any:
    return pytest.param(ROOT / name, id=name, marks=[pytest.mark.scale] * (name in LONG_PAGES))


@pytest.mark.slow
@pytest.mark.parametrize("page", [mark_page(str(page.relative_to(ROOT))) for page in RUN_PAGES])
def test_the_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_example_tables(tmp_path, read_data_names(page), rows=ROWS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    runner = PageRunner(monkeypatch)
    for block in read_blocks(page):
        runner.run_block(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    for block in read_blocks(page):
        if block.language in {"bash", "python"} and not block.is_run and not block.file:
            assert block.reason_not_run, f"line {block.line}: {block.comment!r} is not understood"
            assert block.reason_not_run.startswith(KNOWN_REASONS), block.reason_not_run
