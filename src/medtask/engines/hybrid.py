"""The `hybrid` engine: several models are asked, and their probabilities are weighed.

A folder holds ``hybrid.json`` (the members: their references, what they were when the weights were
fitted, their weights) and the contract of trained.py. A hybrid's probability is the weighted mean
of its members' probabilities (a linear opinion pool): it is never wholly sure of what one of them
rules out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medtask.data.atomic import replace_text
from medtask.data.source import show_name, show_path
from medtask.engines.base import Caps, Engine, EngineInfo, Rendering
from medtask.engines.heads import normalise_logs
from medtask.engines.registry import DEFAULT_MODEL, MINILM, choose_engine, load_model, takes_option
from medtask.engines.trained import Trained, hash_contract, read_trained, write_trained
from medtask.errors import EngineError, InputError, UsageError
from medtask.records import BranchScores, Fault, Prompt, Scores

MEMBERS = "hybrid.json"
_SCHEMES = (
    "hf:",
    "llamacpp:",
    "mlx:",
    "vllm:",
    "encoder:",
)  # engines that can be named before a folder or a file
_AGAIN = "train the hybrid again"


@dataclass(frozen=True, slots=True)
class Member:
    """One of the models. ``reference``: as for load_model, folders by their absolute paths.
    ``identity``: see EngineInfo, without what only says where the model lies. ``weight``: its share
    of every probability.
    """

    reference: str
    identity: Mapping[str, str]
    weight: float


class HybridEngine(Engine):
    """Asks all its members the same prompts. ``weights``: one for each, which sum to 1."""

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
        self, prompts: Sequence[Prompt], known: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        for prompt in prompts:
            self._check(prompt)
        told = [
            {said.record_id: said for said in member.score(prompts, known)}
            for member in self.members
        ]
        for prompt in prompts:
            if prompt.record_id not in known:
                yield self._mix([said[prompt.record_id] for said in told])

    def render(self, prompt: Prompt) -> Rendering | None:
        """What the heaviest member reads."""
        return self.members[self.weights.index(max(self.weights))].render(prompt)

    def close(self) -> None:
        for member in self.members:
            member.close()

    def _check(self, prompt: Prompt) -> None:
        texts = tuple(option.text for option in prompt.options)
        if texts and any(
            branch.weigh == "text" and branch.tails == texts for branch in prompt.branches
        ):
            raise EngineError(
                f"{self.info.title} weighs probabilities, and the likelihoods of whole texts, "
                "which `readout: text` takes, are none",
                fix="set `readout: letter`",
            )

    def _mix(self, said: Sequence[Scores | Fault]) -> Scores | Fault:
        scores = [one for one in said if isinstance(one, Scores)]
        if len(scores) < len(said):
            return next(
                replace(one, reason=f"{one.reason} ({member.info.title})")
                for one, member in zip(said, self.members, strict=True)
                if isinstance(one, Fault)
            )
        branches = zip(*(one.branches for one in scores), strict=True)
        return Scores(
            scores[0].record_id,
            tuple(mix_branches(parts, self.weights) for parts in branches),
            tokens_read=sum(one.tokens_read for one in scores),
            tokens_reused=sum(one.tokens_reused for one in scores),
            ms=math.fsum(one.ms for one in scores),
        )


def mix_branches(parts: Sequence[BranchScores], weights: Sequence[float]) -> BranchScores:
    """What several models say of one branch's tails, together.

    ``slack`` is the weighted sum, since so far can the mean be off; ``off_set`` the weighted mean
    of those that tell it.
    """
    with np.errstate(
        divide="ignore", invalid="ignore"
    ):  # what all of them rule out is ruled out; NaN stays visible
        shares = np.exp([normalise_logs(np.asarray(part.logprobs)) for part in parts])
        logs = np.log(np.asarray(weights) @ shares)
    telling = [
        (weight, part.off_set)
        for weight, part in zip(weights, parts, strict=True)
        if part.off_set is not None
    ]
    total = math.fsum(weight for weight, _ in telling)
    return BranchScores(
        tuple(np.minimum(logs, 0.0).tolist()),
        off_set=math.fsum(weight * off_set for weight, off_set in telling) / total
        if telling
        else None,
        slack=math.fsum(weight * part.slack for weight, part in zip(weights, parts, strict=True)),
    )


def load_hybrid(reference: str, **options: Any) -> HybridEngine:
    """A HybridEngine for a folder that save_hybrid wrote. ``options`` are given to the members that
    have a use for them.

    InputError for a folder that is not whole, and for a member that is not what it was when the
    weights were fitted. UsageError for an option that no member has a use for. What loading the
    members raises comes as it is.
    """
    folder = Path(reference).expanduser()
    trained = read_trained(folder)
    if trained.engine != "hybrid":
        raise InputError(
            f"{show_path(folder)} holds no hybrid but a model of the engine {trained.engine}",
            fix=f"--model {reference}",
        )
    members = [
        replace(member, reference=_find(member.reference, folder))
        for member in _read_members(folder, trained)
    ]
    engines: list[Engine] = []
    try:
        for member, wished in zip(members, _share_out(members, options), strict=True):
            engines.append(load_model(member.reference, **wished))
            _compare(folder, member, engines[-1])
    except BaseException:
        for engine in engines:
            engine.close()
        raise
    return HybridEngine(
        engines,
        [member.weight for member in members],
        _describe(reference, folder, trained, members, engines),
    )


def save_hybrid(folder: Path, members: Sequence[Member], trained: Trained) -> Trained:
    """Write a model folder; returns the contract with its hashes. StorageError where it cannot be
    written.
    """
    content = {"members": [asdict(member) for member in members]}
    replace_text(folder / MEMBERS, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    return write_trained(folder, trained)


def name_member(reference: str) -> str:
    """The reference by which a hybrid finds a member again, from wherever it is loaded: folders and
    files by absolute paths.
    """
    scheme, path = _split(reference)
    return (
        scheme + str(path.resolve())
        if path.exists() and reference not in {DEFAULT_MODEL, MINILM}
        else reference
    )


def identify_member(engine: Engine, reference: str) -> dict[str, str]:
    """What a member's identity is apart from where it lies: a folder's or a file's contents are
    hashed, and may be moved.
    """
    placed = {"model", "reference"} if _split(reference)[1].is_absolute() else set()
    return {name: str(value) for name, value in engine.info.identity.items() if name not in placed}


def _find(reference: str, folder: Path) -> str:
    """Where a member lies: where it was, or beside the hybrid, with which it was moved."""
    scheme, path = _split(reference)
    beside = folder.resolve().parent / path.name
    return (
        scheme + str(beside)
        if path.is_absolute() and not path.exists() and beside.exists()
        else reference
    )


def _split(reference: str) -> tuple[str, Path]:
    """The engine that is named before a path, if one is, and what would be the path."""
    scheme = next((scheme for scheme in _SCHEMES if reference.startswith(scheme)), "")
    return scheme, Path(reference.removeprefix(scheme)).expanduser()


def _share_out(members: Sequence[Member], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each member the options that its engine takes."""
    wished = {name: value for name, value in options.items() if value not in (None, False, "auto")}
    engines = [choose_engine(member.reference).engine for member in members]
    if idle := [
        name for name in wished if not any(takes_option(engine, name) for engine in engines)
    ]:
        option = f"--{idle[0].replace('_', '-')}"
        raise UsageError(
            f"{option} means nothing to any of the models of this hybrid", fix=f"leave {option} out"
        )
    return [
        {name: value for name, value in wished.items() if takes_option(engine, name)}
        for engine in engines
    ]


def _compare(folder: Path, member: Member, engine: Engine) -> None:
    found = identify_member(engine, member.reference)
    changed = sorted(
        name
        for name in found.keys() | member.identity.keys()
        if found.get(name) != member.identity.get(name)
    )
    if changed:
        was, now = (
            show_name(facts.get(changed[0], "nothing"), 40) for facts in (member.identity, found)
        )
        raise InputError(
            f"{show_name(member.reference)} is not the model that the weights of "
            f"{show_path(folder)} were fitted for: "
            f"its {changed[0]} is {now}, and was {was}",
            fix=f"take the model as it was, or {_AGAIN}",
        )


def _describe(
    reference: str,
    folder: Path,
    trained: Trained,
    members: Sequence[Member],
    engines: Sequence[Engine],
) -> EngineInfo:
    facts = [engine.info.details for engine in engines]
    notes = [
        f"{member.reference}: {note}"
        for member, one in zip(members, facts, strict=True)
        for note in _list(one.get("notes"))
    ]
    details: dict[str, object] = {
        "members": [
            {**asdict(member), "title": engine.info.title}
            for member, engine in zip(members, engines, strict=True)
        ],
        "labels": list(trained.labels),
        "trained_for": trained.task_fingerprint,
        "phi": trained.phi,
        "notes": notes,
    }
    if distant := [one for one in facts if one.get("remote")]:
        urls = dict.fromkeys(str(one["url"]) for one in distant)
        addresses = [address for one in distant for address in _list(one["addresses"])]
        details |= {"remote": True, "url": ", ".join(urls), "addresses": addresses}
    parts = (f"{member.weight:.0%} {show_name(member.reference)}" for member in members)
    title = f"{reference}, {' + '.join(parts)}"
    return EngineInfo(
        "hybrid", title, {"model": reference, "contract": hash_contract(folder)}, details
    )


def _list(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _read_members(folder: Path, trained: Trained) -> list[Member]:
    try:
        if MEMBERS not in trained.sha256:
            raise ValueError("the contract does not name it")
        content = json.loads((folder / MEMBERS).read_text(encoding="utf-8"))
        members = [Member(**part) for part in content["members"]]
        sound = all(
            isinstance(one.reference, str) and isinstance(one.identity, dict) and one.weight >= 0
            for one in members
        )
        if not sound or not math.isclose(
            math.fsum(one.weight for one in members), 1.0, abs_tol=1e-6
        ):
            raise ValueError("the weights do not sum to 1")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"the hybrid in {show_path(folder)} cannot be read ({type(error).__name__})", fix=_AGAIN
        ) from None
    return members
