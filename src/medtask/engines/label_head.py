"""Computes scores of candidates from the outputs of a trained model, one per label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.display import quote_names
from medtask.engines.model_metadata import ModelMetadata
from medtask.engines.tokens.trie import log_softmax
from medtask.errors import EngineError, InputError
from medtask.kinds import KINDS, KindName
from medtask.records import Branch, BranchScores, Prompt


@dataclass(frozen=True, slots=True)
class LabelHead:
    """The labels of a trained model.

    Attributes:
        title: Description of the model for people.
        kind: See `ModelMetadata`.
        labels: In the order of the model's outputs.
        abstain: See `ModelMetadata`.
        untaught: See `ModelMetadata`.
    """

    title: str
    kind: KindName
    labels: tuple[str, ...]
    abstain: str | None = None
    untaught: tuple[str, ...] = ()

    @classmethod
    def from_metadata(cls, title: str, metadata: ModelMetadata) -> LabelHead:
        """The labels of a model that medtask trained."""
        return cls(title, metadata.kind, metadata.labels, metadata.abstain, metadata.untaught)

    def score_branches(
        self, prompt: Prompt, logits: NDArray[np.float64]
    ) -> tuple[BranchScores, ...]:
        """The scores of a prompt's branches.

        Args:
            prompt: A prompt of the head's kind, with labels of the head.
            logits: [labels]; for kind "label" natural-log probabilities up to a constant, for kind
                "labels" the log-odds of each label.

        Returns:
            One BranchScores per branch. Labels outside the prompt are left out and the others
            renormalised; ``off_set`` is the probability of the labels that were left out.

        Raises:
            InputError: The prompt has another kind or unknown labels.
            EngineError: The candidates of the prompt are not labels.
        """
        label_indices = self.find_label_indices(prompt)
        if not KINDS[self.kind].exclusive:
            return tuple(
                BranchScores(
                    compute_yes_no_logprobs(logits[index[0]] if index[0] >= 0 else -np.inf)
                )
                for index in label_indices
            )
        return tuple(_score_labels(logits, index) for index in label_indices)

    def find_label_indices(self, prompt: Prompt) -> list[list[int]]:
        """For each branch the output index of each candidate; -1 for one without an output."""
        if prompt.options:
            raise EngineError(
                f"{self.title} was trained on labels and cannot answer questions with "
                "their own options",
                fix="choose `minilm`, which compares texts, or a language model (`medtask models`)",
            )
        if any(not branch.descriptions for branch in prompt.branches):
            raise EngineError(
                f"{self.title} does not know what the candidates of this question mean",
                fix=(
                    "choose a language model: the hf, llamacpp and mlx engines read the question "
                    "itself (`medtask models`)"
                ),
            )
        yes_no_branches = [is_yes_no(branch) for branch in prompt.branches]
        if any(yes_no == KINDS[self.kind].exclusive for yes_no in yes_no_branches):
            other = next(
                name for name, spec in KINDS.items() if spec.has_labels and name != self.kind
            )
            raise InputError(
                f"{self.title} was trained for tasks of kind {self.kind!r}; this one has the kind "
                f"{other!r}",
                fix=f"set `kind: {self.kind}` in the task, or train a model for this task",
            )
        index_by_label = {label: index for index, label in enumerate(self.labels)}
        for name in (*self.untaught, *(() if self.abstain is None else (self.abstain,))):
            index_by_label.setdefault(name, -1)
        names = [
            [description.name for description in branch.descriptions] for branch in prompt.branches
        ]
        if unknown := list(
            dict.fromkeys(name for branch in names for name in branch if name not in index_by_label)
        ):
            raise InputError(
                f"{self.title} was not trained on {quote_names(unknown)}; it knows "
                f"{quote_names(self.labels)}",
                fix=(
                    "give the task's labels the names that the model knows, remove the "
                    "others, or train a model for this task"
                ),
            )
        return [[index_by_label[name] for name in branch] for branch in names]

    def describe_candidates(self, branch: Branch) -> tuple[str, ...]:
        """The model's label for each candidate of a branch; "" for one without a label."""
        names = tuple(
            description.name if description.name in self.labels else ""
            for description in branch.descriptions
        )
        return (*names, "") if is_yes_no(branch) else names


def is_yes_no(branch: Branch) -> bool:
    """Whether a branch asks if one label applies, not which of several does."""
    return len(branch.descriptions) == 1 and len(branch.candidates) == 2


def compute_yes_no_logprobs(log_odds: float) -> tuple[float, float]:
    """The natural-log probabilities of yes and of no."""
    return -float(np.logaddexp(0.0, -log_odds)), -float(np.logaddexp(0.0, log_odds))


def _score_labels(logits: NDArray[np.float64], label_indices: Sequence[int]) -> BranchScores:
    known_indices = [index for index in label_indices if index >= 0]
    logprobs = log_softmax(logits)
    inside = min(1.0, float(np.exp(logprobs[known_indices]).sum()))
    logprob_by_index = (
        dict(zip(known_indices, log_softmax(logits[known_indices]).tolist(), strict=True))
        if known_indices
        else {}
    )
    return BranchScores(
        tuple(logprob_by_index.get(index, -np.inf) for index in label_indices), off_set=1.0 - inside
    )
