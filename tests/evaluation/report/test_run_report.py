"""The report: what it shows of every kind of run, and what hostile text can do to it (nothing)."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from medtask import similarity
from medtask.errors import StorageError
from medtask.evaluation.presentation.blocks import ReportSection
from medtask.evaluation.report.run_report import (
    ReportAdditions,
    mark_code,
    render_report,
    write_report,
)
from medtask.evaluation.report.run_summary import RunSummary, SummaryAccumulator
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.significance import Baseline, BaselineComparison
from medtask.records import Answer, AnsweredRow, Option, PassStep, Quote, Status
from support.imaging_run import ABSTAIN, HOSTILE_TEXTS, LABELS, MANIFEST, make_imaging_run
from support.runs_by_kind import DOMAINS, RUNS_BY_KIND

BASELINES = (
    Baseline(
        "TF-IDF",
        "learned",
        {"accuracy": Metric(0.861, 300, 0.81, 0.9), "macro_f1": Metric(0.8, 300, 0.7, 0.9)},
        BaselineComparison("better", 1e-9, 0.222),
        role="learned",
    ),
    Baseline("MiniLM", "nearest", note="the MiniLM sentence encoder is not installed here"),
)
QUESTIONS = [
    "What ran, on what, and did anything leave this machine?",
    "How many rows have an answer, how many not, and why?",
    "What do the answers look like?",
    "How sure is it?",
    "How good is it?",
    "Can its confidence be believed?",
    "What should I look at first?",
    "Where was it confident and wrong?",
    "What did it cost?",
    "Everything else, for the auditor",
    "What do these words mean?",
]
VOID_ELEMENTS = {"meta", "link", "br", "img"}


class HtmlPage(HTMLParser):
    """All elements and the text of a page; a tag that is not closed, or is closed twice, is an
    error.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run_summary() -> RunSummary:
    return make_imaging_run().finish()


def test_the_sections_come_in_the_order_of_the_questions(run_summary: RunSummary) -> None:
    assert (
        re.findall(r"<h2>(.*?)</h2>", render_report(run_summary, MANIFEST, BASELINES)) == QUESTIONS
    )


def test_commands_are_marked_as_code_and_stay_escaped() -> None:
    text = "use `medtask audit <RUN>`, not <b>`"
    assert mark_code(text) == "use <code>medtask audit &lt;RUN&gt;</code>, not &lt;b&gt;`"


def test_hostile_text_is_text() -> None:
    page = HtmlPage(
        render_report(
            make_imaging_run(0).finish(), {**MANIFEST, "task": {"name": HOSTILE_TEXTS[0]}}
        )
    )
    assert HOSTILE_TEXTS[0] in page.text
    assert "{{ 7*7 }} ${7*7} </td></table></style>" in page.text
    assert not {"script", "img", "iframe", "object", "form"} & {tag for tag, _ in page.elements}
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]


def test_hostile_labels_ids_reasons_gold_and_manifests_are_text() -> None:
    label = '"><script>alert(1)</script>'
    gatherer = SummaryAccumulator("label", [label], None, True)
    gatherer.add(
        AnsweredRow(
            1, Answer(label, Status.REVIEW, label, 0.4, {label: 1.0}, reason=label), label, label
        )
    )
    gatherer.add(
        AnsweredRow(
            2,
            Answer("\ud800", Status.OK, label, 0.4, {label: 1.0}, reason=label),
            label,
            label + "?",
        )
    )
    page = HtmlPage(
        render_report(
            gatherer.finish(),
            {label: {label: [label, {label: label}]}},
            [Baseline(label, label, note=label)],
        )
    )
    assert "script" not in {tag for tag, _ in page.elements}


def test_the_page_asks_for_nothing(run_summary: RunSummary) -> None:
    page = HtmlPage(render_report(run_summary, MANIFEST, BASELINES))
    indices = [
        value
        for _, attrs in page.elements
        for name, value in attrs.items()
        if name in {"src", "href", "action", "srcset", "data"}
    ]
    assert indices == ["data:,"]
    assert not [
        value for _, attrs in page.elements for value in attrs.values() if value and "http" in value
    ]
    style = render_report(run_summary, MANIFEST).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    policy = [
        attrs["content"]
        for tag, attrs in page.elements
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_a_better_baseline_is_reported_on_top(run_summary: RunSummary) -> None:
    page = HtmlPage(render_report(run_summary, MANIFEST, BASELINES)).text
    assert page.index(
        "TF-IDF (learned) is better than the model here: 0.861 against 0.222"
    ) < page.index(QUESTIONS[0])
    assert "not measured: the MiniLM sentence encoder is not installed here" in page


@pytest.mark.parametrize(
    ("confidence", "verdict"),
    [(0.95, "overconfident"), (0.62, "which agrees"), (0.3, "underconfident")],
)
def test_confidence_is_compared_with_accuracy(confidence: float, verdict: str) -> None:
    gatherer = SummaryAccumulator("label", ["a", "b"], None, True)
    for row in range(1, 5001):
        gatherer.add(
            AnsweredRow(
                row,
                Answer(str(row), Status.OK, "a", confidence, {"a": confidence}),
                "text",
                "ab"[row % 5 < 2],
            )
        )
    assert verdict in render_report(gatherer.finish(), {})


def test_a_difference_on_few_rows_is_no_agreement() -> None:
    gatherer = SummaryAccumulator("label", ["a", "b"], None, True)
    for row in range(1, 6):
        answer = Answer(str(row), Status.OK, "a", 0.85, {"a": 0.85, "b": 0.15})
        gatherer.add(AnsweredRow(row, answer, "text", "ab"[row > 3]))
    page = HtmlPage(render_report(gatherer.finish(), {})).text
    assert "right in 0.60 of them, a difference that can be chance on so few rows" in page


def test_confidence_is_compared_with_accuracy_on_the_rows_that_have_one() -> None:
    gatherer = SummaryAccumulator("label", ["a", "b"], None, True)
    for row in range(1, 1001):
        known = row % 2 == 0  # right; the others are wrong
        answer = Answer(str(row), Status.OK, "a", 0.99 if known else None, {"a": 1.0, "b": 0.0})
        gatherer.add(AnsweredRow(row, answer, "text", "a" if known else "b"))
    page = HtmlPage(render_report(gatherer.finish(), {})).text
    assert "mean confidence on the 500 rows with a confidence is 0.99, and it is right in" in page
    assert "overconfident" not in page


def test_what_has_to_be_known_first_is_on_top(run_summary: RunSummary) -> None:
    page = render_report(
        run_summary,
        MANIFEST,
        additions=ReportAdditions(notes=["two ids of the gold file are unknown"]),
    )
    assert "<p>Two ids of the gold file are unknown.</p>" in page.split("<main>")[0]


def test_the_error_at_each_coverage_is_drawn_once(run_summary: RunSummary) -> None:
    curve = "Error among accepted rows"
    assert render_report(run_summary, MANIFEST).count(curve) == 1
    assert curve not in render_report(
        run_summary,
        MANIFEST,
        additions=ReportAdditions(
            [ReportSection("Which answers may be accepted without review?", [])]
        ),
    )


def test_the_probabilities_of_single_labels_are_counted(run_summary: RunSummary) -> None:
    page = render_report(
        run_summary, {"data": {"source": "a.csv", "columns": ["id", "answer", "p:one", "p:two"]}}
    )
    assert "a.csv; columns id, answer and 2 of probabilities" in page


def test_what_left_the_machine_is_reported(run_summary: RunSummary) -> None:
    assert "none was tried" in render_report(run_summary, MANIFEST)
    assert "2 connections to other machines were tried and refused" in render_report(
        run_summary, {"egress": {"connections_attempted": 2}}
    )
    assert "Not recorded." in render_report(run_summary, {})


def test_texts_of_patients_are_named(run_summary: RunSummary) -> None:
    for phi in (True, False):
        page = render_report(run_summary, {"task": {"question": {"phi": phi}}})
        assert ("Protect this page like the table." in page) is phi


def test_without_gold_it_explains_how_to_get_an_honest_number() -> None:
    page = HtmlPage(render_report(make_imaging_run(50, has_gold=False).finish(), MANIFEST)).text
    assert "draw 120 rows at random" in page
    assert "0.800 (0.720-0.862)" in page
    assert "gold:" not in page


@pytest.mark.parametrize("has_gold", [True, False])
def test_no_rows_make_a_page(has_gold: bool) -> None:
    assert (
        "The table has no rows."
        in HtmlPage(
            render_report(SummaryAccumulator("label", LABELS, ABSTAIN, has_gold).finish(), {})
        ).text
    )


def test_a_run_where_all_rows_failed_makes_a_page() -> None:
    gatherer = SummaryAccumulator("label", LABELS, None, True)
    for row in range(1, 101):
        gatherer.add(
            AnsweredRow(
                row, Answer(str(row), Status.FAILED, reason="out of memory"), "text", LABELS[0]
            )
        )
    page = HtmlPage(render_report(gatherer.finish(), MANIFEST)).text
    assert "No row got a label." in page
    assert "No row has a probability." in page
    assert "100 rows without a label count as wrong." in page
    assert "1, 2, 3, 4, 5 …" in page


def test_one_label_that_is_always_right_makes_a_page() -> None:
    gatherer = SummaryAccumulator("label", ["yes"], None, True)
    gatherer.add(AnsweredRow(1, Answer("1", Status.OK, "yes", 1.0, {"yes": 1.0}), "text", "yes"))
    page = HtmlPage(render_report(gatherer.finish(), {})).text
    assert "accuracy 1.000 (0.207-1.000)" in page
    assert "1.000 (no interval)" in page
    assert "No row needs a person." in page


def test_two_thousand_long_labels_do_not_make_a_huge_page(tmp_path: Path) -> None:
    labels = [f"{number} {'very ' * 40}long" for number in range(2000)]
    gatherer = SummaryAccumulator("label", labels, None, True)
    for row in range(1, 2001):
        given, gold = labels[row % 2000], labels[row * 7 % 2000]
        gatherer.add(
            AnsweredRow(
                row,
                Answer(str(row), Status.REVIEW, given, 0.5, dict.fromkeys(labels, 1 / 2000)),
                "text " * 1000,
                gold,
            )
        )
    write_report(tmp_path / "report.html", gatherer.finish(), MANIFEST)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert len(page) < 1_000_000
    assert "The 40 most frequent labels; 1,960 more share 1,960 rows." in page
    assert "the 40 most frequent labels only" in page


def test_the_manifest_is_shown_whatever_it_holds(run_summary: RunSummary) -> None:
    odd = {
        "deep": {"er": [{"a_b": None}, [], True]},
        "bytes": 8321499136,
        "long": "x" * 9000,
        "wide": {str(n): n for n in range(150)},
    }
    page = HtmlPage(render_report(run_summary, odd)).text
    assert "8,321,499,136" in page
    assert "a b" in page
    assert "x" * 1999 + "…" in page
    assert "and 50 more" in page


@pytest.mark.parametrize(
    "broken",
    [
        {"task": None},
        {"task": "name", "data": 3},
        {"created": "yesterday"},
        {"timing": {"seconds": "long"}},
    ],
)
def test_a_manifest_of_another_shape_is_no_error(
    run_summary: RunSummary, broken: dict[str, object]
) -> None:
    assert QUESTIONS[-1] in render_report(run_summary, broken)


@pytest.mark.skipif(os.name != "posix", reason="needs file modes")
def test_both_files_are_for_their_owner_only_and_hold_the_same_numbers(
    run_summary: RunSummary, tmp_path: Path
) -> None:
    write_report(tmp_path / "report.html", run_summary, MANIFEST, BASELINES)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "report.html": 0o600,
        "report.json": 0o600,
    }
    numbers = json.loads((tmp_path / "report.json").read_bytes())
    assert numbers["rows"] == run_summary.rows
    assert numbers["baselines"][0]["versus"]["verdict"] == "better"
    assert "years" not in json.dumps(numbers)


def test_a_folder_that_is_not_there_is_a_storage_error(
    run_summary: RunSummary, tmp_path: Path
) -> None:
    with pytest.raises(StorageError):
        write_report(tmp_path / "gone" / "report.html", run_summary, MANIFEST)


@pytest.mark.parametrize("kind", RUNS_BY_KIND)
@pytest.mark.parametrize("has_gold", [True, False])
def test_every_kind_makes_a_page_that_asks_for_nothing(
    kind: str, has_gold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "find_minilm", lambda: None)
    similarity._load_minilm.cache_clear()
    page = HtmlPage(render_report(RUNS_BY_KIND[kind](has_gold=has_gold).finish(), MANIFEST))
    assert not {"script", "img", "iframe", "object", "form"} & {tag for tag, _ in page.elements}
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on")]
    assert [
        value
        for _, attrs in page.elements
        for name, value in attrs.items()
        if name in {"src", "href"}
    ] == ["data:,"]
    assert ("draw 120 rows at random" in page.text) != has_gold
    assert "None" not in page.text.replace("None applies", "")


def test_passes_are_reported_where_there_are_any() -> None:
    page = render_report(RUNS_BY_KIND["labels"]().finish(), MANIFEST)
    heads = re.findall(r"<h2>(.*?)</h2>", page)
    assert heads == [*QUESTIONS[:6], "What did each further pass change?", *QUESTIONS[6:]]
    assert re.search(r"\d+ corrected, \d+ spoiled", HtmlPage(page).text)
    assert "further pass" not in render_report(RUNS_BY_KIND["choice"]().finish(), MANIFEST)


def test_thresholds_are_reported_where_the_manifest_has_them() -> None:
    run = RUNS_BY_KIND["labels"](has_gold=False).finish()
    page = render_report(
        run,
        {"thresholds": dict.fromkeys(DOMAINS, 0.3125), "thresholds_fitted": "Fitted on 420 rows."},
    )
    assert "A label applies from this probability on. Fitted on 420 rows." in page
    assert page.count(">0.312<") == len(DOMAINS)
    assert "Thresholds" not in HtmlPage(render_report(run, {"thresholds": "none"})).text


def test_thoughts_quotes_and_earlier_answers_are_in_the_cases() -> None:
    gatherer = SummaryAccumulator("fields", (), None, True)
    text = "Left breast. Stage II."
    answer = Answer(
        "r1",
        Status.REVIEW,
        {"stage": "III"},
        0.4,
        {"stage=II": 0.3, "stage=III": 0.7},
        thoughts="<b>" + "hm " * 5000,
        quotes={"stage": Quote("Stage II", 13, 21)},
        steps=(PassStep("first", Status.REVIEW, {"stage": "I"}, 0.2),),
        pass_name="refine",
    )
    gatherer.add(AnsweredRow(1, answer, text, {"stage": "II"}))
    written = render_report(gatherer.finish(), {})
    page = HtmlPage(written)
    assert '<mark title="stage">Stage II</mark>' in written
    assert "first: stage: I (0.20)" in page.text
    assert "Reasoning" in page.text
    assert "<b>hm hm" in page.text
    assert page.text.count("hm ") < 3000
    assert "Shortened; the ledger has all of it." in page.text
    quote = '<br><q class="quiet">Stage II</q>'
    assert f'<td dir="auto" class="off">III{quote}</td>' in written


def test_fields_have_their_units_and_quotes() -> None:
    gatherer = SummaryAccumulator("fields", (), None, False, units={"size": "mm"})
    value = {"size": 18, "dose": {"value": 2, "unit": "Gy"}}
    quotes = {"size": Quote("1.8 cm", 0, 6), "dose": Quote("2 Gy", 8, 12)}
    gatherer.add(AnsweredRow(1, Answer("r", Status.REVIEW, value, quotes=quotes), "1.8 cm, 2 Gy"))
    (row,) = gatherer.finish().doubtful
    assert [(part.field, part.value, part.quote) for part in row.parts] == [
        ("size (mm)", "18", "1.8 cm"),
        ("dose.value", "2", "2 Gy"),
        ("dose.unit", "Gy", None),
    ]


def test_options_are_shown_in_place_of_letters() -> None:
    gatherer = SummaryAccumulator("choice", (), None, True)
    options = (Option("A", "<i>aspirin</i>"), Option("B", "rest"))
    gatherer.add(
        AnsweredRow(
            1,
            Answer("1", Status.REVIEW, "A", 0.6, {"A": 0.6, "B": 0.4}),
            "What helps?",
            "B",
            options,
        )
    )
    gatherer.add(
        AnsweredRow(2, Answer("2", Status.FAILED, reason="broken"), "What helps?", "B", options)
    )
    page = HtmlPage(render_report(gatherer.finish(), {}))
    assert page.text.count("A: <i>aspirin</i>") >= 3
    assert "gold: B: rest" in page.text
    assert ("ul", {"class": "options"}) in page.elements  # the row without probabilities


def test_words_and_meanings_of_every_status() -> None:
    gatherer = SummaryAccumulator("label", ["a"], None, False)
    for row, status in enumerate(Status, start=1):
        gatherer.add(AnsweredRow(row, Answer(str(row), status, reason="so"), "text", None))
    page = HtmlPage(render_report(gatherer.finish(), {})).text
    for word in ("not text", "too short", "unlike the examples"):
        assert word in page
