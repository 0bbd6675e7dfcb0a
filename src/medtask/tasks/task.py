"""`Task` and its parts: the complete result of reading a task file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from medtask.kinds import KINDS, KindName, KindSpec
from medtask.records import LETTERS, PROMPT_VERSION, Status, Value
from medtask.tasks.document import SourceLines

# Metadata of fields of specifications. A setting that was added later is in a task's fingerprint
# only where it is used, so that runs and models of earlier versions still belong to their tasks.
FINGERPRINTED_IF_SET = {"fingerprinted": "if set"}
STUDENT_PASS = "student"  # noqa: S105 - the name of the pass of a cascade's student
NOT_FINGERPRINTED = {"fingerprinted": "never"}  # changes how gold is read, and no answer


@dataclass(frozen=True, slots=True)
class Label:
    """One allowed answer. ``verbalizer`` is the text that a model writes for it: name or code."""

    name: str
    definition: str
    verbalizer: str


@dataclass(frozen=True, slots=True)
class Example:
    """A worked example: the columns that the task uses, the correct answer, and the group."""

    fields: Mapping[str, object]
    answer: Value
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """The probabilities in [0, 1] beyond which an answer is marked for human review."""

    confidence_below: float = 0.5
    off_set_above: float = 0.9


@dataclass(frozen=True, slots=True)
class SingleLabel:
    """Kind ``label``: exactly one label. ``readout``: the model writes the name or a short code."""

    kind: ClassVar[KindName] = "label"
    several: ClassVar[bool] = False
    max_tokens: ClassVar[int] = 0
    readout: Literal["name", "code"] = "name"

    def list_outcomes(self, candidates: Sequence[str]) -> tuple[str, ...]:
        """The names of the candidates."""
        return tuple(candidates)


@dataclass(frozen=True, slots=True)
class MultiLabel:
    """Kind ``labels``: any number of the labels, each decided independently.

    Attributes:
        at_least_one: Whether every row gets at least one label.
        at_most: The maximum number of labels; None for no limit.
        thresholds: The probability from which a label applies, by name; 0.5 for others.
        fit: Thresholds are fitted on gold: "f1" for each label's best F1, "recall" for the highest
            one with a recall of ``recall_floor``.
        recall_floor: The minimum recall for ``fit``.
        blank_gold: Whether a blank cell of gold says nothing about its row ("unlabelled"), or that
            no label applies ("none").
    """

    kind: ClassVar[KindName] = "labels"
    several: ClassVar[bool] = True
    max_tokens: ClassVar[int] = 0
    at_least_one: bool = False
    at_most: int | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    fit: Literal["f1", "recall"] | None = None
    recall_floor: float = 0.9
    blank_gold: Literal["unlabelled", "none"] = field(
        default="unlabelled", metadata=NOT_FINGERPRINTED
    )

    def list_outcomes(self, candidates: Sequence[str]) -> tuple[str, ...]:
        """The names of the labels."""
        return tuple(candidates)


GoldForm = Literal["letter", "text", "index0", "index1"]
GOLD_FORMS: tuple[GoldForm, ...] = ("letter", "text", "index0", "index1")


@dataclass(frozen=True, slots=True)
class MultipleChoice:
    """Kind ``choice``: 2 to 26 options given in each row.

    Attributes:
        columns: One column with a mapping, list or text, or one column per option.
        several: Whether more than one option may be correct; each is then decided independently.
        readout: Score the option's letter, or its text.
        normalise: Divide a text's log-likelihood by its number of characters.
        debias: "permute" scores letters in every cyclic order of the options and averages.
        at_least_one: With ``several``, whether every row gets at least one option.
        gold_is: What gold holds: letters or keys of options, their texts, or their numbers from 0
            or 1; None for letters, keys and texts, as far as they have one meaning.
    """

    kind: ClassVar[KindName] = "choice"
    max_tokens: ClassVar[int] = 0
    columns: tuple[str, ...]
    several: bool = False
    readout: Literal["letter", "text"] = "letter"
    normalise: bool = True
    debias: Literal["none", "permute"] = "none"
    at_least_one: bool = field(default=False, metadata=FINGERPRINTED_IF_SET)
    gold_is: GoldForm | None = field(default=None, metadata=NOT_FINGERPRINTED)

    def list_outcomes(self, candidates: Sequence[str]) -> tuple[str, ...]:
        """All letters that a row may use."""
        return LETTERS


@dataclass(frozen=True, slots=True)
class FreeText:
    """Kind ``answer``: the model writes text.

    Attributes:
        max_tokens: The maximum number of tokens.
        stop: Texts that end generation.
        sections: Tagged parts that are written in order; the last one is the answer.
        context: A column that is shown before the input.
        temperature: See `Limits`.
        top_p: See `Limits`.
        seed: See `Limits`.
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
        """No outcomes: free text has no probability."""
        return ()


@dataclass(frozen=True, slots=True)
class ScoredField:
    """An enum or boolean field: its ``path`` from the root, and its values in schema order."""

    path: tuple[str, ...]
    values: tuple[object, ...]

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The names of its outcomes, such as ``stage=II``, one per value."""
        path = ".".join(self.path)
        return tuple(
            f"{path}={value if isinstance(value, str) else json.dumps(value)}"
            for value in self.values
        )


@dataclass(frozen=True, slots=True)
class Fields:
    """Kind ``fields``: an object that satisfies a JSON schema.

    Attributes:
        schema: The schema for engines (see `Limits`): every object is closed, with keys in the
            order in which they are written.
        scored: The enum and boolean fields that get probabilities.
        quoted: Paths of the fields with a supporting quote. The model writes it as
            ``<field>_quote`` after the field; it is not part of the answer.
        max_tokens: The maximum number of tokens.
    """

    kind: ClassVar[KindName] = "fields"
    several: ClassVar[bool] = False
    schema: Mapping[str, object]
    scored: tuple[ScoredField, ...] = ()
    quoted: tuple[tuple[str, ...], ...] = ()
    max_tokens: int = 512

    def list_outcomes(self, candidates: Sequence[str]) -> tuple[str, ...]:
        """``field=value`` for each value of the scored fields."""
        return tuple(outcome for one in self.scored for outcome in one.outcomes)


AnswerSpec = SingleLabel | MultiLabel | MultipleChoice | FreeText | Fields


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Reasoning before the answer: at most ``budget`` tokens and ``deadline_s`` seconds per row."""

    budget: int
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """Which rows are rejected before the model, and how too long ones are handled.

    Attributes:
        min_words: The minimum number of words.
        novelty: Rows whose maximum similarity (TF-IDF cosine, in [0, 1]) to any example is lower
            are rejected.
        too_long: Fail, keep the beginning and the end, or read overlapping parts.
        combine: How scores of parts are combined: their mean, their maximum (normalised to sum to
            1), or a majority vote of the parts' decisions.
    """

    min_words: int = 0
    novelty: float | None = None
    too_long: Literal["error", "head_tail", "chunk"] = "error"
    combine: Literal["mean", "max", "vote"] = "mean"


@dataclass(frozen=True, slots=True, eq=False)
class ExamplePool:
    """A table of worked examples, of which each row is shown the ``k`` nearest of other groups.

    ``texts`` are their rendered inputs.
    """

    examples: tuple[Example, ...]
    texts: tuple[str, ...]
    k: int
    by: Literal["tfidf", "minilm"] = "tfidf"


@dataclass(frozen=True, slots=True)
class PassCondition:
    """Which answers of the previous pass are asked again: those that meet any of the conditions."""

    confidence_below: float | None = None
    status: tuple[Status, ...] = ()
    answer_in: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pass:
    """A further pass. ``task`` is the complete question of this pass, of the same kind as the
    first.
    """

    name: str
    when: PassCondition
    task: Task
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """One question for every row of a table.

    Attributes:
        name: The name of the task.
        instruction: The instruction at the beginning of the prompt.
        input: A Jinja template over the row's columns.
        answer_spec: The kind of the question and its settings.
        labels: All labels of kinds ``label`` and ``labels``, in the file's order; else empty.
        abstain: An answer for rows without a suitable label; such rows have no value.
        examples: Examples that are shown for every row.
        pool: Examples of which each row is shown the most similar.
        reasoning: The limits of reasoning; None without reasoning.
        gate: Which rows are rejected before the model.
        phi: Whether records are patient data, which must not leave this machine; None if not
            stated.
        passes: Further passes, in order.
        review: Which answers are marked for human review.
        keywords: Keywords of labels, for a baseline; see `medtask.keywords`.
        cascade_alpha: Share of rows in which a run's answer may differ from the model's, because a
            student answers for it; None for no cascade.
        id_column: The column of ids; None numbers the rows.
        gold_column: The column with the correct answers.
        group_column: Rows with the same value (such as a patient) are not independent.
        data: The table of the task.
        model: The reference of the task's model.
        tuning_rows: A file with the fingerprints of the rows that chose the words of the task; see
            `row_fingerprints`.
        source: The task file.
        source_lines: The line numbers of the task file.
        warnings: Settings that are valid but probably unintended.
        cut_texts: Those of the warnings that a run repeats: a comment ends a text.
        prompt_version: The version of its prompts; see `medtask.records.PROMPT_VERSION`.
        fingerprint: SHA-256 of everything here that can change an answer.
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
    keywords: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cascade_alpha: float | None = None
    id_column: str | None = None
    gold_column: str | None = None
    group_column: str | None = None
    data: Path | None = None
    model: str | None = None
    tuning_rows: Path | None = None
    source: Path | None = None
    source_lines: SourceLines | None = field(default=None, repr=False, compare=False)
    warnings: tuple[str, ...] = ()
    cut_texts: tuple[str, ...] = ()
    prompt_version: int = PROMPT_VERSION
    fingerprint: str = ""

    def __hash__(self) -> int:
        # Examples contain mappings, which are not hashable.
        return hash((self.name, self.fingerprint))

    @property
    def kind(self) -> KindName:
        return self.answer_spec.kind

    @property
    def kind_spec(self) -> KindSpec:
        """The properties of the question's kind for code of all layers."""
        return KINDS[self.kind]

    @property
    def several(self) -> bool:
        """Whether an answer is a set of names; if not, their probabilities sum to 1."""
        return self.answer_spec.several

    @property
    def abstain_name(self) -> str | None:
        """The name of the abstention; None if the task has none."""
        return self.abstain.name if self.abstain else None

    @property
    def candidates(self) -> tuple[Label, ...]:
        """The labels and, if there is one, the abstention."""
        return (*self.labels, self.abstain) if self.abstain else self.labels

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The names that can get a probability: labels, letters, ``field=value``; none for free
        text.
        """
        return self.answer_spec.list_outcomes([label.name for label in self.candidates])


def __getattr__(name: str) -> type:
    """Classes by the names that they have in pickles of earlier versions."""
    old_names: Mapping[str, type] = {"OneLabel": SingleLabel, "AnyLabels": MultiLabel}
    if name in old_names:
        return old_names[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
