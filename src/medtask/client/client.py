"""`MedtaskClient`: the verbs of medtask as requests to a server."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from medtask.client.connection import ServerProblem, ServerUnreachable
from medtask.client.jobs import JobVerbs
from medtask.client.resources import drop_missing, make_json_row
from medtask.client.results import AskResult, read_answer, read_ask_result
from medtask.errors import UsageError
from medtask.records import Answer

ROWS_PER_REQUEST = 64
CONCURRENT_REQUESTS = 4
ANSWER_EVENT, PROBLEM_EVENT = "answer", "problem"  # of /ask
TextCallback = Callable[[str], None]


class MedtaskClient(JobVerbs):
    """A connection to a server; see `medtask.connect`. Threads may share it.

    Tasks, tables and models are numbers that the server gave them. A task file or a table is
    uploaded.
    """

    def ask(
        self,
        question: str | None = None,
        *,
        case: str | None = None,
        options: Mapping[str, str] | Sequence[str] | str | None = None,
        on_text: TextCallback | None = None,
        on_thought: TextCallback | None = None,
        **settings: Any,
    ) -> AskResult:
        """Ask a question.

        Args:
            question: The question.
            case: A case that the question is about, or that is the question.
            options: The possible answers, by letter or in order.
            on_text: Called with each piece of the answer's text as it is written.
            on_thought: Called with each piece of the analysis as it is written.
            **settings: ``model``, ``model_id``, ``task_id``, ``context``, ``analysis_tokens``,
                ``max_tokens``, ``temperature``, ``seed``, ``timeout_s``; see /docs of the server.

        Raises:
            ServerProblem: The question is not valid, or the model cannot answer it.
        """
        body = drop_missing({"question": question, "case": case, "options": options, **settings})
        if on_text is None and on_thought is None:
            return read_ask_result(self.post("/ask", body))
        callbacks = {"text": on_text, "thought": on_thought}
        for name, content in self._connection.stream("/ask", {**body, "stream": True}):
            if name == ANSWER_EVENT:
                return read_ask_result(content)
            if name == PROBLEM_EVENT:
                raise ServerProblem(content, content.get("status"))
            if callback := callbacks.get(name):
                callback(content["text"])
        raise ServerUnreachable(
            "the server closed the connection before the answer was complete",
            fix="send the question again",
        )

    def predict(
        self,
        task: int | str | Path | None = None,
        model: int | str | None = None,
        rows: Iterable[str | Mapping[str, Any]] = (),
    ) -> Iterator[Answer]:
        """Answer every row, in order, as `medtask.predict` does.

        Args:
            task: The id of a task, or a task file, which is uploaded; not needed with the id of a
                model.
            model: The id of a model of the server, or the reference of a model.
            rows: Texts, or mappings from column to value, such as a `medtask.Table`.

        Raises:
            ServerProblem: The rows are not valid, or the model cannot answer.
        """
        source = drop_missing(
            {
                "task_id": None if task is None else self.store_task(task),
                "model_id" if isinstance(model, int) else "model": model,
            }
        )
        pending = iter(rows)
        running: deque[Future[Any]] = deque()
        number = 0
        threads = ThreadPoolExecutor(CONCURRENT_REQUESTS)
        try:
            while True:
                part = list(islice(pending, ROWS_PER_REQUEST))
                if part:
                    running.append(threads.submit(self._classify, source, part))
                if running and (not part or len(running) > CONCURRENT_REQUESTS):
                    for found in running.popleft().result():
                        number += 1
                        yield read_answer(str(number), found)
                if not part and not running:
                    return
        finally:  # after an error, or when the caller needs no more answers, none is waited for
            threads.shutdown(wait=False, cancel_futures=True)

    def _classify(
        self, source: Mapping[str, Any], part: Sequence[str | Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        texts = [row for row in part if isinstance(row, str)]
        if texts and len(texts) < len(part):
            raise UsageError("texts and mappings are mixed", fix="give either of them")
        rows = {"texts": texts} if texts else {"rows": [make_json_row(row) for row in part]}  # type: ignore[arg-type]
        answers: list[dict[str, Any]] = self.post("/classify", {**source, **rows})["answers"]
        return answers
