"""The seam between medtask and models: one class, two verbs, and a record of what an engine can
do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal

from medtask.errors import EngineError
from medtask.records import Fault, Generated, Limits, Prompt, Scores


@dataclass(frozen=True, slots=True)
class Caps:
    """What an engine can do, as found out at start.

    ``score``: "exact" gives the probability of whole candidates; "first_token" what can be told of
    it from the likeliest tokens along one answer; "none" no probability. ``choose``: without
    probabilities it can still be held to one of the candidates. ``generate``: it can write;
    ``schema``: also what a JSON schema allows and nothing else. ``thinking_markers``: the model was
    made to think between markers of its own; others are asked to think aloud. ``batch_invariant``:
    the same prompt gets the same numbers whatever it is asked together with.
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


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Which model answers, and on what.

    Attributes:
        name: The engine's name, as in `EngineSpec`.
        title: The model in words, for people.
        identity: Everything about the model that can change an answer (reference, revision,
            hashes, quantisation, dtype). A run is resumed only with an equal identity.
        traits: What kind of model it is.
        device: Where the model computes; None where that is not known.
        destinations: URL of each server that records are sent to, with its checked IP addresses.
        notes: What the user should know about this model, as sentences.
        details: Further facts for the manifest, as plain JSON values.
    """

    name: str
    title: str
    identity: Mapping[str, str]
    traits: EngineTraits = LANGUAGE_MODEL
    device: str | None = None
    destinations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
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


@dataclass(frozen=True, slots=True)
class Rendering:
    """The exact text that a model reads for one prompt, and the exact continuation of each
    candidate.
    """

    prompt: str
    candidates: tuple[str, ...]
    prompt_tokens: tuple[int, ...]
    candidate_tokens: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """What a set of prompts will cost, in tokens. ``own_tokens``: per prompt, what it does not
    share. ``mean_label_tokens``: mean per row.

    ``text_only``: of a prompt nothing is read but its ``text``.
    """

    shared_tokens: int
    own_tokens: tuple[int, ...]
    mean_label_tokens: float
    max_input_tokens: int
    warnings: tuple[str, ...] = ()
    text_only: bool = False


class Engine(ABC):
    """Synchronous; not thread-safe: one thread calls it at a time.

    ``context_tokens``: what a prompt and its answer may have together; None where that is not
    known.
    """

    caps: Caps
    info: EngineInfo
    context_tokens: int | None = None

    @abstractmethod
    def score(
        self, prompts: Sequence[Prompt], cached: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        """Score every branch's tails for every prompt, in any order.

        ``cached``: record ids whose results the caller already has. Batches are formed as if they
        were asked too and those without anything new are left out, so that an interrupted run,
        resumed, repeats the same arithmetic.
        """

    def generate(
        self,
        prompts: Sequence[Prompt],
        limits: Limits,
        cached: Collection[str] = (),
        on_text: Callable[[str], None] | None = None,
    ) -> Iterator[Generated | Fault]:
        """Go on writing where each prompt's ``written`` ends, for all prompts together; results
        come in any order.

        ``cached``: as in score. ``on_text`` is called with each further piece of text as it is
        written; it needs a single prompt. EngineError where ``caps`` do not tell of what is asked
        for.
        """
        raise EngineError(
            f"{self.info.title} cannot write text", fix="choose a model of the hf engine"
        )

    def render(self, prompt: Prompt) -> Rendering | None:
        """The exact text and tokens that are read for the prompt's first branch; None if the engine
        reads none.
        """
        return None

    def plan(self, prompts: Sequence[Prompt]) -> PromptPlan | None:
        """What scoring the prompts would cost, without running the model; None if the engine cannot
        tell.
        """
        return None

    def close(self) -> None:
        """Give back what the engine holds (memory, connections)."""
        return
