"""A task's labels, examined with all that is at hand: their words, a run's answers, a model."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from medtask.decision.prior import CONTENT_FREE, OPTIONS, measure_prior
from medtask.engines.base import Engine
from medtask.errors import InputError, MissingExtra, UsageError
from medtask.evaluate.findings.bias import Bias
from medtask.evaluate.findings.pairs import PairCounts
from medtask.evaluate.findings.use import OffSet
from medtask.evaluate.intervals import Estimate, estimate_share
from medtask.evaluate.label_doctor import Examination, examine, examine_letters
from medtask.records import Fault, Meaning, Record, Value, settle_value
from medtask.similarity import describe_meaning, encode
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import AnyLabels, Choice, OneLabel, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medtask.runs.answered import AnsweredRow, Answers

_NO_RUN = (
    "answers: name a run with --run to see which labels are never answered, and which are confused"
)
_NO_GOLD = (
    "gold: without it nothing can be said of confused pairs and merges; name its column with --gold"
)
_GROUPS = (
    "groups: their rows count as independent here, so that intervals are too narrow where "
    "they are not"
)
_NO_MODEL = (
    "a model's tokens, and what it prefers with nothing to read: name it with --model, "
    "or the run's own with --prior"
)


def examine_task(
    task: Task, answers: Answers | None = None, engine: Engine | None = None
) -> Examination:
    """What is wrong with a task's labels. Of kind ``choice``, whose options come with the rows,
    what the model prefers by letter.

    UsageError for kinds without a set to choose from; MedtaskError for a model that cannot be
    asked.
    """
    if isinstance(task.form, Choice):
        return _examine_choice(task, task.form, answers, engine)
    if not isinstance(task.form, OneLabel | AnyLabels):
        fix = "name a task of the kind label, labels or choice"
        raise UsageError(
            f"{task.name} is of the kind {task.kind}: it has no set of labels that could be "
            "examined",
            fix=fix,
        )
    gaps = [] if engine else [_NO_MODEL]
    vectors = _encode(task, gaps)
    tally = None
    if answers is None:
        gaps.append(_NO_RUN)
    else:
        tally = count_answers(task, answers.rows())
        gaps += _find_other_labels(task, answers)
        if not tally.gold_rows:
            gaps.append(_NO_GOLD)
        if task.group_column or answers.task.group_column:
            gaps.append(_GROUPS)
    tokens, lowered = read_tokens(task, engine) if engine else ({}, {})
    if engine and not tokens:
        gaps.append(f"tokens: {engine.info.title} reads none")
    return examine(
        [Meaning(label.name, label.definition) for label in task.labels],
        abstain=task.abstention,
        exclusive=isinstance(task.form, OneLabel) or task.form.at_least_one,
        vectors=vectors,
        tally=tally,
        off_set=_read_off_set(answers, task.review.off_set_above) if answers else None,
        tokens=tokens,
        lowered=lowered,
        bias=_measure_bias(task, engine, tally) if engine else None,
        gaps=gaps,
    )


def count_answers(task: Task, rows: Iterable[AnsweredRow]) -> PairCounts:
    """Rows of the kinds ``label`` and ``labels``, counted; an abstention is the answer whose name
    the abstention has.
    """
    names = tuple(label.name for label in task.candidates)
    tally = PairCounts(names, task.abstention, unsure_below=task.review.confidence_below)
    for row in rows:
        tally.add(
            _name(settle_value(row.answer.status, row.answer.value, task.abstention)),
            _name(row.gold),
            row.answer.confidence,
        )
    return tally


def read_tokens(task: Task, engine: Engine) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Each label's tokens as a continuation of the prompt, and how many it would take in lower case
    where it is written otherwise.

    Both empty for engines that read no tokens. Of kind ``labels`` it is the names at the head of
    their yes-or-no questions.
    """
    named = {
        label.name: label.say if isinstance(task.form, OneLabel) else label.name
        for label in task.candidates
    }
    found = _render(task, engine, list(named.values()))
    if found is None:
        return {}, {}
    taken = set(named.values())
    # By text: a candidate may not stand twice in a branch.
    lower = {text.lower(): name for name, text in named.items() if text.lower() not in taken}
    variants = _render(task, engine, list(lower)) if lower else ()
    lowered = {name: len(own) for name, own in zip(lower.values(), variants or (), strict=False)}
    return dict(zip(named, found, strict=True)), lowered


def _render(task: Task, engine: Engine, texts: list[str]) -> tuple[tuple[int, ...], ...] | None:
    prompt = build_prompt(
        replace(task, reasoning=None), Record("content-free", {}), CONTENT_FREE[0]
    )
    if isinstance(prompt, Fault):
        raise InputError(
            f"the task's prompt cannot be made: {prompt.reason}", fix="medtask check says more"
        )
    branch = replace(
        prompt.branches[0], lead="", tails=tuple(texts), meanings=tuple(map(Meaning, texts))
    )
    rendering = engine.render(replace(prompt, branches=(branch,)))
    return rendering.candidate_tokens if rendering else None


def _examine_choice(
    task: Task, form: Choice, answers: Answers | None, engine: Engine | None
) -> Examination:
    gap = "the options themselves: they come with the rows, and there is no set of labels"
    if engine is None:
        raise UsageError(
            f"{task.name} is of the kind choice: its options come with the rows, and only a "
            "model's leaning to letters can be examined",
            fix="name a model with --model, or the run's own with --prior",
        )
    letters: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    answered = 0
    for row in answers.rows() if answers else ():
        answered += row.answer.value is not None
        sizes[len(row.options)] += 1
        letters.update(_name(row.gold) or ())
    options = next((size for size, _ in sizes.most_common() if size > 1), OPTIONS)
    prior = measure_prior(task, engine, options=options)
    n = letters.total() if not form.several else 0
    gold = {letter: estimate_share(letters[letter], n) for letter in prior.shares} if n else {}
    bias = Bias(
        prior.shares,
        not form.several,
        prior.inputs,
        {letter: share for letter, share in gold.items() if share},
        noun="letter",
    )
    return examine_letters(bias, answered, [gap])


def _measure_bias(task: Task, engine: Engine, tally: PairCounts | None) -> Bias:
    prior = measure_prior(task, engine)
    return Bias(
        prior.shares,
        isinstance(task.form, OneLabel),
        prior.inputs,
        dict(_list_prevalence(tally, prior.shares)),
    )


def _list_prevalence(
    tally: PairCounts | None, shares: Mapping[str, float]
) -> Iterator[tuple[str, Estimate]]:
    rows: Counter[str] = Counter()
    for (gold, _), count in tally.pairs.items() if tally else ():
        rows.update(dict.fromkeys(gold, count))
    for name in shares:
        share = estimate_share(rows[name], tally.gold_rows) if tally else None
        if share:
            yield name, share


def _encode(task: Task, gaps: list[str]) -> NDArray[np.float32] | None:
    try:
        return encode([describe_meaning(label.name, label.definition) for label in task.labels])
    except MissingExtra as error:
        gaps.append(f"meanings: {error} ({error.fix})")
        return None


def _find_other_labels(task: Task, answers: Answers) -> list[str]:
    """Where the run was asked about other labels than the task has today."""
    asked = answers.manifest.get("task", {}).get("question", {}).get("labels")
    if asked is None or {label["name"] for label in asked} == {label.name for label in task.labels}:
        return []
    return [
        "answers whose labels the task no longer has: the run was asked about another set of labels"
    ]


def _name(value: Value | None) -> tuple[str, ...] | None:
    if value is None or isinstance(value, Mapping):
        return None
    return (value,) if isinstance(value, str) else value


def _read_off_set(answers: Answers, bound: float) -> OffSet | None:
    """From the numbers of the run's report; None where it has none. The bound is that of the bin
    that it lies in.
    """
    if answers.folder is None:
        return None
    try:
        told = json.loads((answers.folder / "report.json").read_bytes())["off_set"]
        bins, mean = [int(count) for count in told["bins"]], told["mean"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if not sum(bins) or mean is None:
        return None
    first = min(len(bins) - 1, math.ceil(bound * len(bins) - 1e-9))
    return OffSet(sum(bins), sum(bins[first:]), first / len(bins), float(mean))
