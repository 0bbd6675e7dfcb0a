from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import medtask
from medtask.engines.base import Engine
from medtask.engines.fake import FakeEngine
from medtask.engines.load_options import LoadOptions
from medtask.records import Answer, Status
from medtask.server.inference.model_pool import ModelPool
from medtask.server.inference.requests import ModelRequest
from medtask.server.inference.shared_prediction import predict_shared
from support.tasks_by_kind import ANSWER_SPECS, write_task_and_table
from support.tiny_models import save_model

# Rounding in float32: the texts of a pass are multiplied in other orders than alone. The weights of
# the tiny model are wide, and its errors larger.
FLOAT32_TOLERANCE = 5e-6
TINY_TOLERANCE = 1e-5
DEMO_ADAPTER = str(Path(__file__).parents[3] / "examples" / "demo_adapter")


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny"), "llama")


@pytest.fixture
def pool() -> Iterator[ModelPool]:
    pool = ModelPool()
    yield pool
    pool.close()


def ask_together(
    pool: ModelPool, task: medtask.Task, model: str, requests: Sequence[Sequence[Mapping[str, Any]]]
) -> list[list[Answer]]:
    def ask(rows: Sequence[Mapping[str, Any]]) -> list[Answer]:
        return list(predict_shared(pool, task, model, rows, ModelRequest()))

    with ThreadPoolExecutor(16) as threads:
        return list(threads.map(ask, requests))


def draw_requests(path: Path, seed: int) -> list[list[dict[str, Any]]]:
    """The rows of a table as requests of one to seven rows, in a random order."""
    rows = [dict(row) for row in medtask.read_table(path)]
    dice = random.Random(seed)
    dice.shuffle(rows)
    requests = []
    while rows:
        size = dice.randrange(1, 8)
        requests.append(rows[:size])
        rows = rows[size:]
    return requests


def assert_equal_answers(
    found: Sequence[Answer], expected: Sequence[Answer], tolerance: float = 1e-6
) -> None:
    assert [plain(one) for one in found] == [plain(one) for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=tolerance)
        assert one.confidence == pytest.approx(other.confidence, abs=tolerance)


def plain(answer: Answer) -> tuple[object, ...]:
    """What must be equal exactly."""
    return (answer.record_id, answer.status, answer.value, answer.text, answer.thoughts)


@pytest.mark.parametrize("kind", ANSWER_SPECS)
def test_concurrent_requests_get_the_answers_of_predict(
    kind: str, tmp_path: Path, pool: ModelPool
) -> None:
    folder, table = write_task_and_table(kind, tmp_path, 60)
    task = medtask.load_task(folder)
    requests = draw_requests(table, seed=1)
    for rows, answers in zip(requests, ask_together(pool, task, "fake:", requests), strict=True):
        assert_equal_answers(answers, list(medtask.predict(task, FakeEngine(), rows)))


@pytest.mark.parametrize("kind", ["labels", "choice", "sections", "passes"])
def test_a_language_model_in_float32_gives_the_answers_of_predict(
    kind: str, tmp_path: Path, pool: ModelPool, tiny_folder: Path
) -> None:
    folder, table = write_task_and_table(kind, tmp_path, 40)
    task = medtask.load_task(folder)
    requests = draw_requests(table, seed=2)
    found = ask_together(pool, task, str(tiny_folder), requests)
    model = medtask.load_model(str(tiny_folder))
    for rows, answers in zip(requests, found, strict=True):
        assert_equal_answers(answers, list(medtask.predict(task, model, rows)), TINY_TOLERANCE)
    (loaded,) = [one for one in pool.list_models() if one.reference == str(tiny_folder)]
    assert loaded.worker
    assert loaded.worker.counts.calls > loaded.worker.counts.passes  # some were joined


@pytest.mark.slow
def test_a_trained_model_in_float32_gives_the_answers_of_predict() -> None:
    examples = Path(DEMO_ADAPTER).parent / "radiology_protocol"
    task = medtask.load_task(examples)
    requests = draw_requests(examples / "notes.csv", seed=4)[:2]
    model = medtask.load_model(DEMO_ADAPTER)
    expected = [list(medtask.predict(task, model, rows)) for rows in requests]
    pool = ModelPool(load=lambda reference, options: model)
    found = ask_together(pool, task, DEMO_ADAPTER, requests)
    pool.close()
    for answers, alone in zip(found, expected, strict=True):
        assert_equal_answers(answers, alone, FLOAT32_TOLERANCE)


def test_a_row_that_is_too_long_does_not_fail_its_neighbours(
    tmp_path: Path, pool: ModelPool, tiny_folder: Path
) -> None:
    folder, _ = write_task_and_table("labels", tmp_path, 1)
    task = medtask.load_task(folder)
    requests = [[{"case": "1", "text": f"a short text {number}"}] for number in range(6)]
    requests[3] = [{"case": "1", "text": "pain " * 2000}]
    answers = [found[0] for found in ask_together(pool, task, str(tiny_folder), requests)]
    assert [answer.status is Status.TOO_LONG for answer in answers] == [
        number == 3 for number in range(6)
    ]


def test_a_streamed_text_arrives_in_pieces_that_make_the_answer(
    tmp_path: Path, pool: ModelPool, tiny_folder: Path
) -> None:
    folder, _ = write_task_and_table("answer", tmp_path, 1)
    task = medtask.load_task(folder)
    pieces: list[str] = []
    request = ModelRequest(on_text=lambda piece, is_thought: pieces.append(piece))
    rows = [{"case": "1", "text": "pain in the chest"}]
    (answer,) = predict_shared(pool, task, str(tiny_folder), rows, request)
    model = medtask.load_model(str(tiny_folder))
    (expected,) = medtask.predict(task, model, rows)
    assert_equal_answers([answer], [expected])
    assert len(pieces) > 1
    assert "".join(pieces) == expected.text


def test_a_streamed_text_stops_when_the_request_is_cancelled(
    tmp_path: Path, pool: ModelPool, tiny_folder: Path
) -> None:
    folder, _ = write_task_and_table("answer", tmp_path, 1)
    task = medtask.load_task(folder)
    task = replace(task, answer_spec=replace(task.answer_spec, max_tokens=200))  # type: ignore[type-var]
    pieces: list[str] = []
    request = ModelRequest(
        on_text=lambda piece, is_thought: (pieces.append(piece), request.cancel())
    )  # type: ignore[arg-type,func-returns-value]
    with pytest.raises(medtask.MedtaskError, match="cancelled"):
        list(
            predict_shared(
                pool, task, str(tiny_folder), [{"case": "1", "text": "pain in the chest"}], request
            )
        )
    assert len(pieces) == 1


def test_texts_of_several_clients_are_streamed_from_one_pass(
    tmp_path: Path, pool: ModelPool, tiny_folder: Path
) -> None:
    folder, _ = write_task_and_table("answer", tmp_path, 1)
    task = medtask.load_task(folder)
    rows = [{"case": "1", "text": f"pain in the chest {number}"} for number in range(12)]
    pieces: list[list[str]] = [[] for _ in rows]

    def ask(number: int) -> Answer:
        request = ModelRequest(on_text=lambda piece, is_thought: pieces[number].append(piece))
        (answer,) = predict_shared(pool, task, str(tiny_folder), [rows[number]], request)
        return answer

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(ask, range(12)))
    model = medtask.load_model(str(tiny_folder))
    expected = [next(iter(medtask.predict(task, model, [row]))) for row in rows]
    assert_equal_answers(answers, expected)
    assert ["".join(one).strip() for one in pieces] == [one.text for one in expected]
    assert any(len(one) > 1 for one in pieces)
    (loaded,) = pool.list_models()
    assert loaded.worker
    assert loaded.worker.counts.passes < 12


def test_a_text_is_scored_while_another_one_is_generated(
    tmp_path: Path, pool: ModelPool, tiny_folder: Path
) -> None:
    writing, _ = write_task_and_table("answer", tmp_path / "writing", 1)
    scoring, _ = write_task_and_table("labels", tmp_path / "scoring", 1)
    task = medtask.load_task(writing)
    task = replace(task, answer_spec=replace(task.answer_spec, max_tokens=120))  # type: ignore[type-var]
    labels = medtask.load_task(scoring)
    row = {"case": "1", "text": "pain in the chest"}
    events: list[str] = []
    started = threading.Event()

    def on_text(piece: str, is_thought: bool) -> None:
        events.append("piece")
        started.set()
        time.sleep(0.01)

    def write() -> Answer:
        request = ModelRequest(on_text=on_text)
        (answer,) = predict_shared(pool, task, str(tiny_folder), [row], request)
        return answer

    with ThreadPoolExecutor(1) as threads:
        written = threads.submit(write)
        assert started.wait(60)
        (scored,) = predict_shared(pool, labels, str(tiny_folder), [row], ModelRequest())
        events.append("scored")
        text = written.result(60)
    model = medtask.load_model(str(tiny_folder))
    assert_equal_answers([scored], list(medtask.predict(labels, model, [row])), TINY_TOLERANCE)
    assert_equal_answers([text], list(medtask.predict(task, model, [row])))
    assert "piece" in events[events.index("scored") :]


def test_the_models_of_further_passes_are_shared_too(tmp_path: Path) -> None:
    loads: list[str] = []

    def load(reference: str, options: LoadOptions) -> Engine:
        loads.append(reference)
        return medtask.load_model(reference, options)

    folder, table = write_task_and_table("choice", tmp_path, 20)
    task = medtask.load_task(folder)
    pool = ModelPool(load=load)
    ask_together(pool, task, "fake:", draw_requests(table, seed=3))
    pool.close()
    assert sorted(loads) == ["fake:", "fake:seed=5"]


def test_closing_the_pool_ends_a_text_that_is_being_written(
    tmp_path: Path, tiny_folder: Path
) -> None:
    folder, _ = write_task_and_table("answer", tmp_path, 1)
    task = medtask.load_task(folder)
    task = replace(task, answer_spec=replace(task.answer_spec, max_tokens=400))  # type: ignore[type-var]
    started = threading.Event()

    def on_text(piece: str, is_thought: bool) -> None:
        started.set()
        time.sleep(0.05)

    pool = ModelPool()
    rows = [{"case": "1", "text": "pain in the chest"}]
    with ThreadPoolExecutor(1) as threads:
        request = ModelRequest(on_text=on_text)
        written = threads.submit(
            lambda: list(predict_shared(pool, task, str(tiny_folder), rows, request))
        )
        assert started.wait(60)
        pool.close()
        with pytest.raises(medtask.MedtaskError, match="cancelled"):
            written.result(30)
