"""The start of the command line: the script `medtask`, and `python -m medtask`."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line and exit with its code.

    Until it is loaded, a signal that asks the process to stop ends it at once, with the code of an
    interrupted run: Python would print a traceback, and Slurm's signals would look like a crash.
    """
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _stop)
    from medtask.cli.main import main as run_command

    run_command()


def _stop(number: int, frame: FrameType | None) -> None:
    os._exit(130 if number == signal.SIGINT else 143)


if __name__ == "__main__":
    main()
