"""The page of statuses and exit codes, generated from the enumeration and the error classes."""

from __future__ import annotations

from collections.abc import Iterator

from documentation.markdown import write_code, write_table
from medtask import errors
from medtask.evaluation.report.sections import STATUS_DESCRIPTIONS
from medtask.records import Status

_INTRODUCTION = """\
# Statuses and exit codes

## Statuses of rows

Every row has one status. A row without an answer has none of the allowed answers, and the reason
is in the column `reason`.

"""
_CODES = """\

## Exit codes

A command ends with one of these codes. The message says what to do.

"""
# Codes without an exception.
_OTHER_CODES = {
    0: ("", "the command has done its work"),
    1: ("", "a fault of medtask itself; `MEDTASK_DEBUG=1` shows where"),
    3: ("", "the run has finished, and more rows failed than `--max-error-rate` allows"),
    130: ("", "interrupted by a signal; the same command resumes"),
}


def write_outcomes_page() -> str:
    """The page."""
    statuses = ((write_code(status.value), STATUS_DESCRIPTIONS[status]) for status in Status)
    rows = {**_OTHER_CODES, **dict(_list_error_codes())}
    codes = ((str(code), *rows[code]) for code in sorted(rows))
    return (
        _INTRODUCTION
        + write_table(("status", "meaning"), statuses)
        + _CODES
        + write_table(("code", "exceptions in Python", "meaning"), codes)
    )


def _list_error_codes() -> Iterator[tuple[int, tuple[str, str]]]:
    """Exit code, exceptions and meaning, as the tree in the docstring of `errors` says them."""
    found: dict[int, tuple[list[str], str]] = {}
    for line in (errors.__doc__ or "").splitlines():
        words = line.split(maxsplit=2)
        if len(words) == 3 and words[1].isdecimal() and hasattr(errors, words[0]):
            names, meaning = found.setdefault(int(words[1]), ([], words[2]))
            names.append(write_code(words[0]))
            assert getattr(errors, words[0]).exit_code == int(words[1])
            found[int(words[1])] = names, meaning
    for code, (names, meaning) in found.items():
        yield code, (", ".join(names), meaning)
