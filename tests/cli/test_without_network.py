"""S1, S20: no command tries to reach another machine, or writes a file that others may read.

The commands run in a network that has no other machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cli.conftest import SURGERY_TASK
from medtask.cli.main import COMMANDS
from support.connection_log import ConnectionLog
from support.network_namespace import list_no_network_command

# Commands in the order in which they need each other's results, with their exit codes.
STEPS: tuple[tuple[int, str], ...] = (
    (0, "init drafted --from procedures.csv"),
    (0, "check surgery --model fake:"),
    (0, "models"),
    (0, "doctor"),
    (0, "doctor surgery"),
    (0, "run surgery --model fake: --out first"),
    (0, "run surgery --model fake:seed=1 --out second"),
    (0, "evaluate first --max-error 0.5"),
    (0, "audit first"),
    (2, "gold first"),  # nobody has written a correction
    (0, "compare first second --out comparison.html"),
    (0, "ask Why? --model fake:"),
    (0, "run causes --model fake: --out causes-run"),
    (0, "judge causes-run --model fake: --gold purpose --allow-self"),
    (0, "bench surgery --model fake:"),
    (0, "train surgery --method linear --out linear"),
    (0, "data prepare surgery --out rows"),
    (0, "tune surgery --what examples --model fake: --budget 1s --out surgery/tuned.yaml"),
    (2, "export linear --to merged --out merged"),  # it has no weights to merge
    (0, "submit surgery --model fake: --shards 2 --dry-run"),
    (0, "run surgery --model fake: --out sharded --shards 2"),
    (0, "status sharded"),
    (0, "shard sharded"),
    (0, "merge sharded"),
    (0, "serve --verify-audit --data server"),
    (4, "purge run 1 --data server --yes"),  # there is none
)
# `worker` waits for jobs, and `bundle` collects packages from an index.
OTHERS = {"worker", "bundle"}
# An answer that a judge can grade.
CAUSES_TASK = SURGERY_TASK.replace("name: surgery", "name: causes").partition("answer:")[0] + (
    "answer: {kind: answer}\n"
)
DRIVER = """\
import json, sys
from medtask.cli.main import main
codes = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["medtask", *words]
    try:
        main()
    except SystemExit as stop:
        codes.append(int(stop.code or 0))
print(json.dumps(codes), file=open("codes.json", "w"))
"""


@pytest.mark.slow
def test_no_command_tries_to_reach_another_machine(tmp_path: Path) -> None:
    assert {command.__name__ for command in COMMANDS} - OTHERS == {
        words.split()[0] for _, words in STEPS if not words.startswith("data ")
    }
    names = ("curative", "palliative", "staging")
    rows = [f"A{row},operation {row} {names[row % 3]},{names[row % 3]}" for row in range(48)]
    folder = tmp_path / "work"
    for name, text in (("surgery", SURGERY_TASK), ("causes", CAUSES_TASK)):
        (folder / name).mkdir(parents=True)
        (folder / name / "task.yaml").write_text(text)
    (folder / "procedures.csv").write_text("\n".join(["case_id,procedure,purpose", *rows, ""]))
    inputs = set(folder.rglob("*"))
    log = ConnectionLog(tmp_path)
    shown = subprocess.run(
        [
            *list_no_network_command(),
            *(sys.executable, "-c", DRIVER),
            json.dumps([words.split() for _, words in STEPS]),
        ],
        cwd=folder,
        env=log.environment,
        capture_output=True,
        text=True,
        umask=0o022,
    )
    assert (folder / "codes.json").exists(), shown.stderr
    codes = json.loads((folder / "codes.json").read_text())
    assert list(zip(codes, (words for _, words in STEPS), strict=True)) == list(STEPS), shown.stderr
    assert log.read() == []
    written = set(folder.rglob("*")) - inputs - {folder / "codes.json"}
    assert len(written) > 40
    assert not [
        path.relative_to(folder).as_posix() for path in written if path.stat().st_mode & 0o077
    ]


def test_an_attempt_would_be_recorded(tmp_path: Path) -> None:
    log = ConnectionLog(tmp_path)
    program = "import socket; socket.getaddrinfo('192.0.2.1', 80)"
    subprocess.run([sys.executable, "-c", program], env=log.environment, check=True)
    assert [line.split(" by ")[0] for line in log.read()] == ["socket.getaddrinfo 192.0.2.1"]
