"""How good answers are, and which of them may be accepted without a look: everything that `medtask
evaluate` finds out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from medtask.display import format_columns, quote
from medtask.errors import UsageError
from medtask.evaluation.calibration.acceptance import Acceptance, GoldConfidences, find_acceptance
from medtask.evaluation.calibration.fitting import LabelSet
from medtask.evaluation.report.run_summary import RunSummary
from medtask.evaluation.statistics.refusal import Refusal
from medtask.evaluation.statistics.resampling import assign_singleton_groups
from medtask.kinds import KINDS
from medtask.records import comparable_value
from medtask.runs.answer_table import AnsweredRow, AnswerTable
from medtask.runs.calibration_store import SavedCalibration, describe_gold_reuse, select_model_facts
from medtask.runs.manifest import get_timestamp
from medtask.runs.outputs import create_summary_accumulator, evaluate_baselines
from medtask.tasks.task import Task

if TYPE_CHECKING:
    from medtask.evaluation.calibration.prediction_sets import PredictionSets
    from medtask.evaluation.calibration.transforms import Calibration
    from medtask.evaluation.comparison.annotators import AnnotatorAgreement
    from medtask.evaluation.statistics.significance import Baseline

MAX_PROBABILITIES = 50_000_000  # probabilities that are held at once: 400 MB


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
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


_METRICS_ONLY = EvaluationOptions()


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What was found out; None where it was not asked for. ``saved_calibration``: the
    calibration, ready to be kept for further runs.
    """

    answers: AnswerTable
    summary: RunSummary
    baselines: tuple[Baseline, ...]
    acceptance: Acceptance | Refusal | None
    calibration: Calibration | Refusal | None
    saved_calibration: SavedCalibration | None
    prediction_sets: PredictionSets | Refusal | None
    annotators: AnnotatorAgreement | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """A plain dict without record text: the numbers of `medtask evaluate --json`."""
        gold = self.summary.gold
        quality = gold.evaluation if gold else None
        accepted = self.acceptance.to_json() if isinstance(self.acceptance, Acceptance) else None
        parts = {
            "calibration": self.calibration,
            "prediction_sets": self.prediction_sets,
            "readers": self.annotators,
        }
        refused = self.acceptance if isinstance(self.acceptance, Refusal) else None
        return {
            "n": self.summary.rows,
            "statuses": {str(status): rows for status, rows in self.summary.statuses.items()},
            "metrics": {
                name: asdict(figure) if figure else None for name, figure in quality.metrics.items()
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


def evaluate_answers(
    answers: AnswerTable, options: EvaluationOptions = _METRICS_ONLY
) -> Evaluation:
    """Everything that was asked for about these answers. UsageError for what needs gold, or
    probabilities, where there is none.
    """
    _check_options(answers, options)
    summary = summarize_answers(answers, options.seed)
    notes = list(answers.notes)
    acceptance = _find_acceptance(summary, options) if options.max_error is not None else None
    if answers.has_gold and (
        reuse_warning := describe_gold_reuse(answers.manifest.get("calibration"), answers.name)
    ):
        notes.append(reuse_warning)
    calibration, saved_calibration = (
        _fit_calibration(answers, options) if options.calibrate else (None, None)
    )
    annotators = _compare_annotators(answers, options) if options.readers else None
    if options.readers and annotators is None:
        notes.append(
            f"no row has an answer of both {options.readers[0]} and {options.readers[1]}: readers "
            "are not compared"
        )
    return Evaluation(
        answers=answers,
        summary=summary,
        baselines=evaluate_baselines(answers.task, summary) if options.baselines else (),
        acceptance=acceptance,
        calibration=calibration,
        saved_calibration=saved_calibration,
        prediction_sets=_fit_prediction_sets(answers, options)
        if options.sets is not None
        else None,
        annotators=annotators,
        notes=tuple(notes),
    )


def summarize_answers(answers: AnswerTable, seed: int = 0) -> RunSummary:
    """What a report tells of the answers."""
    accumulator = create_summary_accumulator(answers.task, has_gold=answers.has_gold, seed=seed)
    for row in answers.rows():
        accumulator.add(row.row, row.answer, row.text, row.gold, row.options, row.group)
    return accumulator.finish()


def _check_options(answers: AnswerTable, options: EvaluationOptions) -> None:
    needs_gold = {
        "--max-error": options.max_error is not None,
        "--sets": options.sets is not None,
        "--calibrate": options.calibrate not in (None, "batch"),
    }
    requested = [flag for flag, given in needs_gold.items() if given]
    if requested and not answers.has_gold:
        raise UsageError(
            f"{requested[0]} needs rows with gold, and none are named",
            fix="name them with --gold COLUMN or --gold FILE",
        )


def _find_acceptance(summary: RunSummary, options: EvaluationOptions) -> Acceptance | Refusal:
    marks = summary.gold.scored_rows if summary.gold else None
    if marks is None or not len(marks.rows):
        return Refusal("no row has gold that counts", 0)
    if np.isnan(marks.confidence).all():
        reason = "no answer has a confidence: nothing tells sure answers from unsure ones"
        return Refusal(
            f"{reason} (for free text, see medtask judge)"
            if KINDS[summary.kind].free_text
            else reason,
            len(marks.rows),
        )
    assert options.max_error is not None
    return find_acceptance(
        GoldConfidences(
            marks.confidence,
            marks.right,
            marks.groups,
            marks.classes if options.by_class else None,
            marks.class_names,
        ),
        max_error=options.max_error,
        level=options.level,
        seed=options.seed,
    )


def _fit_calibration(
    answers: AnswerTable, options: EvaluationOptions
) -> tuple[Calibration | Refusal, SavedCalibration | None]:
    from medtask.evaluation.calibration.fitting import fit_batch_calibration, fit_calibration

    names, exclusive = list_outcomes(answers.task), not answers.task.several
    rows = (
        answers.rows()
        if options.calibrate == "batch"
        else (row for row in answers.rows() if row.gold is not None)
    )
    probabilities, gold, groups = collect_probabilities(
        answers, rows, names, with_gold=options.calibrate != "batch"
    )
    if not len(probabilities):
        return Refusal("no row with gold has probabilities", 0), None
    if options.calibrate == "batch":
        calibration = fit_batch_calibration(probabilities, names)
    else:
        assert options.calibrate is not None
        calibration = fit_calibration(
            probabilities,
            gold,
            LabelSet(names, exclusive),
            method=options.calibrate,
            groups=groups,
            seed=options.seed,
        )
    if isinstance(calibration, Refusal) or not calibration.calibrated:
        return calibration, None
    model = answers.manifest.get("model", {})
    identity = select_model_facts(answers.manifest.get("identity", {}))
    return calibration, SavedCalibration(
        calibration,
        answers.task.fingerprint,
        identity,
        str(model.get("title", "")),
        answers.name,
        get_timestamp(),
    )


def _fit_prediction_sets(
    answers: AnswerTable, options: EvaluationOptions
) -> PredictionSets | Refusal:
    from medtask.evaluation.calibration.prediction_sets import fit_prediction_sets

    names = list_outcomes(answers.task)
    rows = (row for row in answers.rows() if row.gold is not None)
    probabilities, gold, groups = collect_probabilities(
        answers, rows, names, with_gold=True, uncalibrated=False
    )
    if not len(probabilities):
        return Refusal("no row with gold has probabilities", 0)
    assert options.sets is not None
    return fit_prediction_sets(
        probabilities, gold, miss=options.sets, groups=groups, seed=options.seed
    )


def list_outcomes(task: Task) -> tuple[str, ...]:
    """The names whose probabilities can be calibrated. UsageError for the kinds that have none."""
    if task.kind_spec.generated:
        raise UsageError(
            f"answers of the kind {task.kind} have no probabilities to work on",
            fix="leave --calibrate and --sets out",
        )
    return task.outcomes


def collect_probabilities(
    answers: AnswerTable,
    rows: Iterable[AnsweredRow],
    names: Sequence[str],
    *,
    with_gold: bool,
    uncalibrated: bool = True,
) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[np.int64] | None]:
    """Probabilities [n, k] (NaN: no option of the row), gold ([n] places, or [n, k] bool) and
    groups of the rows that have both.

    ``uncalibrated``: before calibration. Rows of further passes about other outcomes, and gold that
    is no outcome, are left out. The first rows are taken where all of them would not fit into
    memory. Labels that another tool's table has no column for get 0.
    """
    index_by_name = {name: index for index, name in enumerate(names)}
    exclusive, optional = not answers.task.several, answers.task.kind_spec.has_options
    allow_missing = optional or answers.folder is None
    lines: list[NDArray[np.float64]] = []
    truths: list[Any] = []
    codes: list[int] = []
    places: dict[str, int] = {}
    for row in rows:
        probabilities = (
            row.answer.uncalibrated if uncalibrated else None
        ) or row.answer.probabilities
        if not probabilities or not (
            probabilities.keys() <= index_by_name.keys()
            if allow_missing
            else probabilities.keys() == index_by_name.keys()
        ):
            continue
        truth = (
            _encode_gold(
                row.gold, probabilities if optional else index_by_name, index_by_name, exclusive
            )
            if with_gold
            else 0
        )
        if truth is None:
            continue
        line = np.full(len(names), np.nan if optional else 0.0)
        line[[index_by_name[name] for name in probabilities]] = list(probabilities.values())
        lines.append(line)
        truths.append(truth)
        codes.append(-1 if row.group is None else places.setdefault(row.group, len(places)))
        if len(lines) * len(names) >= MAX_PROBABILITIES:
            break
    return (
        np.array(lines).reshape(len(lines), len(names)),
        np.array(truths),
        assign_singleton_groups(codes),
    )


def _encode_gold(
    gold: object,
    probabilities: Mapping[str, object],
    index_by_name: Mapping[str, int],
    exclusive: bool,
) -> Any:
    if exclusive:
        return index_by_name[gold] if isinstance(gold, str) and gold in probabilities else None
    if not isinstance(gold, tuple) or not set(gold) <= probabilities.keys():
        return None
    return np.isin(list(index_by_name), gold)


def _compare_annotators(
    answers: AnswerTable, options: EvaluationOptions
) -> AnnotatorAgreement | None:
    from medtask.evaluation.comparison.annotators import AnnotatedRows, compare_annotators
    from medtask.tasks.rows import read_gold

    assert options.readers is not None
    if unknown := [
        name
        for name in options.readers
        if answers.find_column_name(name) not in answers.table.columns
    ]:
        fix = (
            "name two columns, as in --readers FIRST,SECOND: it has "
            f"{format_columns(answers.table.columns)}"
        )
        raise UsageError(
            f"{answers.table.source} has no column {quote(unknown[0])} for a reader", fix=fix
        )
    task, rows = answers.task, list(answers.rows())
    first, second = (
        [read_gold(task, row.fields, row.fields.get(name)) for row in rows]
        for name in options.readers
    )
    columns = AnnotatedRows(
        first,
        second,
        [comparable_value(row.answer.status, row.answer.value, task.abstain_name) for row in rows],
        groups=[row.group for row in rows] if task.group_column else (),
        ids=[row.answer.record_id for row in rows],
        rows=[row.row for row in rows],
        texts=[row.text for row in rows],
    )
    return compare_annotators(
        columns,
        names=options.readers,
        kind=task.kind,
        labels=[label.name for label in task.candidates],
        seed=options.seed,
    )
