"""What engines have in common that read many rows together, behind what the rows share."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np

from medtask.engines.base import Engine, PromptPlan, Rendering
from medtask.engines.tokens.batch import Unit, fill_packs, group_units, make_unit
from medtask.engines.tokens.chat import Chat, Question, ask_questions, render
from medtask.engines.tokens.trie import mean_reads
from medtask.errors import EngineError
from medtask.records import Branch, BranchScores, Fault, Message, Prompt, Scores, Status

# Read at every start, together and plainly. Unlike lengths, and labels that begin alike, so that a
# leak between rows shows; two branches, so that one between branches does.
_BRANCHES = (
    Branch("", ("wrist", "knee", "knee joint")),
    Branch("Side: ", ("left", "right"), weigh="text"),
)
PROBE = tuple(
    Prompt(str(number), (Message("user", f"Name the body part.\n\nText: {text}"),), _BRANCHES, text)
    for number, text in enumerate(("Broken left wrist after a fall on ice.", "Torn meniscus"))
)


class PackedEngine(Engine):
    """``chat``: how its model is spoken to; ``limit``: tokens that it reads at most; ``budget``:
    tokens of one pack, and ``most_paths``: how many sequences one may hold, None for any number.
    ``packed``: whether rows are read together at all.
    """

    chat: Chat
    limit: int
    budget: int
    most_paths: int | None = None
    packed: bool = True

    @abstractmethod
    def score_pack(self, pack: Sequence[Unit], shared: int) -> Iterator[Scores | Fault]:
        """Scores of units that begin with the same ``shared`` tokens; a fault for one that cannot
        be read.
        """

    def score_plainly(self, questions: Sequence[Question]) -> list[BranchScores]:
        """The slow way, against which packs are held: every label reads everything anew."""
        raise NotImplementedError

    def check_packing(self, tolerance: float) -> None:
        """Read the probe both ways, and give packing up where a probability differs by more than
        ``tolerance``.
        """
        gap = self.compare_with_plain(PROBE)
        self.info = replace(self.info, details={**self.info.details, "packed_against_plain": gap})
        if not gap <= tolerance:
            self.give_up_packing(
                f"rows read together and alone differ by {gap:.2g} in a probability"
            )

    def compare_with_plain(self, prompts: Sequence[Prompt]) -> float:
        """Score prompts together and plainly: the largest difference of any probability (inf where
        packing fails).
        """
        units = self.encode(prompts)
        try:
            found = [
                said
                for group in group_units(units)
                for said in self.score_pack(group.units, group.shared)
            ]
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, EngineError):
            return float("inf")
        branches = {said.record_id: said.branches for said in found if isinstance(said, Scores)}
        if len(branches) < len(prompts):
            return float("inf")
        plain = self.score_plainly([question for unit in units for question in unit.questions])
        return largest_gap(
            [branch for unit in units for branch in branches[unit.prompt.record_id]], plain
        )

    def give_up_packing(self, reason: str) -> None:
        """Read every row by itself from here on; the manifest tells why."""
        self.packed = False
        self.info = replace(self.info, details={**self.info.details, "packing": f"off: {reason}"})

    def render(self, prompt: Prompt) -> Rendering:
        return render(self.chat, prompt)

    def plan(self, prompts: Sequence[Prompt]) -> PromptPlan:
        units = self.encode(prompts)
        groups = group_units(units)
        shared = {unit.prompt.record_id: group.shared for group in groups for unit in group.units}
        reads = [
            mean_reads(question.trie) if question.trie else 0.0
            for unit in units
            for question in unit.questions
        ]
        return PromptPlan(
            shared=groups[0].shared if groups else 0,
            own=tuple(unit.own_tokens(shared[unit.prompt.record_id]) for unit in units),
            label=float(np.mean(reads)) if reads else 0.0,
            limit=self.limit,
            warnings=_find_beginnings(self.render(prompts[0]), prompts[0].branches[0])
            if prompts and prompts[0].branches
            else (),
        )

    def score(
        self, prompts: Sequence[Prompt], known: Collection[str] = ()
    ) -> Iterator[Scores | Fault]:
        units = []
        for unit in self.encode(prompts):
            if not unit.questions:
                yield Scores(unit.prompt.record_id, ())
            elif unit.longest > self.limit:
                reason = (
                    f"{unit.longest:,} tokens with the longest label; the model reads at "
                    f"most {self.limit:,}"
                )
                yield Fault(unit.prompt.record_id, Status.TOO_LONG, reason)
            else:
                units.append(unit)
        for group in group_units(units):
            for pack in fill_packs(group, self.budget, self.most_paths):
                if any(unit.prompt.record_id not in known for unit in pack):
                    yield from self.score_pack(pack, group.shared)

    def encode(self, prompts: Sequence[Prompt]) -> list[Unit]:
        """The prompts as units of tokenised questions."""
        questions = iter(
            ask_questions(
                self.chat, [(prompt, branch) for prompt in prompts for branch in prompt.branches]
            )
        )
        return [
            make_unit(prompt, list(itertools.islice(questions, len(prompt.branches))))
            if prompt.branches
            else make_unit(prompt, (), self.render(prompt).prompt_tokens)
            for prompt in prompts
        ]


def largest_gap(some: Sequence[BranchScores], others: Sequence[BranchScores]) -> float:
    """The largest difference of any probability between scores of the same branches; infinite where
    a number is none.
    """
    gaps = [
        np.abs(np.exp(one.logprobs) - np.exp(other.logprobs)).max()
        for one, other in zip(some, others, strict=True)
    ]
    gaps += [
        abs((one.off_set or 0.0) - (other.off_set or 0.0))
        for one, other in zip(some, others, strict=True)
    ]
    worst = float(np.max(gaps))
    return worst if np.isfinite(worst) else float("inf")


def _find_beginnings(rendering: Rendering, branch: Branch) -> tuple[str, ...]:
    """Labels of a set whose tokens begin another label: only the end of the turn tells them
    apart.
    """
    if branch.weigh == "text":
        return ()
    names = branch.tails
    whole = [tokens[:-1] for tokens in rendering.candidate_tokens]  # without the closing token
    order = sorted(range(len(whole)), key=lambda index: whole[index])
    # In sorted order everything that begins with a label comes right behind it.
    return tuple(
        (
            f'the tokens of "{names[one]}" begin "{names[other]}": they are told apart only by '
            "where "
            "the answer ends"
        )
        for one, other in itertools.pairwise(order)
        if whole[other][: len(whole[one])] == whole[one]
    )
