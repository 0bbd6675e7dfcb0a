"""Prepare a data folder for `make serve`: an example task, two tables, a trained model and a run.

The model learns from 600 generated rows, and answers the 300 rows of the example.

    python examples/prepare_server.py build/serve-data

A folder that has a data set is left as it is.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from make_examples import make_example_rows, write_csv
from sqlalchemy import select

from medtask.server.database.connect import Database
from medtask.server.jobs.queue import add_job
from medtask.server.jobs.tables import Job
from medtask.server.jobs.worker import run_worker
from medtask.server.schema import open_database
from medtask.server.settings import ServerSettings
from medtask.server.storage.datasets import NewDataset, add_dataset
from medtask.server.storage.files import DataFolder
from medtask.server.storage.tables import StoredDataset, StoredModel, StoredRun
from medtask.server.storage.task_files import add_task
from medtask.server.storage.uploads import ReceivedFile
from medtask.tables.read_options import ReadOptions

EXAMPLE = Path(__file__).parent / "radiology_protocol"
TRAINING_ROWS = 600
LIMIT_S = 900.0
AUTHOR = "make serve"


def prepare(settings: ServerSettings) -> None:
    """Add the example to a data folder, and wait until its jobs have ended."""
    with closing(open_database(settings)) as database:
        with database.read() as session:
            if session.scalars(select(StoredDataset.id).limit(1)).first() is not None:
                return
        run_ids = add_example(database, DataFolder(settings.data_folder))
        wait_for_jobs(settings, database, run_ids)


def add_example(database: Database, files: DataFolder) -> list[int]:
    """Add data sets, task, model and run; returns the ids of the jobs."""
    dataset_id = add_table(database, files, "Imaging requests", EXAMPLE / "notes.csv")
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "labelled.csv"
        write_csv(
            EXAMPLE.name, "train", make_example_rows(EXAMPLE.name, "train", TRAINING_ROWS), rows
        )
        training_id = add_table(database, files, "Imaging requests of an earlier year", rows)
    with database.write() as session:
        text = (EXAMPLE / "task.yaml").read_text("utf-8")
        task, _ = add_task(session, files, text, created_by=AUTHOR)
        model = StoredModel(
            name="TF-IDF",
            task_id=task.id,
            dataset_id=training_id,
            method="linear",
            settings={},
            created_by=AUTHOR,
        )
        session.add(model)
        session.flush()
        training = add_job(session, "train", {"model_id": model.id, "settings": {}})
        run = StoredRun(
            name="Imaging requests, TF-IDF",
            task_id=task.id,
            dataset_id=dataset_id,
            model_id=model.id,
            model=model.name,
            settings={"baselines": False},
            created_by=AUTHOR,
        )
        session.add(run)
        session.flush()
        answering = add_job(session, "run", {"run_id": run.id})
        model.job_id, run.job_id = training.id, answering.id
        return [training.id, answering.id]


def add_table(database: Database, files: DataFolder, name: str, table: Path) -> int:
    """Add a data set; returns its id."""
    upload = files.create_upload_folder() / "example"
    shutil.copy(table, upload)
    received = ReceivedFile(upload, table.name, bytes=upload.stat().st_size)
    dataset, _ = add_dataset(database, files, received, NewDataset(name, ReadOptions(), AUTHOR))
    return int(dataset.id)


def wait_for_jobs(settings: ServerSettings, database: Database, job_ids: list[int]) -> None:
    """Work on the jobs; raises SystemExit if one of them fails."""
    stop = threading.Event()
    worker = threading.Thread(target=run_worker, args=(settings, stop))
    worker.start()
    deadline = time.monotonic() + LIMIT_S
    try:
        while time.monotonic() < deadline:
            with database.read() as session:
                jobs = [session.get_one(Job, job_id) for job_id in job_ids]
            if failed := [job for job in jobs if job.state == "failed"]:
                sys.exit(f"the example could not be prepared: {failed[0].problem}")
            if all(job.ended_at is not None for job in jobs):
                return
            time.sleep(0.1)
        sys.exit("the example was not ready in time")
    finally:
        stop.set()
        worker.join()


if __name__ == "__main__":
    prepare(ServerSettings(data_folder=Path(sys.argv[1])))
