"""Base class of engines that read many rows together after a shared prefix."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from medtask.engines.base import (
    BatchSetting,
    Engine,
    PromptPlan,
    Rendering,
    TextCallbacks,
    list_text_callbacks,
)
from medtask.engines.decoding.constraints import ConstraintFactory
from medtask.engines.decoding.preparation import create_sequences, find_stop_conditions
from medtask.engines.decoding.scheduler import SequenceCallback
from medtask.engines.decoding.sequence import DecodingSequence, StopConditions
from medtask.engines.files.probe_results import ProbeKey, keep_probe_gap, read_probe_gap
from medtask.engines.tokens.chat import TokenizedBranch, render_prompt, tokenize_branches
from medtask.engines.tokens.chat_format import ChatFormat
from medtask.engines.tokens.prompt_requests import (
    PromptRequest,
    group_requests,
    make_prompt_request,
    split_into_packs,
)
from medtask.engines.tokens.trie import compute_mean_label_tokens
from medtask.errors import EngineError
from medtask.records import (
    Branch,
    BranchScores,
    Fault,
    Generated,
    Limits,
    Message,
    Prompt,
    Scores,
    Status,
)

# Scored packed and by the reference, when a model is first loaded. Texts of different lengths and
# labels with a common prefix detect leaks between rows; two branches detect leaks between branches.
_PROBE_BRANCHES = (
    Branch("", ("wrist", "knee", "knee joint")),
    Branch("Side: ", ("left", "right"), weigh="text"),
)
# Largest difference of a probability between packed and separate rows, by dtype.
PROBE_TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.02}
PROBE_PROMPTS = tuple(
    Prompt(
        str(number),
        (Message("user", f"Name the body part.\n\nText: {text}"),),
        _PROBE_BRANCHES,
        text,
    )
    for number, text in enumerate(("Broken left wrist after a fall on ice.", "Torn meniscus"))
)


class PackedEngine(Engine):
    """Scores prompts in packs.

    Attributes:
        chat: Chat template and tokenizer.
        max_input_tokens: Longest input that the model reads.
        budget_tokens: Tokens of one pack.
        max_sequences: Sequences of one pack; None for any number.
        packed: Whether rows are read together.
    """

    streams_several = True

    chat: ChatFormat
    max_input_tokens: int
    budget_tokens: int
    max_sequences: int | None = None
    packed: bool = True
    _constraint_factory: ConstraintFactory | None = None

    @abstractmethod
    def score_pack(
        self, pack: Sequence[PromptRequest], shared_tokens: int
    ) -> Iterator[Scores | Fault]:
        """Score requests that share their first ``shared_tokens`` tokens; a Fault for one that
        cannot be read.
        """

    @abstractmethod
    def decode(
        self, seqs: Sequence[DecodingSequence], limits: Limits, on_update: SequenceCallback
    ) -> Iterator[DecodingSequence]:
        """Generate the text of each sequence; yields each one when it is finished."""

    def get_eos_token_ids(self) -> Sequence[int | None]:
        """The tokens that end a text according to the model's settings."""
        return ()

    def count_logits(self) -> int:
        """The number of logits per token, which may exceed the tokenizer's number of tokens."""
        return self.chat.tokenizer.vocabulary_size

    def score_reference(self, tokenized_branches: Sequence[TokenizedBranch]) -> list[BranchScores]:
        """Reference scores: a separate forward pass for each label."""
        raise NotImplementedError

    def check_packing(
        self,
        tolerance: float,
        key: ProbeKey | None = None,
        reference: Sequence[BranchScores] | None = None,
    ) -> None:
        """Disable packing if a probability differs by more than ``tolerance``.

        With a ``key`` the result is kept, and a kept result is used. ``reference``: the scores of
        the probe by another implementation of the model; None for those of this engine.
        """
        gap = read_probe_gap(key) if key else None
        if gap is None:
            gap = self.compare_with_reference(PROBE_PROMPTS, reference)
            if key:
                keep_probe_gap(key, gap)
        self.info = replace(self.info, details={**self.info.details, "packed_against_plain": gap})
        if not gap <= tolerance:
            self.disable_packing(
                f"rows read together and alone differ by {gap:.2g} in a probability"
            )

    @property
    def packing_failed(self) -> bool:
        """Whether `check_packing` has disabled packing."""
        return not self.packed and "packed_against_plain" in self.info.details

    def compute_reference(self, prompts: Sequence[Prompt]) -> list[BranchScores]:
        """The reference scores of all branches of the prompts."""
        requests = self.tokenize_prompts(prompts)
        return self.score_reference(
            [tokenized for request in requests for tokenized in request.tokenized_branches]
        )

    def compare_with_reference(
        self, prompts: Sequence[Prompt], reference: Sequence[BranchScores] | None = None
    ) -> float:
        """The largest difference of a probability between packed and reference scores; inf if
        packing fails. ``reference``: None for those of this engine.
        """
        requests = self.tokenize_prompts(prompts)
        try:
            results = [
                result
                for group in group_requests(requests)
                for result in self.score_pack(group.requests, group.shared_tokens)
            ]
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, EngineError):
            return float("inf")
        branches = {
            result.record_id: result.branches for result in results if isinstance(result, Scores)
        }
        if len(branches) < len(prompts):
            return float("inf")
        return compute_max_gap(
            [branch for request in requests for branch in branches[request.prompt.record_id]],
            self.compute_reference(prompts) if reference is None else reference,
        )

    def disable_packing(self, reason: str) -> None:
        """Read each row separately from now on; the reason is written to the manifest."""
        self.packed = False
        self.info = replace(self.info, details={**self.info.details, "packing": f"off: {reason}"})

    def get_batch_setting(self, *, generates: bool = False) -> BatchSetting | None:
        if generates or not self.packed:
            return None
        size = self.budget_tokens
        sizes = tuple(size * eighths // 8 for eighths in (1, 2, 4, 8, 16, 32))
        return BatchSetting("tokens", size, sizes)

    def set_batch_size(self, size: int, *, generates: bool = False) -> None:
        self.budget_tokens = size

    def render(self, prompt: Prompt) -> Rendering:
        return render_prompt(self.chat, prompt)

    def plan(self, prompts: Sequence[Prompt]) -> PromptPlan:
        requests = self.tokenize_prompts(prompts)
        groups = group_requests(requests)
        shared = {
            request.prompt.record_id: group.shared_tokens
            for group in groups
            for request in group.requests
        }
        reads = [
            compute_mean_label_tokens(tokenized.trie) if tokenized.trie else 0.0
            for request in requests
            for tokenized in request.tokenized_branches
        ]
        return PromptPlan(
            shared_tokens=groups[0].shared_tokens if groups else 0,
            own_tokens=tuple(
                request.count_own_tokens(shared[request.prompt.record_id]) for request in requests
            ),
            mean_label_tokens=float(np.mean(reads)) if reads else 0.0,
            max_input_tokens=self.max_input_tokens,
            sequence_tokens=tuple(request.max_sequence_tokens for request in requests),
            warnings=_find_prefix_labels(self.render(prompts[0]), prompts[0].branches[0])
            if prompts and prompts[0].branches
            else (),
        )

    def score(
        self, prompts: Sequence[Prompt], cached: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        requests = []
        for request in self.tokenize_prompts(prompts):
            if not request.tokenized_branches:
                yield Scores(request.prompt.record_id, ())
            elif request.max_sequence_tokens > self.max_input_tokens:
                reason = (
                    f"{request.max_sequence_tokens:,} tokens with the longest label; the model "
                    f"reads at most {self.max_input_tokens:,}"
                )
                yield Fault(request.prompt.record_id, Status.TOO_LONG, reason)
            else:
                requests.append(request)
        for group in group_requests(requests):
            for pack in split_into_packs(group, self.budget_tokens, self.max_sequences):
                if any(request.prompt.record_id not in cached for request in pack):
                    yield from self.score_pack(pack, group.shared_tokens)

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        cached: Collection[str] = (),
        on_text: TextCallbacks | None = None,
    ) -> Iterator[Generated | Fault]:
        """See Engine.generate.

        A text is stripped of whitespace, except at its start if it continues a partial response.
        Repeated text is cut after its first period. Cached rows are generated too if their batch
        has a row that is not cached: the rows of a batch affect the last digits of each other's
        numbers.
        """
        callbacks = list_text_callbacks(on_text, prompts, several=self.streams_several)
        if all(prompt.record_id in cached for prompt in prompts):
            return
        on_update = _make_text_callback(callbacks)
        seqs = self.create_sequences(prompts, limits)
        runnable = [seq for seq in seqs if seq.fault is None]
        finished = self.decode(runnable, limits, on_update) if runnable else ()
        for seq in itertools.chain((seq for seq in seqs if seq.fault), finished):
            on_update(seq)
            if seq.record_id not in cached:
                yield seq.to_result()

    def create_sequences(self, prompts: Sequence[Prompt], limits: Limits) -> list[DecodingSequence]:
        """A sequence for each prompt; a prompt that cannot be continued gets a fault."""
        return create_sequences(
            self.chat,
            prompts,
            limits,
            self.find_stop_conditions(limits),
            self.max_input_tokens,
            self._get_constraint_factory,
        )

    def find_stop_conditions(self, limits: Limits) -> StopConditions:
        """The conditions that end a text."""
        return find_stop_conditions(self.chat, limits, self.get_eos_token_ids())

    def _get_constraint_factory(self) -> ConstraintFactory:
        if self._constraint_factory is None:
            self._constraint_factory = ConstraintFactory(
                self.chat.tokenizer,
                self.count_logits(),
                self.find_stop_conditions(Limits(1)).token_ids,
            )
        return self._constraint_factory

    def tokenize_prompts(self, prompts: Sequence[Prompt]) -> list[PromptRequest]:
        """The prompts as requests with tokenized branches."""
        tokenized_branches = iter(
            tokenize_branches(
                self.chat, [(prompt, branch) for prompt in prompts for branch in prompt.branches]
            )
        )
        return [
            make_prompt_request(
                prompt, list(itertools.islice(tokenized_branches, len(prompt.branches)))
            )
            if prompt.branches
            else make_prompt_request(prompt, (), self.render(prompt).prompt_tokens)
            for prompt in prompts
        ]


def _make_text_callback(callbacks: Mapping[str, Callable[[str], None]]) -> SequenceCallback:
    """A callback that passes on each piece of text that no token can change."""
    sent_lengths = dict.fromkeys(callbacks, 0)

    def send(seq: DecodingSequence) -> None:
        callback = callbacks.get(seq.record_id)
        if callback is None:
            return
        text, sent_length = seq.get_text(), sent_lengths[seq.record_id]
        if len(text) > sent_length:
            sent_lengths[seq.record_id] = len(text)
            callback(text[sent_length:])

    return send


def compute_max_gap(first: Sequence[BranchScores], second: Sequence[BranchScores]) -> float:
    """The largest difference of a probability between scores of the same branches; inf for NaN."""
    gaps = []
    for one, other in zip(first, second, strict=True):
        gaps.append(np.abs(np.exp(one.logprobs) - np.exp(other.logprobs)).max())
        gaps.append(abs((one.off_set or 0.0) - (other.off_set or 0.0)))
    max_gap = float(np.max(gaps))
    return max_gap if np.isfinite(max_gap) else float("inf")


def _find_prefix_labels(rendering: Rendering, branch: Branch) -> tuple[str, ...]:
    """Warnings about labels whose tokens are a prefix of another label's."""
    if branch.weigh == "text":
        return ()
    names = branch.candidates
    # Without the closing token.
    label_tokens = [tokens[:-1] for tokens in rendering.candidate_tokens]
    order = sorted(range(len(label_tokens)), key=lambda index: label_tokens[index])
    # In sorted order, labels with a common prefix are adjacent.
    return tuple(
        (
            f'the tokens of "{names[one]}" are a prefix of "{names[other]}": only the end of the '
            "answer separates them"
        )
        for one, other in itertools.pairwise(order)
        if label_tokens[other][: len(label_tokens[one])] == label_tokens[one]
    )
