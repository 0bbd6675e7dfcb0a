"""The `vllm` engine: exact scores with vLLM, in this process.

A sequence is continued by one token, for which vLLM returns the log-probabilities of the candidate
tokens only (SamplingParams.logprob_token_ids), so its prefix cache works and a row is read once.
Requests with ``prompt_logprobs`` do not use that cache. This slow method is the reference for the
fast one at start, and is used if vLLM is too old for the fast one. Sources:
vllm/sampling_params.py, vllm/v1/sample/sampler.py, vllm/entrypoints/llm.py.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtask.engines.base import Caps, EngineInfo
from medtask.engines.decoding.grammar import remove_quote_keywords
from medtask.engines.decoding.sampling import derive_row_seed
from medtask.engines.decoding.scheduler import SequenceCallback
from medtask.engines.decoding.sequence import DecodingSequence
from medtask.engines.files.model_files import (
    ModelFiles,
    format_title,
    list_token_ids,
    locate_model,
    read_model_json,
    with_adapter,
)
from medtask.engines.files.weights import hash_model_files, hash_weights
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.engines.packed_engine import (
    PROBE_PROMPTS,
    PROBE_TOLERANCES,
    PackedEngine,
    compute_max_gap,
)
from medtask.engines.tokens.chat_format import detect_chat_format
from medtask.engines.tokens.prompt_requests import PromptRequest, share_tokens
from medtask.engines.tokens.tokenizer import HfTokenizer
from medtask.engines.tokens.trie_scoring import (
    LogprobQuery,
    LogprobsFunction,
    QueryLogprobs,
    score_branches_from_logprobs,
)
from medtask.errors import EngineError, InputError, MissingExtra
from medtask.privacy import block_network, disable_telemetry
from medtask.records import Fault, Limits, Prompt, Scores

MAX_LOGPROB_IDS = 128  # MAX_LOGPROB_TOKEN_IDS of vllm/sampling_params.py
# unshared tokens of the rows that are passed to vLLM together; it forms its own batches from them
BUDGET_TOKENS = 65_536
# vLLM's kernels for float32 are less exact than those of transformers on a CPU.
VLLM_PROBE_TOLERANCES = PROBE_TOLERANCES | {"float32": 1e-3}
# vLLM's workers are separate processes, which the network guard does not cover. Without a given
# address vLLM opens a network connection to find one.
OFFLINE_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_HOST_IP": "127.0.0.1"}

# A sequence of tokens, and tokens whose log-probabilities are needed after it.
LogprobKey = tuple[tuple[int, ...], tuple[int, ...]]


def load_vllm(reference: str, options: LoadOptions = DEFAULT_OPTIONS) -> VllmEngine:
    """Load ``vllm:REFERENCE``, a folder or a model of the Hub, with vLLM.

    Raises ModelNotFound, MissingExtra, InputError or EngineError.
    """
    vllm = _import_vllm()
    files = locate_model(reference.removeprefix("vllm:"))
    if files.is_gguf:
        raise InputError(
            f"{files.reference} is a GGUF file, which vLLM does not read", fix="leave vllm: out"
        )
    if options.adapter:
        files = with_adapter(files, Path(options.adapter))
    adapter_folder = files.adapter
    llm = _create_llm(
        vllm,
        files,
        adapter_folder,
        {
            "dtype": options.dtype,
            "tensor_parallel_size": options.gpus,
            "max_model_len": options.context_tokens,
        },
    )
    config = llm.llm_engine.model_config
    loaded_dtype = str(config.dtype).removeprefix("torch.")
    identity = {
        "model": files.reference,
        "engine": "vllm",
        "dtype": loaded_dtype,
        "weights": hash_weights(files.path),
        **hash_model_files(files.path),
        "vllm_version": importlib.metadata.version("vllm"),
    }
    identity |= {"revision": files.revision} if files.revision else {}
    identity |= {"adapter": hash_weights(adapter_folder)} if adapter_folder else {}
    details: dict[str, object] = {"gpus": options.gpus, "downloaded": files.downloaded}
    title = format_title(
        files.reference, adapter_folder.name if adapter_folder else None, "vLLM", loaded_dtype
    )
    settings = files.path / "generation_config.json"
    eos_setting = read_model_json(settings).get("eos_token_id") if settings.is_file() else None
    # vLLM always generates at least one token.
    engine = VllmEngine(
        llm,
        EngineInfo("vllm", title, identity, details=details),
        max_input_tokens=int(config.max_model_len) - 1,
        eos_token_ids=list_token_ids(eos_setting),
        adapter=adapter_folder,
    )
    details["fast_against_slow"] = gap = engine.compare_logprob_methods(PROBE_PROMPTS)
    if not gap <= VLLM_PROBE_TOLERANCES.get(loaded_dtype, VLLM_PROBE_TOLERANCES["bfloat16"]):
        engine.compute_logprobs = engine.compute_logprobs_by_prompt
        details["packing"] = (
            f"off: vLLM's two probabilities of one label differ by {gap:.2g}, so each candidate "
            "reads its prompt again"
        )
    return engine


def _import_vllm() -> Any:
    """Import the package with its telemetry off; raises MissingExtra."""
    disable_telemetry()
    try:
        with block_network():
            return importlib.import_module("vllm")
    except ImportError as error:
        raise MissingExtra(
            "vLLM is not installed here"
            if isinstance(error, ModuleNotFoundError)
            else f"vLLM cannot be imported here ({error})",
            fix="run it as a server in a separate environment and name "
            "http://127.0.0.1:8000/v1#model as the model; or install vllm"
            " and medtask together into a new environment",
        ) from None


def _create_llm(
    vllm: Any, files: ModelFiles, adapter_folder: Path | None, options: dict[str, Any]
) -> Any:
    if adapter_folder:
        options |= {
            "enable_lora": True,
            "max_lora_rank": read_model_json(adapter_folder / "adapter_config.json").get("r", 16),
        }
    try:
        with block_network(), _offline_environment():
            return vllm.LLM(
                model=str(files.path),
                load_format="safetensors",
                trust_remote_code=False,
                enable_prefix_caching=True,
                max_logprobs=MAX_LOGPROB_IDS,
                logprobs_mode="raw_logprobs",  # before temperature and constraint
                # the model's own settings, such as a repetition penalty, are ignored
                generation_config="vllm",
                seed=0,
                disable_log_stats=True,
                **options,
            )
    except Exception as error:  # vLLM's components raise many types
        message = str(error).partition("\n")[0]
        raise EngineError(
            f"vLLM could not load {files.reference}: {type(error).__name__}: {message}",
            fix=(
                "see that the GPU is free and that this version of vLLM knows the architecture, "
                "or leave vllm: out"
            ),
        ) from error


class VllmEngine(PackedEngine):
    """``llm`` is a vllm.LLM, ``max_input_tokens`` the longest input that it reads, and
    ``eos_token_ids`` are the tokens that end a text according to the model's settings.
    """

    budget_tokens = BUDGET_TOKENS

    def __init__(
        self,
        llm: Any,
        info: EngineInfo,
        *,
        max_input_tokens: int,
        eos_token_ids: Sequence[int | None],
        adapter: Path | None,
    ) -> None:
        from vllm.lora.request import LoRARequest

        self.llm = llm
        self.info = info
        self.max_input_tokens = self.context_tokens = max_input_tokens
        self._eos_token_ids = eos_token_ids
        self.chat = detect_chat_format(HfTokenizer(llm.get_tokenizer()))
        self.caps = Caps(
            score="exact", generate=True, schema=True, thinking_markers=self.chat.thinking.is_native
        )
        self.compute_logprobs: LogprobsFunction = self.compute_logprobs_by_id
        self._lora = LoRARequest("adapter", 1, str(adapter)) if adapter else None
        self._tokens_read = self._tokens_reused = 0

    def score_pack(
        self, pack: Sequence[PromptRequest], shared_tokens: int
    ) -> Iterator[Scores | Fault]:
        start = time.perf_counter()
        self._tokens_read = self._tokens_reused = 0
        scores = iter(
            score_branches_from_logprobs(
                [tokenized for request in pack for tokenized in request.tokenized_branches],
                self.compute_logprobs,
            )
        )
        ms = (time.perf_counter() - start) * 1000 / len(pack)
        tokens_read, tokens_reused = (
            share_tokens(total, len(pack)) for total in (self._tokens_read, self._tokens_reused)
        )
        for request, read, reused in zip(pack, tokens_read, tokens_reused, strict=True):
            yield Scores(
                request.prompt.record_id,
                tuple(next(scores) for _ in request.tokenized_branches),
                read,
                reused,
                ms,
            )

    def create_sequences(self, prompts: Sequence[Prompt], limits: Limits) -> list[DecodingSequence]:
        # vLLM applies the schema itself.
        return super().create_sequences(prompts, replace(limits, schema=None))

    def decode(
        self, seqs: Sequence[DecodingSequence], limits: Limits, on_update: SequenceCallback
    ) -> Iterator[DecodingSequence]:
        """See PackedEngine. vLLM has no deadline, and returns texts only when they are complete."""
        stop_conditions = self.find_stop_conditions(limits)
        shared: dict[str, Any] = {
            "max_tokens": limits.max_tokens,
            "temperature": limits.temperature,
            "top_p": limits.top_p,
            "logprobs": 0,
            "stop": [stop for stop in stop_conditions.stop_texts if stop],
            "stop_token_ids": sorted(stop_conditions.token_ids),
            "skip_special_tokens": not limits.think,
        }
        if limits.schema is not None:
            shared["structured_outputs"] = _make_structured_outputs(limits.schema)
        sampling_options = [
            {**shared, "seed": derive_row_seed(limits.seed, seq.record_id)} for seq in seqs
        ]
        start = time.perf_counter()
        outputs = self._generate([seq.tokens for seq in seqs], sampling_options)
        ms = (time.perf_counter() - start) * 1000 / len(seqs)
        for seq, output in zip(seqs, outputs, strict=True):
            _replay_tokens(seq, output.outputs[0])
            seq.ms, seq.tokens_reused = ms, output.num_cached_tokens or 0
            seq.tokens_read = len(seq.tokens) - seq.tokens_reused
            yield seq

    def get_eos_token_ids(self) -> Sequence[int | None]:
        return self._eos_token_ids

    def compute_logprobs_by_id(self, queries: Sequence[LogprobQuery]) -> Sequence[QueryLogprobs]:
        """Implements trie_scoring.LogprobsFunction; one request per position of a query."""
        keys = list(dict.fromkeys(_split_queries(queries, MAX_LOGPROB_IDS)))
        sampling_options = [
            {
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": len(ids),
                "logprob_token_ids": list(ids),
            }
            for _, ids in keys
        ]
        logprobs_by_key: dict[LogprobKey, Mapping[int, Any]] = {}
        for (tokens, ids), output in zip(
            keys, self._generate([tokens for tokens, _ in keys], sampling_options), strict=True
        ):
            logprobs_by_key[tokens, ids] = output.outputs[0].logprobs[0]
        return _collect_logprobs(queries, logprobs_by_key, MAX_LOGPROB_IDS)

    def compute_logprobs_by_prompt(
        self, queries: Sequence[LogprobQuery]
    ) -> Sequence[QueryLogprobs]:
        """Like compute_logprobs_by_id, but reads a whole prompt for each token."""
        keys = list(dict.fromkeys(_split_queries(queries, 1)))
        sampling_options = [{"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}] * len(keys)
        outputs = self._generate([tokens + ids for tokens, ids in keys], sampling_options)
        return _collect_logprobs(
            queries,
            {one: output.prompt_logprobs[-1] for one, output in zip(keys, outputs, strict=True)},
            1,
        )

    def compare_logprob_methods(self, prompts: Sequence[Prompt]) -> float:
        """The largest probability difference of both methods; inf if the fast one is missing."""
        tokenized_branches = [
            tokenized
            for request in self.tokenize_prompts(prompts)
            for tokenized in request.tokenized_branches
        ]
        reference = score_branches_from_logprobs(
            tokenized_branches, self.compute_logprobs_by_prompt
        )
        try:
            return compute_max_gap(
                score_branches_from_logprobs(tokenized_branches, self.compute_logprobs_by_id),
                reference,
            )
        except (TypeError, LookupError, EngineError):
            return float("inf")

    def close(self) -> None:
        del self.llm

    def _generate(
        self, prompts: Sequence[Sequence[int]], sampling_options: Sequence[Mapping[str, Any]]
    ) -> Sequence[Any]:
        """vLLM's RequestOutputs, one per prompt."""
        from vllm import SamplingParams

        tokens = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        settings = [SamplingParams(**one) for one in sampling_options]
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
            self._tokens_reused += reused
            self._tokens_read += len(output.prompt_token_ids) - reused
        return outputs


def _split_queries(queries: Sequence[LogprobQuery], max_ids: int) -> Iterator[LogprobKey]:
    """The sequences and tokens of the queries, with at most ``max_ids`` tokens at a time."""
    for query in queries:
        for place, token_ids in query.all_targets.items():
            for start in range(0, len(token_ids), max_ids):
                yield query.tokens[: place + 1], token_ids[start : start + max_ids]


def _collect_logprobs(
    queries: Sequence[LogprobQuery],
    logprobs_by_key: Mapping[LogprobKey, Mapping[int, Any]],
    max_ids: int,
) -> Sequence[QueryLogprobs]:
    results = []
    for query in queries:
        targets: dict[int, dict[int, float]] = {}
        for tokens, ids in _split_queries([query], max_ids):
            targets.setdefault(len(tokens) - 1, {}).update(
                {token: float(logprobs_by_key[tokens, ids][token].logprob) for token in ids}
            )
        choices = [targets[len(query.tokens) - 1][token] for token in query.choices]
        results.append(QueryLogprobs(targets, choices))
    return results


def _replay_tokens(seq: DecodingSequence, output: Any) -> None:
    """Append the tokens that vLLM generated, so that the same stop conditions apply."""
    for token, candidate_logprobs in zip(output.token_ids, output.logprobs, strict=True):
        if seq.is_finished:
            return
        seq.append_token(token, float(candidate_logprobs[token].logprob))
    if not seq.is_finished:
        seq.finish_reason = "length" if output.finish_reason == "length" else "stop"


def _make_structured_outputs(schema: Mapping[str, object]) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(json=remove_quote_keywords(schema), disable_any_whitespace=True)


@contextlib.contextmanager
def _offline_environment() -> Iterator[None]:
    """Set environment variables for the processes that vLLM starts."""
    before = {name: os.environ.get(name) for name in OFFLINE_ENVIRONMENT}
    os.environ.update(OFFLINE_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
