"""Metrics, acceptance, calibration and prediction sets of answers, without writing files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medtask.errors import InputError, UsageError
from medtask.evaluation.baselines.context import BaselineSettings
from medtask.evaluation.calibration.acceptance import Acceptance, GoldConfidences, find_acceptance
from medtask.evaluation.calibration.fitting import LabelSet
from medtask.evaluation.presentation.formatting import explain_no_rows
from medtask.evaluation.report.run_summary import RunSummary
from medtask.evaluation.statistics.intervals import metrics_to_json
from medtask.evaluation.statistics.refusal import Refusal
from medtask.kinds import KINDS
from medtask.records import AnsweredRow, Status
from medtask.runs.annotator_columns import compare_annotator_columns
from medtask.runs.answer_table import AnswerTable
from medtask.runs.baselines import evaluate_baselines
from medtask.runs.calibration_store import SavedCalibration, describe_gold_reuse, select_model_facts
from medtask.runs.manifest import get_timestamp
from medtask.runs.measured_rows import CALIBRATION_ROWS, make_answered_row_key, select_measured
from medtask.runs.outputs import create_summary_accumulator
from medtask.runs.probability_arrays import collect_probabilities, list_outcomes, refuse_student
from medtask.runs.triage import TriageCounts
from medtask.tasks.cell_counts import CellCounts
from medtask.tasks.kinds import get_task_kind
from medtask.tasks.row_fingerprints import RowFingerprints, fingerprint_rows

if TYPE_CHECKING:
    from medtask.evaluation.calibration.prediction_sets import PredictionSets
    from medtask.evaluation.calibration.transforms import Calibration
    from medtask.evaluation.comparison.annotators import AnnotatorAgreement
    from medtask.evaluation.statistics.intervals import Metric
    from medtask.evaluation.statistics.significance import Baseline


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """The parts to compute in addition to the metrics; see `medtask.evaluate`."""

    max_error: float | None = None
    level: float = 0.95
    by_class: bool = False
    calibrate: Literal["auto", "temperature", "bias", "isotonic", "batch"] | None = None
    sets: float | None = None
    readers: tuple[str, str] | None = None
    baselines: bool = True
    seed: int = 0


_METRICS_ONLY = EvaluationOptions()
_NO_PROBABILITIES = "no row with gold has probabilities"


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The result of `medtask.evaluate`.

    Attributes:
        answers: The evaluated answers.
        summary: Statistics of the answers, and of their quality if there is gold.
        baselines: Simple methods on the same rows.
        acceptance: The acceptance thresholds; None if not requested, or refused.
        calibration: The fitted calibration; None if not requested, or refused.
        prediction_sets: The fitted prediction sets; None if not requested, or refused.
        refusals: Why a requested part is missing, by its name: "acceptance", "calibration",
            "prediction_sets".
        saved_calibration: The calibration in the form that later runs apply.
        annotators: Agreement of human annotators with each other and with the answers.
        notes: What the user should know.
        cells: Counts of missing values and of normalised names, in gold and answers.
        triage: The number of rows in accepted.csv and in review.csv; None if not written.
        folder: The folder of the files; None if none were written.
        files: The files, as paths relative to the folder.
    """

    answers: AnswerTable
    summary: RunSummary
    baselines: tuple[Baseline, ...]
    acceptance: Acceptance | None
    calibration: Calibration | None
    prediction_sets: PredictionSets | None
    refusals: Mapping[str, Refusal]
    saved_calibration: SavedCalibration | None
    annotators: AnnotatorAgreement | None
    notes: tuple[str, ...]
    cells: Mapping[str, CellCounts] = field(default_factory=dict)
    triage: TriageCounts | None = None
    folder: Path | None = None
    files: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """The number of rows."""
        return self.summary.rows

    @property
    def statuses(self) -> Mapping[Status, int]:
        """The number of rows by status."""
        return self.summary.statuses

    @property
    def metrics(self) -> Mapping[str, Metric | None]:
        """Metrics with 95 % confidence intervals by name; empty without gold."""
        return self.summary.metrics

    @property
    def headline_metric(self) -> str:
        """The name of the most important metric; "" without usable gold."""
        gold = self.summary.gold
        return gold.evaluation.headline_metrics[0] if gold and gold.evaluation else ""

    @property
    def report(self) -> Path | None:
        """The page with the results; None if no files were written."""
        return self.folder / "report.html" if self.folder else None

    def get_part(self, name: str) -> Acceptance | Calibration | PredictionSets | Refusal | None:
        """A part by its attribute's name, or why it is missing; None if it was not requested."""
        parts = {
            "acceptance": self.acceptance,
            "calibration": self.calibration,
            "prediction_sets": self.prediction_sets,
        }
        return parts[name] or self.refusals.get(name)

    def with_files(self, folder: Path, files: Sequence[str]) -> Evaluation:
        """The same evaluation with the written files."""
        return replace(self, folder=folder, files=tuple(files))

    def to_json(self) -> dict[str, object]:
        """The JSON document that ``medtask evaluate --json`` prints; it contains no record text."""
        gold, refused = self.summary.gold, self.refusals.get("acceptance")
        parts: dict[str, Any] = {
            "calibration": self.get_part("calibration"),
            "prediction_sets": self.get_part("prediction_sets"),
            "readers": self.annotators,
        }
        document: dict[str, object] = {
            "n": self.n,
            "statuses": {str(status): rows for status, rows in self.statuses.items()},
            "metrics": metrics_to_json(self.metrics),
            "acceptance": self.acceptance.to_json() if self.acceptance else None,
            **({"acceptance_refused": refused.to_json()} if refused else {}),
            "kind": self.summary.kind,
            "gold": gold.counts_to_json() if gold else None,
            "reliability": gold.reliability.to_json() if gold and gold.reliability else None,
            **{name: part.to_json() if part else None for name, part in parts.items()},
            "triage": self.triage._asdict() if self.triage else None,
            "baselines": {baseline.name: baseline.to_json() for baseline in self.baselines},
            "details": self.summary.to_json(),
            "notes": list(self.notes),
            "cells": {name: counts.to_json() for name, counts in self.cells.items()},
        }
        if self.folder:
            document |= {"folder": str(self.folder), "files": list(self.files)}
        return document


def evaluate_answers(
    answers: AnswerTable,
    options: EvaluationOptions = _METRICS_ONLY,
    baseline_settings: BaselineSettings | None = None,
) -> Evaluation:
    """Compute all parts that the options request.

    Raises UsageError if gold or probabilities that a part needs are missing, and InputError if no
    value of gold is a valid answer.
    """
    _check_options(answers, options)
    summary = summarize_answers(answers, options.seed)
    _check_gold(answers, summary)
    cells = answers.count_cells(options.readers or ())
    notes, refusals = list(answers.notes), dict[str, Refusal]()
    notes += [line for name, counts in cells.items() for line in counts.describe(name)]
    acceptance = (
        _find_acceptance(answers, summary, options) if options.max_error is not None else None
    )
    if isinstance(acceptance, Refusal):
        refusals["acceptance"], acceptance = acceptance, None
    if answers.has_gold and (
        reuse_warning := describe_gold_reuse(answers.manifest.get("calibration"), answers.name)
    ):
        notes.append(reuse_warning)
    calibration, saved_calibration = (
        _fit_calibration(answers, options) if options.calibrate else (None, None)
    )
    if isinstance(calibration, Refusal):
        refusals["calibration"], calibration = calibration, None
    annotators = (
        compare_annotator_columns(answers, options.readers, options.seed)
        if options.readers
        else None
    )
    if options.readers and annotators is None:
        notes.append(
            f"no row has an answer of both {options.readers[0]} and {options.readers[1]}: the "
            "annotators are not compared"
        )
    settings = baseline_settings or BaselineSettings(options.seed)
    baselines = evaluate_baselines(answers.task, summary, settings) if options.baselines else ()
    prediction_sets = _fit_prediction_sets(answers, options) if options.sets is not None else None
    if isinstance(prediction_sets, Refusal):
        refusals["prediction_sets"], prediction_sets = prediction_sets, None
    return Evaluation(
        answers=answers,
        summary=summary,
        baselines=baselines,
        acceptance=acceptance,
        calibration=calibration,
        prediction_sets=prediction_sets,
        refusals=refusals,
        saved_calibration=saved_calibration,
        annotators=annotators,
        notes=tuple(notes),
        cells=cells,
    )


def summarize_answers(answers: AnswerTable, seed: int = 0) -> RunSummary:
    """Compute the statistics for a report."""
    accumulator = create_summary_accumulator(answers.task, has_gold=answers.has_gold, seed=seed)
    for row in answers.rows():
        accumulator.add(row)
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
            f"{requested[0]} needs rows with gold, and no gold is named",
            fix="name them with --gold COLUMN or --gold FILE",
        )
    if options.by_class and (answers.task.several or answers.task.kind_spec.generated):
        raise UsageError(
            "--by-class needs answers that are one label, and this task has other answers",
            fix="leave --by-class out: one threshold then holds for all answers together",
        )


def _check_gold(answers: AnswerTable, summary: RunSummary) -> None:
    """Raise InputError if gold has values, and none is valid: its column is another one."""
    gold = summary.gold
    if answers.gold is None or gold is None or gold.rows or gold.left_out or not gold.unknown:
        return
    # The values are not shown: they may be record text.
    raise InputError(
        f"no value of gold in {answers.gold.source} is {answers.task.kind_spec.gold_noun}",
        fix="name the right column with --gold, or write its values as the task does",
    )


def _refuse_without_rows(
    answers: AnswerTable, reason: str, measured: Iterable[AnsweredRow] = ()
) -> Refusal:
    """The refusal if no row can be used: ``reason``, or that all rows with gold are left out."""
    if not answers.left_out or next(iter(measured), None):
        return Refusal(reason, 0)
    known = "no row with gold is new to the model and its calibration"
    return Refusal(explain_no_rows(answers.count_left_out(), known), 0)


def _find_acceptance(
    answers: AnswerTable, summary: RunSummary, options: EvaluationOptions
) -> Acceptance | Refusal:
    scored_rows = summary.gold.scored_rows if summary.gold else None
    if scored_rows is None or not len(scored_rows.rows):
        return _refuse_without_rows(answers, "no row has usable gold")
    if np.isnan(scored_rows.confidence).all():
        reason = "no answer has a confidence, so answers cannot be ordered by it"
        return Refusal(
            f"{reason} (for free text, see medtask judge)"
            if KINDS[summary.kind].free_text
            else reason,
            len(scored_rows.rows),
        )
    assert options.max_error is not None
    return find_acceptance(
        GoldConfidences(
            scored_rows.confidence,
            scored_rows.right,
            scored_rows.groups,
            scored_rows.classes if options.by_class else None,
            scored_rows.class_names,
        ),
        max_error=options.max_error,
        level=options.level,
        seed=options.seed,
    )


def _fit_calibration(
    answers: AnswerTable, options: EvaluationOptions
) -> tuple[Calibration | Refusal, SavedCalibration | None]:
    from medtask.evaluation.calibration.fitting import (
        drop_if_decisions_worse,
        fit_batch_calibration,
        fit_calibration,
    )

    if refusal := refuse_student(answers):
        return refusal, None
    names, exclusive = list_outcomes(answers.task), not answers.task.several
    if options.calibrate == "batch" and not exclusive:
        reason = "batch calibration assumes one answer per row, and this task has several"
        return Refusal(f"{reason} (with gold, use --calibrate auto)", 0), None
    is_batch = options.calibrate == "batch"
    measured = select_measured(answers.rows(), accepted=CALIBRATION_ROWS)
    probabilities, gold, groups = collect_probabilities(
        answers, answers.rows() if is_batch else measured, names, with_gold=not is_batch
    )
    if not len(probabilities):
        if is_batch:
            return Refusal("no row has probabilities", 0), None
        rows = select_measured(answers.rows(), accepted=CALIBRATION_ROWS)
        return _refuse_without_rows(answers, _NO_PROBABILITIES, rows), None
    if is_batch:
        calibration = fit_batch_calibration(probabilities, names)
        if answers.has_gold and not isinstance(calibration, Refusal):
            known, gold, _ = collect_probabilities(answers, measured, names, with_gold=True)
            if len(known):
                calibration = drop_if_decisions_worse(
                    calibration, known, gold, LabelSet(names, exclusive)
                )
    else:
        assert options.calibrate is not None
        calibration = fit_calibration(
            probabilities,
            gold,
            LabelSet(names, exclusive, get_task_kind(answers.task).thresholds),
            method=options.calibrate,
            groups=groups,
            seed=options.seed,
        )
    if isinstance(calibration, Refusal) or not calibration.calibrated:
        return calibration, None
    saved = describe_calibration_source(answers, calibration)
    return calibration, replace(saved, rows=None) if is_batch else saved


def describe_calibration_source(answers: AnswerTable, calibration: Calibration) -> SavedCalibration:
    """A calibration with its task, model and the rows with gold that it was fitted on."""
    return SavedCalibration(
        calibration,
        answers.task.fingerprint,
        select_model_facts(answers.manifest.get("identity", {})),
        str(answers.manifest.get("model", {}).get("title", "")),
        answers.name,
        get_timestamp(),
        _fingerprint_gold_rows(answers, calibration),
    )


def _fingerprint_gold_rows(answers: AnswerTable, calibration: Calibration) -> RowFingerprints:
    """The fingerprints of the rows that a calibration was fitted on."""
    keys = (
        make_answered_row_key(answers.task, row)
        for row in select_measured(answers.rows(), accepted=CALIBRATION_ROWS)
    )
    # A temperature keeps the order of exclusive outcomes, so it changes no answer.
    keeps_answers = calibration.method == "temperature" and calibration.exclusive
    salt = str(answers.manifest.get("data", {}).get("sha256", answers.name))
    return fingerprint_rows(keys, "confidence" if keeps_answers else "calibration", salt)


def _fit_prediction_sets(
    answers: AnswerTable, options: EvaluationOptions
) -> PredictionSets | Refusal:
    from medtask.evaluation.calibration.prediction_sets import fit_prediction_sets

    names = list_outcomes(answers.task)
    rows = select_measured(answers.rows())
    probabilities, gold, groups = collect_probabilities(
        answers, rows, names, with_gold=True, uncalibrated=False
    )
    if not len(probabilities):
        rows = select_measured(answers.rows())
        return _refuse_without_rows(answers, _NO_PROBABILITIES, rows)
    assert options.sets is not None
    return fit_prediction_sets(
        probabilities, gold, miss=options.sets, groups=groups, seed=options.seed
    )
