from __future__ import annotations

from pathlib import Path

import pytest

from medtask.errors import UsageError
from medtask.records import Record
from medtask.training.search.prompt_candidate import (
    PromptCandidate,
    apply_candidate,
    check_examples_allowed,
    clean_instruction,
    extract_candidate,
    make_example,
    narrow_task,
    read_definitions,
    write_definitions,
)
from support.prompt_search import TASK, write_task


def test_a_tasks_own_words_change_nothing(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    assert apply_candidate(task, extract_candidate(task)).fingerprint == task.fingerprint


def test_other_words_make_another_question(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    example = make_example(
        task, Record("1", {"procedure": "Stent", "purpose": "palliative", "case_id": "1"})
    )
    assert example is not None
    changed = apply_candidate(task, PromptCandidate("Decide.", {"staging": "looks"}, (example,)))
    assert changed.instruction == "Decide."
    assert [label.definition for label in changed.labels] == [
        "removes the tumour",
        "relieves symptoms",
        "looks",
    ]
    assert changed.examples == (example,)
    assert changed.fingerprint != task.fingerprint


def test_an_example_shows_what_the_input_uses_and_never_gold(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    example = make_example(
        task, Record("1", {"procedure": "Stent", "purpose": "palliative", "case_id": "1"})
    )
    assert example is not None
    assert (dict(example.fields), example.answer) == ({"procedure": "Stent"}, "palliative")
    assert (
        make_example(task, Record("2", {"procedure": "Stent", "purpose": "something else"})) is None
    )
    assert make_example(task, Record("3", {"procedure": "", "purpose": "palliative"})) is None


def test_the_whole_row_of_an_example_does_not_hold_gold(tmp_path: Path) -> None:
    task = write_task(tmp_path, text=TASK.replace("{{ procedure }}", "{{ row }}"))
    example = make_example(
        task, Record("1", {"procedure": "Stent", "purpose": "palliative", "case_id": "1"})
    )
    assert example is not None
    assert "palliative" not in str(dict(example.fields))


def test_a_column_named_answer_keeps_rows_from_being_examples(tmp_path: Path) -> None:
    check_examples_allowed(write_task(tmp_path))
    task = write_task(tmp_path, text=TASK.replace("{{ procedure }}", "{{ answer }}"))
    with pytest.raises(UsageError, match='column named "answer"'):
        check_examples_allowed(task)


def test_a_search_asks_the_first_pass_with_fixed_thresholds(tmp_path: Path) -> None:
    text = (
        TASK.replace("kind: label\n", "kind: labels\n  thresholds: {fit: f1}\n")
        + "passes: [{name: again, when: {status: review}}]\n"
    )
    task = write_task(tmp_path, text=text)
    narrowed = narrow_task(task)
    assert task.passes
    assert not narrowed.passes
    assert getattr(task.answer_spec, "fit", None) == "f1"
    assert getattr(narrowed.answer_spec, "fit", None) is None


def test_definitions_are_read_however_a_model_lists_them() -> None:
    before = {"cure": "a", "cure later": "b", "none": "c"}
    text = (
        "Here they are:\n- **cure**: removes it\n2) cure later - removes it\tnext "
        'week\nnothing: x\n"none": y\nnone:\n'
    )
    assert read_definitions(text, before) == {
        "cure": "removes it",
        "cure later": "removes it next week",
        "none": "y",
    }
    assert read_definitions(write_definitions(before), dict.fromkeys(before, "")) == before
    assert read_definitions("cure: " + "long " * 200, before) == before


def test_an_instruction_is_text_that_fits_into_a_task_file() -> None:
    assert clean_instruction('  "Decide."\u200b ') == "Decide."
    assert clean_instruction(" \n ") is None
    assert clean_instruction("word " * 2000) is None
