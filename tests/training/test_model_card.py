"""A model card says what is known, in Markdown and YAML that no name can break out of."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from medtask.evaluation.statistics.intervals import Metric
from medtask.training.markdown import escape_markdown, format_code, format_table, write_fence
from medtask.training.model_card import FEW_ROWS, MAX_LISTED_LABELS, write_card
from medtask.training.model_card_content import CardContent, CardLabel
from medtask.training.training_log import TrainingPoint
from support.model_card_facts import CARD_FACTS, CARD_TASK

GOLDEN = Path(__file__).with_name("card.md")
HOSTILE = (
    "<script>alert(1)</script>",
    "a | b",
    "[click](http://evil.example) ![x](http://evil.example/x.png)",
    "**bold** _it_ `code` ~~gone~~",
    "---\nlicense: mit\n---",
    "key: value # no\n- item",
    "# heading",
    "1. first",
    "- item",
    "+ item",
    "=== ",
    "> quote",
    "&lt;b&gt; &amp;",
    "```\nrm -rf /\n```",
    "\x1b[31mred\u202etxt",
    "\ud800",
    "C:\\notes\\|x",
    "{{ template }} $x$",
    "www.evil.example @someone",
    "ä" * 500,
)


def render_markdown(markdown: str) -> str:
    """As a reader sees it, with tables and raw HTML allowed."""
    return MarkdownIt("commonmark").enable("table").render(markdown)


def read_body(card: str) -> str:
    return card.split("\n---\n", 1)[1]


def test_the_card_equals_the_golden_file() -> None:
    card = write_card(CARD_FACTS)
    if os.environ.get("MEDTASK_GOLDEN") == "write":
        GOLDEN.write_text(card, "utf-8")
    assert card == GOLDEN.read_text("utf-8")


def test_the_hub_reads_the_front_matter_back() -> None:
    data = ModelCard(write_card(CARD_FACTS)).data
    assert (data.base_model, data.library_name, data.license) == (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "peft",
        "apache-2.0",
    )
    assert (data.pipeline_tag, data.model_name) == ("text-generation", "surgery-purpose-rslora")
    assert data.tags == ["medtask", "medical", "rslora", "label"]
    assert data.get("base_model_relation") == "adapter"
    assert data.metrics == ["accuracy", "f1"]
    assert data.eval_results is not None
    output = [
        (one.task_type, one.dataset_name, one.metric_type, one.metric_value, one.metric_name)
        for one in data.eval_results
    ]
    assert output == [
        (
            "text-classification",
            "procedures.csv",
            "accuracy",
            0.912,
            "accuracy (95 % interval 0.846-0.952, n = 114)",
        ),
        (
            "text-classification",
            "procedures.csv",
            "f1",
            0.874,
            "macro-F1 (95 % interval 0.790-0.930, n = 114)",
        ),
    ]


@pytest.mark.parametrize(
    ("method", "library", "pipeline", "relation"),
    [
        ("qlora", "peft", "text-generation", "adapter"),
        ("full", "transformers", "text-generation", "finetune"),
        ("encoder", "transformers", "text-classification", "finetune"),
        ("linear", "medtask", "text-classification", "finetune"),
        ("hybrid", "medtask", "text-classification", "finetune"),
    ],
)
def test_each_method_names_its_library(
    method: str, library: str, pipeline: str, relation: str
) -> None:
    data = ModelCard(write_card(replace(CARD_FACTS, method=method))).data
    assert (data.library_name, data.pipeline_tag, data.get("base_model_relation")) == (
        library,
        pipeline,
        relation,
    )


def test_a_model_of_nobody_knows_what_has_a_card_without_guesses() -> None:
    bare = replace(
        CARD_TASK,
        labels=(),
        abstain="",
        dropped={},
        split="",
        leaks=(),
        metrics={},
        baselines={},
        calibration="",
        phi="unknown",
    )
    card = write_card(
        CardContent(name="m", folder="m", method="linear", tasks=(replace(bare, instruction=""),))
    )
    data = ModelCard(card).data
    assert (data.license, data.base_model, data.language, data.eval_results, data.metrics) == (
        "other",
        None,
        None,
        None,
        None,
    )
    assert "model_name" not in yaml.safe_load(card.split("---\n")[1])
    for result in (
        "No licence was chosen",
        "The languages of its rows are not known",
        "It is not known whether the table has patients’ data.",
        "Nothing was measured",
        "was not checked",
    ):
        assert result in card
    assert "loss.svg" not in card
    assert "None" not in card


@pytest.mark.parametrize("phi", ["yes", "no", "unknown"])
def test_one_table_of_patients_is_enough_for_the_warning(phi: str) -> None:
    card = write_card(
        replace(CARD_FACTS, tasks=(CARD_TASK, replace(CARD_TASK, name="second", phi=phi)))
    )
    result = {
        "yes": "Trained on patients’ data.",
        "no": "has no patients’ data",
        "unknown": "It is not known whether",
    }
    assert [word for word, text in result.items() if text in card] == [phi]


def test_a_base_that_learnt_from_patients_is_enough_for_the_warning() -> None:
    tasks = (replace(CARD_TASK, phi="no"),)
    assert "Trained on patients" not in write_card(replace(CARD_FACTS, tasks=tasks))
    assert "Trained on patients" in write_card(replace(CARD_FACTS, tasks=tasks, base_phi="yes"))


def test_a_demonstration_model_is_marked_as_one_first() -> None:
    card = write_card(replace(CARD_FACTS, demonstration=True))
    lines = [line for line in read_body(card).splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith("**This model is a demonstration and not for real work.**")
    assert "demonstration" in (ModelCard(card).data.tags or [])
    assert "demonstration" not in write_card(CARD_FACTS)


def test_labels_that_were_hardly_learnt_are_named() -> None:
    labels = tuple(
        CardLabel(f"label {index}", rows=index) for index in range(MAX_LISTED_LABELS + 10)
    )
    card = write_card(replace(CARD_FACTS, tasks=(replace(CARD_TASK, labels=labels),)))
    assert "No training row: label 0." in card
    assert f"Fewer than {FEW_ROWS} training rows: label 1, label 2, " in card
    assert "label 12 and 7 more." in card
    assert "| label 39 |" in card
    assert "label 40" not in card
    assert "10 more are listed" in card


def test_several_tasks_have_a_part_each() -> None:
    second = replace(
        CARD_TASK,
        name="protocol",
        table="orders.csv",
        kind="labels",
        metrics={"micro_f1": Metric(0.5, 10)},
    )
    card = write_card(replace(CARD_FACTS, tasks=(CARD_TASK, second)))
    results = ModelCard(card).data.eval_results
    assert results is not None
    assert [(one.task_name, one.dataset_name, one.metric_value) for one in results][-1] == (
        "protocol",
        "orders.csv",
        0.5,
    )
    assert "micro-F1 (no interval, n = 10)" in card
    assert len(re.findall(r"^### protocol$", card, flags=re.MULTILINE)) == 2
    assert "MedtaskClassifier" not in card


def test_a_stopped_and_a_diverged_training_are_reported() -> None:
    card = write_card(
        replace(CARD_FACTS, interrupted=True, points=(TrainingPoint(1, 9, 1.0, loss=float("nan")),))
    )
    assert "It was interrupted" in card
    assert "| 1 | 1 | not finite |" in card


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_breaks_out(name: str) -> None:
    task = replace(
        CARD_TASK,
        name=name,
        instruction=name,
        table=name,
        labels=(CardLabel(name, name, 3), CardLabel("plain", "", 0)),
        abstain=name,
        dropped={name: 1},
        split=name,
        leaks=(name,),
        baselines={name: {"accuracy": Metric(0.5, 4, 0.2, 0.8)}},
        calibration=name,
    )
    facts = replace(
        CARD_FACTS,
        name=name,
        folder=name,
        tasks=(task,),
        hardware=name,
        notes=(name,),
        command=name,
        score_name=name,
    )
    card = write_card(
        replace(
            facts,
            bases=(name,),
            versions={name: name},
            fingerprints={name: name},
            recipe={name: name},
        )
    )
    data = ModelCard(card).data
    assert (data.license, data.library_name) == ("apache-2.0", "peft")
    html = render_markdown(read_body(card))
    assert re.findall(r"<(?:script|b|em|a|del|img)\b[^>]*>", html) == [
        '<img src="loss.svg" alt="Losses of the training" />'
    ]
    plain = render_markdown(read_body(write_card(CARD_FACTS)))
    # What the card is made of is the same as with harmless names.
    for tag in ("h1", "h2", "table", "pre", "blockquote"):
        assert html.count(f"<{tag}") == plain.count(f"<{tag}"), tag
    assert "\x1b" not in card
    assert "\u202e" not in card
    card.encode("utf-8")


@pytest.mark.parametrize(
    "name", [name for name in HOSTILE if name.isprintable() and len(name) < 100]
)
def test_a_name_is_shown_as_it_is(name: str) -> None:
    shown = render_markdown(escape_markdown(name)).removeprefix("<p>").removesuffix("</p>\n")
    assert "<" not in shown
    assert unescape(shown) == " ".join(name.split())
    cell = re.findall(
        r"<td>(.*?)</td>",
        render_markdown(
            format_table(["a", "b"], [[escape_markdown(name), format_code("x")]], align_right=False)
        ),
    )
    assert [unescape(one) for one in cell] == [" ".join(name.split()), "<code>x</code>"]


def test_numbers_and_names_that_are_harmless_stay_readable() -> None:
    for text in (
        "0.001",
        "2.0",
        "macro-F1",
        "smollm2-135m",
        "-0.5",
        "CT brain/neck (3 mm)",
        "epochs: 2",
    ):
        assert escape_markdown(text) == text


def test_code_holds_whatever_it_is_given() -> None:
    assert format_code("a`b") == "``a`b``"
    assert format_code("`a") == "`` `a ``"
    assert format_code(" ") == "–"
    assert write_fence(["```", "x"]) == "````\n```\nx\n````"
