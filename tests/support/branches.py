"""Branches whose candidates share tokens, follow a prefix, are letters, or are whole texts."""

from __future__ import annotations

from medtask.records import Branch

BRANCHES = (
    Branch(
        "", ("CT Brain", "CT Brain/Neck", "MRI knee", "MRI knee joint", "Ultrasound of the liver")
    ),
    Branch("Side: ", ("left", "right")),
    Branch("", ("A", "B", "C"), ask="\n\nA: rest\nB: operate\nC: wait", weigh="text"),
    Branch("", ("Operations on the eye", "Operations on the ear"), weigh="text"),
)
