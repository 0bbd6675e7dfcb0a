"""Every kind of question on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medtask.tasks.kinds import get_task_kind
from medtask.tasks.load import load_task
from support.command_line import RunCommand

FAKE = ("--model", "fake:")
TABLE = """\
id,text,options,letter,both,object,names
1,Sudden headache,"{'A': 'Bleed', 'B': 'Gout', 'C': 'Cold'}",A,,"{""side"": ""left"", ""size"": 3}","[""head"", ""neck""]"
2,Swollen toe,"[""Bleed"", ""Gout""]",D,,not an object,toe
3,Broken nose,,A,,"{""side"": ""up"", ""size"": 3}",head
"""  # noqa: E501 - data as it is read
ANSWERS = {
    "labels": "{kind: labels, labels: {head: above the neck, neck: below the head}}",
    "one": "{kind: choice, options: options}",
    "several": "{kind: choice, options: options, several: true}",
    "orders": "{kind: choice, options: options, debias: permute}",
    "texts": "{kind: choice, options: options, readout: text}",
    "answer": "{kind: answer, max_tokens: 40}",
    "fields": (
        "{kind: fields, max_tokens: 50, schema: {properties: {side: {enum: [left, right]}, "
        "size: {type: number, quote: true}}}}"
    ),
}
GOLD = {
    "labels": "names",
    "one": "letter",
    "several": "letter",
    "orders": "letter",
    "texts": "letter",
    "fields": "object",
}


@pytest.fixture
def kinds_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with one task file for each kind and the table of all."""
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text(TABLE)
    for name, answer in ANSWERS.items():
        gold = f"gold: {GOLD[name]}\n" if name in GOLD else ""
        text = (
            f'name: {name}\ninstruction: Look.\ninput: "{{{{ text }}}}"\nid: id\ndata: '
            f"rows.csv\n{gold}answer: {answer}\n"
        )
        Path(f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "title", "cost"),
    [
        ("labels", "labels: labels, 2 labels, input", "to tell the labels apart"),
        (
            "one",
            'one: choice, one of the options in the column "options", input',
            "to tell the options apart",
        ),
        (
            "several",
            'several: choice, one or more of the options in the column "options", input',
            "to tell the options apart",
        ),
        ("answer", "answer: answer, at most 40 tokens, input", "at most 40 to write"),
        ("fields", "fields: fields, 2 fields, 1 with a quote, input", "at most 50 to write"),
    ],
)
def test_a_check_reports_what_there_is_to_answer(
    medtask: RunCommand, kinds_folder: Path, name: str, title: str, cost: str
) -> None:
    outcome = medtask("check", f"{name}.yaml", *FAKE)
    assert outcome.code == 0
    assert outcome.out.startswith(f'{title} "text", id id\n')
    assert cost in outcome.out
    assert "on this machine (measured on" in outcome.out


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        (
            "labels",
            {
                f"{label}: {word}": f"{label}: {word}"
                for label in ("head", "neck")
                for word in ("yes", "no")
            },
        ),
        ("one", {"A": "A", "B": "B", "C": "C"}),
        ("orders", {"A": "A", "B": "B", "C": "C"}),
        ("texts", {"A": "Bleed", "B": "Gout", "C": "Cold"}),
        (
            "several",
            {
                f"{letter}: {word}": f"{letter}: {word}"
                for letter in "ABC"
                for word in ("yes", "no")
            },
        ),
        ("answer", {}),
        ("fields", {}),
    ],
)
def test_the_document_of_a_row_has_the_candidates_of_its_kind(
    medtask: RunCommand, kinds_folder: Path, name: str, candidates: dict[str, str]
) -> None:
    document = json.loads(medtask("check", f"{name}.yaml", "--row", 1, "--json", *FAKE).out)
    assert document["candidates"] == candidates
    assert list(document["candidate_tokens"]) == list(candidates)
    assert "Sudden headache" in document["prompt"]
    assert ("schema" in document) == (name == "fields")
    if candidates and name not in ("labels",):
        assert all(text in document["prompt"] for text in ("Bleed", "Gout", "Cold"))
    assert bool(document["notes"]) == (name == "orders")


def test_a_row_of_fields_is_shown_with_its_schema(medtask: RunCommand, kinds_folder: Path) -> None:
    shown = medtask("check", "fields.yaml", "--row", 1, *FAKE).out
    assert "JSON schema of the generated text" in shown
    assert '"size_quote"' in shown
    assert "followed by generated text" in medtask("check", "answer.yaml", "--row", 1, *FAKE).out


def test_a_row_without_options_is_reported(medtask: RunCommand, kinds_folder: Path) -> None:
    assert (
        medtask("check", "one.yaml", "--row", 3, *FAKE).out
        == "3 is skipped: failed, the row has no options\n"
    )


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("labels", 'gold "toe" is not a label: 1 row, the first is row 2'),
        ("one", 'gold "D" is not an option of its row: 1 row, the first is row 2'),
        ("fields", 'gold of the field "side" does not fit the schema: 1 row, the first is row 3'),
    ],
)
def test_invalid_gold_is_reported_in_the_terms_of_its_kind(
    medtask: RunCommand, kinds_folder: Path, name: str, warning: str
) -> None:
    assert f"  warning     {warning}" in medtask("check", f"{name}.yaml", *FAKE).out


def test_gold_that_should_be_fields_and_is_a_text_is_not_quoted(kinds_folder: Path) -> None:
    task = load_task("fields.yaml")
    assert (
        get_task_kind(task).describe_invalid_gold('{"side": "left", "name": "Jane Doe"')
        == "gold that is not an object of the schema"
    )
    assert (
        get_task_kind(task).describe_invalid_gold("size")
        == 'gold of the field "size" does not fit the schema'
    )
    assert (
        get_task_kind(task).describe_invalid_gold("Jane Doe")
        == "gold that is not an object of the schema"
    )


def test_thinking_and_further_passes_are_reported(medtask: RunCommand, kinds_folder: Path) -> None:
    Path("labels.yaml").write_text(
        Path("labels.yaml").read_text().replace("kind: labels", "kind: label")
        + "reasoning: {budget: 9}\n"
        + (
            "passes:\n  - {name: again, when: {confidence_below: 0.4, answer_in: [neck]}, "
            "instruction: Look again.}\n"
        )
    )
    outcome = medtask("check", "labels.yaml", *FAKE)
    assert "  reasoning   the model thinks for at most 9 tokens before it answers\n" in outcome.out
    assert (
        "  pass        again: asks again where confidence is below 0.4 or the answer is neck\n"
        in outcome.out
    )
    assert "for the first pass (measured on" in outcome.out
    notes = json.loads(medtask("check", "labels.yaml", "--json", *FAKE).out)["notes"]
    assert notes == [
        "the model reasons before it answers, for at most 9 tokens, which are not shown here"
    ]


@pytest.mark.parametrize(
    ("name", "doing"),
    [
        ("labels", "Labelling"),
        ("one", "Answering"),
        ("answer", "Answering"),
        ("fields", "Reading the fields of"),
    ],
)
def test_a_run_reports_what_it_does_and_answers_every_row(
    medtask: RunCommand, kinds_folder: Path, name: str, doing: str
) -> None:
    outcome = medtask(
        "run", f"{name}.yaml", *FAKE, "--json", "--max-error-rate", 1, "--out", "answers"
    )
    assert outcome.code == 0, outcome.err
    assert f"{doing} 3 rows with fake engine" in outcome.err
    assert sum(json.loads(outcome.out)["statuses"].values()) == 3
