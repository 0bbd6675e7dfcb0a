"""The page of a comparison: everything that somebody needs who has to choose, no script, no
network, no record text beside it.
"""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from medtask.evaluation.comparison.leaderboard import rank_systems
from medtask.evaluation.report.comparison_report import render_comparison, write_comparison
from support.browser import CHROMIUM, PHONE_PAGE, open_in_chromium
from support.comparison_rows import LABELS, join_systems, make_comparison, make_rows
from support.imaging_run import HOSTILE_TEXTS

SLOW_MANIFEST: dict[str, Any] = {
    "model": {"name": "hf", "title": "org/model-4b, bfloat16, cpu"},
    "identity": {"task.examples": "6 (sha256 00)"},
    "settings": {"rows": 150},
    "timing": {"seconds": 12.0, "peak_memory_bytes": 8_000_000_000},
    "created": "2026-11-20T14:12:00+00:00",
    "task": {"name": "surgery-purpose"},
}
FAST_MANIFEST = SLOW_MANIFEST | {
    "model": {"name": "linear", "title": "words"},
    "timing": {"seconds": 0.4},
}
QUESTIONS = (
    "Which is best?",
    "What does quality cost?",
    "Are the differences real?",
    "Where do they disagree?",
    "What was compared?",
)


class ReportPage(HTMLParser):
    """The page's tags, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def render_page(**options: Any) -> ReportPage:
    contest = make_comparison(manifests={"good": SLOW_MANIFEST, "fair": FAST_MANIFEST}, **options)
    return ReportPage(
        render_comparison(
            contest,
            rank_systems(contest, baselines=None, price_per_hour=2.0),
            ["a note of the reader"],
        )
    )


def test_the_page_answers_the_questions_in_their_order() -> None:
    page = render_page()
    indices = [page.text.index(question) for question in QUESTIONS]
    assert indices == sorted(indices)
    for output in (
        "a note of the reader",
        "surgery-purpose",
        "20 November 2026",
        "few-shot",
        "8.0 GB",
        "12.5",
        "0.044",
        "p (Holm)",
    ):
        assert output in page.text, output
    assert page.tags.count("svg") == 3


def test_the_page_needs_nothing_but_itself() -> None:
    contest = make_comparison(60)
    page = render_comparison(contest, rank_systems(contest, baselines=None))
    assert not {"script", "link rel=stylesheet", "img", "iframe"} & set(ReportPage(page).tags)
    assert "default-src 'none'" in page
    assert not re.findall(r"https?://", page)


def test_texts_names_and_labels_cannot_break_the_page() -> None:
    name = "<script>alert(1)</script>"
    gold = [LABELS[index % 3] for index in range(len(HOSTILE_TEXTS) * 2)]
    rows = make_rows(gold, gold, texts=HOSTILE_TEXTS * 2)
    other = make_rows(gold, [LABELS[0]] * len(gold), texts=HOSTILE_TEXTS * 2)
    contest = join_systems("label", {name: rows, "<b>other": other})
    page = ReportPage(
        render_comparison(contest, rank_systems(contest, baselines=None), ["<i>note</i>"])
    )
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert "<b>other" in page.text


def test_the_numbers_are_beside_the_page_without_text(tmp_path: Path) -> None:
    contest = make_comparison(60)
    board = rank_systems(contest, baselines=None)
    write_comparison(tmp_path / "compared.html", contest, board)
    numbers = json.loads((tmp_path / "compared.json").read_text())
    assert numbers["n"] == 60
    assert [one["name"] for one in numbers["systems"]] == [line.name for line in board.entries]
    assert len(numbers["disagreements"]) == 4
    assert "a text about" not in (tmp_path / "compared.json").read_text()
    assert "a text about" in (tmp_path / "compared.html").read_text()
    assert [
        (tmp_path / name).stat().st_mode & 0o077 for name in ("compared.html", "compared.json")
    ] == [0, 0]


def test_the_best_system_is_shown_beside_three_others_at_most(tmp_path: Path) -> None:
    gold = [LABELS[row % 3] for row in range(30)]
    systems = {
        f"wrong in {wrong}": make_rows(gold, [LABELS[0]] * wrong + gold[wrong:])
        for wrong in (0, 6, 12, 18, 24)
    }
    contest = join_systems("label", systems)
    write_comparison(tmp_path / "page.html", contest, rank_systems(contest, baselines=None))
    numbers = json.loads((tmp_path / "page.json").read_text())
    pairs = {frozenset((one["ahead"], one["behind"])) for one in numbers["disagreements"]}
    assert pairs == {frozenset(("wrong in 0", f"wrong in {wrong}")) for wrong in (6, 12, 18)}


def test_groups_are_reported() -> None:
    page = render_page(groups=True)
    assert "in 50 groups" in page.text
    assert "randomisation of whole groups" in page.text


@pytest.mark.parametrize("kind", ["labels", "answer", "fields"])
def test_other_kinds_have_their_page(kind: Any) -> None:
    truths: dict[str, list[Any]] = {
        "labels": [("curative",), (), ("staging", "palliative")] * 5,
        "answer": ["rest", "see a doctor", "call 112"] * 5,
        "fields": [{"side": "left", "stage": "II"}, {"side": None, "stage": "I"}] * 7,
    }
    gold = truths[kind]
    contest = join_systems(
        kind,
        {"x": make_rows(gold, gold), "y": make_rows(gold, [gold[0]] * (len(gold) - 1) + [None])},
    )
    page = ReportPage(render_comparison(contest, rank_systems(contest, baselines=None)))
    assert "x is better than y" in page.text.replace("\n", " ")
    assert ("Where is each system good?" in page.text) is (kind != "answer")


def test_systems_that_are_equal_have_nothing_to_disagree_on() -> None:
    rows = make_rows(["curative"] * 3, ["curative"] * 3)
    contest = join_systems("label", {"x": rows, "y": rows})
    page = ReportPage(render_comparison(contest, rank_systems(contest, baselines=None)))
    assert "None." in page.text
    assert "so no number of rows can be given" in page.text


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_nothing_sticks_out_on_a_phone(tmp_path: Path) -> None:
    contest = make_comparison(manifests={"good": SLOW_MANIFEST, "fair": FAST_MANIFEST})
    write_comparison(
        tmp_path / "compared.html",
        contest,
        rank_systems(contest, [(name, name) for name in LABELS]),
    )
    (tmp_path / "phone.html").write_text(PHONE_PAGE.replace("REPORT", "compared.html"))
    shown: subprocess.CompletedProcess[str] = open_in_chromium(
        (tmp_path / "phone.html").as_uri(),
        tmp_path / "profile",
        "--dump-dom",
        "--allow-file-access-from-files",
    )
    assert "CONSOLE" not in shown.stderr
    found = re.search(r"width (\d+) out (\d+) (.*?) text ([\d.]+)", shown.stdout)
    assert found, shown.stdout[-500:]
    assert int(found[1]) <= 390
    assert found[2] == "0", found[3]
    assert float(found[4]) >= 12
