from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.engines.fake import FakeEngine, load_fake
from medtask.engines.load_options import LoadOptions
from medtask.errors import EngineError, UsageError
from medtask.records import Branch, Fault, Message, Prompt, Scores, Status

CANDIDATES = (" curative", " palliative", " staging")


def make_prompt(text: str, record_id: str = "", candidates: tuple[str, ...] = CANDIDATES) -> Prompt:
    return Prompt(
        record_id or text,
        (Message("user", f"What is it for? {text}"),),
        (Branch("", candidates),),
        text,
    )


def score_logprobs(
    engine: FakeEngine, text: str = "resection", record_id: str = "r"
) -> tuple[float, ...]:
    (scores,) = engine.score([make_prompt(text, record_id)])
    assert isinstance(scores, Scores)
    return scores.branches[0].logprobs


@settings(deadline=None)
@given(
    st.text(),
    st.lists(st.text(min_size=1), min_size=1, max_size=40, unique=True).map(tuple),
    st.integers(),
)
def test_probabilities_sum_to_one_whatever_is_asked(
    text: str, tails: tuple[str, ...], seed: int
) -> None:
    (scores,) = FakeEngine(seed=seed).score([make_prompt(text, "r", tails)])
    assert isinstance(scores, Scores)
    assert math.fsum(map(math.exp, scores.branches[0].logprobs)) == pytest.approx(1)


def test_scores_depend_on_text_and_seed_and_nothing_else() -> None:
    assert score_logprobs(FakeEngine()) == score_logprobs(FakeEngine(), record_id="other")
    assert score_logprobs(FakeEngine()) != score_logprobs(FakeEngine(), text="biopsy")
    assert score_logprobs(FakeEngine()) != score_logprobs(FakeEngine(seed=1))


def test_a_preferred_label_gets_its_probability_and_the_others_share_what_is_left() -> None:
    shares = [
        math.exp(logprob) for logprob in score_logprobs(FakeEngine(prefers={"curative": 0.9}))
    ]
    assert shares[0] == pytest.approx(0.9)
    assert sum(shares[1:]) == pytest.approx(0.1)


def test_a_certain_label_rules_out_the_others() -> None:
    assert score_logprobs(FakeEngine(prefers={"curative": 1.0})) == (0.0, -math.inf, -math.inf)


def test_faults_come_where_they_are_ordered() -> None:
    engine = FakeEngine(nan={"n"}, impossible={"i"}, too_long={"l"})
    outcomes = {
        outcome.record_id: outcome
        for outcome in engine.score([make_prompt(name) for name in "nilo"])
    }
    assert all(math.isnan(number) for number in outcomes["n"].branches[0].logprobs)
    assert set(outcomes["i"].branches[0].logprobs) == {-math.inf}
    assert isinstance(outcomes["l"], Fault)
    assert outcomes["l"].status is Status.TOO_LONG
    assert math.isfinite(sum(outcomes["o"].branches[0].logprobs))
    assert engine.prompt_count == 3


def test_it_breaks_down_after_so_many_scores() -> None:
    results = FakeEngine(batch=2, fails_after=4).score(
        [make_prompt(str(number)) for number in range(10)]
    )
    assert len([next(results) for _ in range(4)]) == 4
    with pytest.raises(EngineError):
        next(results)


class BatchRecordingEngine(FakeEngine):
    def score_batch(self, batch: list[Prompt]) -> list[Scores]:
        self.batches = [*getattr(self, "batches", []), [prompt.record_id for prompt in batch]]
        return super().score_batch(batch)


def test_batches_are_sorted_by_length_and_do_not_depend_on_what_is_known() -> None:
    prompts = [make_prompt("x" * length, str(length)) for length in (5, 1, 4, 2, 3, 6)]
    full, rest = BatchRecordingEngine(batch=2), BatchRecordingEngine(batch=2)
    assert {scores.record_id for scores in full.score(prompts)} == set("123456")
    assert {scores.record_id for scores in rest.score(prompts, cached=["1", "2", "4"])} == set(
        "356"
    )
    assert full.batches == [["1", "2"], ["3", "4"], ["5", "6"]]
    assert rest.batches == [["3", "4"], ["5", "6"]]


def test_rendering_and_plan_agree_on_lengths() -> None:
    engine = FakeEngine()
    prompts = [make_prompt("aorta"), make_prompt("appendix"), make_prompt("a")]
    plan = engine.plan(prompts)
    for prompt, own in zip(prompts, plan.own_tokens, strict=True):
        assert len(engine.render(prompt).prompt_tokens) == plan.shared_tokens + own
    assert engine.render(prompts[0]).prompt[: plan.shared_tokens] == "user: What is it for? a"
    assert engine.plan([]).own_tokens == ()


def test_its_reference_may_carry_settings() -> None:
    engine = load_fake(
        "fake:seed=3,batch=8,ms_per_row=0.5,fails_after=7", LoadOptions(dtype="auto")
    )
    assert (engine.seed, engine.batch, engine.ms_per_row, engine.fails_after) == (3, 8, 0.5, 7)
    assert load_fake("fake:").info.identity == FakeEngine().info.identity


@pytest.mark.parametrize("reference", ["fake:smollm2", "fake:seed", "fake:seed=x", "fake:nan=1"])
def test_settings_that_it_does_not_have_are_refused(reference: str) -> None:
    with pytest.raises(UsageError):
        load_fake(reference)
