"""What a run finds out about its table before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medtask.errors import InputError
from medtask.runs.run_setup import RunOptions, RunSetup, prepare_run
from medtask.tables.read import read_table
from medtask.tasks.load import load_task

LABEL_TASK = """\
instruction: Decide.
input: "{{ note }}"
gold: gold
answer: {kind: label, labels: [benign, malignant]}
"""
CHOICE_TASK = 'instruction: x\ninput: "{{ q }}"\nanswer: {kind: choice, options: options}\n'


def prepare(tmp_path: Path, task: str, rows: list[dict[str, object]], **read: object) -> RunSetup:
    (tmp_path / "task.yaml").write_text(task)
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = read_table(tmp_path / "t.jsonl", **read)  # type: ignore[arg-type]
    return prepare_run(load_task(tmp_path), table, RunOptions())


def test_missing_values_and_normalised_gold_are_counted_and_noted(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"note": "a", "gold": "Benign"},
        {"note": "NA", "gold": "malignant"},
        {"note": "none", "gold": "nan"},
        {"note": "-", "gold": None},
    ]
    setup = prepare(tmp_path, LABEL_TASK, rows)
    assert setup.cell_counts["missing_words"] == {"note": {"NA": 1, "-": 1}}
    gold = setup.cell_counts["gold"]
    assert isinstance(gold, dict)
    assert gold["normalized_examples"] == [["Benign", "benign"]]
    assert gold["missing_words"] == {"nan": 1} and gold["blank"] == 1
    assert (
        '"NA", "-" count as missing in 2 rows of the column "note" (the option missing replaces '
        "these words)"
    ) in setup.notes
    assert setup.build_request().manifest_facts["cells"] == setup.cell_counts


def test_other_words_for_missing_values_are_used(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"note": "NA", "gold": "benign"}, {"note": "none", "gold": ""}]
    setup = prepare(tmp_path, LABEL_TASK, rows, missing=("none",))
    assert setup.cell_counts["missing_words"] == {"note": {"none": 1}}


def test_gold_of_another_shape_is_refused_once_with_the_shape(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"note": "a", "gold": [[0, 1, "benign"]]}] * 3
    with pytest.raises(InputError, match="row 1, a list of 1 lists"):
        prepare(tmp_path, LABEL_TASK, rows)


def test_gold_that_fits_two_labels_equally_well_names_both(tmp_path: Path) -> None:
    task = LABEL_TASK.replace("benign, malignant", "BB, Bb, bb")
    with pytest.raises(InputError, match='fits "BB" and "Bb" and "bb" equally well'):
        prepare(tmp_path, task, [{"note": "a", "gold": "bB"}])


def test_options_of_another_shape_are_refused_once_with_the_shape(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"q": "x", "options": [{"u": "1", "v": "2"}] * 2}] * 3
    with pytest.raises(InputError, match="a list of 2 objects with the keys u, v"):
        prepare(tmp_path, CHOICE_TASK, rows)


def test_a_text_that_a_comment_cuts_is_noted(tmp_path: Path) -> None:
    task = LABEL_TASK.replace("Decide.", "Is there a # of the hip?")
    setup = prepare(tmp_path, task, [{"note": "a", "gold": "benign"}])
    assert any('ends before " #"' in note for note in setup.notes)


def test_an_export_of_label_studio_is_read_as_it_comes(tmp_path: Path) -> None:
    task = LABEL_TASK.replace("{{ note }}", "{{ data.note }}").replace(
        "gold: gold", "gold: annotations"
    )
    result = [{"from_name": "dx", "type": "choices", "value": {"choices": ["benign"]}}]
    rows: list[dict[str, object]] = [
        {"id": 1, "data": {"note": "mole"}, "annotations": [{"result": result}]},
        {"id": 2, "data": {"note": "wart"}, "annotations": []},
    ]
    records = list(prepare(tmp_path, task, rows).iter_records())
    assert [record.gold for record in records] == ["benign", None]
