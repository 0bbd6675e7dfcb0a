"""The vllm engine against a stand-in of vLLM's public API over tiny real models, and against plain
passes of the same models.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medtask.engines.decoding.constraints import (
    ConstraintFactory,
    GrammarConstraint,
    compute_allowed_tokens,
)
from medtask.engines.decoding.grammar import has_quotes
from medtask.engines.hf.engine import HfEngine
from medtask.engines.load_options import LoadOptions
from medtask.engines.tokens.tokenizer import HfTokenizer
from medtask.engines.tokens.trie_scoring import QueryLogprobs
from medtask.engines.vllm import MAX_LOGPROB_IDS, VllmEngine, load_vllm
from medtask.errors import EngineError, InputError, MissingExtra
from medtask.records import Branch, Fault, Limits, Message, Prompt, Scores, Status
from support.reference_engine import (
    assert_sampling_depends_on_seed_and_record,
    assert_scores_match,
    generate_texts,
    load_reference_engine,
)
from support.tiny_models import save_model

TEXTS = (
    "headache after a fall",
    "x",
    "The patient was seen for pain in the left wrist. " * 3,
    "ψ 🙂 مريض",
    "",
)
BRANCHES = (
    Branch(
        "", ("CT Brain", "CT Brain/Neck", "MRI knee", "MRI knee joint", "Ultrasound of the liver")
    ),
    Branch("Side: ", ("left", "right")),
    Branch("", ("Operations on the eye", "Operations on the ear"), weigh="text"),
)
TEXT_LIMITS = Limits(max_tokens=24, stop_repetition=False)


@dataclass
class SamplingParams:
    """Fields of vLLM's own that the engine uses, with its defaults and what it verifies of them."""

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    skip_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    structured_outputs: Any = None

    def __post_init__(self) -> None:
        assert self.max_tokens >= 1
        assert 0 < self.top_p <= 1
        assert all(self.stop)
        if self.logprob_token_ids is not None:
            assert 0 < len(self.logprob_token_ids) <= 128
            assert self.logprobs == len(self.logprob_token_ids)


@dataclass
class StructuredOutputsParams:
    json: dict[str, Any]
    disable_any_whitespace: bool = False


class LLM:
    """One row at a time, by transformers; returns what vLLM returns, in its format, and refuses
    what it refuses.
    """

    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(
        self,
        model: str,
        dtype: str = "auto",
        max_model_len: int | None = None,
        max_logprobs: int = 20,
        **options: Any,
    ) -> None:
        LLM.made.append(
            {
                **options,
                "environment": {
                    name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "VLLM_HOST_IP")
                },
            }
        )
        if options["trust_remote_code"]:
            raise ValueError
        self.model = AutoModelForCausalLM.from_pretrained(
            model, dtype=getattr(torch, dtype, torch.float32)
        ).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        config = SimpleNamespace(
            max_model_len=max_model_len or self.model.config.max_position_embeddings,
            dtype=self.model.dtype,
        )
        self.llm_engine = SimpleNamespace(model_config=config)
        self.max_logprobs = max_logprobs
        self.asked: list[SamplingParams] = []

    def get_tokenizer(self) -> Any:
        return self.tokenizer

    def generate(
        self,
        prompts: Sequence[Any],
        settings: Sequence[SamplingParams],
        *,
        use_tqdm: bool,
        lora_request: Any,
    ) -> list[Any]:
        assert not use_tqdm
        self.asked += settings
        return [
            self._answer(prompt["prompt_token_ids"], one)
            for prompt, one in zip(prompts, settings, strict=True)
        ]

    @torch.inference_mode()
    def _answer(self, prompt: list[int], one: SamplingParams) -> Any:
        if (
            not prompt
            or len(prompt) + 1 > self.llm_engine.model_config.max_model_len
            or (one.logprobs or 0) > self.max_logprobs
        ):
            raise ValueError("what vLLM would refuse, and what stood in the record")
        tokens, chosen_logprobs, prompt_logprobs = list(prompt), [], None
        if one.prompt_logprobs is not None:
            rows = torch.log_softmax(self.model(torch.tensor([prompt])).logits[0].float(), dim=-1)
            prompt_logprobs = [
                None,
                *(
                    {token: _logprob(row[token])}
                    for row, token in zip(rows, prompt[1:], strict=False)
                ),
            ]
        constraint = self._make_constraint(one.structured_outputs)
        chance = torch.Generator().manual_seed(one.seed or 0)
        finish = "length"
        for _ in range(one.max_tokens):
            logits = self.model(torch.tensor([tokens])).logits[0, -1].float()
            raw = torch.log_softmax(logits, dim=-1)
            if constraint:
                logits = logits.masked_fill(
                    ~torch.from_numpy(compute_allowed_tokens([constraint], len(logits))[0]),
                    -torch.inf,
                )
            drawn = torch.multinomial(
                torch.softmax(logits / (one.temperature or 1), -1), 1, generator=chance
            )
            token = int(drawn) if one.temperature else int(logits.argmax())
            chosen_logprobs.append(
                {shown: _logprob(raw[shown]) for shown in (token, *(one.logprob_token_ids or ()))}
            )
            tokens.append(token)
            if token in one.stop_token_ids:
                finish = "stop"
                break
            if constraint:
                constraint.accept_token(token)
            text = self.tokenizer.decode(
                tokens[len(prompt) :], skip_special_tokens=one.skip_special_tokens
            )
            if (constraint and constraint.is_finished) or any(stop in text for stop in one.stop):
                finish = "stop"
                break
        output = SimpleNamespace(
            token_ids=tokens[len(prompt) :],
            logprobs=chosen_logprobs if one.logprobs is not None else None,
            finish_reason=finish,
        )
        return SimpleNamespace(
            outputs=[output],
            prompt_token_ids=prompt,
            prompt_logprobs=prompt_logprobs,
            num_cached_tokens=None,
        )

    def _make_constraint(self, wanted: StructuredOutputsParams | None) -> GrammarConstraint | None:
        if wanted is None:
            return None
        assert not has_quotes(wanted.json)
        schemas = ConstraintFactory(
            HfTokenizer(self.tokenizer), self.model.config.vocab_size, [self.tokenizer.eos_token_id]
        )
        return schemas.compile_schema(wanted.json, leading_space=False)("")


def _logprob(value: torch.Tensor) -> Any:
    return SimpleNamespace(logprob=float(value), rank=1, decoded_token=None)


@pytest.fixture
def fake_vllm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    modules = {
        name: ModuleType(name)
        for name in ("vllm", "vllm.sampling_params", "vllm.lora", "vllm.lora.request")
    }
    for name, value in {"LLM": LLM, "SamplingParams": SamplingParams}.items():
        setattr(modules["vllm"], name, value)
    modules["vllm.sampling_params"].StructuredOutputsParams = StructuredOutputsParams  # type: ignore[attr-defined]
    modules["vllm.lora.request"].LoRARequest = lambda name, number, path: (name, number, path)  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.33.0" if name == "vllm" else version(name)
    )
    LLM.made.clear()
    return modules["vllm"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture(scope="module")
def reference_engine(folder: Path) -> HfEngine:
    return load_reference_engine(folder)


@pytest.fixture
def engine(fake_vllm: ModuleType, folder: Path) -> VllmEngine:
    return load_vllm(f"vllm:{folder}", LoadOptions(dtype="float32"))


def make_prompts(branches: tuple[Branch, ...] = (), texts: tuple[str, ...] = TEXTS) -> list[Prompt]:
    return [
        Prompt(str(row), (Message("user", f"What is wrong?\n\nText: {text}"),), branches, text)
        for row, text in enumerate(texts)
    ]


def test_scores_are_those_of_plain_passes(engine: VllmEngine, reference_engine: HfEngine) -> None:
    assert "packing" not in engine.info.details
    assert_scores_match(engine, reference_engine, make_prompts(BRANCHES))
    assert not any(one.prompt_logprobs is not None for one in engine.llm.asked[-50:]), (
        "the prefix cache would be passed by"
    )


def test_more_candidates_than_vllm_reports_at_once_are_asked_for_in_parts(
    engine: VllmEngine, reference_engine: HfEngine
) -> None:
    names = [
        reference_engine.chat.tokenizer.decode([token])
        for token in range(len(reference_engine.chat.tokenizer.vocabulary))
    ]  # type: ignore[arg-type]
    tails = tuple(
        dict.fromkeys(
            name for name in names if name.isprintable() and name.strip() and "\ufffd" not in name
        )
    )
    assert len({name[0] for name in tails}) < len(tails)
    prompts = make_prompts((Branch("", tails),), TEXTS[:1])
    engine.llm.asked.clear()
    assert_scores_match(engine, reference_engine, prompts)
    assert max(one.logprobs for one in engine.llm.asked) <= MAX_LOGPROB_IDS
    assert sum(len(one.logprob_token_ids) for one in engine.llm.asked) > MAX_LOGPROB_IDS


def test_a_vllm_that_cannot_tell_chosen_tokens_is_asked_for_whole_prompts(
    fake_vllm: ModuleType, folder: Path, reference_engine: HfEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**more: Any) -> SamplingParams:
        if "logprob_token_ids" in more:
            raise TypeError("unexpected keyword argument 'logprob_token_ids'")
        return SamplingParams(**more)

    monkeypatch.setattr(fake_vllm, "SamplingParams", refuse)
    engine = load_vllm(str(folder), LoadOptions(dtype="float32"))
    assert "off" in str(engine.info.details["packing"])
    assert_scores_match(engine, reference_engine, make_prompts(BRANCHES[1:], TEXTS[:2]))


def test_a_vllm_whose_two_ways_differ_is_asked_the_slow_one(
    fake_vllm: ModuleType, folder: Path, reference_engine: HfEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score_wrongly(self: VllmEngine, readings: Any) -> Any:
        return [
            QueryLogprobs(
                {
                    position: dict.fromkeys(found, -1.0)
                    for position, found in answer.targets.items()
                },
                [-1.0] * len(answer.choices),
            )
            for answer in self.compute_logprobs_by_prompt(readings)
        ]

    monkeypatch.setattr(VllmEngine, "compute_logprobs_by_id", score_wrongly)
    engine = load_vllm(str(folder), LoadOptions(dtype="float32"))
    assert "off" in str(engine.info.details["packing"])
    assert_scores_match(engine, reference_engine, make_prompts(BRANCHES[1:2], TEXTS[:2]))


def test_texts_are_those_of_transformers(engine: VllmEngine, reference_engine: HfEngine) -> None:
    found = generate_texts(engine, make_prompts(), TEXT_LIMITS)
    slow = generate_texts(reference_engine, make_prompts(), TEXT_LIMITS)
    for row, result in slow.items():
        assert (found[row].text, found[row].finish_reason, found[row].tokens) == (
            result.text,
            result.finish_reason,
            result.tokens,
        )
        assert found[row].logprob == pytest.approx(result.logprob, abs=1e-3)
        assert found[row].tokens_read == result.tokens_read + 1 - (result.finish_reason == "stop")
        assert found[row].ms > 0


def test_a_stop_text_is_no_part_of_the_text(engine: VllmEngine) -> None:
    full = generate_texts(engine, make_prompts(), TEXT_LIMITS)["2"].text
    stop = full[len(full) // 2 :][:4]
    cut = generate_texts(engine, make_prompts(), replace(TEXT_LIMITS, stop=(stop,)))["2"]
    assert (cut.text, cut.finish_reason) == (full[: full.index(stop)].rstrip(), "stop")


def test_chance_depends_on_the_seed_and_the_record_alone(engine: VllmEngine) -> None:
    assert_sampling_depends_on_seed_and_record(
        engine, make_prompts(), replace(TEXT_LIMITS, temperature=1.0)
    )


def test_a_schema_is_handed_over_without_what_vllm_does_not_know(engine: VllmEngine) -> None:
    schema = {
        "type": "object",
        "properties": {
            "side": {"enum": ["left", "right"]},
            "side_quote": {"type": ["string", "null"], "quote": True, "maxLength": 4},
        },
        "required": ["side", "side_quote"],
        "additionalProperties": False,
    }
    assert engine.caps.schema
    for result in generate_texts(engine, make_prompts(), Limits(80, schema=schema)).values():
        value = json.loads(result.text)
        assert result.finish_reason == "stop"
        assert value["side"] in ("left", "right")


def test_thoughts_end_where_the_family_ends_them(fake_vllm: ModuleType, tmp_path: Path) -> None:
    engine = load_vllm(str(save_model(tmp_path, "llama", "thinking")), LoadOptions(dtype="float32"))
    assert engine.caps.thinking_markers
    free = generate_texts(
        engine, make_prompts()[2:3], Limits(24, think=True, stop_repetition=False)
    )["2"].text
    stop = free[len(free) // 2 :][:3]
    engine.chat = replace(engine.chat, thinking=replace(engine.chat.thinking, stop_texts=(stop,)))
    thoughts = generate_texts(
        engine, make_prompts()[2:3], Limits(24, think=True, stop_repetition=False)
    )["2"]
    assert (thoughts.text, thoughts.finish_reason) == (free[: free.index(stop)].rstrip(), "stop")


def test_a_lone_text_is_shown_and_two_cannot_be(engine: VllmEngine) -> None:
    pieces: list[str] = []
    assert generate_texts(engine, make_prompts()[:1], TEXT_LIMITS, on_text=pieces.append)[
        "0"
    ].text == "".join(pieces)
    with pytest.raises(EngineError, match="only one text"):
        list(engine.generate(make_prompts(), TEXT_LIMITS, on_text=print))


def test_rows_that_are_too_long_are_faults_and_the_longest_that_fits_is_read(
    engine: VllmEngine,
) -> None:
    prompts = make_prompts(BRANCHES[:1], ("short", "word " * 900))
    for results in (engine.score(prompts), engine.generate(prompts, TEXT_LIMITS)):
        by_row = {result.record_id: result for result in results}
        assert isinstance(by_row["1"], Fault)
        assert by_row["1"].status is Status.TOO_LONG
        assert not isinstance(by_row["0"], Fault)
    growing = make_prompts(BRANCHES[:1], tuple("x" * count for count in range(500)))
    fitting = [
        unit.prompt
        for unit in engine.tokenize_prompts(growing)
        if unit.max_sequence_tokens <= engine.max_input_tokens
    ]
    assert 0 < len(fitting) < len(growing)
    assert isinstance(next(iter(engine.score(fitting[-1:]))), Scores)


def test_known_rows_are_not_reported_again(engine: VllmEngine) -> None:
    assert list(engine.score(make_prompts(BRANCHES), cached={"0", "1", "2", "3", "4"})) == []
    assert generate_texts(engine, make_prompts(), TEXT_LIMITS, cached={"0", "3"}).keys() == {
        "1",
        "2",
        "4",
    }
    assert list(engine.generate([], TEXT_LIMITS)) == []


def test_a_failing_vllm_is_an_engine_error_without_the_records_words(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.llm.llm_engine.model_config, "max_model_len", 3)
    with pytest.raises(EngineError, match="ValueError") as caught:
        list(engine.score(make_prompts(BRANCHES)))
    assert "record" not in str(caught.value)


def test_vllm_is_opened_closed(engine: VllmEngine) -> None:
    (options,) = LLM.made
    assert options["environment"] == {"HF_HUB_OFFLINE": "1", "VLLM_HOST_IP": "127.0.0.1"}
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
    assert "VLLM_HOST_IP" not in os.environ
    assert options["enable_prefix_caching"]
    assert options["generation_config"] == "vllm"
    assert "enable_lora" not in options


def test_the_engine_reports_what_decides_its_answers(
    fake_vllm: ModuleType, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "base_model_name_or_path": "x"}')
    engine = load_vllm(f"vllm:{folder}", LoadOptions(dtype="float32", adapter=str(tmp_path)))
    facts = engine.info.identity.keys()
    assert {"file:config.json", "file:chat_template.jinja", "file:tokenizer.json"} <= facts
    assert {fact for fact in facts if not fact.startswith("file:")} == {
        "model",
        "engine",
        "dtype",
        "weights",
        "vllm_version",
        "adapter",
    }
    assert LLM.made[0]["max_lora_rank"] == 8
    assert engine._lora == ("adapter", 1, str(tmp_path))
    other = load_vllm(f"vllm:{folder}", LoadOptions(dtype="bfloat16", context_tokens=100))
    assert (other.info.identity["dtype"], other.max_input_tokens) == ("bfloat16", 99)


def test_without_vllm_the_server_is_named_first(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtra) as caught:
        load_vllm(f"vllm:{folder}")
    assert caught.value.fix.index("http://127.0.0.1:8000/v1#model") < caught.value.fix.index(
        "install"
    )


def test_what_vllm_cannot_load_is_an_error_with_a_way_out(
    fake_vllm: ModuleType, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no adapter"):
        load_vllm(str(folder), LoadOptions(adapter=str(tmp_path)))
    broken = save_model(tmp_path / "broken", "llama")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(EngineError, match="could not load"):
        load_vllm(str(broken))


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="vLLM is not installed here; it needs a separate environment",
)
def test_real_vllm_scores_as_plain_passes_do(folder: Path, reference_engine: HfEngine) -> None:
    if not torch.cuda.is_available():
        pytest.skip("vLLM needs a GPU")
    assert_scores_match(
        load_vllm(f"vllm:{folder}", LoadOptions(dtype="float32")),
        reference_engine,
        make_prompts(BRANCHES),
    )
