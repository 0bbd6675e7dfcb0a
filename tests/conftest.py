"""What every test process needs before torch is imported, and marks that imply others."""

from __future__ import annotations

import os

# The threads of torch wait by spinning unless told not to, which takes a core from whoever works.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes: one core for each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever leaves out slow tests leaves out those of scale, too."""
    for item in items:
        if item.get_closest_marker("scale"):
            item.add_marker("slow")
