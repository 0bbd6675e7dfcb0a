"""The curl lines of docs/how-to/requests.md, run as they are written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from medtask.server.access.roles import Role, Scope
from support.api_server import ApiServer, run_api_server
from support.stored_tasks import DOMAINS_TASK, store_model, store_task

DOCS = Path(__file__).parents[3] / "docs" / "how-to" / "requests.md"


def read_section(title: str) -> str:
    return DOCS.read_text("utf-8").partition(f"## {title}")[2].partition("\n## ")[0]


SECTION = read_section("Questions and classification")
LINES = re.findall(r"^    (curl .*)$", SECTION, re.MULTILINE)
JOB_LINES = re.findall(
    r"^    (curl .*)$", read_section("Data sets, tasks, models and runs"), re.MULTILINE
)
(SETTINGS,) = re.findall(r"^    (export .*)$", SECTION, re.MULTILINE)

ADDRESS = "http://127.0.0.1:8000"
WORDS = (("heart failure", "cardiology"), ("stroke", "neurology"), ("tumour", "oncology"))
ONE_DOMAIN_TASK = """\
name: domain
instruction: Choose the domain of the paper.
input: "{{ title }}"
gold: domain
answer: {kind: label, labels: [cardiology, neurology, oncology]}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with run_api_server(tmp_path_factory.mktemp("live") / "data") as running:
        assert store_model(running, store_task(running, DOMAINS_TASK)) == 1
        yield running


def run_line(server: ApiServer, line: str) -> str:
    settings = SETTINGS.replace("http://127.0.0.1:8000", server.url)
    key = server.create_key(Role.VIEWER, Scope.LABEL)
    finished = subprocess.run(
        ["bash", "-c", f"{settings}\n{line} --fail-with-body"],
        env={**os.environ, "KEY": key},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_there_are_lines_for_both_addresses() -> None:
    assert {re.findall(r"\$URL(/\w+)", line)[0] for line in LINES} == {"/ask", "/classify"}


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_documentation_works_as_it_is_written(server: ApiServer, line: str) -> None:
    printed = run_line(server, line)
    if '"stream": true' in line:
        assert printed.count("event: text") > 1
        assert "event: answer" in printed
        return
    found = json.loads(printed)
    answers = found.get("answers", [found])
    assert all(answer["answer"] is not None for answer in answers)
    assert all(sum(answer["probabilities"].values()) > 0 for answer in answers)


def test_the_lines_on_data_sets_and_jobs_upload_train_and_follow(tmp_path: Path) -> None:
    rows = [f"{word} of case {number},{label}" for number in range(40) for word, label in WORDS]
    (tmp_path / "notes.csv").write_text("\n".join(["title,domain", *rows]))
    upload, train, follow = JOB_LINES
    with run_api_server(tmp_path / "data", workers=1) as server:
        key = server.create_key(Role.TRAINER)

        def run(line: str) -> str:
            finished = subprocess.run(
                ["bash", "-c", f"{line} --silent --show-error --fail-with-body"],
                env={**os.environ, "KEY": key},
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )
            assert finished.returncode == 0, finished.stdout + finished.stderr
            return finished.stdout

        assert json.loads(run(upload.replace(ADDRESS, server.url)))["rows"] == 120
        task = store_task(server, ONE_DOMAIN_TASK)
        model = {"name": "TF-IDF", "task_id": task, "dataset_id": 1, "method": "linear"}
        headers = {"Authorization": f"Bearer {key}"}
        created = httpx2.post(f"{server.url}/api/models", json=model, headers=headers)
        assert created.json()["id"] == 1
        started = json.loads(run(train.replace(ADDRESS, server.url)))
        assert started["id"] == 1
        events = run(follow.replace(ADDRESS, server.url))
        assert "event: line" in events
        assert "event: end" in events
        assert '"succeeded"' in events
