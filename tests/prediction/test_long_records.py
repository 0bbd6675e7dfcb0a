from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from medtask.engines.base import PromptPlan
from medtask.engines.fake import FakeEngine
from medtask.prediction.long_records import ELLIPSIS, split_text
from medtask.prediction.predictor import predict_uncalibrated
from medtask.prediction.probabilities import Probabilities, combine_probabilities
from medtask.records import Answer, BranchScores, Fault, Prompt, Record, Scores, Status
from medtask.tasks.task import Gate, Label, MultiLabel, Task

LABELS = tuple(Label(name, "", name) for name in ("curative", "palliative"))
TASK = Task("purpose", "Which purpose?", "{{ text }}", labels=LABELS)
LONG = " ".join(f"word{number}" for number in range(400))


class ShortContextEngine(FakeEngine):
    """Reads one word as one token, and at most ``context_words`` of them; keeps the texts that
    it could read.
    """

    def __init__(self, context_words: int = 100) -> None:
        super().__init__()
        self.room = context_words
        self.read_texts: list[str] = []

    def score(self, prompts: Sequence[Prompt], cached: Any = ()) -> Iterator[Scores | Fault]:
        short = [prompt for prompt in prompts if self._count(prompt) <= self.room]
        for prompt in prompts:
            if prompt not in short and prompt.record_id not in cached:
                yield Fault(
                    prompt.record_id,
                    Status.TOO_LONG,
                    f"{self._count(prompt)} tokens; the model reads at most {self.room}",
                )
        self.read_texts += [prompt.text for prompt in short]
        yield from super().score(short, cached)

    def plan(self, prompts: Sequence[Prompt]) -> PromptPlan:
        counts = tuple(self._count(prompt) for prompt in prompts)
        return PromptPlan(0, counts, 1.0, self.room, counts)

    def _count(self, prompt: Prompt) -> int:
        return sum(len(turn.content.split()) for turn in prompt.messages)


def answer_long(gate: Gate, engine: ShortContextEngine, task: Task = TASK) -> Answer:
    short, answer = predict_uncalibrated(
        replace(task, gate=gate),
        engine,
        [Record("1", {"text": "short"}), Record("2", {"text": LONG})],
    )
    assert short.status in (Status.OK, Status.REVIEW)
    return answer


def test_by_default_a_long_record_is_not_answered() -> None:
    answer = answer_long(Gate(), ShortContextEngine())
    assert (answer.status, answer.value) == (Status.TOO_LONG, None)


def test_the_beginning_and_the_end_are_read_as_one() -> None:
    engine = ShortContextEngine()
    answer = answer_long(Gate(too_long="head_tail"), engine)
    text = engine.read_texts[-1]
    assert text.startswith("word0 word1 ")
    assert text.endswith(" word399")
    assert ELLIPSIS in text
    assert answer.value in ("curative", "palliative")
    words = len(text.split()) - 1
    assert answer.reason is not None
    assert f"only its beginning and its end were read, {words} of 400 words" in answer.reason
    assert words > 55, "most of the room is used"


@pytest.mark.parametrize("rule", ["mean", "max", "vote"])
def test_overlapping_parts_cover_the_whole_text_and_are_combined(rule: Any) -> None:
    engine = ShortContextEngine()
    answer = answer_long(Gate(too_long="chunk", combine=rule), engine)
    parts = engine.read_texts[1:]
    assert len(parts) > 4
    assert set(" ".join(parts).split()) == set(LONG.split())
    assert answer.value in ("curative", "palliative")
    assert answer.probabilities is not None
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.reason is not None
    assert f"read in {len(parts)} overlapping parts, combined by" in answer.reason


class UncountedEngine(ShortContextEngine):
    """Refuses what is too long, as a server does, and counts no tokens."""

    def plan(self, prompts: Sequence[Prompt]) -> None:
        return None


@pytest.mark.parametrize("too_long", ["head_tail", "chunk"])
def test_lengths_are_tried_where_no_tokens_are_counted(too_long: Any) -> None:
    engine = UncountedEngine()
    answer = answer_long(Gate(too_long=too_long), engine)
    assert answer.status in (Status.OK, Status.REVIEW)
    assert answer.reason is not None and "too long for the model" in answer.reason
    read = " ".join(engine.read_texts)
    assert "word0 " in read and "word399" in read


class ChoosingEngine(UncountedEngine):
    """Chooses the first label where it reads word0, else the second, without probabilities."""

    def score(self, prompts: Sequence[Prompt], cached: Any = ()) -> Iterator[Scores | Fault]:
        texts = {prompt.record_id: prompt.text for prompt in prompts}
        for result in super().score(prompts, cached):
            if isinstance(result, Scores):
                chosen = (0.0, -math.inf)
                logprobs = chosen if "word0 " in texts[result.record_id] else chosen[::-1]
                result = replace(result, branches=(BranchScores(logprobs, choice_only=True),))
            yield result


def test_choices_without_probabilities_are_combined_without_probabilities() -> None:
    answer = answer_long(Gate(too_long="chunk"), ChoosingEngine())
    assert (answer.status, answer.value) == (Status.OK, "palliative")
    assert (answer.confidence, answer.probabilities) == (None, None)
    assert answer.reason is not None and answer.reason.endswith("combined by one vote each")


def test_parts_are_combined_label_by_label() -> None:
    task = replace(TASK, answer_spec=MultiLabel())
    answer = answer_long(Gate(too_long="chunk", combine="max"), ShortContextEngine(), task)
    assert isinstance(answer.value, tuple)


def test_a_record_of_which_not_even_a_word_fits_stays_too_long() -> None:
    answer = answer_long(Gate(too_long="head_tail"), ShortContextEngine(context_words=29))
    assert answer.status is Status.TOO_LONG


PARTS = [
    Probabilities({"a": 0.9, "b": 0.1}, 0.2, 0.0),
    Probabilities({"a": 0.4, "b": 0.6}, 0.4, 1e-5),
    Probabilities({"a": 0.4, "b": 0.6}, None, 0.0),
]


@pytest.mark.parametrize(
    ("rule", "exclusive", "share"),
    [
        ("mean", True, 1.7 / 3),
        ("max", True, 0.9 / 1.5),
        ("vote", True, 1 / 3),
        ("max", False, 0.9),
        ("vote", False, 1 / 3),
    ],
)
def test_combined_probabilities_follow_the_rule_of_the_kind(
    rule: str, exclusive: bool, share: float
) -> None:
    merged = combine_probabilities(PARTS, rule, exclusive)
    assert merged.by_outcome["a"] == pytest.approx(share)
    assert (merged.off_set, merged.slack) == (pytest.approx(0.3), 1e-5)


def test_no_part_of_a_long_record_is_blank() -> None:
    engine = ShortContextEngine(60)
    text = f"first{chr(10) * 1_500}{LONG}"
    (answer,) = predict_uncalibrated(
        replace(TASK, gate=Gate(too_long="chunk")), engine, [Record("1", {"text": text})]
    )
    assert answer.value is not None
    assert len(engine.read_texts) > 1
    assert all(engine.read_texts)


@given(st.text(alphabet="ab \n", min_size=2, max_size=300), st.integers(10, 60))
@example("aaaaaaaaaaa ", 10)
def test_parts_cover_the_text_and_have_at_most_the_given_length(text: str, characters: int) -> None:
    parts = list(split_text(text, Gate(too_long="chunk"), characters))
    assert all(len(part) <= characters for part in parts)
    assert sum(len("".join(part.split())) for part in parts) >= len("".join(text.split()))
