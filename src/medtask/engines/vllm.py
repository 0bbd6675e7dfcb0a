"""The `vllm` engine: vLLM in this process, asked exactly.

What may follow a sequence of tokens is asked for as one further token, of which vLLM tells the
log-probabilities of the candidates alone (SamplingParams.logprob_token_ids): its prefix cache then
works, and a row is read once. ``prompt_logprobs`` would not do: requests with it read nothing from
that cache, so every candidate costs the whole prompt. It is the slow way, which the fast one is
held against at start, and which answers where vLLM is too old for the fast one. Sources:
vllm/sampling_params.py, vllm/v1/sample/sampler.py, vllm/entrypoints/llm.py.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtask.engines.base import Caps, EngineInfo
from medtask.engines.files.locate import ModelFiles, locate_model, read_json
from medtask.engines.files.weights import hash_weights
from medtask.engines.packed import PROBE, PackedEngine, largest_gap
from medtask.engines.tokens.batch import Unit
from medtask.engines.tokens.chat import read_chat
from medtask.engines.tokens.tokenizer import HubTokenizer
from medtask.engines.tokens.walk import Reading, Tell, Told, score_told
from medtask.engines.writing.begin import begin_drafts, find_ends
from medtask.engines.writing.constrain import Schemas
from medtask.engines.writing.draft import Draft
from medtask.engines.writing.grammar import drop_quotes
from medtask.engines.writing.sample import seed_row
from medtask.engines.writing.write import Show, write_texts
from medtask.errors import EngineError, InputError, MissingExtra
from medtask.privacy import close_egress, no_network
from medtask.records import Fault, Generated, Limits, Prompt, Scores

MOST_IDS = 128  # MAX_LOGPROB_TOKEN_IDS of vllm/sampling_params.py
# own tokens of the rows that are handed over together; vLLM forms its own batches from them
BUDGET = 65_536
AGREEMENT = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.02}
# Its workers are processes of their own, which the network guard does not see. Without an address
# of ours vLLM asks the network for one.
CLOSED = {"HF_HUB_OFFLINE": "1", "VLLM_HOST_IP": "127.0.0.1"}

# A sequence of tokens, and some of those whose log-probabilities behind it are wanted.
Asked = tuple[tuple[int, ...], tuple[int, ...]]


def load_vllm(
    reference: str,
    *,
    dtype: str = "auto",
    adapter: str | None = None,
    context: int | None = None,
    gpus: int = 1,
) -> VllmEngine:
    """A VllmEngine for ``vllm:REFERENCE``, a folder or a model of the Hub. ``adapter``: a PEFT
    folder; ``context``: tokens that a prompt and its answer may have together; ``gpus``: over how
    many the model is spread.

    Raises ModelNotFound, MissingExtra, InputError or EngineError.
    """
    vllm = _import_vllm()
    files = locate_model(reference.removeprefix("vllm:"))
    lora = Path(adapter) if adapter else files.adapter
    if files.is_gguf:
        raise InputError(
            f"{files.reference} is a GGUF file, which vLLM does not read", fix="leave vllm: out"
        )
    if lora and not (lora / "adapter_config.json").is_file():
        raise InputError(
            f"{lora} holds no adapter: adapter_config.json is missing",
            fix="name a folder that PEFT wrote",
        )
    llm = _open(
        vllm, files, lora, {"dtype": dtype, "tensor_parallel_size": gpus, "max_model_len": context}
    )
    config = llm.llm_engine.model_config
    kept = str(config.dtype).removeprefix("torch.")
    version = importlib.metadata.version("vllm")
    identity = {
        "model": files.reference,
        "engine": "vllm",
        "dtype": kept,
        "weights": hash_weights(files.path),
        "vllm_version": version,
    }
    identity |= {"revision": files.revision} if files.revision else {}
    identity |= {"adapter": hash_weights(lora)} if lora else {}
    details: dict[str, object] = {"gpus": gpus, "downloaded": files.downloaded, "notes": []}
    title = f"{files.reference}{f' + {lora.name}' if lora else ''}, vLLM, {kept}"
    settings = files.path / "generation_config.json"
    named = read_json(settings).get("eos_token_id") if settings.is_file() else None
    ends = named if isinstance(named, list) else [named]
    # Whatever is asked, vLLM writes a token behind it.
    engine = VllmEngine(
        llm,
        EngineInfo("vllm", title, identity, details),
        limit=int(config.max_model_len) - 1,
        ends=ends,
        adapter=lora,
    )
    details["fast_against_slow"] = gap = engine.compare_with_slow(PROBE)
    if not gap <= AGREEMENT.get(kept, AGREEMENT["bfloat16"]):
        engine.tell = engine.tell_slowly
        details["packing"] = (
            f"off: vLLM's two ways to tell a probability differ by {gap:.2g}, so each candidate "
            "reads its prompt anew"
        )
    return engine


def _import_vllm() -> Any:
    """The package, imported with its telemetry off. MissingExtra where it cannot be."""
    close_egress()
    try:
        with no_network():
            return importlib.import_module("vllm")
    except ImportError as error:
        raise MissingExtra(
            "vLLM is not installed here"
            if isinstance(error, ModuleNotFoundError)
            else f"vLLM cannot be imported here ({error})",
            fix="run it as a server in an environment of its own and name "
            "http://127.0.0.1:8000/v1#model as the model; or install vllm"
            " and medtask together into a new environment",
        ) from None


def _open(vllm: Any, files: ModelFiles, lora: Path | None, options: dict[str, Any]) -> Any:
    if lora:
        options |= {
            "enable_lora": True,
            "max_lora_rank": read_json(lora / "adapter_config.json").get("r", 16),
        }
    try:
        with no_network(), _closed():
            return vllm.LLM(
                model=str(files.path),
                load_format="safetensors",
                trust_remote_code=False,
                enable_prefix_caching=True,
                max_logprobs=MOST_IDS,
                logprobs_mode="raw_logprobs",  # before temperature and constraint
                # a model's own settings, a repetition penalty among them, have no voice
                generation_config="vllm",
                seed=0,
                disable_log_stats=True,
                **options,
            )
    except Exception as error:  # whatever its many parts raise
        said = str(error).partition("\n")[0]
        raise EngineError(
            f"vLLM could not load {files.reference}: {type(error).__name__}: {said}",
            fix=(
                "see that the GPU is free and that this version of vLLM knows the architecture, "
                "or leave vllm: out"
            ),
        ) from error


class VllmEngine(PackedEngine):
    """``llm``: a vllm.LLM; ``limit``: tokens that it reads at most; ``ends``: tokens that end a
    text by the model's own settings.
    """

    budget = BUDGET

    def __init__(
        self,
        llm: Any,
        info: EngineInfo,
        *,
        limit: int,
        ends: Sequence[int | None],
        adapter: Path | None,
    ) -> None:
        from vllm.lora.request import LoRARequest

        self.llm = llm
        self.info = info
        self.limit = self.context_tokens = limit
        self.ends = ends
        self.chat = read_chat(HubTokenizer(llm.get_tokenizer()))
        self.caps = Caps(
            score="exact", generate=True, schema=True, thinking_markers=self.chat.thinking.native
        )
        self.tell: Tell = self.tell_quickly
        self._lora = LoRARequest("adapter", 1, str(adapter)) if adapter else None
        self._read = self._reused = 0

    def score_pack(self, pack: Sequence[Unit], shared: int) -> Iterator[Scores | Fault]:
        start = time.perf_counter()
        self._read = self._reused = 0
        scores = iter(
            score_told([question for unit in pack for question in unit.questions], self.tell)
        )
        ms = (time.perf_counter() - start) * 1000 / len(pack)
        for place, unit in enumerate(pack):
            # Shared out evenly; the first row pays for what is left over.
            read, reused = (
                count // len(pack) + (count % len(pack) if place == 0 else 0)
                for count in (self._read, self._reused)
            )
            yield Scores(
                unit.prompt.record_id, tuple(next(scores) for _ in unit.questions), read, reused, ms
            )

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        known: Collection[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> Iterator[Generated | Fault]:
        """See Engine.generate. vLLM shows a text when it is whole, and knows no deadline."""
        ends = find_ends(self.chat, limits, self.ends)

        def begin() -> Sequence[Draft]:
            return begin_drafts(
                self.chat, prompts, replace(limits, schema=None), ends, self.limit, _no_schemas
            )

        def write(drafts: Sequence[Draft], show: Show) -> Iterator[Draft]:
            held = (
                {"structured_outputs": _hold_to(limits.schema)} if limits.schema is not None else {}
            )
            shared = {
                "max_tokens": limits.max_tokens,
                "temperature": limits.temperature,
                "top_p": limits.top_p,
                "logprobs": 0,
                **held,
            }
            stops = {
                "stop": [stop for stop in ends.stops if stop],
                "stop_token_ids": sorted(ends.tokens),
            }
            asked = [
                {
                    **shared,
                    **stops,
                    "skip_special_tokens": not limits.think,
                    "seed": seed_row(limits.seed, draft.record_id),
                }
                for draft in drafts
            ]
            for draft, output in zip(
                drafts, self._ask([draft.tokens for draft in drafts], asked), strict=True
            ):
                _replay(draft, output.outputs[0])
                draft.reused = output.num_cached_tokens or 0
                draft.read = len(draft.tokens) - draft.reused
                yield draft

        return write_texts(prompts, known, on_text, begin, write)

    def tell_quickly(self, readings: Sequence[Reading]) -> Sequence[Told]:
        """See tokens.walk.Tell: one request for each place at which something is wanted."""
        asked = list(dict.fromkeys(_spread(readings, MOST_IDS)))
        more = [
            {
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": len(ids),
                "logprob_token_ids": list(ids),
            }
            for _, ids in asked
        ]
        found: dict[Asked, Mapping[int, Any]] = {}
        for (tokens, ids), output in zip(
            asked, self._ask([tokens for tokens, _ in asked], more), strict=True
        ):
            found[tokens, ids] = output.outputs[0].logprobs[0]
        return _gather(readings, found, MOST_IDS)

    def tell_slowly(self, readings: Sequence[Reading]) -> Sequence[Told]:
        """As tell_quickly, by one whole prompt for each candidate, read anew."""
        asked = list(dict.fromkeys(_spread(readings, 1)))
        more = [{"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}] * len(asked)
        outputs = self._ask([tokens + ids for tokens, ids in asked], more)
        return _gather(
            readings,
            {one: output.prompt_logprobs[-1] for one, output in zip(asked, outputs, strict=True)},
            1,
        )

    def compare_with_slow(self, prompts: Sequence[Prompt]) -> float:
        """The largest difference of any probability between the two ways (inf where vLLM does not
        know the fast one).
        """
        questions = [question for unit in self.encode(prompts) for question in unit.questions]
        slow = score_told(questions, self.tell_slowly)
        try:
            return largest_gap(score_told(questions, self.tell_quickly), slow)
        except (TypeError, LookupError, EngineError):
            return float("inf")

    def close(self) -> None:
        del self.llm

    def _ask(
        self, prompts: Sequence[Sequence[int]], asked: Sequence[Mapping[str, Any]]
    ) -> Sequence[Any]:
        """vLLM's RequestOutputs, one per prompt."""
        from vllm import SamplingParams

        tokens = [
            {"prompt_token_ids": list(prompt)} for prompt in prompts
        ]  # a TokensPrompt is a TypedDict
        settings = [SamplingParams(**one) for one in asked]
        try:
            outputs: Sequence[Any] = (
                self.llm.generate(tokens, settings, use_tqdm=False, lora_request=self._lora)
                if tokens
                else ()
            )
        except (RuntimeError, ValueError) as error:
            raise EngineError(
                f"vLLM failed on a batch ({type(error).__name__})",
                fix="see its log, then go on with the run",
            ) from error
        for output in outputs:
            reused = output.num_cached_tokens or 0
            self._reused += reused
            self._read += len(output.prompt_token_ids) - reused
        return outputs


def _spread(readings: Sequence[Reading], most: int) -> Iterator[Asked]:
    """What readings want, by place, at most so many tokens at a time."""
    for reading in readings:
        for place, wanted in reading.wanted.items():
            for start in range(0, len(wanted), most):
                yield reading.tokens[: place + 1], wanted[start : start + most]


def _gather(
    readings: Sequence[Reading], found: Mapping[Asked, Mapping[int, Any]], most: int
) -> Sequence[Told]:
    told: list[dict[int, dict[int, float]]] = [
        {place: {} for place in reading.wanted} for reading in readings
    ]
    for reading, by_place in zip(readings, told, strict=True):
        for tokens, ids in _spread([reading], most):
            by_place[len(tokens) - 1] |= {
                token: float(found[tokens, ids][token].logprob) for token in ids
            }
    return told


def _replay(draft: Draft, output: Any) -> None:
    """Let a draft take the tokens that vLLM wrote, so that a text ends and is cut as every engine's
    does.
    """
    for token, told in zip(output.token_ids, output.logprobs, strict=True):
        if draft.done:
            return
        draft.take(token, float(told[token].logprob))
    if not draft.done:
        draft.ended = "length" if output.finish_reason == "length" else "stop"


def _hold_to(schema: Mapping[str, object]) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(json=drop_quotes(schema), disable_any_whitespace=True)


def _no_schemas() -> Schemas:
    raise AssertionError("vLLM holds texts to a schema by itself")


@contextlib.contextmanager
def _closed() -> Iterator[None]:
    """Environment variables for the processes that vLLM starts."""
    before = {name: os.environ.get(name) for name in CLOSED}
    os.environ.update(CLOSED)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
