"""Texts compared piece by piece, the plain way."""

from __future__ import annotations

from medtask.train.twins import PIECE, level

WORDS = [
    "left",
    "right",
    "knee",
    "wrist",
    "fracture",
    "open",
    "closed",
    "plate",
    "screw",
    "biopsy",
    "of",
    "the",
    "with",
    "after",
    "fall",
]


def pieces_of(text: str) -> set[str]:
    flat = level(text).ljust(PIECE)
    return {flat[place : place + PIECE] for place in range(len(flat) - PIECE + 1)}


def likeness(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)
