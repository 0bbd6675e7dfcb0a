from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import medtask
from medtask.engines.metadata_schema import PhiStatus
from medtask.engines.model_metadata import ModelMetadata, write_model_metadata
from medtask.errors import InputError, MedtaskError, TableError, TaskFaults, UsageError
from medtask.near_duplicates import NEAR_DUPLICATE_SIMILARITY
from medtask.tables.read import read_table
from medtask.tasks.task import Task
from medtask.tasks.text_cleaning import make_text_key
from medtask.training.cleaning import DropReason
from medtask.training.training_data import (
    RowSelection,
    TrainingData,
    build_training_data,
    describe_training_data,
    determine_model_phi,
    determine_phi,
)
from support.small_trainings import make_task
from support.text_shingles import WORDS, compute_jaccard, list_shingles

EXAMPLES = Path(__file__).parents[2] / "examples"
BODY_PARTS = ("knee", "wrist", "brain")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path)


def gather_rows(task: Task, rows: Sequence[dict[str, Any]], **more: Any) -> TrainingData:
    chosen = {name: more.pop(name) for name in ("share", "min_count", "cap") if name in more}
    return build_training_data(task, read_table(rows), selection=RowSelection(**chosen), **more)


def make_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Notes that hardly resemble each other, of three labels."""
    chance = random.Random(seed)
    return [
        {
            "text": " ".join(f"{chance.randrange(10**6):x}" for _ in range(6)),
            "gold": BODY_PARTS[number % 3],
            "patient": f"p{number // 3}",
        }
        for number in range(count)
    ]


def test_rows_are_divided_and_accounted_for(task: Task) -> None:
    rows = make_rows(60)
    rows[7] |= {"gold": None}
    rows[8] |= {"text": rows[2]["text"]}
    prepared_data = gather_rows(task, rows)
    assert (len(prepared_data.train), len(prepared_data.validation)) == (52, 6)
    assert (
        prepared_data.cleaning is not None
        and prepared_data.split is not None
        and prepared_data.leakage is not None
    )
    assert prepared_data.cleaning.dropped_counts == {DropReason.NO_GOLD: 1, DropReason.DUPLICATE: 1}
    assert prepared_data.split.to_json() == {
        "given": False,
        "share": 0.1,
        "seed": 0,
        "joined": 0,
        "chosen": 0,
    }
    assert prepared_data.leakage.describe()[0].startswith("none")
    assert prepared_data.sha256 == read_table(rows).digest()
    assert describe_training_data(prepared_data) == [
        "52 training rows, 3 labels with 17 to 18 rows each",
        "6 validation rows, 3 labels with 2 rows each",
    ]
    assert [example.row for example in prepared_data.train] == sorted(
        example.row for example in prepared_data.train
    )
    assert prepared_data.notes == ()


@pytest.mark.parametrize(
    "folder", sorted(path.parent.name for path in EXAMPLES.glob("*/task.yaml"))
)
def test_every_kind_of_question_can_be_learnt(folder: str) -> None:
    task = medtask.load_task(EXAMPLES / folder)
    assert task.data is not None
    prepared_data = build_training_data(task, read_table(task.data))
    assert prepared_data.cleaning is not None and prepared_data.leakage is not None
    assert len(prepared_data.train) + len(prepared_data.validation) == prepared_data.cleaning.kept
    assert (
        round(0.1 * prepared_data.cleaning.kept) - 1
        <= len(prepared_data.validation)
        <= 0.1 * prepared_data.cleaning.kept + 1
    )
    assert prepared_data.leakage.share == 0


NOTES = st.lists(st.sampled_from(WORDS), min_size=3, max_size=14).map(" ".join)
ROWS = st.lists(
    st.tuples(NOTES, st.sampled_from(BODY_PARTS), st.sampled_from([None, *"pqrstuv"])),
    min_size=12,
    max_size=60,
)


@settings(deadline=None, max_examples=30)
@given(
    rows=ROWS,
    copies=st.lists(st.tuples(st.integers(0, 11), st.sampled_from(WORDS)), max_size=20),
    share=st.sampled_from([0.1, 0.3]),
    order=st.randoms(use_true_random=False),
)
def test_no_group_and_no_text_is_on_both_sides(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Any],
    copies: list[tuple[int, str]],
    share: float,
    order: random.Random,
) -> None:
    task = replace(make_task(tmp_path_factory.getbasetemp() / "any"), group_column="patient")
    notes = [
        *rows,
        *((f"{rows[index][0]} {word}".title(), *rows[index][1:2], None) for index, word in copies),
    ]
    table = [{"text": text, "gold": gold, "patient": group} for text, gold, group in notes]
    try:
        prepared_data = gather_rows(task, table, share=share)
    except InputError:
        return
    assert (
        prepared_data.cleaning is not None
        and prepared_data.split is not None
        and prepared_data.leakage is not None
    )
    train, aside = prepared_data.train, prepared_data.validation
    assert train and aside
    assert len(train) + len(aside) == prepared_data.cleaning.kept
    assert not {example.row for example in train} & {example.row for example in aside}
    groups = [{example.record.group for example in part} - {None} for part in (train, aside)]
    assert not groups[0] & groups[1]
    texts = [{make_text_key(example.prompt.text) for example in part} for part in (train, aside)]
    assert not texts[0] & texts[1]
    assert {example.record.gold for example in aside} <= {example.record.gold for example in train}
    pieces = [[list_shingles(example.prompt.text) for example in part] for part in (train, aside)]
    nearest = max(compute_jaccard(one, other) for one in pieces[0] for other in pieces[1])
    # The report says what is there: nothing, unless near duplicates had to be parted.
    assert (nearest >= NEAR_DUPLICATE_SIMILARITY) == bool(prepared_data.leakage.near)
    if prepared_data.split.near_duplicate_rows is not None:
        assert nearest < NEAR_DUPLICATE_SIMILARITY
    if (
        not prepared_data.cleaning.dropped
    ):  # which of two equal rows is the first depends on the order
        order.shuffle(table)
        again = gather_rows(task, table, share=share)
        assert {example.prompt.text for example in again.validation} == {
            example.prompt.text for example in aside
        }


def test_near_duplicates_are_parted_where_all_are_some(task: Task) -> None:
    sentence = (
        "request for an examination of the chest, patient number {}, on the ward of the third floor"
    )
    rows = [
        {"text": sentence.format(number), "gold": BODY_PARTS[number % 3]} for number in range(50)
    ]
    prepared_data = gather_rows(task, rows)
    assert prepared_data.split is not None and prepared_data.leakage is not None
    assert prepared_data.split.near_duplicate_rows is None
    assert prepared_data.leakage.near == len(prepared_data.validation) > 0
    assert "near duplicates of one another" in prepared_data.notes[0]


def test_a_table_to_validate_by_is_left_as_it_is(task: Task) -> None:
    task = replace(task, group_column="patient")
    rows, others = make_rows(40), make_rows(12, seed=1)
    others[0] |= {"text": rows[3]["text"].upper()}
    others[1] |= {"text": rows[4]["text"] + " x"}
    others[2] |= {"gold": "nose"}
    for row in others:
        row["patient"] = "p0" if row["gold"] == "knee" else None
    prepared_data = gather_rows(task, rows, validation=read_table(others), min_count=13, cap=14)
    assert (
        prepared_data.cleaning is not None
        and prepared_data.validation_cleaning is not None
        and prepared_data.leakage is not None
    )
    assert len(prepared_data.train) == 40 and prepared_data.cleaning.rows == 40
    assert len(
        prepared_data.validation
    ) == 11 and prepared_data.validation_cleaning.dropped_counts == {DropReason.UNKNOWN_GOLD: 1}
    assert (
        prepared_data.leakage.equal,
        prepared_data.leakage.near,
        prepared_data.leakage.groups,
        prepared_data.leakage.group_rows,
    ) == (1, 1, 1, 4)
    assert (
        prepared_data.leakage.worst[0].train_row,
        prepared_data.leakage.worst[0].validation_row,
    ) == (4, 1)
    assert prepared_data.split is not None and prepared_data.split.has_own_table
    assert prepared_data.validation_sha256 == read_table(others).digest()


def test_labels_without_rows_are_reported(tmp_path: Path) -> None:
    task = make_task(tmp_path, labels=[*BODY_PARTS, "elbow", "hip", "toe"])
    rows = [*make_rows(40), {"text": "the only elbow", "gold": "elbow"}]
    notes = gather_rows(task, rows).notes
    assert notes == (
        'no training row has the labels "hip", "toe"',
        'no validation row has the label "elbow"',
    )
    held_out = [{"text": "a new hip", "gold": "hip"}, {"text": "a new knee", "gold": "knee"}]
    notes = gather_rows(task, rows, validation=read_table(held_out)).notes
    assert notes[-1] == "1 validation row has a label that no training row has"


def test_letters_that_never_change_are_reported(tmp_path: Path) -> None:
    task = make_task(tmp_path, "choice", options="options")
    rows = [{"text": row["text"], "options": ["yes", "no"], "gold": "A"} for row in make_rows(20)]
    assert "same option letter" in gather_rows(task, rows).notes[0]


def choose(rows: list[dict[str, Any]], every: int, selection: str) -> list[dict[str, Any]]:
    """The rows as a table of gold, of which each but every n-th was drawn at random."""
    return [
        row | {"gold_selection": "random" if number % every else selection}
        for number, row in enumerate(rows)
    ]


@pytest.mark.parametrize("selection", ["review", "audit"])
def test_rows_that_were_chosen_by_their_answers_are_for_training_only(
    task: Task, selection: str
) -> None:
    data = gather_rows(task, choose(make_rows(120), 2, selection), share=0.2)
    found = {str(one.record.fields["gold_selection"]) for one in data.validation}
    assert found == {"random"}
    assert (len(data.train), len(data.validation)) == (96, 24)
    assert data.split is not None and data.split.chosen_rows == 60
    assert "60 rows chosen by their answers, which are for training only" in data.split.describe()
    assert data.notes[-1].startswith("60 rows with gold because of the answer")


def test_chosen_rows_are_validated_on_if_there_are_too_few_others(task: Task) -> None:
    rows = choose(make_rows(60), 1, "review")
    data = gather_rows(task, rows)
    assert len(data.validation) == 6
    assert data.split is not None and data.split.validates_chosen
    assert "do not represent the table" in data.notes[-1]
    plain = gather_rows(task, [row | {"gold_selection": "table"} for row in rows])
    assert [one.row for one in plain.validation] == [one.row for one in data.validation]
    assert plain.notes == ()


def test_chosen_rows_of_a_validation_table_are_left_out(task: Task) -> None:
    others = choose(make_rows(20, seed=1), 2, "review")
    data = gather_rows(task, make_rows(40), validation=read_table(others))
    assert len(data.validation) == 10
    assert "10 rows" in data.notes[-1] and "left out of the validation" in data.notes[-1]
    only = read_table(choose(make_rows(20, seed=1), 1, "review"))
    assert len(gather_rows(task, make_rows(40), validation=only).validation) == 20


def set_cells(rows: list[dict[str, Any]], **cells: Any) -> list[dict[str, Any]]:
    return [row | cells for row in rows]


@pytest.mark.parametrize(
    ("rows", "more", "output"),
    [
        (set_cells(make_rows(20), gold=None), {}, 'no row of .* has gold in the column "gold"'),
        (
            set_cells(make_rows(20), gold="nose"),
            {},
            'no gold in the column "gold" is an answer of the task .row 1: gold is not a label',
        ),
        (
            set_cells(make_rows(20), gold="knee"),
            {},
            '"knee" is the gold of all 20 training rows: there is nothing to learn to distinguish',
        ),
        (make_rows(3), {}, "3 training rows are too few: 3 rows read"),
        (
            set_cells(make_rows(20), text="equal"),
            {},
            "0 training rows are too few: 20 rows read, left out: 20 conflict",
        ),
        (make_rows(20), {"min_count": 8}, "too few: 20 rows read, left out: 20 rare label"),
        (
            [*make_rows(20), *set_cells(make_rows(20, 1), gold="knee")],
            {"min_count": 8},
            '"knee" is the gold of all 27 training rows',
        ),
        (
            set_cells(make_rows(30), patient="p"),
            {},
            'cannot be split: they belong to 1 group of the column "patient"',
        ),
        (make_rows(4), {}, "4 training rows are too few"),
        (
            make_rows(20),
            {"validation": read_table(set_cells(make_rows(5), gold=None))},
            "no row to validate on: 5 rows read, left out: 5",
        ),
        (
            make_rows(20),
            {"validation": read_table([{"text": "a"}])},
            'gold is "gold", but the table has text',
        ),
        (make_rows(20), {"gold_column": "truth"}, 'gold is "truth", but the table has text'),
        (make_rows(20), {"share": 0.0}, "0 is not a valid validation share"),
        (make_rows(20), {"share": 0.9}, "0.9 is not a valid validation share"),
        (make_rows(20), {"min_count": 0}, "min-count is 0"),
        (make_rows(20), {"cap": 0}, "cap is 0"),
    ],
)
def test_rows_that_cannot_be_learnt_from_are_reported(
    task: Task, rows: list[dict[str, Any]], more: dict[str, Any], output: str
) -> None:
    with pytest.raises(MedtaskError) as caught:
        column = more.pop("gold_column", "gold")
        grouped = None if "validation" in more else "patient"
        gather_rows(replace(task, group_column=grouped, gold_column=column), rows, **more)
    assert re.search(output, str(caught.value))
    assert isinstance(caught.value, InputError | UsageError | TaskFaults)
    assert caught.value.fix


def test_a_task_without_a_gold_column_is_reported(task: Task) -> None:
    with pytest.raises(InputError, match="no gold column is named"):
        gather_rows(replace(task, gold_column=None), make_rows(20))
    assert gather_rows(task, make_rows(20)).train


def test_an_empty_table_has_no_rows(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.write_text("text,gold\n")
    with pytest.raises(TableError, match="has no rows"):
        build_training_data(task, read_table(path))


@pytest.mark.parametrize("more", [{"min_count": 2}, {"cap": 3}])
def test_counts_of_labels_need_labels(tmp_path: Path, more: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="applies to labels, and a task of kind answer has none"):
        gather_rows(make_task(tmp_path, "answer"), make_rows(20), **more)


def test_hostile_cells_are_rows_like_others(task: Task) -> None:
    hostile = [
        "=HYPERLINK(1)",
        "\u202eright to left",
        "😀" * 50,
        "a\x00b\ud800 c",
        "رضّ على الرأس",
        "pain " * 60_000,
        "x" * 300_000,
    ]
    rows = [*make_rows(30), *({"text": text, "gold": "knee"} for text in hostile)]
    prepared_data = gather_rows(task, rows)
    assert prepared_data.cleaning is not None
    assert len(prepared_data.train) + len(prepared_data.validation) == prepared_data.cleaning.kept
    assert prepared_data.cleaning.kept >= 34
    assert all(one.reason is DropReason.NOT_ASKABLE for one in prepared_data.cleaning.dropped)


@pytest.mark.parametrize(
    ("result", "phi"), [("phi: true", "yes"), ("phi: false", "no"), ("", "unknown")]
)
def test_whether_the_table_holds_patients_texts(tmp_path: Path, result: str, phi: str) -> None:
    lines = [
        "name: x",
        "instruction: Decide.",
        "input: '{{ text }}'",
        "answer: {kind: label, labels: [a, b]}",
        result,
    ]
    (tmp_path / "task.yaml").write_text("\n".join(lines))
    assert determine_phi(medtask.load_task(tmp_path)) == phi


@pytest.mark.parametrize(
    ("base_phi", "expected"), [("yes", "yes"), ("no", "no"), ("unknown", "unknown")]
)
def test_a_model_also_has_learnt_the_texts_of_its_base(
    tmp_path: Path, base_phi: PhiStatus, expected: str
) -> None:
    write_model_metadata(tmp_path, ModelMetadata("encoder", "label", ("a", "b"), phi=base_phi))
    task = replace(make_task(tmp_path / "task"), phi=False)
    bases = ("minilm", f"encoder:{tmp_path}")
    assert determine_model_phi((task,), bases) == expected
    assert determine_model_phi((task,), ()) == "no"
