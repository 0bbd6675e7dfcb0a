"""`Task` and its parts: the complete result of reading a task file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from medtask.kinds import KINDS, KindName, KindSpec
from medtask.records import LETTERS, Status, Value
from medtask.tasks.document import SourceLines


@dataclass(frozen=True, slots=True)
class Label:
    """One allowed answer. ``verbalizer`` is what the model would write for it: the name, or a short
    code.
    """

    name: str
    definition: str
    verbalizer: str


@dataclass(frozen=True, slots=True)
class Example:
    """A worked row that is shown to the model: the columns that the task uses, and the right
    answer.
    """

    fields: Mapping[str, object]
    answer: Value


@dataclass(frozen=True, slots=True)
class Review:
    """When a row goes to a person although it has an answer. Both bounds are probabilities in [0,
    1].
    """

    confidence_below: float = 0.5
    off_set_above: float = 0.9


@dataclass(frozen=True, slots=True)
class SingleLabel:
    """Kind ``label``: exactly one label. ``readout``: whether the model writes its name or a short
    code.
    """

    kind: ClassVar[KindName] = "label"
    several: ClassVar[bool] = False
    max_tokens: ClassVar[int] = 0
    readout: Literal["name", "code"] = "name"

    def list_outcomes(self, candidates: Sequence[str]) -> tuple[str, ...]:
        """The names of the candidates."""
        return tuple(candidates)


@dataclass(frozen=True, slots=True)
class MultiLabel:
    """Kind ``labels``: any of the labels, each decided by itself.

    A label applies from its threshold on (``thresholds``, by name; 0.5 where it has none). ``fit``:
    thresholds are fitted on gold, for each label's best F1, or for the highest one that still finds
    ``recall_floor`` of its gold rows.
    """

    kind: ClassVar[KindName] = "labels"
    several: ClassVar[bool] = True
    max_tokens: ClassVar[int] = 0
    at_least_one: bool = False
    at_most: int | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    fit: Literal["f1", "recall"] | None = None
    recall_floor: float = 0.9

    def list_outcomes(self, candidates: Sequence[str]) -> tuple[str, ...]:
        """The names of the labels."""
        return tuple(candidates)


@dataclass(frozen=True, slots=True)
class MultipleChoice:
    """Kind ``choice``: the row brings its options, 2 to 26, in one column (mapping, list or text)
    or one column each.

    ``several``: more than one may be right; each is then decided by itself. ``readout``: by the
    probability of the option's letter, or of its text; ``normalise`` divides a text's
    log-likelihood by its number of characters. ``debias``: letters are asked for in every cyclic
    order of the options, and averaged.
    """

    kind: ClassVar[KindName] = "choice"
    max_tokens: ClassVar[int] = 0
    columns: tuple[str, ...]
    several: bool = False
    readout: Literal["letter", "text"] = "letter"
    normalise: bool = True
    debias: Literal["none", "permute"] = "none"

    def list_outcomes(self, candidates: Sequence[str]) -> tuple[str, ...]:
        """All letters that a row may use."""
        return LETTERS


@dataclass(frozen=True, slots=True)
class FreeText:
    """Kind ``answer``: the model writes. ``sections``: tagged parts that it writes one after the
    other, the last of which is the answer. ``context``: a column that is shown before the input.
    Sampling: see Limits.
    """

    kind: ClassVar[KindName] = "answer"
    several: ClassVar[bool] = False
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    context: str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def list_outcomes(self, candidates: Sequence[str]) -> tuple[str, ...]:
        """Nothing: a text has no probability."""
        return ()


@dataclass(frozen=True, slots=True)
class ScoredField:
    """An enum or boolean field: ``path`` of its keys from the root, and its values (JSON scalars)
    in the schema's order.
    """

    path: tuple[str, ...]
    values: tuple[object, ...]

    @property
    def outcomes(self) -> tuple[str, ...]:
        """``stage=II`` for each value: the names under which their probabilities are kept."""
        path = ".".join(self.path)
        return tuple(
            f"{path}={value if isinstance(value, str) else json.dumps(value)}"
            for value in self.values
        )


@dataclass(frozen=True, slots=True)
class Fields:
    """Kind ``fields``: an object that satisfies a JSON ``schema``.

    The schema is as engines get it (see Limits): every object closed, keys in the order in which
    they are written. ``scored``: the enum and boolean fields that get probabilities. ``quoted``:
    paths of the fields whose span of the record is asked for, which stands beside them under
    ``<field>_quote`` in what the model writes and not in the answer.
    """

    kind: ClassVar[KindName] = "fields"
    several: ClassVar[bool] = False
    schema: Mapping[str, object]
    scored: tuple[ScoredField, ...] = ()
    quoted: tuple[tuple[str, ...], ...] = ()
    max_tokens: int = 512

    def list_outcomes(self, candidates: Sequence[str]) -> tuple[str, ...]:
        """``field=value`` for each value of the fields that are scored."""
        return tuple(outcome for one in self.scored for outcome in one.outcomes)


AnswerSpec = SingleLabel | MultiLabel | MultipleChoice | FreeText | Fields


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The model thinks before it answers: at most ``budget`` tokens, and ``deadline_s`` seconds a
    row where given.
    """

    budget: int
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """Which rows never reach the model, and what becomes of those that are too long for it.

    ``novelty``: rows whose greatest similarity (TF-IDF cosine, in [0, 1]) to any example is below
    it are not asked. ``too_long``: give up, keep the beginning and the end, or read overlapping
    parts and combine their scores: their mean, the greatest (then made to sum to 1), or each part's
    decision counted as one vote.
    """

    min_words: int = 0
    novelty: float | None = None
    too_long: Literal["error", "head_tail", "chunk"] = "error"
    combine: Literal["mean", "max", "vote"] = "mean"


@dataclass(frozen=True, slots=True, eq=False)
class ExamplePool:
    """A table of worked rows from which each row is shown the ``k`` nearest. ``texts``: their
    inputs, as rendered.
    """

    examples: tuple[Example, ...]
    texts: tuple[str, ...]
    k: int
    by: Literal["tfidf", "minilm"] = "tfidf"


@dataclass(frozen=True, slots=True)
class PassCondition:
    """Which answers of the pass before are asked about again: those that meet any of the
    conditions.
    """

    confidence_below: float | None = None
    status: tuple[Status, ...] = ()
    answer_in: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pass:
    """A further pass: ``task`` is the whole question as this pass asks it, of the same kind as the
    first.
    """

    name: str
    when: PassCondition
    task: Task
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One question, asked of every row.

    ``answer_spec`` is what kind of question it is. ``labels`` are all allowed answers of kinds
    ``label`` and ``labels``, in the file's order; the other kinds have none. ``abstain`` is an
    answer the model may also give; a row that gets it has no value. ``input`` is a Jinja template
    over the row's columns. ``examples`` are shown to every row, those of ``pool`` to the rows that
    they resemble. ``phi``: the table holds patients' data, which must not leave this machine; None
    where the file does not say.
    ``passes`` come after this one, in their order. ``id_column`` None: rows are numbered. Rows with
    the same value in ``group_column`` (a patient, say) are not independent. ``fingerprint`` is the
    SHA-256 of everything here that can change an answer.
    """

    name: str
    instruction: str
    input: str
    answer_spec: AnswerSpec = field(default_factory=SingleLabel)
    labels: tuple[Label, ...] = ()
    abstain: Label | None = None
    examples: tuple[Example, ...] = ()
    pool: ExamplePool | None = None
    reasoning: Reasoning | None = None
    gate: Gate = field(default_factory=Gate)
    phi: bool | None = None
    passes: tuple[Pass, ...] = ()
    review: Review = field(default_factory=Review)
    id_column: str | None = None
    gold_column: str | None = None
    group_column: str | None = None
    data: Path | None = None
    model: str | None = None
    source: Path | None = None
    source_lines: SourceLines | None = field(default=None, repr=False, compare=False)
    warnings: tuple[str, ...] = ()
    fingerprint: str = ""

    def __hash__(self) -> int:
        # Examples hold mappings, which have no hash of their own.
        return hash((self.name, self.fingerprint))

    @property
    def kind(self) -> KindName:
        return self.answer_spec.kind

    @property
    def kind_spec(self) -> KindSpec:
        """What code of every layer may know about the kind of this question."""
        return KINDS[self.kind]

    @property
    def several(self) -> bool:
        """Whether an answer is a set of names, any number of which may apply; else their
        probabilities sum to 1.
        """
        return self.answer_spec.several

    @property
    def abstain_name(self) -> str | None:
        """The name of the abstention; None where the model has to answer."""
        return self.abstain.name if self.abstain else None

    @property
    def candidates(self) -> tuple[Label, ...]:
        """The labels, and the abstention where there is one: what the model chooses from."""
        return (*self.labels, self.abstain) if self.abstain else self.labels

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Whatever can get a probability, by name: labels, letters, ``field=value``; nothing for
        free text.
        """
        return self.answer_spec.list_outcomes([label.name for label in self.candidates])
