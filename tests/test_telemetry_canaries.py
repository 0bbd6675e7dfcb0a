"""S2: libraries with telemetry send nothing once medtask is imported, and would without it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Each library's own way to send is replaced by a note that it was used.
PROGRAMS = {
    "huggingface_hub": """
import huggingface_hub.utils._telemetry as hub
hub._send_telemetry_in_thread = lambda **content: print("sent")
hub.send_telemetry("canary")
hub._TELEMETRY_QUEUE.join()
""",
    "mlflow": """
import mlflow.telemetry.client as client
client.TelemetryClient = lambda: print("sent")
client.set_telemetry_client()
""",
    "ray": """
from ray._common.usage import usage_lib
if usage_lib.usage_stats_enabled():
    print("sent")
""",
}
# Continuous integration switches some of them off by itself.
QUIET_VARIABLES = (
    "CI",
    "GITHUB_ACTIONS",
    "PYTEST_CURRENT_TEST",
    "HF_HUB_OFFLINE",
    "MLFLOW_TESTING",
)


def run_canary(library: str, prelude: str) -> str:
    """What the program prints; the switches that medtask has set in this process are open."""
    from medtask.privacy import TELEMETRY_VARIABLES

    hidden = {*TELEMETRY_VARIABLES, *QUIET_VARIABLES}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", prelude + PROGRAMS[library]],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("library", PROGRAMS)
def test_a_library_sends_nothing_once_medtask_is_imported(library: str) -> None:
    pytest.importorskip(library)
    assert run_canary(library, "import medtask\n") == ""
    assert run_canary(library, "") == "sent"
