"""A package with an engine that records its loads, is slow, or kills its process once.

Processes find it through its entry point, like any engine of another distribution.
"""

from __future__ import annotations

from pathlib import Path

_MODULE = """
import os
import signal
import time
from pathlib import Path

from medtask.engines.fake import FakeEngine
from medtask.engines.specs import EngineSpec

SPEC = EngineSpec(
    name="recording",
    loader="recording_engine:load",
    prefixes=("recording:",),
    option_fields=frozenset({"threads"}),
    description="recording:FOLDER, the answers of fake:seed=3",
)


class RecordingEngine(FakeEngine):
    def __init__(self, folder, threads):
        super().__init__(seed=3)
        self.folder = folder
        if (folder / "pace").exists():
            self.batch = 1
        with (folder / "loads").open("a") as stream:
            stream.write(f"{os.getpid()} {threads}\\n")

    def score_batch(self, batch):
        with (self.folder / "asked").open("a") as stream:
            stream.write("".join(f"{os.getpid()} {prompt.record_id}\\n" for prompt in batch))
        pace = self.folder / "pace"
        if pace.exists():
            time.sleep(float(pace.read_text() or 0))  # it may be being written
        mark = self.folder / "kill"
        # Not before another process has a model too: it is to be killed in the middle.
        if mark.exists() and len((self.folder / "asked").read_text().splitlines()) >= int(
            mark.read_text()
        ):
            try:
                mark.unlink()
            except FileNotFoundError:
                pass
            else:
                (self.folder / "killed").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
        return super().score_batch(batch)


def load(reference, options):
    return RecordingEngine(Path(reference.partition(":")[2]), options.threads)
"""


def write_recording_engine(site: Path) -> None:
    """Write the package into a folder of PYTHONPATH, as pip installs it."""
    site.mkdir(parents=True, exist_ok=True)
    (site / "recording_engine.py").write_text(_MODULE)
    metadata = site / "recording_engine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: recording-engine\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(
        "[medtask.engines]\nrecording = recording_engine:SPEC\n"
    )


def kill_once(folder: Path, after_prompts: int) -> None:
    """Kill the process that asks next after this many prompts of all processes."""
    (folder / "kill").write_text(str(after_prompts))


def set_pace(folder: Path, seconds: float) -> None:
    """Answer one prompt at a time, each in so many seconds."""
    (folder / "pace").write_text(str(seconds))


def read_loads(folder: Path) -> list[tuple[int, str]]:
    """Process and threads of each load."""
    lines = (folder / "loads").read_text().splitlines()
    return [
        (int(process), threads) for process, _, threads in (line.partition(" ") for line in lines)
    ]


def read_asked(folder: Path) -> list[tuple[int, str]]:
    """Process and id of each prompt that was asked."""
    return _read_pairs(folder / "asked")


def _read_pairs(path: Path) -> list[tuple[int, str]]:
    pairs = (line.partition(" ") for line in path.read_text().splitlines())
    return [(int(process), name) for process, _, name in pairs]


def read_killed(folder: Path) -> int | None:
    """The process that was killed."""
    path = folder / "killed"
    return int(path.read_text()) if path.exists() else None
