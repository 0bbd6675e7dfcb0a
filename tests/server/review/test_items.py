"""Items of a queue: equal texts, nearly equal texts, order and overlap."""

from __future__ import annotations

from medtask.records import Answer, AnsweredRow, Status
from medtask.server.review.items import count_readers, draft_items
from medtask.server.review.settings import QueueSettings, RowQuery
from medtask.tasks.task import Label, Task

TASK = Task(
    "t", "Decide.", "{{ text }}", labels=(Label("lung", "", "lung"), Label("knee", "", "knee"))
)
LOBE = "resection of the left upper lobe of the lung for a tumour"


def make_rows(*rows: tuple[str, float]) -> list[AnsweredRow]:
    return [
        AnsweredRow(
            number,
            Answer(str(number), Status.OK, "lung", confidence),
            text,
            fields={"text": text},
        )
        for number, (text, confidence) in enumerate(rows, 1)
    ]


def test_equal_texts_are_one_item_and_count_together_in_the_order():
    rows = make_rows(("arthroscopy", 0.4), (LOBE, 0.6), (LOBE, 0.6), ("biopsy", 0.9))
    drafted = draft_items(TASK, rows, QueueSettings())
    assert [item.text for item in drafted.items] == [LOBE, "arthroscopy", "biopsy"]
    assert [len(item.rows) for item in drafted.items] == [2, 1, 1]


def test_nearly_equal_texts_are_one_cluster_side_by_side():
    rows = make_rows((LOBE, 0.9), ("arthroscopy", 0.5), (f"{LOBE}!!", 0.3))
    drafted = draft_items(TASK, rows, QueueSettings())
    assert [item.text for item in drafted.items] == [LOBE, f"{LOBE}!!", "arthroscopy"]
    assert list(drafted.clusters) == [0, 0, 2]


def test_the_table_and_a_random_order_do_not_depend_on_confidence():
    texts = [f"text number {number} about {word}" for number, word in enumerate("abcdefgh")]
    rows = make_rows(*((text, index / 10) for index, text in enumerate(texts)))
    other = make_rows(*((text, 0.9 - index / 10) for index, text in enumerate(texts)))
    in_table = draft_items(TASK, rows, QueueSettings(order="table"))
    assert [item.text for item in in_table.items] == texts
    orders = [
        [item.text for item in draft_items(TASK, some, QueueSettings(order="random")).items]
        for some in (rows, other)
    ]
    assert orders[0] == orders[1] != texts
    assert sorted(orders[0]) == texts


def test_the_overlap_is_the_share_of_items_with_all_readers():
    rows = make_rows(*((f"text number {number}", 0.5) for number in range(400)))
    chosen = QueueSettings(readers_per_item=3, overlap=0.25)
    drafted = draft_items(TASK, rows, chosen)
    counts = [count_readers(item, chosen) for item in drafted.items]
    assert set(counts) == {1, 3}
    assert 0.18 < counts.count(3) / len(counts) < 0.32


def test_rows_that_do_not_meet_the_query_are_counted():
    rows = make_rows((LOBE, 0.9), ("arthroscopy", 0.2), ("", 0.1))
    query = RowQuery(confidence_below=0.5)
    drafted = draft_items(TASK, rows, QueueSettings(query=query))
    assert [item.text for item in drafted.items] == ["arthroscopy"]
    assert (drafted.unmatched, drafted.without_text) == (1, 1)


def test_what_is_not_text_comes_last_in_every_order():
    rows = make_rows(("???", 0.1), ("biopsy", 0.9), ("arthroscopy", 0.8))
    rows[0] = rows[0]._replace(text="", answer=Answer("1", Status.NOT_TEXT))
    for order in ("worth", "random", "table"):
        texts = [item.text for item in draft_items(TASK, rows, QueueSettings(order=order)).items]
        assert texts[-1] == "???"
        assert len(texts) == 3
