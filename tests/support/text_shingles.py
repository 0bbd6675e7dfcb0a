"""Texts compared piece by piece, the plain way."""

from __future__ import annotations

from medtask.near_duplicates import SHINGLE_SIZE, normalize_words

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


def list_shingles(text: str) -> set[str]:
    flat = normalize_words(text).ljust(SHINGLE_SIZE)
    return {flat[index : index + SHINGLE_SIZE] for index in range(len(flat) - SHINGLE_SIZE + 1)}


def compute_jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)
