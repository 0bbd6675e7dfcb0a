"""Drafts: what `medtask init` writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.errors import TaskFaults
from medtask.records import Record
from medtask.tasks.load import load_task
from medtask.tasks.prompt import build_prompt, find_prompt_columns
from medtask.tasks.task_draft import draft_task_file, guess_id_column, guess_text_column

COLUMNS = ["ward", "case_id", "procedure", "note"]
SAMPLE = [
    {"ward": "A", "case_id": "1", "procedure": "left hemicolectomy", "note": "x"},
    {"ward": "A", "case_id": "2", "procedure": "biliary stent", "note": None},
]


def test_a_draft_guesses_the_id_and_the_text():
    draft = draft_task_file("surgery-purpose", COLUMNS, SAMPLE, "../procedures.xlsx")
    assert "\nname: surgery-purpose\n" in draft
    assert "\nid: case_id\n" in draft
    assert "\ndata: ../procedures.xlsx\n" in draft
    assert "{{ procedure }}" in draft


def test_a_draft_lacks_nothing_but_its_labels(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text(draft_task_file("surgery-purpose", COLUMNS, SAMPLE))
    with pytest.raises(TaskFaults) as caught:
        load_task(path)
    (fault,) = caught.value.faults
    assert fault.message.startswith("fill in the labels")
    assert path.read_text().splitlines()[fault.line - 1].startswith("  labels:")

    path.write_text(
        path.read_text()
        .replace("<first label>", "curative")
        .replace("<second label>", "palliative")
    )
    task = load_task(path)
    assert [label.name for label in task.labels] == ["curative", "palliative"]
    assert find_prompt_columns(task) == {"procedure"}


@pytest.mark.parametrize("columns", [[], ["text"]])
def test_a_draft_needs_no_table(columns):
    assert "{{ text }}" in draft_task_file("x", columns)


@pytest.mark.parametrize(
    ("sample", "guess"),
    [
        ([{"a": "x", "case id": "1"}, {"a": "y", "case id": "2"}], "case id"),
        ([{"a": "x", "Patient-ID": "1"}, {"a": "y", "Patient-ID": "1"}], "a"),
        ([{"a": "x y", "b": "k1"}, {"a": "z y", "b": "k2"}], "b"),
        ([{"a": "x", "id": "1"}, {"a": "x", "id": None}], None),
        ([], None),
    ],
)
def test_an_id_distinguishes_the_rows_of_the_sample(sample, guess):
    assert guess_id_column(list(sample[0]) if sample else ["id"], sample) == guess


def test_the_text_is_the_longest_column():
    assert guess_text_column(COLUMNS, SAMPLE) == "procedure"
    assert (
        guess_text_column(["case_id", "note"], [{"case_id": "6f1c2b9e-6c1d-4a53", "note": "stent"}])
        == "note"
    )


@given(
    st.text(
        st.characters(codec="utf-8", exclude_categories=("Cc",)), min_size=1, max_size=30
    ).filter(str.strip),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip),
)
def test_any_name_and_column_make_a_draft_that_works(tmp_path_factory, name, column):
    path = tmp_path_factory.mktemp("task") / "task.yaml"
    draft = draft_task_file(name, [column], [{column: "stent"}], "a: b.csv")
    filled = draft.replace("    <first label>:", "    curative:").replace(
        "    <second label>:", "    palliative:"
    )
    path.write_text(filled, encoding="utf-8")
    task = load_task(path)
    assert find_prompt_columns(task) == {column}
    assert build_prompt(task, Record("1", {column: "stent"})).text == "stent"


def make_gold_rows(count: int = 40) -> list[dict[str, object]]:
    purposes = ("kurativ", "lindrende", "kurativ", "Kurativ ", None)
    return [
        {
            "Saksnr": f"{row:06}",
            "Pasient": f"P{row // 2}",
            "Inngrep": f"fjerning av svulst nummer {row}",
            "År": 2020 + row % 3,
            "Formål": purposes[row % 5],
        }
        for row in range(count)
    ]


def test_a_column_with_a_few_names_is_gold_and_its_names_are_the_labels(tmp_path):
    rows = make_gold_rows()
    path = tmp_path / "task.yaml"
    path.write_text(draft_task_file("formal", list(rows[0]), rows), "utf-8")
    task = load_task(path)
    assert (task.gold_column, task.id_column) == ("Formål", "Saksnr")
    assert [label.name for label in task.labels] == ["kurativ", "lindrende"]
    assert "kurativ:  # 24 rows" in path.read_text("utf-8")
    assert "# group: Pasient" in path.read_text("utf-8")


def test_of_several_columns_with_names_the_user_chooses():
    rows = [
        {**row, "Avdeling": f"avdeling {'AB'[n % 2]}"} for n, row in enumerate(make_gold_rows())
    ]
    draft = draft_task_file("formal", list(rows[0]), rows)
    assert "# gold: COLUMN" in draft and "few values: Formål, Avdeling" in draft
    named = [{**row, "label": row["Formål"]} for row in rows]
    assert "\ngold: label  #" in draft_task_file("formal", list(named[0]), named)


def test_numbers_dates_and_rare_values_are_not_gold():
    rows = [
        {"text": f"stent {n} lagt inn", "dato": "2025-01-01", "x": f"v{n % 15}"} for n in range(40)
    ]
    assert (
        "# gold: COLUMN                    # the column that holds the right answers, if any"
        in (draft_task_file("formal", list(rows[0]), rows))
    )
