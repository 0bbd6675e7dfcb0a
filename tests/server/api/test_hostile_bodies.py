"""Bodies of every shape: `/ask` and `/classify` answer, or refuse with a remedy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from medtask.server.access.roles import Role
from support.server import ServerUnderTest, run_server
from support.stored_tasks import DOMAINS_TASK, store_model, store_task

# Lone surrogates too: JSON can write them, and UTF-8 cannot.
TEXT = st.text(st.characters(codec=None), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
QUESTIONS = st.fixed_dictionaries(
    {"model": st.just("fake:") | JSON},
    optional={
        "question": TEXT | JSON,
        "case": TEXT | JSON,
        "options": st.dictionaries(TEXT, TEXT, max_size=4) | st.lists(TEXT, max_size=4) | JSON,
        "context": TEXT | JSON,
        "analysis_tokens": st.integers(0, 5) | JSON,
        "max_tokens": st.integers(1, 20) | JSON,
        "temperature": st.floats(0, 2) | JSON,
        "seed": st.integers(0, 9) | JSON,
        "stream": st.booleans() | JSON,
        "timeout_s": st.floats(1, 9) | JSON,
        "task_id": JSON,
    },
)
TEXTS = st.fixed_dictionaries(
    {"model_id": st.just(1) | JSON},
    optional={
        "title": TEXT | JSON,
        "abstract": TEXT | JSON,
        "text": TEXT | JSON,
        "texts": st.lists(TEXT, max_size=3) | JSON,
        "rows": st.lists(
            st.fixed_dictionaries({"title": TEXT | JSON, "abstract": TEXT | JSON}), max_size=3
        )
        | JSON,
        "model": JSON,
        "task_id": st.just(1) | JSON,
    },
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerUnderTest]:
    with run_server(tmp_path_factory.mktemp("hostile") / "data") as running:
        assert store_model(running, store_task(running, DOMAINS_TASK)) == 1
        yield running


@pytest.fixture(scope="module")
def client(server: ServerUnderTest) -> Any:
    return server.connect(Role.TRAINER)


def check_response(client: Any, path: str, body: object) -> None:
    response = client.post(
        path, content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["fix"]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=QUESTIONS | JSON)
@example(body={"model": "fake:", "question": "\ud800", "stream": True})
@example(body={"model": "fake:", "question": "x", "options": {"\ud800": "y", "b": "\x00"}})
def test_every_question_is_answered_or_refused(client: Any, body: object) -> None:
    check_response(client, "/ask", body)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=TEXTS | JSON)
@example(body={"model_id": 1, "title": float("nan"), "abstract": "\ud800"})
@example(body={"model_id": 1, "rows": [{"title": {"a": [1]}, "abstract": None}]})
def test_every_text_is_classified_or_refused(client: Any, body: object) -> None:
    check_response(client, "/classify", body)
