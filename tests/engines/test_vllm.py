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

from medtask.engines.hf.engine import HfEngine
from medtask.engines.tokens.tokenizer import HubTokenizer
from medtask.engines.vllm import MOST_IDS, VllmEngine, load_vllm
from medtask.engines.writing.constrain import Constraint, Schemas, allowed_tokens
from medtask.engines.writing.grammar import has_quotes
from medtask.errors import EngineError, InputError, MissingExtra
from medtask.records import Branch, Fault, Limits, Message, Prompt, Scores, Status
from plainly import assert_alike, load_plain, write
from tiny_models import save_model

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
NEW = Limits(max_tokens=24, loops=False)


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
    """One row at a time, by transformers; tells what vLLM tells, in its form, and refuses what it
    refuses.
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
        tokens, told, prompt_told = list(prompt), [], None
        if one.prompt_logprobs is not None:
            rows = torch.log_softmax(self.model(torch.tensor([prompt])).logits[0].float(), dim=-1)
            prompt_told = [
                None,
                *(
                    {token: _logprob(row[token])}
                    for row, token in zip(rows, prompt[1:], strict=False)
                ),
            ]
        constraint = self._hold(one.structured_outputs)
        chance = torch.Generator().manual_seed(one.seed or 0)
        finish = "length"
        for _ in range(one.max_tokens):
            logits = self.model(torch.tensor([tokens])).logits[0, -1].float()
            raw = torch.log_softmax(logits, dim=-1)
            if constraint:
                logits = logits.masked_fill(
                    ~torch.from_numpy(allowed_tokens([constraint], len(logits))[0]), -torch.inf
                )
            drawn = torch.multinomial(
                torch.softmax(logits / (one.temperature or 1), -1), 1, generator=chance
            )
            token = int(drawn) if one.temperature else int(logits.argmax())
            told.append(
                {shown: _logprob(raw[shown]) for shown in (token, *(one.logprob_token_ids or ()))}
            )
            tokens.append(token)
            if token in one.stop_token_ids:
                finish = "stop"
                break
            if constraint:
                constraint.take(token)
            text = self.tokenizer.decode(
                tokens[len(prompt) :], skip_special_tokens=one.skip_special_tokens
            )
            if (constraint and constraint.done) or any(stop in text for stop in one.stop):
                finish = "stop"
                break
        output = SimpleNamespace(
            token_ids=tokens[len(prompt) :],
            logprobs=told if one.logprobs is not None else None,
            finish_reason=finish,
        )
        return SimpleNamespace(
            outputs=[output],
            prompt_token_ids=prompt,
            prompt_logprobs=prompt_told,
            num_cached_tokens=None,
        )

    def _hold(self, wanted: StructuredOutputsParams | None) -> Constraint | None:
        if wanted is None:
            return None
        assert not has_quotes(wanted.json)
        schemas = Schemas(
            HubTokenizer(self.tokenizer),
            self.model.config.vocab_size,
            [self.tokenizer.eos_token_id],
        )
        return schemas.read(wanted.json, space=False)("")


def _logprob(value: torch.Tensor) -> Any:
    return SimpleNamespace(logprob=float(value), rank=1, decoded_token=None)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
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
def plain(folder: Path) -> HfEngine:
    return load_plain(folder)


@pytest.fixture
def engine(stand_in: ModuleType, folder: Path) -> VllmEngine:
    return load_vllm(f"vllm:{folder}", dtype="float32")


def ask(branches: tuple[Branch, ...] = (), texts: tuple[str, ...] = TEXTS) -> list[Prompt]:
    return [
        Prompt(str(row), (Message("user", f"What is wrong?\n\nText: {text}"),), branches, text)
        for row, text in enumerate(texts)
    ]


def test_scores_are_those_of_plain_passes(engine: VllmEngine, plain: HfEngine) -> None:
    assert "packing" not in engine.info.details
    assert_alike(engine, plain, ask(BRANCHES))
    assert not any(one.prompt_logprobs is not None for one in engine.llm.asked[-50:]), (
        "the prefix cache would be passed by"
    )


def test_more_candidates_than_vllm_tells_at_once_are_asked_for_in_parts(
    engine: VllmEngine, plain: HfEngine
) -> None:
    names = [
        plain.chat.tokenizer.decode([token])
        for token in range(len(plain.chat.tokenizer.vocabulary))
    ]  # type: ignore[arg-type]
    tails = tuple(
        dict.fromkeys(
            name for name in names if name.isprintable() and name.strip() and "\ufffd" not in name
        )
    )
    assert len({name[0] for name in tails}) < len(tails)
    prompts = ask((Branch("", tails),), TEXTS[:1])
    engine.llm.asked.clear()
    assert_alike(engine, plain, prompts)
    assert max(one.logprobs for one in engine.llm.asked) <= MOST_IDS
    assert sum(len(one.logprob_token_ids) for one in engine.llm.asked) > MOST_IDS


def test_a_vllm_that_cannot_tell_chosen_tokens_is_asked_for_whole_prompts(
    stand_in: ModuleType, folder: Path, plain: HfEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**more: Any) -> SamplingParams:
        if "logprob_token_ids" in more:
            raise TypeError("unexpected keyword argument 'logprob_token_ids'")
        return SamplingParams(**more)

    monkeypatch.setattr(stand_in, "SamplingParams", refuse)
    engine = load_vllm(str(folder), dtype="float32")
    assert "off" in str(engine.info.details["packing"])
    assert_alike(engine, plain, ask(BRANCHES[1:], TEXTS[:2]))


def test_a_vllm_whose_two_ways_differ_is_asked_the_slow_one(
    stand_in: ModuleType, folder: Path, plain: HfEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell_wrongly(self: VllmEngine, readings: Any) -> Any:
        told = self.tell_slowly(readings)
        return [{place: dict.fromkeys(found, -1.0) for place, found in one.items()} for one in told]

    monkeypatch.setattr(VllmEngine, "tell_quickly", tell_wrongly)
    engine = load_vllm(str(folder), dtype="float32")
    assert "off" in str(engine.info.details["packing"])
    assert_alike(engine, plain, ask(BRANCHES[1:2], TEXTS[:2]))


def test_texts_are_those_of_transformers(engine: VllmEngine, plain: HfEngine) -> None:
    found, slow = write(engine, ask(), NEW), write(plain, ask(), NEW)
    for row, result in slow.items():
        assert (found[row].text, found[row].ended, found[row].tokens) == (
            result.text,
            result.ended,
            result.tokens,
        )
        assert found[row].logprob == pytest.approx(result.logprob, abs=1e-3)
        assert found[row].tokens_read == result.tokens_read + 1 - (result.ended == "stop")


def test_a_stop_text_is_no_part_of_the_text(engine: VllmEngine) -> None:
    whole = write(engine, ask(), NEW)["2"].text
    stop = whole[len(whole) // 2 :][:4]
    cut = write(engine, ask(), replace(NEW, stop=(stop,)))["2"]
    assert (cut.text, cut.ended) == (whole[: whole.index(stop)].rstrip(), "stop")


def test_chance_depends_on_the_seed_and_the_record_alone(engine: VllmEngine) -> None:
    warm = replace(NEW, temperature=1.0, seed=5)
    together = write(engine, ask(), warm)
    assert write(engine, ask()[3:4], warm)["3"].text == together["3"].text
    assert write(engine, ask()[3:4], replace(warm, seed=6))["3"].text != together["3"].text


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
    for result in write(engine, ask(), Limits(80, schema=schema)).values():
        value = json.loads(result.text)
        assert result.ended == "stop"
        assert value["side"] in ("left", "right")


def test_thoughts_end_where_the_family_ends_them(stand_in: ModuleType, tmp_path: Path) -> None:
    engine = load_vllm(str(save_model(tmp_path, "llama", "thinking")), dtype="float32")
    assert engine.caps.thinking_markers
    free = write(engine, ask()[2:3], Limits(24, think=True, loops=False))["2"].text
    stop = free[len(free) // 2 :][:3]
    engine.chat = replace(engine.chat, thinking=replace(engine.chat.thinking, stops=(stop,)))
    thoughts = write(engine, ask()[2:3], Limits(24, think=True, loops=False))["2"]
    assert (thoughts.text, thoughts.ended) == (free[: free.index(stop)].rstrip(), "stop")


def test_a_lone_text_is_shown_and_two_cannot_be(engine: VllmEngine) -> None:
    pieces: list[str] = []
    assert write(engine, ask()[:1], NEW, on_text=pieces.append)["0"].text == "".join(pieces)
    with pytest.raises(EngineError, match="only one text"):
        list(engine.generate(ask(), NEW, on_text=print))


def test_rows_that_are_too_long_are_faults_and_the_longest_that_fits_is_read(
    engine: VllmEngine,
) -> None:
    prompts = ask(BRANCHES[:1], ("short", "word " * 900))
    for results in (engine.score(prompts), engine.generate(prompts, NEW)):
        by_row = {result.record_id: result for result in results}
        assert isinstance(by_row["1"], Fault)
        assert by_row["1"].status is Status.TOO_LONG
        assert not isinstance(by_row["0"], Fault)
    growing = ask(BRANCHES[:1], tuple("x" * count for count in range(500)))
    fitting = [unit.prompt for unit in engine.encode(growing) if unit.longest <= engine.limit]
    assert 0 < len(fitting) < len(growing)
    assert isinstance(next(iter(engine.score(fitting[-1:]))), Scores)


def test_known_rows_are_not_told_again(engine: VllmEngine) -> None:
    assert list(engine.score(ask(BRANCHES), known={"0", "1", "2", "3", "4"})) == []
    assert write(engine, ask(), NEW, known={"0", "3"}).keys() == {"1", "2", "4"}
    assert list(engine.generate([], NEW)) == []


def test_a_failing_vllm_is_an_engine_error_without_the_records_words(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.llm.llm_engine.model_config, "max_model_len", 3)
    with pytest.raises(EngineError, match="ValueError") as caught:
        list(engine.score(ask(BRANCHES)))
    assert "record" not in str(caught.value)


def test_vllm_is_opened_closed(engine: VllmEngine) -> None:
    (options,) = LLM.made
    assert options["environment"] == {"HF_HUB_OFFLINE": "1", "VLLM_HOST_IP": "127.0.0.1"}
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
    assert "VLLM_HOST_IP" not in os.environ
    assert options["enable_prefix_caching"]
    assert options["generation_config"] == "vllm"
    assert "enable_lora" not in options


def test_the_engine_tells_what_decides_its_answers(
    stand_in: ModuleType, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "base_model_name_or_path": "x"}')
    engine = load_vllm(f"vllm:{folder}", dtype="float32", adapter=str(tmp_path))
    assert engine.info.identity.keys() == {
        "model",
        "engine",
        "dtype",
        "weights",
        "vllm_version",
        "adapter",
    }
    assert LLM.made[0]["max_lora_rank"] == 8
    assert engine._lora == ("adapter", 1, str(tmp_path))
    other = load_vllm(f"vllm:{folder}", dtype="bfloat16", context=100)
    assert (other.info.identity["dtype"], other.limit) == ("bfloat16", 99)


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
    stand_in: ModuleType, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no adapter"):
        load_vllm(str(folder), adapter=str(tmp_path))
    broken = save_model(tmp_path / "broken", "llama")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(EngineError, match="could not load"):
        load_vllm(str(broken))


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="vLLM is not installed here; it wants an environment of its own",
)
def test_real_vllm_scores_as_plain_passes_do(folder: Path, plain: HfEngine) -> None:
    if not torch.cuda.is_available():
        pytest.skip("vLLM needs a GPU")
    assert_alike(load_vllm(f"vllm:{folder}", dtype="float32"), plain, ask(BRANCHES))
