"""Packed gradients against those of rows that are read one by one, by the model's own attention."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from medtask.engines.hf.load import load_hf
from medtask.engines.load_options import LoadOptions
from medtask.tasks.task import Task
from medtask.training.language.loss_model import LanguageLossModel
from medtask.training.language.tokenized_example import (
    ANSWER_LOSS_WEIGHT,
    TokenizedExample,
    tokenize_examples,
)
from medtask.training.training_data import TrainingExample
from support.small_trainings import make_task, make_training_examples
from support.tiny_models import save_model

LABELS = ("CT Brain", "CT Brain/Neck angiography", "MRI knee", "MRI knee joint", "Ultrasound")
ROWS = [
    {"text": "headache after a fall", "gold": "CT Brain"},
    {"text": "bruit over the carotid", "gold": "CT Brain/Neck angiography"},
    {"text": "locked " + "knee, swollen, painful, " * 6, "gold": "MRI knee joint"},
    {"text": "gallstones?", "gold": "Ultrasound"},
]
CHOICES = [
    {
        "text": "Which one bleeds?",
        "options": ["brain", "the left knee", "none of these at all"],
        "gold": "B",
    },
    {"text": "Which is a joint?", "options": ["wrist", "liver"], "gold": "A"},
]


def make_training_task(folder: Path, kind: str) -> tuple[Task, tuple[TrainingExample, ...]]:
    if kind in ("letter", "text", "permute"):
        more = (
            {"options": "options", "readout": "text"} if kind == "text" else {"options": "options"}
        )
        task = make_task(
            folder / "task",
            "choice",
            **more,
            **({"debias": "permute"} if kind == "permute" else {}),
        )
        return task, make_training_examples(task, CHOICES)
    if kind == "labels":
        task = make_task(folder / "task", kind, LABELS[:3])
        return task, make_training_examples(
            task,
            [{**row, "gold": [row["gold"]] if row["gold"] in LABELS[:3] else []} for row in ROWS],
        )
    if kind == "answer":
        task = make_task(folder / "task", kind)
        return task, make_training_examples(task, ROWS)
    task = make_task(folder / "task", "label", LABELS)
    return task, make_training_examples(task, ROWS)


def compute_reference_loss(model: Any, tokenized_example: TokenizedExample) -> torch.Tensor:
    """The losses of one row by the book: each line of it read alone, by the model's own forward
    pass.
    """

    def compute_logits(tokens: tuple[int, ...]) -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=torch.tensor([tokens[:-1]]), use_cache=False).logits[
            0
        ]
        return logits.float()

    result, choices = [], []
    for index in tokenized_example.gold_paths:
        line = tokenized_example.paths[index]
        logits = compute_logits(line.tokens)
        full = torch.log_softmax(logits, dim=-1)
        result += [
            -full[at - 1, line.tokens[at]] for at in range(line.answer_start, len(line.tokens))
        ]
        if line.token_choices:
            shares = [
                torch.log_softmax(logits[fork.position, list(fork.allowed_tokens)], dim=-1)[
                    fork.gold_index
                ]
                for fork in line.token_choices
            ]
            choices.append(-torch.stack(shares).sum())
    for contest in tokenized_example.sequence_choices:
        scores = []
        for index, scale in zip(contest.path_indices, contest.scales, strict=True):
            line = tokenized_example.paths[index]
            full = torch.log_softmax(compute_logits(line.tokens), dim=-1)
            scores.append(
                scale
                * torch.stack(
                    [
                        full[at - 1, line.tokens[at]]
                        for at in range(line.answer_start, len(line.tokens))
                    ]
                ).sum()
            )
        choices.append(-torch.log_softmax(torch.stack(scores), dim=0)[contest.gold_index])
    wording = torch.stack(result).mean()
    return (
        wording
        if not choices
        else torch.stack(choices).sum() / len(tokenized_example.gold_paths)
        + ANSWER_LOSS_WEIGHT * wording
    )


def pop_gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    model.zero_grad()
    return found


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *(("llama", kind) for kind in ("label", "labels", "letter", "permute", "text", "answer")),
        *(
            (family, "label")
            for family in ("qwen3", "gemma2", "gemma3", "gemma4", "gpt_oss", "granite")
        ),
        ("gemma3", "labels"),
    ],
)
def test_packed_gradients_are_those_of_rows_read_one_by_one(
    tmp_path: Path, family: str, kind: str
) -> None:
    task, examples = make_training_task(tmp_path, kind)
    template = "gemma" if family.startswith("gemma") else "chatml"
    engine = load_hf(
        str(save_model(tmp_path / "model", family, template)), LoadOptions(dtype="float32")
    )
    assert engine.packed
    passages = tokenize_examples(task, engine.chat, examples)
    model = engine.model.requires_grad_(True)
    losses = LanguageLossModel(model, model, packed=True)(passages)
    losses.total.backward()
    packed = pop_gradients(model)

    model.set_attn_implementation("eager")
    plain_loss = 0.0
    for passage in passages:
        loss = compute_reference_loss(model, passage)
        loss.backward()
        plain_loss += loss.item()
    plain = pop_gradients(model)

    assert losses.total.item() == pytest.approx(plain_loss, rel=1e-5)
    assert plain.keys() <= packed.keys()
    scale = max(weight.norm().item() for weight in plain.values())
    for name, expected in plain.items():
        gap = (packed[name] - expected).norm().item()
        # A gradient that is only rounding error has no meaningful relative error.
        assert gap <= 1e-4 * max(expected.norm().item(), 1e-3 * scale), name


@pytest.mark.parametrize("share", [True, False])
def test_models_that_cannot_be_packed_are_read_apart_with_the_same_losses(
    tmp_path: Path, share: bool
) -> None:
    task, examples = make_training_task(tmp_path, "labels")
    engine = load_hf(str(save_model(tmp_path / "model", "llama")), LoadOptions(dtype="float32"))
    passages = tokenize_examples(task, engine.chat, examples)
    together = LanguageLossModel(engine.model, engine.model, packed=True, share_prefix=share)(
        passages
    )
    engine.model.set_attn_implementation("eager")
    apart = LanguageLossModel(engine.model, engine.model, packed=False)(passages)
    assert apart.total.item() == pytest.approx(together.total.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["label", "labels", "letter", "permute", "text"])
def test_the_loss_of_the_set_is_the_probability_that_a_run_reports(
    tmp_path: Path, kind: str
) -> None:
    from medtask.tasks.kinds import get_task_kind

    task, examples = make_training_task(tmp_path, kind)
    engine = load_hf(str(save_model(tmp_path / "model", "llama")), LoadOptions(dtype="float32"))
    with torch.no_grad():
        losses = LanguageLossModel(engine.model, engine.model, packed=True)(
            tokenize_examples(task, engine.chat, examples)
        )
    scores = {one.record_id: one for one in engine.score([example.prompt for example in examples])}
    expected = 0.0
    for example in examples:
        branches = scores[example.record.id].branches
        golds = get_task_kind(task).find_gold_indices(
            example.prompt.options, example.record.gold or ()
        )
        for branch, gold in zip(branches, golds, strict=True):
            logs = list(branch.logprobs)
            if kind == "text":
                lengths = [len(option.text) for option in example.prompt.options]
                logs = [
                    log / length * sum(lengths) / len(lengths)
                    for log, length in zip(logs, lengths, strict=True)
                ]
            expected -= (
                logs[gold]
                - math.log(math.fsum(math.exp(log - max(logs)) for log in logs))
                - max(logs)
            ) / len(golds)
    assert losses.reported_loss == losses.choice_loss == pytest.approx(expected, abs=1e-3)


def test_what_rows_share_is_read_once_and_nothing_of_the_prompt_is_learnt(tmp_path: Path) -> None:
    from medtask.training.language.packing import pack_examples

    task, examples = make_training_task(tmp_path, "label")
    engine = load_hf(str(save_model(tmp_path / "model", "llama")), LoadOptions(dtype="float32"))
    passages = tokenize_examples(task, engine.chat, examples)
    read = pack_examples(passages, engine.model.device)
    assert read.forward_pass is not None
    alone = sum(len(passage.paths[0].tokens) - 1 for passage in passages)
    assert len(read.forward_pass.tokens) == alone - read.forward_pass.prefix_length * (
        len(passages) - 1
    )
    assert read.forward_pass.prefix_length > 50
    for passage, example in zip(passages, examples, strict=True):
        line = passage.paths[0]
        answer = engine.chat.tokenizer.decode(
            line.tokens[line.answer_start :], keep_special_tokens=True
        )
        assert answer == f"{example.record.gold}<|im_end|>"
