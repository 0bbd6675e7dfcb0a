"""The shipped example tables are what their task files, their readmes and their generator say."""

import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from medtask.tasks.load import load_task
from support.example_files import (
    EXAMPLE_NAMES,
    EXAMPLES,
    list_example_texts,
    read_example_table,
    read_example_task,
    read_rows,
)

LABELLED = ("radiology_protocol", "surgery_purpose")  # one label each, 300 rows
ROWS = {
    "surgery_refined": 120,
    "literature_domains": 120,
    "case_mcq": 40,
    "disease_qa": 40,
    "registry_fields": 40,
}
EXCEL_CELL_LIMIT = 32_767

labelled = pytest.mark.parametrize("name", LABELLED)


@pytest.fixture(params=EXAMPLE_NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_task_file_loads_without_a_warning_and_names_its_table(name: str) -> None:
    task = load_task(EXAMPLES / name)
    assert task.warnings == ()
    assert task.data is not None
    assert task.data.is_file()


def test_every_example_says_which_command_runs_it_and_what_to_expect(name: str) -> None:
    readme = (EXAMPLES / name / "README.md").read_text("utf-8")
    assert f"\n    medtask run examples/{name}\n" in readme
    assert "\n## What to expect\n" in readme
    assert f"python examples/make_examples.py {name} --split train" in readme
    assert all(f"`{column}`" in readme for column in read_example_table(name)[0])


def test_the_table_has_its_rows_with_ids_of_their_own(name: str) -> None:
    rows = read_example_table(name)
    ids = [row[read_example_task(name)["id"]] for row in rows]
    assert len(rows) == len(set(ids)) == ROWS.get(name, 300)
    assert all(re.fullmatch(r"[A-Z]\d{4}", row_id) for row_id in ids)
    assert len({row_id[0] for row_id in ids}) == 1


@labelled
def test_gold_is_empty_or_a_label_and_every_label_is_common_enough_to_be_measured(
    name: str,
) -> None:
    task = read_example_task(name)
    gold = Counter(row[task["gold"]] for row in read_example_table(name))
    without = gold.pop("")
    assert set(gold) == set(task["answer"]["labels"])
    assert min(gold.values()) >= 15
    assert 280 <= 300 - without <= 290


@labelled
def test_every_label_has_a_short_definition_of_its_own(name: str) -> None:
    definitions = list(read_example_task(name)["answer"]["labels"].values())
    assert len(set(definitions)) == len(definitions)
    assert all(3 <= len(definition.split()) <= 14 for definition in definitions)


@labelled
@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(r"", id="empty"),
        pytest.param(r"\s+", id="only white space"),
        pytest.param(r"NaN", id="not a number"),
        pytest.param(r"\w+\??", id="one word"),
        pytest.param(r"(?s)=HYPERLINK\(.*\)", id="formula"),
        pytest.param(r"\+1 .*", id="plus"),
        pytest.param(r"@SUM.*", id="at"),
        pytest.param(r"-\w.*", id="minus"),
        pytest.param(r".*[\U0001F300-\U0001FAFF].*", id="emoji"),
        pytest.param(r".*[\u0600-\u06FF]{3}.*", id="Arabic"),
        pytest.param(r".*[\u0590-\u05FF]{3}.*", id="Hebrew"),
        pytest.param(r".*[éöü].*", id="accents"),
        pytest.param(r".*[\u0370-\u03FF].*", id="Greek"),
        pytest.param(r".*<(b|p)>.*<br/>.*", id="HTML"),
        pytest.param(r'(?s).*".*\n.*', id="quotes and a line break"),
        pytest.param(r"Ignore the instruction.*", id="an instruction to the model"),
        pytest.param(r"(?s).*<\|im_end\|>\n<\|im_start\|>assistant.*", id="a chat marker"),
    ],
)
def test_dirty_rows_of_each_kind_are_there(name: str, pattern: str) -> None:
    assert any(re.fullmatch(pattern, text) for text in list_example_texts(name))


@labelled
def test_one_text_is_a_chart_of_5000_words_that_still_fits_a_spreadsheet_cell(name: str) -> None:
    chart = max(list_example_texts(name), key=len)
    assert 5_000 <= len(chart.split()) <= 5_050
    assert len(chart) < EXCEL_CELL_LIMIT


@labelled
def test_texts_repeat_exactly_and_but_for_case_and_space(
    name: str, make_examples: ModuleType
) -> None:
    texts = [text for text in list_example_texts(name) if text.strip()]
    ways: dict[str, set[str]] = {}
    for text in texts:
        ways.setdefault(make_examples.normalize_text(text), set()).add(text)
    assert sorted(count for count in Counter(texts).values() if count > 1) == [2, 3]
    assert max(len(written) for written in ways.values()) >= 2


def test_the_generator_writes_the_shipped_bytes(
    name: str, make_examples: ModuleType, tmp_path: Path
) -> None:
    shipped = EXAMPLES / name / read_example_task(name)["data"]
    make_examples.main([name, "--split", "gold", "--out", str(tmp_path / "again.csv")])
    assert (tmp_path / "again.csv").read_bytes() == shipped.read_bytes()


def test_the_file_is_utf8_with_bare_line_feeds(name: str) -> None:
    content = (EXAMPLES / name / read_example_task(name)["data"]).read_bytes()
    assert b"\r" not in content
    assert not content.startswith(b"\xef\xbb\xbf")
    assert content.decode("utf-8").endswith("\n")


def test_training_rows_are_clean_and_share_no_text_with_the_shipped_ones(
    name: str, make_examples: ModuleType, tmp_path: Path
) -> None:
    shipped = read_example_table(name)
    count = 600 if name in LABELLED else 100
    make_examples.main(
        [name, "--split", "train", "--rows", str(count), "--out", str(tmp_path / "train.csv")]
    )
    rows = read_rows(tmp_path / "train.csv")
    column = re.findall(r"\{\{ (\w+) \}\}", read_example_task(name)["input"])[-1]
    texts = {make_examples.normalize_text(row[column]) for row in rows}
    assert len(rows) == len(texts) == count
    assert texts.isdisjoint(make_examples.normalize_text(row[column]) for row in shipped)
    assert list(rows[0]) == list(shipped[0])
    assert all(value for row in rows for value in row.values())
    ids = read_example_task(name)["id"]
    assert {row[ids] for row in rows}.isdisjoint(row[ids] for row in shipped)


@labelled
def test_training_rows_have_every_label(name: str, make_examples: ModuleType) -> None:
    task = read_example_task(name)
    assert {row["gold"] for row in make_examples.make_example_rows(name, "train", 600)} == set(
        task["answer"]["labels"]
    )


@labelled
def test_no_fragment_serves_both_splits(name: str, make_examples: ModuleType) -> None:
    texts = make_examples.labelled.read_example_fragments(name).texts
    both = [
        {fragment.text for fragments in texts[split].values() for fragment in fragments}
        for split in ("gold", "train")
    ]
    assert both[0].isdisjoint(both[1])


@labelled
def test_every_fragment_can_be_written_out(name: str, make_examples: ModuleType) -> None:
    source = make_examples.labelled.read_example_fragments(name)
    for split, labels in source.texts.items():
        for label, fragments in labels.items():
            for number, fragment in enumerate(fragments):
                row = make_examples.labelled.make_row(
                    source, label, fragment, make_examples.StableRandom(split, label, number)
                )
                assert not re.search(r"[{}\[\]|]|\s\s", row["text"]), f"{split} {label} {number}"


def test_a_fragment_with_an_unknown_slot_is_refused(make_examples: ModuleType) -> None:
    words = make_examples.labelled
    with pytest.raises(ValueError, match="unknown slot"):
        words.fill_slots(
            "seen by {doctor}", words.Patient(70, "F", "left"), make_examples.StableRandom(0)
        )


def test_more_rows_than_there_are_texts_end_in_a_remedy(
    make_examples: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_examples.labelled, "make_row", lambda *_: {"text": "always the same"})
    with pytest.raises(SystemExit, match="fix: ask for fewer --rows"):
        list(make_examples.labelled.make_clean("surgery_purpose", "train", 20, set()))


def test_numbers_keep_their_decimals_and_stay_inside_their_bounds(
    make_examples: ModuleType,
) -> None:
    rng = make_examples.StableRandom("bounds")
    drawn = {rng.draw_number("2.5", "2.7") for _ in range(60)} | {
        rng.draw_number("8", "10") for _ in range(60)
    }
    assert drawn == {"2.5", "2.6", "2.7", "8", "9", "10"}
