"""Prompts with several branches, with thoughts, with their own text, and with few-shot turns:
against plain passes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medtask.engines.hf.engine import HfEngine
from medtask.engines.hf.load import load_hf
from medtask.engines.load_options import LoadOptions
from medtask.records import Branch, Message, Prompt, Scores
from support.reference_scores import assert_scores_exact
from support.tiny_models import mark_families, save_model

TEXTS = (
    "headache after a fall",
    "The patient was seen for pain in the left wrist. " * 4,
    "MRI knee. Operations on the eye, Operations on the ear.",
)
HEAD = "Which of these apply?\n- eye\n- ear\n- nose\n\nText: "
PREFIXED_BRANCHES = tuple(
    Branch(f"{name}: ", ("yes", "no")) for name in ("eye", "ear", "Operations on the nose; mouth")
)
OPTIONS = ("CT Brain", "CT Brain without contrast", "MRI knee", "MRI knee", "none")


def make_prompt(text: str, *branches: Branch, row: str = "1", head: str = HEAD) -> Prompt:
    return Prompt(row, (Message("user", head + text),), branches, text)


def list_options(order: tuple[str, ...]) -> str:
    return "\n\n" + "\n".join(
        f"{letter}. {option}" for letter, option in zip("ABCDE", order, strict=False)
    )


def make_rotated_prompt(text: str, row: str) -> Prompt:
    """One branch for each cyclic order of the options."""
    orders = [OPTIONS[start:] + OPTIONS[:start] for start in range(len(OPTIONS))]
    return make_prompt(
        text,
        *(Branch("", tuple("ABCDE"), list_options(order), "text") for order in orders),
        row=row,
    )


def make_prompts(kind: str) -> list[Prompt]:
    """A few prompts of each kind that tasks write."""
    if kind == "labels":
        return [
            make_prompt(text, *PREFIXED_BRANCHES, row=str(row)) for row, text in enumerate(TEXTS)
        ]
    if kind == "rotated letters":
        return [make_rotated_prompt(text, str(row)) for row, text in enumerate(TEXTS)]
    if kind == "option texts":  # one begins another, two are the same
        return [
            make_prompt(text, Branch("", OPTIONS, list_options(OPTIONS), "text"), row=str(row))
            for row, text in enumerate(TEXTS)
        ]
    if kind == "thoughts":
        leads = [
            replace(prompt, thoughts=f"It is about the {prompt.text[:9]}")
            for prompt in make_prompts("labels")
        ]
        return [
            *leads,
            *(
                replace(prompt, record_id=f"r{prompt.record_id}", thoughts="")
                for prompt in make_prompts("rotated letters")
            ),
        ]
    if kind == "fields":
        written = '{"organ": "eye", "side": '
        both = (
            Branch("", ('"left"', '"right"', "null")),
            Branch('"left", "seen": ', ("true", "false")),
        )
        return [
            replace(make_prompt(text, *both, row=str(row)), partial_response=written)
            for row, text in enumerate(TEXTS)
        ]
    sets = (
        Branch("", OPTIONS[:3]),
        Branch("", OPTIONS[:1]),
        Branch("CT ", ("Brain", "x")),
        PREFIXED_BRANCHES[0],
        PREFIXED_BRANCHES[0],
    )
    return [
        make_prompt(text, *sets, Branch("", OPTIONS, "", "text"), row=str(row))
        for row, text in enumerate(TEXTS)
    ]


KINDS = ("labels", "rotated letters", "option texts", "thoughts", "fields", "mixed")


# Gemma's and GPT-OSS's windows of 24 tokens are shorter than what the branches share.
@pytest.fixture(
    scope="module", params=mark_families("llama", "gemma2", "gemma3", "gemma4", "gpt_oss")
)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HfEngine:
    template = "gemma" if request.param.startswith("gemma") else "chatml"
    return load_hf(
        str(save_model(tmp_path_factory.mktemp(request.param), request.param, template)),
        LoadOptions(dtype="float32", device="cpu"),
    )


@pytest.fixture(scope="module", params=["chatml", "thinking", "inst", None])
def chat_engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> HfEngine:
    return load_hf(
        str(save_model(tmp_path_factory.mktemp("speaker"), "llama", request.param)),
        LoadOptions(dtype="float32", device="cpu"),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_prompt_is_scored_as_by_plain_passes(engine: HfEngine, kind: str) -> None:
    assert engine.packed
    assert_scores_exact(engine, make_prompts(kind))
    assert engine.compare_with_reference(make_prompts(kind)) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_in_every_chat_format(chat_engine: HfEngine, kind: str) -> None:
    assert_scores_exact(chat_engine, make_prompts(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_above_the_budget_is_read_in_pieces_with_the_same_numbers(
    engine: HfEngine, kind: str
) -> None:
    budget, engine.budget_tokens = engine.budget_tokens, 20
    try:
        assert_scores_exact(engine, make_prompts(kind))
    finally:
        engine.budget_tokens = budget


def test_long_prompts_read_in_blocks_give_the_same_numbers(
    engine: HfEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medtask.engines.hf.packed_attention.MAX_SCORE_ELEMENTS", 6000)
    assert_scores_exact(engine, make_prompts("rotated letters"))
    assert_scores_exact(engine, make_prompts("labels"))


def score_to_arrays(engine: HfEngine, prompts: list[Prompt]) -> dict[str, np.ndarray]:
    return {
        scores.record_id: np.concatenate(
            [[*branch.logprobs, branch.off_set] for branch in scores.branches]
        )
        for scores in engine.score(prompts)
    }


@pytest.fixture(scope="module")
def gemma_engine(tmp_path_factory: pytest.TempPathFactory) -> HfEngine:
    return load_hf(
        str(save_model(tmp_path_factory.mktemp("quick"), "gemma3", "gemma")),
        LoadOptions(dtype="float32", device="cpu"),
    )


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    order=st.permutations(range(len(TEXTS))),
    budget=st.integers(1, 400),
    kind=st.sampled_from(KINDS),
)
def test_neither_order_nor_budget_changes_a_number(
    gemma_engine: HfEngine, order: list[int], budget: int, kind: str
) -> None:
    prompts = make_prompts(kind)
    expected = score_to_arrays(gemma_engine, prompts)
    full, gemma_engine.budget_tokens = gemma_engine.budget_tokens, budget
    found = score_to_arrays(gemma_engine, [prompts[index] for index in order])
    gemma_engine.budget_tokens = full
    for prompt in (prompts[index] for index in order):
        assert (
            np.abs(np.exp(found[prompt.record_id]) - np.exp(expected[prompt.record_id])).max()
            < 1e-4
        )


def test_tokens_shared_by_branches_are_read_and_counted_once(engine: HfEngine) -> None:
    prompts = make_prompts("labels")[:1]

    def score_uncached(branches: tuple[Branch, ...]) -> Scores:
        engine.runner.clear_prefix()
        return next(iter(engine.score([replace(prompts[0], branches=branches)])))

    alone = [score_uncached((branch,)) for branch in PREFIXED_BRANCHES]
    together = score_uncached(prompts[0].branches)
    assert together.tokens_read + together.tokens_reused == sum(
        scores.tokens_read + scores.tokens_reused for scores in alone
    )
    assert together.tokens_read < alone[0].tokens_read + 40
    assert (
        engine.plan(prompts).own_tokens[0] + engine.plan(prompts).shared_tokens
        == together.tokens_read
    )


def test_letters_take_no_token_more_than_the_prompt(engine: HfEngine) -> None:
    letters = make_prompt(TEXTS[0], Branch("", tuple("ABCD"), list_options(OPTIONS), "text"))
    (scores,) = engine.score([letters])
    assert scores.tokens_read + scores.tokens_reused == len(engine.render(letters).prompt_tokens)


def make_few_shot_prompt(row: int, *examples: str) -> Prompt:
    turns = [
        turn
        for text in examples
        for turn in (Message("user", f"Text: {text}"), Message("assistant", "yes"))
    ]
    turns[0] = replace(turns[0], content=HEAD + turns[0].content)
    return Prompt(
        str(row),
        (*turns, Message("user", f"Text: {TEXTS[row % 3]}")),
        PREFIXED_BRANCHES[:2],
        TEXTS[row % 3],
    )


def test_rows_with_the_same_examples_share_them(engine: HfEngine) -> None:
    near, far = "Operations on the eye " * 4, "MRI knee joint " * 6
    prompts = [make_few_shot_prompt(row, *([near, far] if row % 3 else [far])) for row in range(9)]
    prompts += [make_few_shot_prompt(9, "CT Brain"), make_few_shot_prompt(10, "Ultrasound")]
    assert_scores_exact(engine, prompts)
    found = {scores.record_id: scores for scores in engine.score(prompts)}
    turns = {
        row: len(
            engine.chat.tokenizer.encode(
                ["".join(turn.content for turn in prompts[row].messages[:-1])]
            )[0]
        )
        for row in range(9)
    }
    payers = [row for row in range(9) if found[str(row)].tokens_read > turns[row]]
    assert len(payers) == 2, "each group reads its examples once"
    assert list(found) == [scores.record_id for scores in engine.score(prompts)]


def test_a_prompt_without_branches_has_nothing_to_score_and_a_cost(engine: HfEngine) -> None:
    prompt = make_prompt(TEXTS[0])
    assert list(engine.score([prompt])) == [Scores("1", ())]
    plan = engine.plan([prompt])
    assert plan.shared_tokens + plan.own_tokens[0] == len(engine.render(prompt).prompt_tokens)


def test_a_model_that_cannot_be_packed_scores_every_kind(tmp_path: Path) -> None:
    engine = load_hf(str(save_model(tmp_path, "bloom")), LoadOptions(dtype="float32", device="cpu"))
    prompts = make_prompts("mixed")[:1]
    (scores,) = engine.score(prompts)
    assert len(scores.branches) == len(prompts[0].branches)
    assert scores.branches[-1].logprobs[2] == pytest.approx(scores.branches[-1].logprobs[3])
    assert max(scores.branches[-1].logprobs) < 0
