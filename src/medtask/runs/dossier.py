"""What an evaluation found out, for people: lines for a terminal, the report, and a calibration
where runs will find it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medtask.errors import MedtaskError, StorageError
from medtask.evaluate.accept import Acceptance
from medtask.evaluate.blocks import Block, Section, Text
from medtask.evaluate.refusal import Refusal
from medtask.evaluate.report import write_report
from medtask.evaluate.words import capital
from medtask.runs.answered import Answers
from medtask.runs.calibrations import NAME, keep_calibration, locate_calibrations
from medtask.runs.evaluation import Evaluation

_HOW_TO_ACCEPT = (
    "Nothing was promised here. With gold for some hundred random rows, medtask evaluate RUN "
    "--gold COLUMN --max-error 0.05 finds the "
    "confidence from which answers may be accepted, and writes accepted.csv and review.csv."
)
_PILES = (
    "accepted.csv beside this page holds the accepted answers, review.csv all others, first "
    "those where a look is worth most."
)


def write_dossier(folder: Path, found: Evaluation) -> list[str]:
    """Write report.html and report.json into the folder; their names."""
    numbers = {
        name: part for name, part in found.to_json().items() if name not in ("details", "baselines")
    }
    sections, told = (
        [*list_sections(found), *_tell_audit(found.answers)],
        _describe_source(found.answers),
    )
    write_report(
        folder / "report.html", found.summary, told, found.baselines, sections, numbers, found.notes
    )
    return ["report.html", "report.json"]


def list_sections(found: Evaluation) -> list[Section]:
    """What the report says besides the figures, by question."""
    sections = (
        [Section("Which answers may be accepted without a look?", _tell_acceptance(found))]
        if found.summary.gold
        else []
    )
    if found.fit is not None:
        sections.append(Section("What does calibration change?", _tell(found.fit)))
    if found.sets is not None:
        sections.append(Section("Which answers remain possible?", _tell(found.sets)))
    if found.readers is not None:
        sections.append(Section("How far do people agree?", found.readers.tell()))
    return sections


def list_findings(found: Evaluation) -> list[str]:
    """The same for a terminal, in one line each."""
    gold = found.summary.gold
    lines = [f"confidence: {gold.reliability.describe()}"] if gold and gold.reliability else []
    for name, part in (
        ("acceptance", found.acceptance),
        ("calibration", found.fit),
        ("prediction sets", found.sets),
    ):
        if part is not None:
            lines.append(
                f"{name}: {f'refused: {part}' if isinstance(part, Refusal) else part.describe()}"
            )
    if found.kept:
        runs = (
            "Runs of this task with this model apply the calibration from now on; to apply it "
            "to this run, repeat its "
        )
        runs += "`medtask run` command: nothing is asked anew."
        lines.append(
            runs
            if found.answers.folder
            else "Runs apply a calibration; a table's own probabilities stay as they are."
        )
    return [*lines, *(found.readers.lines() if found.readers else [])]


def keep(found: Evaluation, folder: Path) -> Path:
    """Keep the calibration beside the task's file, where `medtask run` looks for it; in ``folder``
    where there is none, and where it is of another tool's answers, which no run of ours gives.
    """
    assert found.kept is not None
    path = (
        locate_calibrations(found.answers.task) if found.answers.folder else None
    ) or folder / NAME
    try:
        keep_calibration(path, found.kept)
    except StorageError:
        if path.parent == folder:
            raise
        path = folder / NAME
        keep_calibration(path, found.kept)
    return path


def _tell_audit(answers: Answers) -> list[Section]:
    """What people's labels of the audit's sample say, where the run has such a sample."""
    from medtask.runs.audited import estimate_from_labels, read_sample

    if answers.folder is None:
        return []
    try:
        sample = read_sample(answers.folder / "audit")
        blocks = (
            estimate_from_labels(answers, sample.folder).tell()
            if sample and sample.labelled
            else []
        )
    except MedtaskError as error:
        blocks = [Text(f"The audit is left out: {error}.", "note")]
    return [Section("What does the audit say of all rows?", blocks)] if blocks else []


def _tell_acceptance(found: Evaluation) -> list[Block]:
    gold = found.summary.gold
    curve = (
        gold.reliability.tell_risk()
        if gold and gold.reliability and not isinstance(found.acceptance, Acceptance)
        else []
    )
    piles = [Text(_PILES)] if isinstance(found.acceptance, Acceptance) else []
    return [*_tell(found.acceptance), *piles, *curve]


def _tell(part: Any) -> list[Block]:
    if part is None:
        return [Text(_HOW_TO_ACCEPT)]
    if isinstance(part, Refusal):
        return [Text(f"Refused: {part}.", "note")]
    return list(part.tell()) if hasattr(part, "tell") else [Text(f"{capital(part.describe())}.")]


def _describe_source(answers: Answers) -> Mapping[str, object]:
    if answers.manifest:
        return answers.manifest
    data = {
        "source": answers.table.source,
        "columns": list(answers.table.columns),
        "notes": list(answers.table.notes),
    }
    return {"task": {"name": answers.name}, "data": data}
