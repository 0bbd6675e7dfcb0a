"""Packed gradients against those of rows that are read one by one, by the model's own attention."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lessons import make_lessons, make_task
from medtask.engines.hf.load import load_hf
from medtask.tasks.task import Task
from medtask.train.language.learner import Learner
from medtask.train.language.loss import WORDING
from medtask.train.language.passage import Passage, read_passages
from medtask.train.material import Lesson
from tiny_models import save_model

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


def learn(folder: Path, kind: str) -> tuple[Task, tuple[Lesson, ...]]:
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
        return task, make_lessons(task, CHOICES)
    if kind == "labels":
        task = make_task(folder / "task", kind, LABELS[:3])
        return task, make_lessons(
            task,
            [{**row, "gold": [row["gold"]] if row["gold"] in LABELS[:3] else []} for row in ROWS],
        )
    if kind == "answer":
        task = make_task(folder / "task", kind)
        return task, make_lessons(task, ROWS)
    task = make_task(folder / "task", "label", LABELS)
    return task, make_lessons(task, ROWS)


def loss_plainly(model: Any, passage: Passage) -> torch.Tensor:
    """The losses of one row by the book: each line of it read alone, by the model's own forward
    pass.
    """

    def read(tokens: tuple[int, ...]) -> torch.Tensor:
        logits: torch.Tensor = model(input_ids=torch.tensor([tokens[:-1]]), use_cache=False).logits[
            0
        ]
        return logits.float()

    said, choices = [], []
    for place in passage.answers:
        line = passage.lines[place]
        logits = read(line.tokens)
        whole = torch.log_softmax(logits, dim=-1)
        said += [-whole[at - 1, line.tokens[at]] for at in range(line.said, len(line.tokens))]
        if line.forks:
            shares = [
                torch.log_softmax(logits[fork.place, list(fork.tokens)], dim=-1)[fork.gold]
                for fork in line.forks
            ]
            choices.append(-torch.stack(shares).sum())
    for contest in passage.contests:
        scores = []
        for place, scale in zip(contest.lines, contest.scales, strict=True):
            line = passage.lines[place]
            whole = torch.log_softmax(read(line.tokens), dim=-1)
            scores.append(
                scale
                * torch.stack(
                    [whole[at - 1, line.tokens[at]] for at in range(line.said, len(line.tokens))]
                ).sum()
            )
        choices.append(-torch.log_softmax(torch.stack(scores), dim=0)[contest.gold])
    wording = torch.stack(said).mean()
    return (
        wording
        if not choices
        else torch.stack(choices).sum() / len(passage.answers) + WORDING * wording
    )


def collect(model: Any) -> dict[str, torch.Tensor]:
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
    task, lessons = learn(tmp_path, kind)
    engine = load_hf(
        str(
            save_model(
                tmp_path / "model", family, "gemma" if family.startswith("gemma") else "chatml"
            )
        )
    )
    assert engine.packed
    passages = read_passages(task, engine.chat, lessons)
    model = engine.model.requires_grad_(True)
    losses = Learner(model, model, packed=True)(passages)
    losses.total.backward()
    packed = collect(model)

    model.set_attn_implementation("eager")
    plain_loss = 0.0
    for passage in passages:
        loss = loss_plainly(model, passage)
        loss.backward()
        plain_loss += loss.item()
    plain = collect(model)

    assert losses.total.item() == pytest.approx(plain_loss, rel=1e-5)
    assert plain.keys() <= packed.keys()
    scale = max(weight.norm().item() for weight in plain.values())
    for name, expected in plain.items():
        gap = (packed[name] - expected).norm().item()
        # A weight whose gradient is nothing but rounding has no relative error to speak of.
        assert gap <= 1e-4 * max(expected.norm().item(), 1e-3 * scale), name


@pytest.mark.parametrize("share", [True, False])
def test_models_that_cannot_be_packed_are_read_apart_with_the_same_losses(
    tmp_path: Path, share: bool
) -> None:
    task, lessons = learn(tmp_path, "labels")
    engine = load_hf(str(save_model(tmp_path / "model", "llama")))
    passages = read_passages(task, engine.chat, lessons)
    together = Learner(engine.model, engine.model, packed=True, share=share)(passages)
    engine.model.set_attn_implementation("eager")
    apart = Learner(engine.model, engine.model, packed=False)(passages)
    assert apart.total.item() == pytest.approx(together.total.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["label", "labels", "letter", "permute", "text"])
def test_the_loss_of_the_set_is_the_probability_that_a_run_reports(
    tmp_path: Path, kind: str
) -> None:
    from medtask.train.language.passage import find_gold

    task, lessons = learn(tmp_path, kind)
    engine = load_hf(str(save_model(tmp_path / "model", "llama")))
    with torch.no_grad():
        losses = Learner(engine.model, engine.model, packed=True)(
            read_passages(task, engine.chat, lessons)
        )
    scores = {one.record_id: one for one in engine.score([lesson.prompt for lesson in lessons])}
    expected = 0.0
    for lesson in lessons:
        branches = scores[lesson.record.id].branches
        golds = find_gold(task, lesson.prompt, lesson.record.gold or ())
        for branch, gold in zip(branches, golds, strict=True):
            logs = list(branch.logprobs)
            if kind == "text":
                lengths = [len(option.text) for option in lesson.prompt.options]
                logs = [
                    log / length * sum(lengths) / len(lengths)
                    for log, length in zip(logs, lengths, strict=True)
                ]
            expected -= (
                logs[gold]
                - math.log(math.fsum(math.exp(log - max(logs)) for log in logs))
                - max(logs)
            ) / len(golds)
    assert losses.shown == losses.choice == pytest.approx(expected, abs=1e-3)


def test_what_rows_share_is_read_once_and_nothing_of_the_prompt_is_learnt(tmp_path: Path) -> None:
    from medtask.train.language.pack import lay_passages

    task, lessons = learn(tmp_path, "label")
    engine = load_hf(str(save_model(tmp_path / "model", "llama")))
    passages = read_passages(task, engine.chat, lessons)
    read = lay_passages(passages, engine.model.device)
    assert read.plan is not None
    alone = sum(len(passage.lines[0].tokens) - 1 for passage in passages)
    assert len(read.plan.tokens) == alone - read.plan.prefix * (len(passages) - 1)
    assert read.plan.prefix > 50
    for passage, lesson in zip(passages, lessons, strict=True):
        line = passage.lines[0]
        answer = engine.chat.tokenizer.decode(line.tokens[line.said :], specials=True)
        assert answer == f"{lesson.record.gold}<|im_end|>"
