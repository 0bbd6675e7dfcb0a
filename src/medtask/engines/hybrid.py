"""The `hybrid` engine: the weighted mean of the probabilities of several models.

A folder contains ``hybrid.json`` (references, identities and weights of the members) and
``medtask.json`` (see model_metadata.py). The weighted mean (a linear opinion pool) does not give
probability 1 to a candidate that one member excludes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, NonNegativeFloat

from medtask.atomic_files import replace_text
from medtask.display import format_name, format_path
from medtask.engines.base import Caps, Engine, EngineInfo, Rendering, list_changed_facts
from medtask.engines.files.model_files import BUILT_IN_MODEL, MINILM
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions, format_option
from medtask.engines.model_metadata import (
    ModelMetadata,
    hash_model_metadata,
    read_model_metadata,
    write_model_metadata,
)
from medtask.engines.registry import choose_engine, load_model
from medtask.engines.specs import BUILT_IN_ENGINES, EngineSpec
from medtask.engines.tokens.trie import log_softmax
from medtask.errors import EngineError, InputError, UsageError
from medtask.json_content import JsonContent, load_checked
from medtask.json_files import InvalidJsonFile
from medtask.records import BranchScores, Fault, Prompt, Scores

MEMBERS_FILE = "hybrid.json"
MEMBERS_FOLDER = "members"  # for members that are kept inside the folder of the hybrid
# Engines whose prefix may precede a folder or a file.
_LOCAL_PREFIXES = tuple(
    prefix
    for spec in BUILT_IN_ENGINES.values()
    if spec.packages and not spec.traits.server
    for prefix in spec.prefixes
)
_RETRAIN_FIX = "train the hybrid again"


@dataclass(frozen=True, slots=True)
class HybridMember:
    """A member of a hybrid.

    Attributes:
        reference: As for load_model, with absolute paths; "members/NAME" for a member inside the
            folder of the hybrid.
        identity: See EngineInfo; without the model's location.
        weight: The weight in the mean.
    """

    reference: str
    identity: Mapping[str, str]
    weight: float


class HybridEngine(Engine):
    """Scores each prompt with all members; ``weights`` are one per member, with sum 1."""

    def __init__(
        self, members: Sequence[Engine], weights: Sequence[float], info: EngineInfo
    ) -> None:
        self.members = tuple(members)
        self.weights = tuple(weights)
        self.info = info
        self.caps = Caps(
            score="exact", batch_invariant=all(member.caps.batch_invariant for member in members)
        )
        self.context_tokens = min(
            (limit for member in members if (limit := member.context_tokens) is not None),
            default=None,
        )

    def score(
        self, prompts: Sequence[Prompt], cached: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        for prompt in prompts:
            self._check_prompt(prompt)
        member_results = [
            {result.record_id: result for result in member.score(prompts, cached)}
            for member in self.members
        ]
        for prompt in prompts:
            if prompt.record_id not in cached:
                yield self._combine_results(
                    [results[prompt.record_id] for results in member_results]
                )

    def render(self, prompt: Prompt) -> Rendering | None:
        """The rendering of the member with the largest weight."""
        return self.members[self.weights.index(max(self.weights))].render(prompt)

    def close(self) -> None:
        for member in self.members:
            member.close()

    def _check_prompt(self, prompt: Prompt) -> None:
        texts = tuple(option.text for option in prompt.options)
        if texts and any(
            branch.weigh == "text" and branch.candidates == texts for branch in prompt.branches
        ):
            raise EngineError(
                f"{self.info.title} averages probabilities and has no likelihoods of whole texts, "
                "which `readout: text` needs",
                fix="set `readout: letter`",
            )

    def _combine_results(self, results: Sequence[Scores | Fault]) -> Scores | Fault:
        scores = [one for one in results if isinstance(one, Scores)]
        if len(scores) < len(results):
            return next(
                replace(one, reason=f"{one.reason} ({member.info.title})")
                for one, member in zip(results, self.members, strict=True)
                if isinstance(one, Fault)
            )
        branches = zip(*(one.branches for one in scores), strict=True)
        return Scores(
            scores[0].record_id,
            tuple(average_branch_scores(parts, self.weights) for parts in branches),
            tokens_read=sum(one.tokens_read for one in scores),
            tokens_reused=sum(one.tokens_reused for one in scores),
            ms=math.fsum(one.ms for one in scores),
        )


def average_branch_scores(
    member_scores: Sequence[BranchScores], weights: Sequence[float]
) -> BranchScores:
    """The weighted mean of several models' scores of one branch.

    ``slack`` is the weighted sum, which bounds the error of the mean; ``off_set`` is the weighted
    mean of the members that report it.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # log(0) is -inf; NaN is kept
        probabilities = np.exp([log_softmax(np.asarray(part.logprobs)) for part in member_scores])
        logprobs = np.log(np.asarray(weights) @ probabilities)
    known_off_sets = [
        (weight, part.off_set)
        for weight, part in zip(weights, member_scores, strict=True)
        if part.off_set is not None
    ]
    total = math.fsum(weight for weight, _ in known_off_sets)
    return BranchScores(
        tuple(np.minimum(logprobs, 0.0).tolist()),
        off_set=math.fsum(weight * off_set for weight, off_set in known_off_sets) / total
        if known_off_sets
        else None,
        slack=math.fsum(
            weight * part.slack for weight, part in zip(weights, member_scores, strict=True)
        ),
    )


def load_hybrid(reference: str, options: LoadOptions = DEFAULT_OPTIONS) -> HybridEngine:
    """Load a folder saved by save_hybrid. Each member gets the options that its engine supports.

    Raises:
        InputError: The folder is incomplete, or a member has changed since the weights were fitted.
        UsageError: No member supports an option.
        MedtaskError: As raised when a member is loaded.
    """
    folder = Path(reference).expanduser()
    metadata = read_model_metadata(folder)
    if metadata.engine != "hybrid":
        raise InputError(
            f"{format_path(folder)} holds a model of the {metadata.engine} engine, not a hybrid",
            fix=f"--model {reference}",
        )
    members = [
        replace(member, reference=find_member(member.reference, folder))
        for member in read_members(folder, metadata)
    ]
    engines: list[Engine] = []
    try:
        specs = [choose_engine(member.reference).spec for member in members]
        _check_options(specs, options)
        for member, spec in zip(members, specs, strict=True):
            engines.append(load_model(member.reference, options.select(spec.option_fields)))
            _check_identity(folder, member, engines[-1])
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return HybridEngine(
        engines,
        [member.weight for member in members],
        _build_info(reference, folder, metadata, members, engines),
    )


def save_hybrid(
    folder: Path, members: Sequence[HybridMember], metadata: ModelMetadata
) -> ModelMetadata:
    """Write a model folder; returns the metadata with hashes. Raises StorageError on failure."""
    content = {"members": [asdict(member) for member in members]}
    replace_text(folder / MEMBERS_FILE, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    return write_model_metadata(folder, metadata)


def normalise_member_reference(reference: str) -> str:
    """The reference of a member in hybrid.json: folders and files by absolute paths."""
    scheme, path = _split_scheme(reference)
    return (
        scheme + str(path.resolve())
        if path.exists() and reference not in {BUILT_IN_MODEL, MINILM}
        else reference
    )


def get_member_identity(engine: Engine, reference: str) -> dict[str, str]:
    """A member's identity without its path: folders and files may be moved, so their contents are
    hashed instead.
    """
    location_keys = {"model", "reference"} if _split_scheme(reference)[1].is_absolute() else set()
    return {
        name: str(value)
        for name, value in engine.info.identity.items()
        if name not in location_keys
    }


def find_member(reference: str, folder: Path) -> str:
    """The member's reference; if its path is missing, the same name in the hybrid's parent."""
    scheme, path = _split_scheme(reference)
    if len(path.parts) == 2 and path.parts[0] == MEMBERS_FOLDER and path.parts[1] != "..":
        return str((folder / path).resolve())
    sibling = folder.resolve().parent / path.name
    return (
        scheme + str(sibling)
        if path.is_absolute() and not path.exists() and sibling.exists()
        else reference
    )


def _split_scheme(reference: str) -> tuple[str, Path]:
    """The prefix of a local engine, if the reference has one, and the remaining path."""
    scheme = next((scheme for scheme in _LOCAL_PREFIXES if reference.startswith(scheme)), "")
    return scheme, Path(reference.removeprefix(scheme)).expanduser()


def _check_options(specs: Sequence[EngineSpec], options: LoadOptions) -> None:
    """Raise UsageError for an option that no member supports."""
    supported = frozenset().union(*(spec.option_fields for spec in specs))
    if unused := [name for name in options.list_given() if name not in supported]:
        option = format_option(unused[0])
        raise UsageError(f"no model of this hybrid supports {option}", fix=f"leave {option} out")


def _check_identity(folder: Path, member: HybridMember, engine: Engine) -> None:
    found = get_member_identity(engine, member.reference)
    if changed := sorted(list_changed_facts(member.identity, found)):
        expected, current = (
            format_name(facts.get(changed[0], "nothing"), 40) for facts in (member.identity, found)
        )
        raise InputError(
            f"{format_name(member.reference)} is not the model for which the weights of "
            f"{format_path(folder)} were fitted: "
            f"its {changed[0]} is {current}, expected {expected}",
            fix=f"restore the model, or {_RETRAIN_FIX}",
        )


def _build_info(
    reference: str,
    folder: Path,
    metadata: ModelMetadata,
    members: Sequence[HybridMember],
    engines: Sequence[Engine],
) -> EngineInfo:
    notes = tuple(
        f"{member.reference}: {note}"
        for member, engine in zip(members, engines, strict=True)
        for note in engine.info.notes
    )
    details = {
        "members": [
            {**asdict(member), "title": engine.info.title}
            for member, engine in zip(members, engines, strict=True)
        ],
        **metadata.list_details(),
    }
    parts = (f"{member.weight:.0%} {format_name(member.reference)}" for member in members)
    return EngineInfo(
        "hybrid",
        f"{reference}, {' + '.join(parts)}",
        {"model": reference, "contract": hash_model_metadata(folder)},
        replace(
            BUILT_IN_ENGINES["hybrid"].traits,
            reads_instructions=all(engine.info.traits.reads_instructions for engine in engines),
        ),
        destinations={
            url: addresses
            for engine in engines
            for url, addresses in engine.info.remote_destinations.items()
        },
        notes=notes,
        details=details,
    )


def read_members(folder: Path, metadata: ModelMetadata) -> list[HybridMember]:
    """The members of a hybrid. Raises InputError if they cannot be read."""
    try:
        if MEMBERS_FILE not in metadata.sha256:
            raise InvalidJsonFile(f"its metadata do not list {MEMBERS_FILE}")
        found = load_checked(folder / MEMBERS_FILE, _MembersFile).members
        if not math.isclose(math.fsum(one.weight for one in found), 1.0, abs_tol=1e-6):
            raise InvalidJsonFile("the weights do not sum to 1")
    except (FileNotFoundError, InvalidJsonFile) as error:
        raise InputError(
            f"the hybrid in {format_path(folder)} cannot be read: {error}", fix=_RETRAIN_FIX
        ) from None
    return [HybridMember(one.reference, one.identity, one.weight) for one in found]


class _StoredMember(JsonContent):
    model_config = ConfigDict(extra="forbid")

    reference: str
    identity: dict[str, str]
    weight: NonNegativeFloat


class _MembersFile(JsonContent):
    members: list[_StoredMember]
