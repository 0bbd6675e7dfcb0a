"""Kind ``choice``: one of the options that a row brings with it, or several of them, by their
letters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from medtask.evaluate.blocks import Bar, Bars, Block, Heading, Table, Text
from medtask.evaluate.intervals import Counts, Estimate, estimate_share
from medtask.evaluate.kinds.figures import tell_figures, warn_of_groups
from medtask.evaluate.kinds.kind import RowGrade, Sample
from medtask.evaluate.kinds.label import (
    count_cells,
    explain_figures,
    list_figures,
    place_in_tops,
    tell_accuracy,
    tell_confusion,
    tell_labels,
)
from medtask.evaluate.kinds.labels import explain_sets, list_set_figures, tell_sets
from medtask.evaluate.metrics import TOPS, Quality, grade_cells
from medtask.evaluate.sets import SetCounts, SetQuality
from medtask.evaluate.tally import Tally
from medtask.evaluate.words import percent
from medtask.records import LETTERS, Answer, Option, Status, Value

MOST_LETTERS = 10  # with more, a table of letter by letter is mostly empty
# by how much a letter's share of the answers is above its share of gold, to be called a leaning
LEANING = 0.1


@dataclass(frozen=True, slots=True)
class ChoiceShape:
    """Rows by letter: those that ``offered`` it, those whose answer has it (``rows``), of
    ``answered`` rows with an answer.
    """

    rows: Mapping[str, int]
    offered: Mapping[str, int]
    answered: int

    def to_json(self) -> dict[str, object]:
        return {
            "letters": dict(self.rows),
            "offered": dict(self.offered),
            "answered": self.answered,
        }

    def tell(self, manifest: Mapping[str, object]) -> list[Block]:
        if not self.answered:
            return [Text("No row got an answer.")]
        peak = max(1, *self.rows.values(), *self.offered.values())
        lines = [
            Bar(
                letter,
                self.rows.get(letter, 0) / peak,
                (
                    f"{offered:,}",
                    f"{self.rows.get(letter, 0):,}",
                    percent(self.rows.get(letter, 0) / self.answered),
                ),
            )
            for letter, offered in self.offered.items()
        ]
        return [
            Bars(("Letter", "On offer", "Answered", "Share"), tuple(lines)),
            Text(
                "Letters stand for other options in every row; a model that leans to one of them "
                "answers by place and not by content.",
                "quiet",
            ),
        ]

    def say(self) -> None:
        return None


class ChoiceShaper:
    """Counts rows by letter."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._offered: Counter[str] = Counter()
        self._answered = 0

    def add(self, answer: Answer, options: Sequence[Option]) -> None:
        letters = read_letters(answer.value)
        if letters is not None:
            self._answered += 1
            self._rows.update(letters)
            self._offered.update({option.letter for option in options} | set(letters))

    def finish(self) -> ChoiceShape:
        return ChoiceShape(
            dict(sorted(self._rows.items())), dict(sorted(self._offered.items())), self._answered
        )


@dataclass(frozen=True, slots=True, eq=False)
class GradedChoices:
    """``quality`` is of kind Quality where one option is right, of kind SetQuality where several
    may be.

    ``letters``: by letter, the rows that have it in gold and in the answer. ``confusion``: gold by
    answer, the last column for "no answer"; None where several may be right.
    """

    quality: Quality | SetQuality
    letters: Mapping[str, tuple[int, int]]
    answered: int
    confusion: Counts | None

    @property
    def figures(self) -> Mapping[str, Estimate | None]:
        if isinstance(self.quality, Quality):
            return list_figures(self.quality)
        figures = list_set_figures(self.quality)
        return {measure: figures[measure] for measure in dict.fromkeys((*self.headlines, *figures))}

    @property
    def headlines(self) -> tuple[str, ...]:
        return (
            ("accuracy",)
            if isinstance(self.quality, Quality)
            else ("exact_match", "jaccard", "micro_f1")
        )

    @property
    def right(self) -> Estimate | None:
        return (
            self.quality.accuracy_answered
            if isinstance(self.quality, Quality)
            else self.quality.exact_answered
        )

    def to_json(self) -> dict[str, object]:
        figures = {
            measure: asdict(figure) if figure else None for measure, figure in self.figures.items()
        }
        letters = {
            letter: {"gold": gold, "answered": given}
            for letter, (gold, given) in self.letters.items()
        }
        return {
            "quality": figures,
            "letters": letters,
            "by_letter": [asdict(one) for one in self.quality.labels],
        }

    def tell(self) -> list[str]:
        return (
            tell_accuracy(self.quality, "an answer")
            if isinstance(self.quality, Quality)
            else tell_sets(self.quality)
        )

    def caveats(self) -> list[str]:
        return [*self._tell_leaning(), *warn_of_groups(self.quality.groups)]

    def _tell_leaning(self) -> list[str]:
        rows = self._rows
        if not self.answered or not rows:
            return []
        gaps = {
            letter: given / self.answered - gold / rows
            for letter, (gold, given) in self.letters.items()
        }
        letter = max(gaps, key=lambda one: (gaps[one], one))
        gold, given = self.letters[letter]
        chance = estimate_share(given, self.answered)
        if (
            gaps[letter] < LEANING
            or chance is None
            or chance.low is None
            or chance.low <= gold / rows
        ):
            return []
        return [
            f"It leans to the letter {letter}: {percent(given / self.answered)} of its answers, "
            "where gold has it in "
            f"{percent(gold / rows)} of the rows. debias: permute asks for every order of the "
            "options."
        ]

    @property
    def _rows(self) -> int:
        """Rows with gold that counts."""
        return next(figure.n for figure in self.figures.values() if figure)

    def explain(self) -> str:
        if isinstance(self.quality, Quality):
            return (
                f"{explain_figures(self.quality)} Labels are the options’ letters here. Guessing "
                "is right as often as one draw from "
                "each row’s options would be. Differences are judged row by row (McNemar’s exact "
                "test; guessing by a binomial test; p "
                "below 0.05)."
            )
        return (
            f"{explain_sets(self.quality)} Labels are the options’ letters here. Differences in "
            "exact match are judged row by row "
            "(McNemar’s exact test, p below 0.05)."
        )

    def detail(self) -> list[Block]:
        rows, given_rows = self._rows, max(1, self.answered)
        lines = [
            (letter, f"{gold:,}", percent(gold / rows), f"{given:,}", percent(given / given_rows))
            for letter, (gold, given) in self.letters.items()
        ]
        head = ("In gold", "Share", "Answered", "Share of answers")
        table = Table(
            "Letters in gold and in answers",
            (("Letter", ""), *((title, "n") for title in head)),
            lines,
        )
        blocks: list[Block] = [Heading("Does the place of an option decide?"), table]
        if self.confusion is not None and 2 < len(self.letters) <= MOST_LETTERS:
            blocks += [
                *tell_confusion(self.confusion, LETTERS),
                *tell_labels(self.quality.labels, "letter"),
            ]
        return [*tell_figures(self.figures), *blocks]


class ChoiceGrader:
    """Letters by gold and answer; gold that is none of the row's letters is no truth."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._index = {letter: place for place, letter in enumerate(LETTERS)}
        self._tally = Tally()  # of gold, answer, and which of TOPS gold is among
        self._fewest: int | None = None  # options of any row that has probabilities
        self._sets = SetCounts(LETTERS)
        self._several = False
        self._answered = 0
        self._gold: Counter[str] = Counter()
        self._given: Counter[str] = Counter()

    def read(self, gold: Value, options: Sequence[Option]) -> Value | None:
        letters = read_letters(gold)
        # A row whose options could not be read was asked nothing; its gold can still be a letter.
        allowed = {option.letter for option in options} or set(LETTERS)
        if not letters or not allowed.issuperset(letters):
            return None
        return tuple(sorted(set(letters))) if isinstance(gold, tuple) else gold

    def settle(self, status: Status, value: Value | None) -> Value | None:
        return tuple(sorted(value)) if isinstance(value, tuple) else value

    def is_right(self, given: Value | None, truth: Value) -> bool:
        return given is not None and set(given) == set(truth)

    def add(
        self,
        given: Value | None,
        truth: Value,
        answer: Answer,
        group: str | None = None,
        options: Sequence[Option] = (),
    ) -> RowGrade:
        right, said = read_letters(truth) or (), read_letters(given)
        self._several |= isinstance(truth, tuple) or isinstance(given, tuple)
        self._sets.add(right, said, group, of=len(options) or len(answer.probabilities or ()))
        top = place_in_tops(right[0], answer.probabilities, self._index)
        if answer.probabilities:
            self._fewest = min(len(answer.probabilities), self._fewest or len(LETTERS))
        self._tally.add(
            (self._index[right[0]], self._index[said[0]] if said else len(LETTERS), top), group
        )
        self._answered += said is not None
        self._gold.update(right)
        self._given.update(said or ())
        return RowGrade(self.is_right(given, truth), answer.confidence or 0.0)

    def finish(self, sample: Sample) -> GradedChoices | None:
        letters = {
            letter: (self._gold[letter], self._given[letter])
            for letter in sorted(self._gold | self._given)
        }
        quality: Quality | SetQuality | None
        if self._several:
            gold, given = (
                [read_letters(value) for value in column]
                for column in (sample.gold, sample.answers)
            )
            quality = self._sets.grade(
                [truth or () for truth in gold], given, sample.groups, seed=self._seed
            )
            return GradedChoices(quality, letters, self._answered, None) if quality else None
        cells, units = self._tally.finish()
        # Of k options or fewer, the top k say nothing.
        tops = [size for size in TOPS if self._fewest and size < self._fewest]
        quality = grade_cells(cells, units, LETTERS, tops=tops, seed=self._seed)
        return (
            GradedChoices(quality, letters, self._answered, count_cells(cells, units, len(LETTERS)))
            if quality
            else None
        )


def read_letters(value: Value | None) -> tuple[str, ...] | None:
    """The letters of an answer or of gold; None where it is none."""
    letters = (value,) if isinstance(value, str) else value
    return (
        letters
        if isinstance(letters, tuple) and all(letter in LETTERS for letter in letters)
        else None
    )
