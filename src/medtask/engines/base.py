"""The interface between medtask and models: `Engine`, `Caps` and `EngineInfo`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import ClassVar, Literal

from medtask.errors import EngineError
from medtask.records import Fault, Generated, Limits, Prompt, Scores


@dataclass(frozen=True, slots=True)
class Caps:
    """What an engine supports, as probed when it is loaded.

    Attributes:
        score: "exact" for probabilities of whole candidates; "first_token" for estimates from the
            most probable tokens at the positions of one answer; "none" for no probabilities.
        choose: Whether answers can be constrained to one of the candidates.
        generate: Whether it generates text.
        schema: Whether generated text can be constrained to a JSON schema.
        thinking_markers: Whether the model was trained to think between its own markers; other
            models are prompted to think aloud.
        batch_invariant: Whether the numbers of a prompt are independent of the other prompts in its
            batch.
    """

    score: Literal["exact", "first_token", "none"]
    choose: bool = False
    generate: bool = False
    schema: bool = False
    thinking_markers: bool = False
    batch_invariant: bool = False


@dataclass(frozen=True, slots=True)
class EngineTraits:
    """What kind of model an engine loads.

    Attributes:
        family: "language" for models that read chats, "encoder", "linear", "hybrid", or "none" for
            an engine without a model.
        reads_instructions: Whether the model reads the prompt's messages. Otherwise it reads
            ``Prompt.text`` and the names or definitions of labels.
        trainable: Whether a training can start from the engine's weights.
        server: Whether records are sent to a model server, which may be another machine.
    """

    family: Literal["language", "encoder", "linear", "hybrid", "none"] = "language"
    reads_instructions: bool = True
    trainable: bool = False
    server: bool = False


LANGUAGE_MODEL = EngineTraits()
FILE_FACT = "file:"  # names of identity facts about single files: "file:merges.txt"


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Identity and properties of a loaded model.

    Attributes:
        name: The engine's name, as in `EngineSpec`.
        title: Description of the model for people.
        identity: All properties of the model that can change an answer (reference, revision,
            hashes, quantisation, dtype). A run is resumed only with an equal identity.
        traits: The kind of model.
        device: The device on which the model runs; None if it is not known.
        destinations: URL of each server that records are sent to, with its checked IP addresses.
        notes: Notes about this model for the user, as sentences.
        trained_folders: The folders, written by `medtask.train`, that the model was loaded from.
        prompt_version: The version of the prompts that the model was trained on; None for a model
            that medtask did not train.
        details: Further facts for the manifest, as plain JSON values.
    """

    name: str
    title: str
    identity: Mapping[str, str]
    traits: EngineTraits = LANGUAGE_MODEL
    device: str | None = None
    destinations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    trained_folders: tuple[str, ...] = ()
    prompt_version: int | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def remote_destinations(self) -> dict[str, tuple[str, ...]]:
        """The destinations on other machines."""
        return {
            url: addresses
            for url, addresses in self.destinations.items()
            if not all(ip_address(address).is_loopback for address in addresses)
        }

    @property
    def remote(self) -> bool:
        """Whether records leave this machine."""
        return bool(self.remote_destinations)


def list_changed_facts(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """The names of facts of an identity that differ; a missing fact counts as empty.

    Facts about single files (`FILE_FACT`) are compared only if the same model has some in ``old``:
    earlier versions did not record them.
    """
    models = {name.rpartition(FILE_FACT)[0] for name in old if FILE_FACT in name}
    return [
        name
        for name in dict.fromkeys((*old, *new))
        if old.get(name, "") != new.get(name, "")
        and (FILE_FACT not in name or name.rpartition(FILE_FACT)[0] in models)
    ]


@dataclass(frozen=True, slots=True)
class Rendering:
    """The exact text that a model reads for a prompt, and the exact text of each candidate."""

    prompt: str
    candidates: tuple[str, ...]
    prompt_tokens: tuple[int, ...]
    candidate_tokens: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """Token counts of a set of prompts.

    Attributes:
        shared_tokens: Number of tokens with which all prompts begin.
        own_tokens: For each prompt, the number of tokens to read that it does not share, those of
            all its branches together.
        mean_label_tokens: Mean number of further tokens per row that distinguish the labels.
        max_input_tokens: Longest input that the model reads.
        sequence_tokens: For each prompt, the number of tokens of its longest input: one of its
            branches with its longest candidate.
        warnings: Recommended changes for the user, as sentences.
        text_only: Whether the engine reads only the ``text`` of a prompt.
    """

    shared_tokens: int
    own_tokens: tuple[int, ...]
    mean_label_tokens: float
    max_input_tokens: int
    sequence_tokens: tuple[int, ...]
    warnings: tuple[str, ...] = ()
    text_only: bool = False


@dataclass(frozen=True, slots=True)
class BatchSetting:
    """How much an engine reads, or generates, together.

    Attributes:
        unit: What ``size`` counts: tokens of one forward pass, or rows.
        size: The size in use.
        sizes: Sizes that are reasonable on some machine, in ascending order.
    """

    unit: Literal["tokens", "rows"]
    size: int
    sizes: tuple[int, ...]


# Receives the pieces of one generated text, or by record id those of several.
TextCallbacks = Callable[[str], None] | Mapping[str, Callable[[str], None]]


class Engine(ABC):
    """A loaded model. It is synchronous and not thread-safe: one thread calls it at a time.

    Attributes:
        caps: The features that it supports.
        info: Identity and properties of the model.
        context_tokens: Tokens of a prompt and its answer together; None if not known.
        streams_several: Whether several texts can be passed on while they are generated.
        scores_while_generating: Whether `score` may be called by a callback of `generate`.
    """

    caps: Caps
    info: EngineInfo
    context_tokens: int | None = None
    streams_several: ClassVar[bool] = False
    scores_while_generating: ClassVar[bool] = False

    @abstractmethod
    def score(
        self, prompts: Sequence[Prompt], cached: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        """Score the candidates of every branch of every prompt.

        Args:
            prompts: The prompts to score.
            cached: Ids of records whose results the caller already has. Batches are formed as if
                they were scored too, and batches without a new record are skipped, so that a
                resumed run repeats the same arithmetic.

        Yields:
            Scores, or a Fault, for each prompt that is not cached, in any order.

        Raises:
            EngineError: The model failed, or cannot score such a prompt.
        """

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        cached: Collection[str] = (),
        on_text: TextCallbacks | None = None,
    ) -> Iterator[Generated | Fault]:
        """Generate the text that follows each prompt's ``partial_response``.

        Args:
            prompts: The prompts to continue.
            limits: Length, sampling and constraints of the generated texts.
            cached: As in `score`.
            on_text: Called with each piece of text as it is generated. Several prompts need a
                mapping of functions by record id, and an engine with ``streams_several``.

        Yields:
            Generated text, or a Fault, for each prompt that is not cached, in any order.

        Raises:
            EngineError: The engine does not support ``limits``.
        """
        raise EngineError(
            f"{self.info.title} cannot generate text", fix="choose a model of the hf engine"
        )

    def render(self, prompt: Prompt) -> Rendering | None:
        """The text and tokens that are read for the prompt's first branch; None if not known."""
        return None

    def plan(self, prompts: Sequence[Prompt]) -> PromptPlan | None:
        """The token counts of the prompts, without running the model; None if not known."""
        return None

    def get_batch_setting(self, *, generates: bool = False) -> BatchSetting | None:
        """The size of batches; None if there is nothing to choose.

        ``generates``: whether for texts that are generated, instead of scores.
        """
        return None

    def set_batch_size(self, size: int, *, generates: bool = False) -> None:
        """Set the size of `get_batch_setting`. Answers do not depend on it, up to rounding."""
        raise EngineError(
            f"{self.info.title} has no batch size to choose", fix="leave the batch size as it is"
        )

    def close(self) -> None:
        """Release memory and connections."""
        return


def list_text_callbacks(
    on_text: TextCallbacks | None, prompts: Sequence[Prompt], *, several: bool
) -> dict[str, Callable[[str], None]]:
    """The functions that receive generated text, by record id.

    Raises:
        EngineError: There is one function for several prompts, or ``several`` is False and there
            are several functions.
    """
    if on_text is None:
        return {}
    if callable(on_text):
        callbacks = {prompt.record_id: on_text for prompt in prompts}
    else:
        callbacks = dict(on_text)
    if len(callbacks) > 1 and (callable(on_text) or not several):
        raise EngineError(
            "only one text can be shown while it is generated", fix="ask about one prompt at a time"
        )
    return callbacks
