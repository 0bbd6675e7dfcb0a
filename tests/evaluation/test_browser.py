"""The report in a real browser: no console message, no request, nothing that sticks out on a phone,
all of it on paper.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medtask.evaluation.report.run_report import write_report
from support.browser import CHROMIUM, PHONE_PAGE, open_in_chromium
from support.imaging_run import MANIFEST, make_imaging_run
from support.runs_by_kind import RUNS_BY_KIND

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
]
RUNS = {"report": make_imaging_run, **RUNS_BY_KIND}


@pytest.fixture(scope="module")
def report_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """Where the report is served from, and the paths that were asked for."""
    folder = tmp_path_factory.mktemp("site")
    for name, make in RUNS.items():
        write_report(folder / f"{name}.html", make().finish(), MANIFEST)
        (folder / f"phone-{name}.html").write_text(PHONE_PAGE.replace("REPORT", f"{name}.html"))
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.slow
def test_the_browser_logs_no_error_and_requests_nothing(
    report_server: tuple[str, list[str]], tmp_path: Path
) -> None:
    base, asked = report_server
    asked.clear()
    shown = open_in_chromium(f"{base}/report.html", tmp_path, "--dump-dom")
    assert "CONSOLE" not in shown.stderr
    assert asked == ["/report.html"]
    assert "What should I look at first?" in shown.stdout
    assert "<script" not in shown.stdout


@pytest.mark.parametrize("name", RUNS)
def test_nothing_sticks_out_on_a_phone_and_pictures_can_be_read(
    name: str, report_server: tuple[str, list[str]], tmp_path: Path
) -> None:
    base, _ = report_server
    shown = open_in_chromium(f"{base}/phone-{name}.html", tmp_path, "--dump-dom")
    found = re.search(r"width (\d+) out (\d+) (.*?) text ([\d.]+)", shown.stdout)
    assert found, shown.stdout[-500:]
    assert int(found[1]) <= 390
    assert found[2] == "0", found[3]
    assert float(found[4]) >= 12


@pytest.mark.skipif(shutil.which("pdftotext") is None, reason="there is no pdftotext here")
def test_paper_shows_what_the_screen_folds_away(
    report_server: tuple[str, list[str]], tmp_path: Path
) -> None:
    base, _ = report_server
    paper = tmp_path / "report.pdf"
    open_in_chromium(f"{base}/report.html", tmp_path / "profile", f"--print-to-pdf={paper}")
    text = subprocess.run(
        ["pdftotext", "-layout", paper, "-"], capture_output=True, text=True, check=True
    ).stdout
    assert "accelerator name" in text
    assert not re.search(r"Show \d+ more", text)
