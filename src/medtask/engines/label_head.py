"""What the numbers of a trained model, one per label that it knows, say about the candidates of a
prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.display import quote_names
from medtask.errors import EngineError, InputError
from medtask.kinds import KindName
from medtask.records import Branch, BranchScores, Prompt


@dataclass(frozen=True, slots=True)
class LabelHead:
    """``labels``: in the order of the numbers. ``kind``, ``abstain`` and ``untaught``: see
    Trained.
    """

    title: str
    kind: KindName
    labels: tuple[str, ...]
    abstain: str | None = None
    untaught: tuple[str, ...] = ()

    def score_branches(
        self, prompt: Prompt, logits: NDArray[np.float64]
    ) -> tuple[BranchScores, ...]:
        """The scores of a prompt's branches.

        ``logits``: [labels]; of kind "label" natural-log probabilities (any constant added to all
        of them does not matter), of kind "labels" each label's log-odds. Labels that the prompt
        does not ask about are left out and the rest made to sum to 1; ``off_set`` tells how much
        that left out.

        InputError for a prompt of the other kind or with labels that the model does not know,
        EngineError for one that asks no such question at all.
        """
        label_indices = self.find_label_indices(prompt)
        if self.kind == "labels":
            return tuple(
                BranchScores(
                    compute_yes_no_logprobs(logits[place[0]] if place[0] >= 0 else -np.inf)
                )
                for place in label_indices
            )
        return tuple(_score_labels(logits, place) for place in label_indices)

    def find_label_indices(self, prompt: Prompt) -> list[list[int]]:
        """For each branch the places of its candidates' numbers, -1 for answers that the model
        cannot give.
        """
        if prompt.options:
            raise EngineError(
                f"{self.title} was trained on labels and cannot answer questions that bring "
                "their own options",
                fix="choose `minilm`, which compares texts, or a language model (`medtask models`)",
            )
        if any(not branch.descriptions for branch in prompt.branches):
            raise EngineError(
                f"{self.title} cannot tell what the candidates of this question stand for",
                fix=(
                    "choose a language model: the hf, llamacpp and mlx engines read the question "
                    "itself (`medtask models`)"
                ),
            )
        yes_no_branches = [is_yes_no(branch) for branch in prompt.branches]
        if any(yes_no != (self.kind == "labels") for yes_no in yes_no_branches):
            wanted, other = ("label", "labels") if self.kind == "label" else ("labels", "label")
            raise InputError(
                f"{self.title} was trained for tasks of kind {wanted!r}, and this one is of kind "
                f"{other!r}",
                fix=f"set `kind: {wanted}` in the task, or train a model for this task",
            )
        index_by_label = {label: place for place, label in enumerate(self.labels)}
        for name in (*self.untaught, *(() if self.abstain is None else (self.abstain,))):
            index_by_label.setdefault(name, -1)
        names = [[meaning.name for meaning in branch.descriptions] for branch in prompt.branches]
        if unknown := list(
            dict.fromkeys(name for branch in names for name in branch if name not in index_by_label)
        ):
            raise InputError(
                f"{self.title} was not trained on {quote_names(unknown)}; it knows "
                f"{quote_names(self.labels)}",
                fix=(
                    "give the task's labels the names that the model knows, take away the "
                    "others, or train a model for this task"
                ),
            )
        return [[index_by_label[name] for name in branch] for branch in names]

    def describe_candidates(self, branch: Branch) -> tuple[str, ...]:
        """The label that each of a branch's candidates is for the model; "" for one that it has no
        label for.
        """
        names = tuple(
            meaning.name if meaning.name in self.labels else "" for meaning in branch.descriptions
        )
        return (*names, "") if is_yes_no(branch) else names


def is_yes_no(branch: Branch) -> bool:
    """Whether a branch asks if one thing applies, rather than which of several does."""
    return len(branch.descriptions) == 1 and len(branch.candidates) == 2


def compute_yes_no_logprobs(log_odds: float) -> tuple[float, float]:
    """The natural-log probabilities of yes and of no."""
    return -float(np.logaddexp(0.0, -log_odds)), -float(np.logaddexp(0.0, log_odds))


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-softmax over the last axis, in float64."""
    logits = logits - logits.max(axis=-1, keepdims=True)
    total: NDArray[np.float64] = np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits - total


def _score_labels(logits: NDArray[np.float64], label_indices: Sequence[int]) -> BranchScores:
    known_indices = [place for place in label_indices if place >= 0]
    logprobs = log_softmax(logits)
    inside = min(1.0, float(np.exp(logprobs[known_indices]).sum()))
    logprob_by_index = (
        dict(zip(known_indices, log_softmax(logits[known_indices]).tolist(), strict=True))
        if known_indices
        else {}
    )
    return BranchScores(
        tuple(logprob_by_index.get(place, -np.inf) for place in label_indices), off_set=1.0 - inside
    )
