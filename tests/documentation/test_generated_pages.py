"""Generated pages name everything that they are generated from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documentation.build import name_files
from documentation.command_line_page import write_command_line_page
from documentation.markdown import write_table
from documentation.outcomes_page import write_outcomes_page
from documentation.project_pages import rewrite_links
from documentation.task_file_page import write_task_file_page

from medtask.cli.main import COMMANDS
from medtask.records import Status
from medtask.tasks.config import TaskConfig

ROOT = Path(__file__).parents[2]


def test_the_page_of_task_files_has_a_row_for_every_key() -> None:
    page = write_task_file_page()
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert set(TaskConfig.model_fields) <= set(rows)
    assert {"thresholds", "debias", "schema", "deadline_s", "answer_in"} <= set(rows)
    assert "| `readout` | `name` or `code` | `name` |" in page


def test_the_page_of_commands_has_a_heading_for_every_command() -> None:
    page = write_command_line_page()
    headings = re.findall(r"^## medtask (.+)$", page, re.MULTILINE)
    assert {command.__name__ for command in COMMANDS} <= set(headings)
    assert {"data prepare", "data schema"} <= set(headings)
    assert "| `--max-error SHARE` |" in page


def test_the_page_of_outcomes_has_all_statuses_and_the_codes_of_all_errors() -> None:
    page = write_outcomes_page()
    assert all(f"| `{status.value}` |" in page for status in Status)
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)]
    assert codes == [0, 1, 2, 3, 4, 5, 6, 7, 8, 130]


@pytest.mark.slow
def test_the_pages_of_python_and_http_have_the_public_names_and_routes() -> None:
    pytest.importorskip("griffe", reason="pip install 'medtask[docs]'")
    pytest.importorskip("fastapi", reason="pip install 'medtask[serve]'")
    from documentation.http_page import write_http_page
    from documentation.python_page import write_python_page

    import medtask

    python = write_python_page()
    names = set(medtask.__all__) - {"__version__"}
    assert all(f"### medtask.{name}\n" in python for name in names)
    assert "| `max_error` | " in python
    http = write_http_page()
    assert "| `POST /classify` |" in http
    assert "### AskRequest" in http


def test_links_of_project_files_lead_to_pages_of_the_site() -> None:
    text = "[a](docs/architecture.md#x) [b](CHANGELOG.md) [`deploy/x`](deploy/x) [c](https://x.y)"
    assert rewrite_links(text, "SECURITY.md", "explanation/security.md") == (
        "[a](../architecture.md#x) [b](../changelog.md) `deploy/x` [c](https://x.y)"
    )


def test_the_name_of_a_file_is_shown_above_its_block() -> None:
    text = "<!-- file: task/task.yaml -->\n```yaml\nname: x\n```\n"
    assert name_files(text) == '```yaml title="task/task.yaml"\nname: x\n```\n'


def test_bars_in_cells_are_escaped() -> None:
    assert write_table(("a",), [("x|y",)]) == "| a |\n| --- |\n| x\\|y |\n"


def test_every_environment_variable_that_the_code_reads_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "environment.md").read_text("utf-8")
    read = re.compile(
        r"""(?:environ(?:\.get)?|getenv)[\[(]["']([A-Z][A-Z_]+)["']|envvar=["']([A-Z_]+)["']"""
    )
    found = {
        name
        for path in (ROOT / "src").rglob("*.py")
        for match in read.findall(path.read_text("utf-8"))
        for name in match
        if name
    }
    assert "MEDTASK_DEBUG" in found
    assert sorted(name for name in found if f"`{name}" not in page) == []
