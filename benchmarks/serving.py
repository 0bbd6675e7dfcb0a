"""The server under load: texts per second and waiting times, against the model without a server.

    python benchmarks/serving.py [--model demo|linear] [--clients 1,8,32] [--seconds 20] [--ask]

`medtask serve` runs as a process of its own with a stored task and model. The clients are threads
of this process, on loopback; each sends its next text when it has the answer. Every text is a new
one. The offline rate is that of `medtask.predict` over such texts in one call, and the waiting time
without a server that of `medtask.predict` with one text. The demo model is examples/demo_adapter on
the built-in model; the linear one is trained on the same rows at the start. On a shared machine,
compare the processor time of a text (of the server's process) rather than the rates.

With --ask the clients send questions to /ask with streaming, and the time to the first event is
measured.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psutil

import medtask
from medtask.client import MedtaskClient, connect
from medtask.server.access import accounts, api_keys
from medtask.server.access.roles import Role, Scope, User
from medtask.server.database.connect import Database
from medtask.server.schema import open_database
from medtask.server.settings import ServerSettings
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredModel, StoredTask

EXAMPLES = Path(__file__).parents[1] / "examples"
RADIOLOGY = EXAMPLES / "radiology_protocol"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["demo", "linear"], default="demo")
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--offline-rows", type=int, default=256)
    parser.add_argument("--ask", action="store_true")
    options = parser.parse_args()
    clients = [int(number) for number in options.clients.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        trained = train_linear(Path(folder)) if options.model == "linear" else demo_adapter()
        if not options.ask:
            print_line(measure_offline(trained, options.offline_rows))
        with run_server(Path(folder) / "data", trained) as server:
            measure = measure_questions if options.ask else measure_texts
            for number in clients:
                print_line(measure(server, number, options.seconds))


def demo_adapter() -> Path:
    return EXAMPLES / "demo_adapter"


def train_linear(folder: Path) -> Path:
    task = medtask.load_task(RADIOLOGY)
    medtask.train(task, RADIOLOGY / "notes.csv", method="linear", out=folder / "linear")
    return folder / "linear"


def make_texts() -> Iterator[dict[str, object]]:
    """Rows of the example, each with a number at its end: no two are equal."""
    rows = [dict(row) for row in medtask.read_table(RADIOLOGY / "notes.csv")]
    for number in count():
        row = dict(rows[number % len(rows)])
        yield {**row, "note_id": f"n{number}", "note": f"{row['note']} ({number})"}


def measure_offline(trained: Path, rows: int) -> dict[str, Any]:
    """The rate of many texts in one call, and the time of one text."""
    task, model = medtask.load_task(RADIOLOGY), medtask.load_model(str(trained))
    texts = make_texts()
    list(medtask.predict(task, model, [next(texts) for _ in range(64)]))
    times = []
    cpu_start = time.process_time()
    for _ in range(30):
        start = time.perf_counter()
        list(medtask.predict(task, model, [next(texts)]))
        times.append(time.perf_counter() - start)
    single_cpu_ms = (time.process_time() - cpu_start) * 1000 / len(times)
    start, cpu_start = time.perf_counter(), time.process_time()
    list(medtask.predict(task, model, [next(texts) for _ in range(rows)]))
    rate = rows / (time.perf_counter() - start)
    cpu_ms = (time.process_time() - cpu_start) * 1000 / rows
    model.close()
    return {
        "clients": "offline",
        "texts_per_s": rate,
        **describe_times(times),
        "cpu_ms_per_text": cpu_ms,
        "cpu_ms_of_one_text": single_cpu_ms,
    }


@dataclass(frozen=True)
class RunningServer:
    """A server process with a task and a model."""

    url: str
    key: str
    model_id: int
    process_id: int

    def measure_cpu_s(self) -> float:
        """User and system time of the process so far."""
        times = psutil.Process(self.process_id).cpu_times()
        return float(times.user + times.system)


@contextmanager
def run_server(folder: Path, trained: Path) -> Iterator[RunningServer]:
    """Run a server process with one task and one model."""
    settings = ServerSettings(data_folder=folder)
    database = open_database(settings)
    with database.write() as session:
        account = accounts.create_account(session, "benchmark", Role.TRAINER)
    user = User(account.id, account.name, Role.TRAINER)
    with database.write() as session:
        _, key = api_keys.create_key(session, user, "benchmark", [Scope.LABEL, Scope.READ])
    model_id = store_model(database, DataFolder(folder), trained)
    database.close()
    process = subprocess.Popen(
        [sys.executable, "-m", "medtask", "serve", "--port", "0", "--data", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                yield RunningServer(found[0], key, model_id, process.pid)
                break
        else:
            raise SystemExit("the server did not start")
    finally:
        process.terminate()
        process.wait(30)


def store_model(database: Database, files: DataFolder, trained: Path) -> int:
    with database.write() as session:
        task = StoredTask(name="radiology", kind="label", fingerprint="")
        session.add(task)
        session.flush()
        text = (RADIOLOGY / "task.yaml").read_text("utf-8")
        files.create_folder("tasks", task.id)
        files.get_task_file(task.id).write_text(text, "utf-8")
        model = StoredModel(name="benchmark", task_id=task.id, settings={}, is_trained=True)
        session.add(model)
        session.flush()
        files.create_folder("models", model.id)
        shutil.copytree(trained, files.get_folder("models", model.id), dirs_exist_ok=True)
        return model.id


def measure_texts(server: RunningServer, clients: int, seconds: float) -> dict[str, Any]:
    texts, lock = make_texts(), threading.Lock()

    def classify(client: MedtaskClient) -> float:
        with lock:
            row = next(texts)
        start = time.perf_counter()
        client.post("/classify", {"model_id": server.model_id, "note": row["note"]})
        return time.perf_counter() - start

    return run_clients(server, clients, seconds, classify)


def measure_questions(server: RunningServer, clients: int, seconds: float) -> dict[str, Any]:
    numbers = count()

    def ask(client: MedtaskClient) -> float:
        start = time.perf_counter()
        first: list[float] = []

        def on_piece(piece: str) -> None:
            first.append(time.perf_counter() - start)

        client.ask(
            f"What is glaucoma ({next(numbers)})?",
            on_text=on_piece,
            on_thought=on_piece,
            analysis_tokens=0,
            max_tokens=32,
        )
        return first[0] if first else time.perf_counter() - start

    return run_clients(server, clients, seconds, ask)


def run_clients(
    server: RunningServer, clients: int, seconds: float, act: Callable[[MedtaskClient], float]
) -> dict[str, Any]:
    """Let clients act for some seconds; the first act of each is not counted."""
    times: list[float] = []
    started = threading.Barrier(clients + 1)
    finished_at: list[float] = []

    def run() -> None:
        with connect(server.url, key=server.key) as client:
            act(client)
            started.wait()
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                times.append(act(client))
            finished_at.append(time.perf_counter())

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    started.wait()
    start, cpu_start = time.perf_counter(), server.measure_cpu_s()
    for thread in threads:
        thread.join()
    rate = len(times) / (max(finished_at) - start)
    cpu_ms = (server.measure_cpu_s() - cpu_start) * 1000 / len(times)
    return {
        "clients": clients,
        "texts_per_s": rate,
        **describe_times(times),
        "cpu_ms_per_text": cpu_ms,
    }


def describe_times(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "n": len(ordered),
        "p50_ms": statistics.median(ordered) * 1000,
        "p95_ms": ordered[int(0.95 * (len(ordered) - 1))] * 1000,
    }


def print_line(facts: dict[str, Any]) -> None:
    rounded = {
        name: round(value, 1) if isinstance(value, float) else value
        for name, value in facts.items()
    }
    print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()
