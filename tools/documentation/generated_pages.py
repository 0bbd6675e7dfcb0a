"""All pages of the site that are not files of docs/."""

from __future__ import annotations

from documentation.command_line_page import write_command_line_page
from documentation.http_page import write_http_page
from documentation.outcomes_page import write_outcomes_page
from documentation.project_pages import read_project_pages
from documentation.python_page import write_python_page
from documentation.task_file_page import write_task_file_page


def write_generated_pages() -> dict[str, str]:
    """The text of every page, by its path on the site."""
    return {
        **read_project_pages(),
        "reference/task_file.md": write_task_file_page(),
        "reference/command_line.md": write_command_line_page(),
        "reference/python.md": write_python_page(),
        "reference/http.md": write_http_page(),
        "reference/outcomes.md": write_outcomes_page(),
    }
