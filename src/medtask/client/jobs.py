"""Verbs that a server carries out as jobs: run, evaluate, compare, train, benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medtask.client.connection import ServerProblem
from medtask.client.resources import ServerResources, TableSource, TaskSource, drop_missing
from medtask.client.results import RemoteJob, RemoteModel, RemoteRun, read_object

_POLL_S = (0.2, 2.0)

JobCallback = Callable[[RemoteJob], None]


class JobVerbs(ServerResources):
    """Each verb starts a job and waits until it has ended."""

    def run(
        self,
        task: TaskSource | None,
        model: int | str,
        table: TableSource,
        *,
        on_progress: JobCallback | None = None,
        **settings: Any,
    ) -> RemoteRun:
        """Answer every row of a table, as `medtask.run` does.

        Args:
            task: The id of a task, or a task file; None for that of the model.
            model: The id of a model of the server, or the reference of a model.
            table: The id of a data set, or a file or rows, which are uploaded.
            on_progress: Called with the job whenever it has changed.
            **settings: ``name``, ``limit``, ``gold``, ``cascade``, ``max_error_rate``,
                ``baselines``, ``calibrated``; see `medtask.run`.

        Raises:
            ServerProblem: The run is not valid, or has failed.
        """
        body = {
            "task_id": None if task is None else self.store_task(task),
            "model_id" if isinstance(model, int) else "model": model,
            "dataset_id": self.store_table(table),
            **settings,
        }
        started = self.post("/api/runs", drop_missing(body))
        self.wait(started["job"]["id"], on_progress)
        return read_object(self.get(f"/api/runs/{started['run']['id']}"), RemoteRun)

    def evaluate(
        self,
        run: RemoteRun | int,
        *,
        on_progress: JobCallback | None = None,
        **settings: Any,
    ) -> Mapping[str, Any]:
        """Evaluate a run against gold.

        Args:
            run: The run, or its id.
            on_progress: Called with the job whenever it has changed.
            **settings: ``gold``, ``max_error``, ``level``, ``calibrate``, ``sets``, ``baselines``;
                see `medtask.evaluate`.

        Returns:
            The JSON document of `medtask evaluate --json`.

        Raises:
            ServerProblem: The run has no answers or no gold.
        """
        path = f"/api/runs/{_get_id(run)}/evaluate"
        return self._carry_out(path, settings, on_progress).result or {}

    def compare(
        self,
        runs: Sequence[RemoteRun | int],
        *,
        on_progress: JobCallback | None = None,
        **settings: Any,
    ) -> Mapping[str, Any]:
        """Compare runs on the rows that all of them answered; see `medtask.compare`.

        Raises:
            ServerProblem: The runs cannot be compared.
        """
        wanted = {"run_ids": [_get_id(run) for run in runs], **settings}
        return self._carry_out("/api/runs/compare", wanted, on_progress).result or {}

    def train(
        self,
        task: TaskSource,
        table: TableSource,
        *,
        name: str = "model",
        method: str | None = None,
        base: str | int | Sequence[str | int] | None = None,
        on_progress: JobCallback | None = None,
        **settings: Any,
    ) -> RemoteModel:
        """Train a model of the server, as `medtask.train` does.

        Args:
            task: The id of a task, or a task file.
            table: The id of a data set, or a file or rows, which are uploaded.
            name: The name of the model.
            method: "auto", "lora", "linear" and so on.
            base: The model to start from.
            on_progress: Called with the job whenever it has changed.
            **settings: ``fast_mode`` (20 validation rows), ``gold``, ``epochs``, ``rate``, ``seed``
                and further settings of a training.

        Raises:
            ServerProblem: The training is not valid, or has failed.
        """
        new = {
            "name": name,
            "task_id": self.store_task(task),
            "dataset_id": self.store_table(table),
            "method": method,
            "base": base,
        }
        number = self.post("/api/models", drop_missing(new))["id"]
        self._carry_out(f"/api/models/{number}/train", settings, on_progress)
        return read_object(self.get(f"/api/models/{number}"), RemoteModel)

    def benchmark(
        self,
        task: TaskSource,
        models: Sequence[int | str],
        table: TableSource,
        *,
        rows: int | None = None,
        on_progress: JobCallback | None = None,
    ) -> Mapping[str, Any]:
        """Measure the speed and memory of models on a task; see `medtask.benchmark`.

        Raises:
            ServerProblem: A model cannot be measured.
        """
        body = {
            "task_id": self.store_task(task),
            "dataset_id": self.store_table(table),
            "models": list(models),
            "rows": rows,
        }
        return self._carry_out("/api/runs/benchmark", body, on_progress).result or {}

    def download(self, run: RemoteRun | int, out: str | Path) -> Path:
        """Write the answers of a run to a file, in the format of its suffix (.csv, .parquet ...).

        Raises:
            ServerProblem: The run has no answers in this format.
        """
        path = Path(out)
        suffix = path.suffix.removeprefix(".") or "csv"
        self._connection.download(f"/api/runs/{_get_id(run)}/answers.{suffix}", path)
        return path

    def _carry_out(
        self, path: str, settings: Mapping[str, Any], on_progress: JobCallback | None
    ) -> RemoteJob:
        """Start a job, and wait until it has ended."""
        return self.wait(self.post(path, drop_missing(settings))["id"], on_progress)

    def wait(self, job: RemoteJob | int, on_progress: JobCallback | None = None) -> RemoteJob:
        """Wait until a job has ended.

        Args:
            job: The job, or its id.
            on_progress: Called with the job whenever it has changed.

        Raises:
            ServerProblem: The job has failed or was cancelled.
        """
        number = _get_id(job)
        pause_s, longest_s = _POLL_S
        before: RemoteJob | None = None
        while True:
            now = read_object(self.get(f"/api/jobs/{number}"), RemoteJob)
            if on_progress and now != before:
                on_progress(now)
            if now.ended:
                break
            pause_s = _POLL_S[0] if now != before else min(longest_s, pause_s * 1.5)
            before = now
            time.sleep(pause_s)
        if now.state == "succeeded":
            return now
        raise ServerProblem(
            now.problem or {"detail": f"job {number} was {now.state}", "fix": "start it again"}
        )


def _get_id(found: RemoteJob | RemoteRun | int) -> int:
    return found if isinstance(found, int) else found.id
