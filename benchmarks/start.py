"""The start: seconds from the command to the first line and to the first answer.

    python benchmarks/start.py --data ../shared/data [--rounds 5] [--models smollm2-135m,minilm]
                               [--old PATH/src]

`medtask run` on 7 rows of icd9_procedures and `medtask ask`, each in a process of its own; the
first round is not counted. `--old` names the sources of an earlier state, which are measured in the
same rounds. The smallest value of all rounds is shown. The first line is read from a pipe, into
which `ask` writes its first line with the answer.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

# Ends the process when the first answers are stored.
_FIRST_ANSWER = """
import os, sys
from medtask.cli.main import main
from medtask.cli.progress import RunProgressDisplay
RunProgressDisplay.on_batch = lambda *unused: os._exit(0)
main()
"""


@dataclass
class Start:
    """The measured starts of one command with one state of the sources."""

    first_line_s: list[float] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)

    def format_best(self) -> str:
        return (
            f"{min(self.answer_s):.1f} s | {min(self.processor_s):.1f} s | "
            f"{min(self.first_line_s):.2f} s"
        )


def write_task(folder: Path, data: Path) -> None:
    labels = json.loads((data / "labels.json").read_text())
    task = {
        "instruction": "Assign the text to its group.",
        "input": "{{ text }}",
        "id": "id",
        "answer": {"kind": "label", "labels": labels},
    }
    (folder / "task.json").write_text(json.dumps(task))


def time_start(arguments: list[str], source: str, start: Start) -> None:
    environment = os.environ | {"PYTHONPATH": source}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", _FIRST_ANSWER, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    process.stderr.readline()
    start.first_line_s.append(time.perf_counter() - began)
    process.stderr.read()
    if process.wait() != 0:
        raise SystemExit(f"{arguments} failed with {process.returncode}")
    start.answer_s.append(time.perf_counter() - began)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    start.processor_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", default="smollm2-135m,minilm")
    parser.add_argument("--old", type=Path, default=None)
    options = parser.parse_args()
    sources = {"this": str(Path(__file__).parents[1] / "src")}
    if options.old:
        sources = {"old": str(options.old), **sources}
    data = options.data.resolve() / "icd9_procedures"
    with tempfile.TemporaryDirectory() as folder:
        write_task(Path(folder), data)
        run = ["run", folder, str(data / "dev.jsonl.gz"), "--limit", "7", "--new-run", "--model"]
        commands = {f"run, {model}": [*run, model] for model in options.models.split(",")}
        commands["ask, smollm2-135m"] = ["ask", "What is glaucoma?", "--max-tokens", "1"]
        starts = {(name, state): Start() for name in commands for state in sources}
        for number in range(options.rounds + 1):
            for (name, state), start in starts.items():
                time_start(commands[name], sources[state], Start() if number == 0 else start)
    print("| command | state | first answer | processor time | first line |")
    print("|---|---|---|---|---|")
    for (name, state), start in starts.items():
        print(f"| {name} | {state} | {start.format_best()} |")


if __name__ == "__main__":
    main()
