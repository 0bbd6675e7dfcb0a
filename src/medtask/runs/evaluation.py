"""How good answers are, and which of them may be accepted without a look: everything that `medtask
evaluate` finds out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from medtask.errors import UsageError
from medtask.evaluate.accept import Acceptance, find_acceptance
from medtask.evaluate.refusal import Refusal
from medtask.evaluate.summary import Summary
from medtask.evaluate.tally import set_apart
from medtask.records import LETTERS, settle_value
from medtask.runs.answered import AnsweredRow, Answers
from medtask.runs.calibrations import Kept, model_facts, warn_of_reuse
from medtask.runs.finalise import compare_baselines, open_gatherer
from medtask.runs.manifest import now
from medtask.tasks.hints import list_columns, quote
from medtask.tasks.task import Choice, Task

if TYPE_CHECKING:
    from medtask.evaluate.calibration import Calibration
    from medtask.evaluate.comparison import Baseline
    from medtask.evaluate.prediction_sets import PredictionSets
    from medtask.evaluate.readers import Readers

CELLS = 50_000_000  # probabilities that are held at once: 400 MB


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be found out besides the figures.

    ``max_error``: of the accepted rows, with probability ``level``; ``by_class``: a threshold for
    each class of the answer. ``calibrate``: a method of evaluate.calibrate, or "auto". ``sets``:
    the share of rows whose truth a prediction set may miss. ``readers``: two columns in which
    people have answered.
    """

    max_error: float | None = None
    level: float = 0.95
    by_class: bool = False
    calibrate: Literal["auto", "temperature", "bias", "isotonic", "batch"] | None = None
    sets: float | None = None
    readers: tuple[str, str] | None = None
    baselines: bool = True
    seed: int = 0


_JUST_FIGURES = Wanted()


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What was found out; None where it was not asked for. ``kept``: the calibration, ready to be
    kept for further runs.
    """

    answers: Answers
    summary: Summary
    baselines: tuple[Baseline, ...]
    acceptance: Acceptance | Refusal | None
    fit: Calibration | Refusal | None
    kept: Kept | None
    sets: PredictionSets | Refusal | None
    readers: Readers | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """A plain dict without record text: the numbers of `medtask evaluate --json`."""
        gold = self.summary.gold
        quality = gold.quality if gold else None
        accepted = self.acceptance.to_json() if isinstance(self.acceptance, Acceptance) else None
        parts = {"calibration": self.fit, "prediction_sets": self.sets, "readers": self.readers}
        refused = self.acceptance if isinstance(self.acceptance, Refusal) else None
        return {
            "n": self.summary.rows,
            "statuses": {str(status): rows for status, rows in self.summary.statuses.items()},
            "metrics": {
                name: asdict(figure) if figure else None for name, figure in quality.figures.items()
            }
            if quality
            else {},
            "acceptance": accepted,
            **({"acceptance_refused": refused.to_json()} if refused else {}),
            "kind": self.summary.kind,
            "gold": {"rows": gold.rows, "missing": gold.missing, "unknown": gold.unknown}
            if gold
            else None,
            "reliability": gold.reliability.to_json() if gold and gold.reliability else None,
            **{name: part.to_json() if part else None for name, part in parts.items()},
            "baselines": {baseline.name: baseline.to_json() for baseline in self.baselines},
            "details": self.summary.to_json(),
            "notes": list(self.notes),
        }


def evaluate_answers(answers: Answers, wanted: Wanted = _JUST_FIGURES) -> Evaluation:
    """Everything that was asked for about these answers. UsageError for what needs gold, or
    probabilities, where there is none.
    """
    _check(answers, wanted)
    summary = gather(answers, wanted.seed)
    notes = list(answers.notes)
    acceptance = _accept(summary, wanted) if wanted.max_error is not None else None
    if answers.has_gold and (
        told := warn_of_reuse(answers.manifest.get("calibration"), answers.name)
    ):
        notes.append(told)
    fit, kept = _calibrate(answers, wanted) if wanted.calibrate else (None, None)
    readers = _compare_readers(answers, wanted) if wanted.readers else None
    if wanted.readers and readers is None:
        notes.append(
            f"no row has an answer of both {wanted.readers[0]} and {wanted.readers[1]}: readers "
            "are not compared"
        )
    return Evaluation(
        answers=answers,
        summary=summary,
        baselines=compare_baselines(answers.task, summary) if wanted.baselines else (),
        acceptance=acceptance,
        fit=fit,
        kept=kept,
        sets=_fit_sets(answers, wanted) if wanted.sets is not None else None,
        readers=readers,
        notes=tuple(notes),
    )


def gather(answers: Answers, seed: int = 0) -> Summary:
    """What a report tells of the answers."""
    gatherer = open_gatherer(answers.task, has_gold=answers.has_gold, seed=seed)
    for row in answers.rows():
        gatherer.add(row.row, row.answer, row.text, row.gold, row.options, row.group)
    return gatherer.finish()


def _check(answers: Answers, wanted: Wanted) -> None:
    needs_gold = {
        "--max-error": wanted.max_error is not None,
        "--sets": wanted.sets is not None,
        "--calibrate": wanted.calibrate not in (None, "batch"),
    }
    asked = [flag for flag, given in needs_gold.items() if given]
    if asked and not answers.has_gold:
        raise UsageError(
            f"{asked[0]} needs rows with gold, and none are named",
            fix="name them with --gold COLUMN or --gold FILE",
        )


def _accept(summary: Summary, wanted: Wanted) -> Acceptance | Refusal:
    marks = summary.gold.marks if summary.gold else None
    if marks is None or not len(marks.rows):
        return Refusal("no row has gold that counts", 0)
    if np.isnan(marks.confidence).all():
        told = "no answer has a confidence: nothing tells sure answers from unsure ones"
        return Refusal(
            f"{told} (for free text, see medtask judge)" if summary.kind == "answer" else told,
            len(marks.rows),
        )
    assert wanted.max_error is not None
    return find_acceptance(
        marks.confidence,
        marks.right,
        classes=marks.classes if wanted.by_class else None,
        names=marks.names,
        max_error=wanted.max_error,
        level=wanted.level,
        groups=marks.groups,
        seed=wanted.seed,
    )


def _calibrate(answers: Answers, wanted: Wanted) -> tuple[Calibration | Refusal, Kept | None]:
    from medtask.evaluate.calibrate import fit_batch, fit_calibration

    names, exclusive = list_outcomes(answers.task), not answers.task.several
    rows = (
        answers.rows()
        if wanted.calibrate == "batch"
        else (row for row in answers.rows() if row.gold is not None)
    )
    shares, gold, groups = collect_shares(answers, rows, names, graded=wanted.calibrate != "batch")
    if not len(shares):
        return Refusal("no row with gold has probabilities", 0), None
    if wanted.calibrate == "batch":
        fit = fit_batch(shares, names)
    else:
        assert wanted.calibrate is not None
        fit = fit_calibration(
            shares,
            gold,
            names,
            exclusive=exclusive,
            method=wanted.calibrate,
            groups=groups,
            seed=wanted.seed,
        )
    if isinstance(fit, Refusal) or not fit.calibrated:
        return fit, None
    model = answers.manifest.get("model", {})
    identity = model_facts(answers.manifest.get("identity", {}))
    return fit, Kept(
        fit, answers.task.fingerprint, identity, str(model.get("title", "")), answers.name, now()
    )


def _fit_sets(answers: Answers, wanted: Wanted) -> PredictionSets | Refusal:
    from medtask.evaluate.prediction_sets import fit_sets

    names = list_outcomes(answers.task)
    rows = (row for row in answers.rows() if row.gold is not None)
    shares, gold, groups = collect_shares(answers, rows, names, graded=True, raw=False)
    if not len(shares):
        return Refusal("no row with gold has probabilities", 0)
    assert wanted.sets is not None
    return fit_sets(shares, gold, miss=wanted.sets, groups=groups, seed=wanted.seed)


def list_outcomes(task: Task) -> tuple[str, ...]:
    """The names whose probabilities can be calibrated. UsageError for the kinds that have none."""
    if task.kind in ("answer", "fields"):
        raise UsageError(
            f"answers of the kind {task.kind} have no probabilities to work on",
            fix="leave --calibrate and --sets out",
        )
    return (
        LETTERS if isinstance(task.form, Choice) else tuple(label.name for label in task.candidates)
    )


def collect_shares(
    answers: Answers,
    rows: Iterable[AnsweredRow],
    names: Sequence[str],
    *,
    graded: bool,
    raw: bool = True,
) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[np.int64] | None]:
    """Probabilities [n, k] (NaN: no option of the row), gold ([n] places, or [n, k] bool) and
    groups of the rows that have both.

    ``raw``: before calibration. Rows of further passes about other outcomes, and gold that is no
    outcome, are left out. The first rows are taken where all of them would not fit into memory.
    Labels that another tool's table has no column for get 0.
    """
    place = {name: index for index, name in enumerate(names)}
    exclusive, optional = not answers.task.several, isinstance(answers.task.form, Choice)
    some = optional or answers.folder is None
    lines: list[NDArray[np.float64]] = []
    truths: list[Any] = []
    codes: list[int] = []
    places: dict[str, int] = {}
    for row in rows:
        found = (row.answer.uncalibrated if raw else None) or row.answer.probabilities
        if not found or not (
            found.keys() <= place.keys() if some else found.keys() == place.keys()
        ):
            continue
        truth = (
            _place_gold(row.gold, found if optional else place, place, exclusive) if graded else 0
        )
        if truth is None:
            continue
        line = np.full(len(names), np.nan if optional else 0.0)
        line[[place[name] for name in found]] = list(found.values())
        lines.append(line)
        truths.append(truth)
        codes.append(-1 if row.group is None else places.setdefault(row.group, len(places)))
        if len(lines) * len(names) >= CELLS:
            break
    return np.array(lines).reshape(len(lines), len(names)), np.array(truths), set_apart(codes)


def _place_gold(
    gold: object, found: Mapping[str, object], place: Mapping[str, int], exclusive: bool
) -> Any:
    if exclusive:
        return place[gold] if isinstance(gold, str) and gold in found else None
    if not isinstance(gold, tuple) or not set(gold) <= found.keys():
        return None
    return np.isin(list(place), gold)


def _compare_readers(answers: Answers, wanted: Wanted) -> Readers | None:
    from medtask.evaluate.readers import compare_readers
    from medtask.tasks.gold import read_gold

    assert wanted.readers is not None
    if unknown := [
        name for name in wanted.readers if answers.name_here(name) not in answers.table.columns
    ]:
        fix = (
            "name two columns, as in --readers FIRST,SECOND: it has "
            f"{list_columns(answers.table.columns)}"
        )
        raise UsageError(
            f"{answers.table.source} has no column {quote(unknown[0])} for a reader", fix=fix
        )
    task, rows = answers.task, list(answers.rows())
    first, second = (
        [read_gold(task, row.fields, row.fields.get(name)) for row in rows]
        for name in wanted.readers
    )
    return compare_readers(
        first,
        second,
        [settle_value(row.answer.status, row.answer.value, task.abstention) for row in rows],
        names=wanted.readers,
        kind=task.kind,
        labels=[label.name for label in task.candidates],
        ids=[row.answer.record_id for row in rows],
        rows=[row.row for row in rows],
        texts=[row.text for row in rows],
        groups=[row.group for row in rows] if task.group_column else (),
        seed=wanted.seed,
    )
