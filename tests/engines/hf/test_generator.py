"""Writing many rows at once against writing each by transformers' own means."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

import torch

from medtask.engines.base import EngineInfo
from medtask.engines.decoding.sequence import MIN_LOOP_TOKENS
from medtask.engines.hf import decoding as decoding_module
from medtask.engines.hf.attention import ATTENTION
from medtask.engines.hf.decoding import measure_token_bytes
from medtask.engines.hf.engine import MAX_RUNNING, HfEngine
from medtask.engines.hf.kv_slots import measure_kv_budget_bytes
from medtask.engines.hf.lm_head import get_lm_head
from medtask.engines.hf.load import load_hf
from medtask.engines.load_options import LoadOptions
from medtask.errors import EngineError
from medtask.records import Branch, Fault, Generated, Limits, Message, Prompt, Scores, Status
from support.tiny_models import make_model, make_tokenizer, mark_families, save_model

TEXTS = (
    "headache after a fall",
    "x",
    "The patient was seen for pain in the left wrist. " * 6,
    "MRI knee",
    "Operations on the eye, Operations on the ear. CT Brain/Neck angiography?",
    "ψ 🙂 مريض",
    "The patient was seen for pain in the left wrist. Text:",
    "Ultrasound of the liver " * 3,
    "model system",
    "",
    "user assistant",
)
HEAD = (
    "Write what is wrong with the patient, in the order in which it was found, and nothing "
    "else.\n\nText: "
)
LONG_LIMITS = Limits(max_tokens=24, stop_repetition=False)


def make_prompts(texts: tuple[str, ...] = TEXTS) -> list[Prompt]:
    return [
        Prompt(str(row), (Message("user", HEAD + text),), (), text)
        for row, text in enumerate(texts)
    ]


def generate_texts(
    engine: HfEngine, prompts: list[Prompt], limits: Limits = LONG_LIMITS, **more: object
) -> dict[str, Generated]:
    written = {}
    for result in engine.generate(prompts, limits, **more):  # type: ignore[arg-type]
        assert isinstance(result, Generated), result
        assert result.record_id not in written
        written[result.record_id] = result
    return written


def generate_reference_tokens(engine: HfEngine, prompt: Prompt, count: int) -> list[int]:
    """The tokens by transformers' generate, without any code of the engine but the rendered
    prompt.
    """
    tokens = torch.tensor([engine.render(prompt).prompt_tokens])
    ends = sorted(engine.find_stop_conditions(LONG_LIMITS).token_ids)
    engine.model.set_attn_implementation("eager")
    out = engine.model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=0,
    )
    engine.model.set_attn_implementation(ATTENTION)
    return out[0, tokens.shape[1] :].tolist()


def generate_reference_text(engine: HfEngine, prompt: Prompt, count: int) -> str:
    return engine.chat.tokenizer.decode(generate_reference_tokens(engine, prompt, count)).strip()


@pytest.fixture(
    scope="module",
    params=mark_families(
        *("llama", "qwen2", "qwen3", "gemma2", "gemma3", "gemma4", "gpt_oss", "granite")
    ),
)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HfEngine:
    family = request.param
    template = "gemma" if family.startswith("gemma") else "chatml"
    folder = save_model(tmp_path_factory.mktemp(family), family, template)
    engine = load_hf(str(folder), LoadOptions(dtype="float32", device="cpu"))
    # A random model whose output is tied to its input says the last token again for ever.
    shape = engine.model.get_output_embeddings().weight.shape
    engine.model.get_output_embeddings().weight = torch.nn.Parameter(
        torch.randn(shape, generator=torch.Generator().manual_seed(1))
    )
    engine.runner.head = get_lm_head(engine.model)
    return engine


def make_engine(template: str | None, is_blocked: Callable[[str, int], bool]) -> HfEngine:
    """A Llama that cannot write the tokens (text, id) that are to be mute."""
    model, tokenizer = make_model("llama"), make_tokenizer(template)
    bias = torch.zeros(model.config.vocab_size)
    for token in range(len(tokenizer)):
        if is_blocked(tokenizer.decode([token]), token):
            bias[token] = -1e4
    model.lm_head.bias = torch.nn.Parameter(bias)
    return HfEngine(model, tokenizer, EngineInfo("hf", "tiny", {}), budget_tokens=1024)


def is_unreadable(text: str, token: int) -> bool:
    return not (text.isascii() and text.isprintable())


@pytest.fixture(scope="module")
def llama() -> HfEngine:
    return make_engine("chatml", lambda text, token: is_unreadable(text, token) or "<" in text)


@pytest.fixture
def rows(request: pytest.FixtureRequest, engine: HfEngine) -> Iterator[int]:
    engine.max_running = request.param
    yield request.param
    engine.max_running = MAX_RUNNING


@pytest.fixture(scope="module")
def reference_texts(engine: HfEngine) -> dict[str, str]:
    """What the model says to each prompt by itself."""
    texts = {
        prompt.record_id: generate_reference_text(engine, prompt, LONG_LIMITS.max_tokens)
        for prompt in make_prompts()
    }
    assert len(set(texts.values())) > len(TEXTS) // 2, (
        "a model that always says the same would hide every mistake"
    )
    return texts


def count_all_tokens(result: Generated) -> int:
    return result.tokens_read + result.tokens_reused


@pytest.mark.parametrize("rows", [1, 4], indirect=True)
def test_rows_written_together_say_what_each_says_alone(
    engine: HfEngine, reference_texts: dict[str, str], rows: int
) -> None:
    assert engine.packed
    assert {
        row: result.text for row, result in generate_texts(engine, make_prompts()).items()
    } == reference_texts


def test_the_slow_way_gives_the_same_texts_and_probabilities(engine: HfEngine) -> None:
    fast = generate_texts(engine, make_prompts())
    engine.packed = False
    engine.model.set_attn_implementation("eager")
    slow = generate_texts(engine, make_prompts())
    engine.packed = True
    engine.model.set_attn_implementation(ATTENTION)
    for row, result in fast.items():
        assert result.text == slow[row].text
        assert (result.finish_reason, result.tokens) == (slow[row].finish_reason, slow[row].tokens)
        assert result.logprob == pytest.approx(slow[row].logprob, abs=1e-3)
        assert result.tokens_read + result.tokens_reused == slow[row].tokens_read


def test_the_log_probability_is_that_of_one_plain_pass(llama: HfEngine) -> None:
    prompt = make_prompts()[4]
    limits = Limits(12, stop_repetition=False)
    result = generate_texts(llama, [prompt], limits)["4"]
    base = list(llama.render(prompt).prompt_tokens)
    llama.model.set_attn_implementation("eager")
    total = 0.0
    for _ in range(result.tokens):
        with torch.inference_mode():
            logprobs = torch.log_softmax(
                llama.model(input_ids=torch.tensor([base])).logits[0, -1].double(), dim=-1
            )
        base.append(int(logprobs.argmax()))
        total += float(logprobs.max())
    llama.model.set_attn_implementation(ATTENTION)
    assert result.logprob == pytest.approx(total, abs=1e-4)


def test_an_end_token_of_the_model_ends_the_text(
    llama: HfEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = generate_reference_tokens(llama, make_prompts()[0], LONG_LIMITS.max_tokens)
    end = tokens[5]
    monkeypatch.setattr(llama.model.generation_config, "eos_token_id", [end, 2])
    cut = generate_texts(llama, make_prompts()[:1])["0"]
    assert cut.finish_reason == "stop"
    assert cut.tokens == tokens.index(end) + 1
    assert (
        cut.text
        == llama.chat.tokenizer.decode(
            tokens[: tokens.index(end)], keep_special_tokens=True
        ).strip()
    )


def test_a_stop_text_across_tokens_is_cut_off(llama: HfEngine) -> None:
    full = generate_texts(llama, make_prompts())["2"].text
    at = len(full) // 2
    stop = full[at : at + 5]
    cut = generate_texts(llama, make_prompts(), replace(LONG_LIMITS, stop=("never said", stop)))[
        "2"
    ]
    assert cut.finish_reason == "stop"
    assert cut.text == full[: full.index(stop)].rstrip()
    assert cut.tokens < LONG_LIMITS.max_tokens


def test_every_text_has_an_end_within_its_limit(llama: HfEngine) -> None:
    for count in (1, 2, 7):
        for result in generate_texts(
            llama, make_prompts(), replace(LONG_LIMITS, max_tokens=count)
        ).values():
            assert (result.finish_reason, result.tokens) == ("length", count)


def test_a_loop_is_stopped_and_its_further_rounds_are_no_text() -> None:
    engine = make_engine("chatml", lambda text, token: text != " pain")
    endless = generate_texts(engine, make_prompts()[:3], Limits(300, stop_repetition=False))
    assert {(result.finish_reason, result.text) for result in endless.values()} == {
        ("length", " ".join(["pain"] * 300))
    }
    looped = generate_texts(engine, make_prompts()[:3], Limits(300))
    assert {(result.finish_reason, result.text, result.tokens) for result in looped.values()} == {
        ("loop", "pain", MIN_LOOP_TOKENS)
    }


def test_a_row_whose_time_is_over_is_stopped(llama: HfEngine) -> None:
    for result in generate_texts(
        llama, make_prompts(), replace(LONG_LIMITS, deadline_s=0.0)
    ).values():
        assert (result.finish_reason, result.tokens) == ("deadline", 1)


def test_chance_depends_on_the_seed_and_the_record_alone(llama: HfEngine) -> None:
    warm = replace(LONG_LIMITS, temperature=1.0, top_p=0.9, seed=5)
    together = generate_texts(llama, make_prompts(), warm)
    assert generate_texts(llama, make_prompts(), warm).keys() == together.keys()
    llama.max_running = 2
    for row, result in generate_texts(llama, make_prompts(), warm).items():
        assert result.text == together[row].text
    llama.max_running = MAX_RUNNING
    assert generate_texts(llama, make_prompts()[3:4], warm)["3"].text == together["3"].text
    assert (
        generate_texts(llama, make_prompts()[3:4], replace(warm, seed=6))["3"].text
        != together["3"].text
    )
    assert (
        generate_texts(llama, make_prompts(("x", "x")), warm)["0"].text
        != generate_texts(llama, make_prompts(("x", "x")), warm)["1"].text
    )
    assert generate_texts(llama, make_prompts()[3:4])["3"].logprob > together["3"].logprob


def test_known_rows_are_written_for_the_others_sake_and_left_out(llama: HfEngine) -> None:
    everything = generate_texts(llama, make_prompts())
    assert (
        generate_texts(
            llama, make_prompts(), cached={prompt.record_id for prompt in make_prompts()}
        )
        == {}
    )
    some = generate_texts(llama, make_prompts(), cached={"0", "3", "9"})
    assert some.keys() == everything.keys() - {"0", "3", "9"}
    assert {row: result.logprob for row, result in some.items()} == {
        row: everything[row].logprob for row in some
    }  # to the last digit


def test_a_row_without_room_for_its_text_is_a_fault_and_the_others_are_written(
    llama: HfEngine,
) -> None:
    prompts = make_prompts(("short", "word " * 900, "x"))
    results = {result.record_id: result for result in llama.generate(prompts, LONG_LIMITS)}
    assert isinstance(results["1"], Fault)
    assert results["1"].status is Status.TOO_LONG
    assert "512" in results["1"].reason
    assert "word" not in results["1"].reason
    assert isinstance(results["0"], Generated)
    assert list(llama.generate(prompts, LONG_LIMITS, cached={"0", "1", "2"})) == []
    assert {result.record_id for result in llama.generate(prompts, LONG_LIMITS, cached={"1"})} == {
        "0",
        "2",
    }
    room = llama.max_input_tokens - len(llama.render(prompts[0]).prompt_tokens)
    assert isinstance(next(llama.generate(prompts[:1], Limits(room, deadline_s=0.0))), Generated)
    assert isinstance(next(llama.generate(prompts[:1], Limits(room + 1, deadline_s=0.0))), Fault)


def test_rows_of_one_group_share_what_they_were_shown_before(llama: HfEngine) -> None:
    def make_example_turns(example: str) -> tuple[Message, ...]:
        return Message("user", f"Text: {example}"), Message(
            "assistant", "Operations on the ear" + example * 9
        )

    prompts = [
        Prompt(
            str(row),
            (
                *make_example_turns("nose; mouth" if row % 2 else "MRI knee joint"),
                Message("user", text),
            ),
            (),
            text,
        )
        for row, text in enumerate(TEXTS)
    ]
    written = generate_texts(llama, prompts)
    alone = {
        prompt.record_id: generate_texts(llama, [prompt])[prompt.record_id] for prompt in prompts
    }
    assert {row: result.text for row, result in written.items()} == {
        row: result.text for row, result in alone.items()
    }
    for row, result in written.items():
        assert count_all_tokens(result) == count_all_tokens(alone[row])
    read = sum(result.tokens_read - result.tokens for result in written.values())
    full = sum(count_all_tokens(result) - result.tokens for result in alone.values())
    assert read < full / 2


def test_a_text_goes_on_where_it_was_left(llama: HfEngine) -> None:
    prompt = replace(make_prompts()[2], partial_response="The patient was seen")
    assert llama.render(prompt).prompt.endswith("The patient was seen")
    text = generate_texts(llama, [prompt])["2"].text
    assert text.strip() == generate_reference_text(llama, prompt, LONG_LIMITS.max_tokens)
    assert text != generate_texts(llama, make_prompts())["2"].text
    # A space at the end is the model's to write.
    assert (
        generate_texts(llama, [replace(prompt, partial_response="The patient was seen ")])["2"].text
        == text.strip()
    )


def test_pieces_are_shown_as_they_come_and_make_the_text(llama: HfEngine) -> None:
    for packed in (True, False):
        llama.packed = packed
        llama.model.set_attn_implementation(ATTENTION if packed else "eager")
        full = generate_texts(llama, make_prompts()[2:3])["2"].text
        stop = full[20:26]
        for limits in (
            LONG_LIMITS,
            replace(LONG_LIMITS, stop=(stop,)),
            replace(LONG_LIMITS, stop=(stop + "never said",)),
        ):
            pieces: list[str] = []
            result = generate_texts(llama, make_prompts()[2:3], limits, on_text=pieces.append)["2"]
            assert "".join(pieces) == result.text
            assert len(pieces) > 5
    llama.packed = True
    llama.model.set_attn_implementation(ATTENTION)


def test_several_texts_are_shown_by_a_function_each(llama: HfEngine) -> None:
    prompts = make_prompts()
    pieces: dict[str, list[str]] = {prompt.record_id: [] for prompt in prompts}
    shown = {name: own.append for name, own in pieces.items()}
    found = list(llama.generate(prompts, LONG_LIMITS, on_text=shown))
    texts = {one.record_id: one.text for one in found if isinstance(one, Generated)}
    assert {name: "".join(own) for name, own in pieces.items()} == texts
    assert max(map(len, pieces.values())) > 5


def test_one_function_cannot_show_two_texts(llama: HfEngine) -> None:
    with pytest.raises(EngineError, match="only one text"):
        list(llama.generate(make_prompts(), LONG_LIMITS, on_text=print))


def test_without_prompts_nothing_is_written(llama: HfEngine) -> None:
    assert list(llama.generate([], LONG_LIMITS)) == []


def test_a_model_without_a_chat_template_ends_with_its_line(tmp_path: Path) -> None:
    engine = load_hf(
        str(save_model(tmp_path, "llama", None)), LoadOptions(dtype="float32", device="cpu")
    )
    with torch.no_grad():
        engine.model.lm_head.weight[engine.chat.tokenizer.encode(["\n"])[0][0]] *= 3
    ended = generate_texts(engine, make_prompts())
    assert any(result.finish_reason == "stop" for result in ended.values())
    assert not any("\n" in result.text for result in ended.values())


def test_a_model_that_cannot_be_packed_writes_too(tmp_path: Path) -> None:
    engine = load_hf(str(save_model(tmp_path, "bloom")), LoadOptions(dtype="float32", device="cpu"))
    assert not engine.packed
    prompt = make_prompts()[4]
    tokens = torch.tensor([engine.render(prompt).prompt_tokens])
    out = engine.model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=9,
        do_sample=False,
        pad_token_id=0,
    )
    output = engine.chat.tokenizer.decode(
        out[0, tokens.shape[1] :].tolist(), keep_special_tokens=True
    )
    assert (
        generate_texts(engine, [prompt], replace(LONG_LIMITS, max_tokens=9))["4"].text
        == output.strip()
    )


def test_out_of_memory_halves_the_rows_and_loses_no_word(
    llama: HfEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = generate_texts(llama, make_prompts())
    passes = 0
    run_pass = decoding_module.run_forward_pass

    def fail_above_limit(decoder, plan):
        nonlocal passes
        passes += 1
        if isinstance(plan, decoding_module.DecodePass) and len(plan.tokens) > 3 and passes > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run_pass(decoder, plan)

    monkeypatch.setattr(decoding_module, "run_forward_pass", fail_above_limit)
    room = llama.kv_budget_bytes
    after = generate_texts(llama, make_prompts())
    assert room
    assert llama.kv_budget_bytes
    assert llama.kv_budget_bytes < room
    llama.kv_budget_bytes = room
    assert {row: result.text for row, result in after.items()} == {
        row: result.text for row, result in whole.items()
    }
    assert {result.tokens for result in after.values()} == {LONG_LIMITS.max_tokens}


def test_a_row_that_never_fits_fails_alone(
    llama: HfEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_pass = decoding_module.run_forward_pass

    def fail_on_long_rows(decoder, plan):
        if len(plan.tokens) > 80:
            raise MemoryError
        return run_pass(decoder, plan)

    monkeypatch.setattr(decoding_module, "run_forward_pass", fail_on_long_rows)
    room = llama.kv_budget_bytes
    results = {result.record_id: result for result in llama.generate(make_prompts(), LONG_LIMITS)}
    llama.kv_budget_bytes = room
    assert isinstance(results["2"], Fault)
    assert results["2"].status is Status.FAILED
    assert results.keys() == {prompt.record_id for prompt in make_prompts()}
    assert all(isinstance(result, Generated) for row, result in results.items() if row != "2")


def test_a_failing_model_is_an_engine_error(
    llama: HfEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(decoder, plan):
        raise RuntimeError("some kernel, and what stood in the record")

    monkeypatch.setattr(decoding_module, "run_forward_pass", fail)
    with pytest.raises(EngineError, match="RuntimeError") as caught:
        list(llama.generate(make_prompts(), LONG_LIMITS))
    assert "record" not in str(caught.value)


def test_numbers_that_are_none_fail_the_row(tmp_path: Path) -> None:
    engine = load_hf(str(save_model(tmp_path, "llama")), LoadOptions(dtype="float32", device="cpu"))
    with torch.no_grad():
        engine.model.model.norm.weight.fill_(float("nan"))
    for limits in (LONG_LIMITS, replace(LONG_LIMITS, temperature=1.0, top_p=0.5)):
        result = next(engine.generate(make_prompts()[:1], limits))
        assert isinstance(result, Fault)
        assert result.status is Status.FAILED


def test_rows_at_once_follow_from_memory(llama: HfEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    token = measure_token_bytes(llama.runner)
    assert (
        token == 2 * 4 * 2 * 8 * 4
    )  # keys and values of 4 layers with 2 heads of 8 numbers, 4 bytes each
    widths = []

    def record_batch_size(decoder, plan):
        widths.append(len(plan.tokens) if isinstance(plan, decoding_module.DecodePass) else 0)
        return run_pass(decoder, plan)

    run_pass = decoding_module.run_forward_pass
    monkeypatch.setattr(decoding_module, "run_forward_pass", record_batch_size)
    longest = (
        max(len(llama.render(prompt).prompt_tokens) for prompt in make_prompts())
        + LONG_LIMITS.max_tokens
    )
    for room, rows in (
        (token * longest * 4, 4),
        (token * longest * 5 - 1, 4),
        (10, 1),
        (measure_kv_budget_bytes(llama.model), len(TEXTS)),
    ):
        widths.clear()
        monkeypatch.setattr(llama, "kv_budget_bytes", room)
        assert len(generate_texts(llama, make_prompts())) == len(TEXTS)
        assert max(widths) == rows


def test_the_models_own_generation_config_is_ignored(
    llama: HfEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = generate_texts(llama, make_prompts()[:2])
    monkeypatch.setattr(llama.model.generation_config, "repetition_penalty", 5.0)
    assert {
        row: result.text for row, result in generate_texts(llama, make_prompts()[:2]).items()
    } == {row: result.text for row, result in before.items()}
    llama.packed = False
    llama.model.set_attn_implementation("eager")
    slow = generate_texts(llama, make_prompts()[:2])
    llama.packed = True
    llama.model.set_attn_implementation(ATTENTION)
    assert {row: result.text for row, result in slow.items()} == {
        row: result.text for row, result in before.items()
    }
    assert llama.model.generation_config.repetition_penalty == 5.0


def test_the_engine_reports_that_it_writes(llama: HfEngine) -> None:
    assert llama.caps.generate
    assert llama.caps.schema
    assert not llama.caps.thinking_markers


def make_endless_engine() -> HfEngine:
    """A model that can end neither its thoughts nor its turn: the tokens for it have no chance."""
    return make_engine("thinking", lambda text, token: is_unreadable(text, token) or "<" in text)


def test_a_model_that_never_stops_thinking_is_scored_within_its_budget() -> None:
    engine = make_endless_engine()
    assert engine.caps.thinking_markers
    branch = Branch("", ("CT Brain", "MRI knee", "none"))
    prompts = [replace(prompt, branches=(branch,)) for prompt in make_prompts()]
    budget = Limits(50, think=True, stop_repetition=False)
    thoughts = generate_texts(engine, prompts, budget)
    assert {(result.finish_reason, result.tokens) for result in thoughts.values()} == {
        ("length", 50)
    }
    thought = [replace(prompt, thoughts=thoughts[prompt.record_id].text) for prompt in prompts]
    for scores in engine.score(thought):
        assert isinstance(scores, Scores)
        assert sum(torch.tensor(scores.branches[0].logprobs).exp().tolist()) == pytest.approx(
            1, abs=1e-6
        )


def test_thoughts_end_where_the_family_ends_them() -> None:
    engine = make_endless_engine()
    prompt = make_prompts()[2]
    free = generate_texts(engine, [prompt], Limits(50, think=True, stop_repetition=False))["2"].text
    at = len(free) // 2
    thinking = replace(engine.chat.thinking, stop_texts=(free[at : at + 4],))
    engine.chat = replace(engine.chat, thinking=thinking)
    thoughts = generate_texts(engine, [prompt], Limits(50, think=True, stop_repetition=False))["2"]
    assert thoughts.finish_reason == "stop"
    assert thoughts.text == free[: free.index(thinking.stop_texts[0])].rstrip()


def test_a_special_token_can_end_thoughts_and_does_not_show_in_them(llama: HfEngine) -> None:
    free = generate_texts(llama, make_prompts()[:1], replace(LONG_LIMITS, max_tokens=30))["0"]
    special = "<start_of_turn>"
    token = llama.chat.tokenizer.encode([special])[0][0]
    bias = torch.zeros(llama.model.config.vocab_size)
    bias[token] = 1e4
    head, chat = llama.runner.head, llama.chat
    for stops, ended in (((special,), "stop"), (("</think>",), "length")):
        llama.runner.head = replace(head, bias=bias)
        llama.chat = replace(llama.chat, thinking=replace(llama.chat.thinking, stop_texts=stops))
        thoughts = generate_texts(llama, make_prompts()[:1], Limits(5, think=True))["0"]
        llama.runner.head, llama.chat = head, chat
        assert (thoughts.text, thoughts.finish_reason) == ("", ended)
    assert free.text


def test_a_choice_is_thought_about_with_its_options_in_sight(llama: HfEngine) -> None:
    plain = make_prompts()[0]
    with_options = replace(
        plain, branches=(Branch("", ("A", "B"), ask="\n\nA: rest\nB: operate", weigh="text"),)
    )
    limits = replace(LONG_LIMITS, think=True)
    longer = generate_texts(llama, [with_options], limits)["0"]
    assert count_all_tokens(longer) > count_all_tokens(generate_texts(llama, [plain], limits)["0"])


def test_what_is_written_under_a_schema_satisfies_it_unless_its_tokens_are_used_up(
    llama: HfEngine,
) -> None:
    schema = {
        "type": "object",
        "properties": {
            "side": {"enum": ["left", "right", None]},
            "side_quote": {"type": ["string", "null"], "quote": True, "maxLength": 20},
            "fever": {"type": "boolean"},
        },
        "required": ["side", "side_quote", "fever"],
        "additionalProperties": False,
    }
    texts = {prompt.record_id: prompt.text for prompt in make_prompts()}
    for limits in (Limits(120, schema=schema), Limits(120, schema=schema, temperature=1.5, seed=3)):
        written = generate_texts(llama, make_prompts(), limits)
        for row, result in written.items():
            assert result.finish_reason == "stop"
            value = json.loads(result.text)
            assert list(value) == ["side", "side_quote", "fever"]
            assert value["side_quote"] is None or value["side_quote"] in texts[row]
    for result in generate_texts(llama, make_prompts(), Limits(4, schema=schema)).values():
        assert (result.finish_reason, result.tokens) == ("length", 4)
    llama.packed = False
    llama.model.set_attn_implementation("eager")
    slow = generate_texts(llama, make_prompts(), limits)
    llama.packed = True
    llama.model.set_attn_implementation(ATTENTION)
    assert {row: result.text for row, result in slow.items()} == {
        row: result.text for row, result in written.items()
    }


def test_the_probability_of_what_is_written_under_a_schema_is_the_models_own(
    llama: HfEngine,
) -> None:
    free = generate_texts(llama, make_prompts()[:1], Limits(1))["0"]
    held_out = generate_texts(llama, make_prompts()[:1], Limits(1, schema={"enum": [1, 2]}))["0"]
    assert held_out.text in ("1", "2")
    assert held_out.logprob < free.logprob
