"""Training a language model on a task: an adapter, or all of its weights."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medtask.engines.registry import choose_engine
from medtask.engines.trained import Phi, Trained
from medtask.errors import InputError, UsageError
from medtask.hardware import inspect_machine
from medtask.tasks.task import Fields, FreeText
from medtask.train.desk import Desk, Fitted, is_first
from medtask.train.material import Lesson, Material, find_phi
from medtask.train.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from medtask.engines.hf.engine import HfEngine
    from medtask.engines.tokens.tokenizer import HubTokenizer
    from medtask.train.language.memory import MemoryPlan
    from medtask.train.language.passage import Passage
    from medtask.train.loop import Course, Weights
    from medtask.train.validate import Verdict

# Rows that a validation in the middle of a training looks at, of all tasks together; the finished
# model is measured on all.
VALIDATION_ROWS = 400


@dataclass(frozen=True, slots=True)
class Text:
    """Material as a model's tokens. ``tasks``: of which material each passage of ``train`` is;
    ``cut``: rows that were too long.
    """

    train: tuple[Passage, ...]
    tasks: tuple[int, ...]
    validation: tuple[tuple[Lesson, ...], ...]
    validation_passages: tuple[tuple[Passage, ...], ...]
    cut: int

    @property
    def longest(self) -> int:
        return max(passage.longest for passage in chain(self.train, *self.validation_passages))


def fit_language(materials: Sequence[Material], recipe: Recipe, desk: Desk) -> Fitted:
    """Train a causal language model of transformers on the lessons of one task, or of several
    together.

    What is learnt see loss.py, how rows are read pack.py. UsageError for a base that cannot be
    trained, TooBig for one that does not fit, InputError where no row does, EngineError,
    StorageError.
    """
    refuse_base(recipe)
    import torch
    from transformers import set_seed

    from medtask.train.language.adapter import AdapterWeights, FullWeights, put_adapter
    from medtask.train.language.learner import Learner
    from medtask.train.language.schedule import count_batches
    from medtask.train.loop import find_best, find_checkpoint, plan_course, train_through

    desk.watch.on_load(recipe.base)
    engine = _load(recipe)
    text = _read_all(materials, engine, recipe)
    plan = _plan(engine, recipe, text)
    for note in (*plan.notes, *_tell_cut(text, recipe)):
        desk.watch.on_note(note)
    set_seed(recipe.seed)
    full = recipe.method == "full"
    model = engine.model.requires_grad_(True) if full else put_adapter(engine.model, recipe)
    if plan.checkpointing:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # its newer name is not in every version that we take
            engine.model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
    weights: Weights = FullWeights(engine.model) if full else AdapterWeights(model)
    learner = Learner(model, engine.model, packed=engine.packed, share=recipe.pack)
    per_step = -(-recipe.batch // _count_processes())
    course = plan_course(-(-count_batches(text.tasks, per_step) // _count_processes()), recipe)
    tutor = _hire(learner, engine, materials, recipe, desk, text, plan, course, weights, per_step)
    train_through(tutor, find_checkpoint(desk.work))
    if not is_first():
        return Fitted(_contract(materials, recipe))
    best = find_best(desk.work)
    assert best is not None, "a training begins with a validation"
    _write(engine, model, recipe, best, desk.draft)
    trained = sum(weight.numel() for weight in learner.parameters() if weight.requires_grad)
    facts = {
        "trained_weights": trained,
        "weights": sum(weight.numel() for weight in engine.model.parameters()),
        "packed": engine.packed and recipe.pack,
        "pack_tokens": plan.pack_tokens,
        "dtype": str(engine.model.dtype).removeprefix("torch."),
        "device": str(engine.model.device),
        "threads": torch.get_num_threads(),
        "steps": tutor.state.global_step,
        "base_identity": dict(engine.info.identity),
        "rows_too_long": text.cut,
    }
    engine.close()
    return Fitted(
        _contract(materials, recipe), desk.signals.number is not None, tuple(plan.notes), facts
    )


def refuse_base(recipe: Recipe) -> None:
    """UsageError for a base that has no weights here that could be trained."""
    if len(recipe.bases) != 1:
        raise UsageError(
            f"--method {recipe.method} takes one base, and {len(recipe.bases)} are named",
            fix="name it with --base, once",
        )
    name, engine = recipe.base, choose_engine(recipe.base).engine
    path = Path(name.removeprefix("hf:")).expanduser()
    if path.suffix == ".gguf":
        fix = (
            "name the model that the file was made from (org/name of the Hub, or a folder with "
            "safetensors)"
        )
        raise UsageError(
            f"{name} cannot be trained: a GGUF file holds weights that were rounded for answering",
            fix=fix,
        )
    if engine in ("http", "vllm", "mlx", "fake"):
        fix = "name a model on this machine: org/name, a folder, or smollm2-135m"
        raise UsageError(
            f"{name} cannot be trained: the {engine} engine has no weights here that could change",
            fix=fix,
        )
    if engine in ("encoder", "linear", "hybrid"):
        fix = (
            "add --method encoder, or name another base"
            if engine == "encoder"
            else "name a language model with --base"
        )
        raise UsageError(f"{name} is no language model", fix=fix)
    if (path / "adapter_config.json").is_file():
        fix = (
            "name the adapter's own base, or merge the two first (PEFT's merge_and_unload) and "
            "name the folder of that"
        )
        raise UsageError(f"{name} is an adapter already, and adapters are not stacked", fix=fix)


def _load(recipe: Recipe) -> HfEngine:
    from medtask.engines.registry import load_model

    quantize = "4bit" if recipe.method == "qlora" else None
    engine = load_model(
        recipe.base,
        dtype=recipe.dtype,
        device=_choose_device(recipe),
        quantize=quantize,
        memory=recipe.memory,
    )
    return cast("HfEngine", engine)


def _choose_device(recipe: Recipe) -> str:
    """Of several processes each takes the GPU of its number."""
    place = os.environ.get("LOCAL_RANK")
    several = (
        place is not None
        and recipe.device in ("auto", "cuda")
        and inspect_machine().accelerator == "cuda"
    )
    return f"cuda:{place}" if several else recipe.device


def _count_processes() -> int:
    """How many processes train together (accelerate launch, torchrun)."""
    return max(1, int(os.environ.get("WORLD_SIZE", "1")))


def _read_all(materials: Sequence[Material], engine: HfEngine, recipe: Recipe) -> Text:
    from medtask.train.language.passage import read_passages

    most = min(recipe.row_tokens, engine.limit)
    train: list[Passage] = []
    tasks: list[int] = []
    kept: list[tuple[Lesson, ...]] = []
    passages: list[tuple[Passage, ...]] = []
    cut = 0
    share = max(1, VALIDATION_ROWS // len(materials))
    for place, material in enumerate(materials):
        found = read_passages(material.task, engine.chat, material.train)
        fitting = [passage for passage in found if passage.longest <= most]
        cut += len(found) - len(fitting)
        train += fitting
        tasks += [place] * len(fitting)
        lessons = material.validation[:share]
        checks = read_passages(material.task, engine.chat, lessons)
        pairs = [
            (lesson, one)
            for lesson, one in zip(lessons, checks, strict=True)
            if one.longest <= most
        ]
        cut += len(lessons) - len(pairs)
        kept.append(tuple(lesson for lesson, _ in pairs))
        passages.append(tuple(one for _, one in pairs))
    if not train or not all(kept):
        raise InputError(
            f"no row {'to learn from' if not train else 'to validate by'} "
            f"fits into {most:,} tokens",
            fix=(
                "raise --row-tokens, shorten the instruction or the examples, or choose a model "
                "with a larger context"
            ),
        )
    return Text(tuple(train), tuple(tasks), tuple(kept), tuple(passages), cut)


def _tell_cut(text: Text, recipe: Recipe) -> Iterator[str]:
    if text.cut:
        yield (
            f"{text.cut:,} rows of more than {recipe.row_tokens:,} tokens, or more than the "
            "model reads, are left out (--row-tokens)"
        )


def _plan(engine: HfEngine, recipe: Recipe, text: Text) -> MemoryPlan:
    from medtask.train.language.memory import plan_memory, read_layout

    weights = sum(weight.numel() for weight in engine.model.parameters())
    layout = read_layout(engine.model.config, weights)
    machine = inspect_machine()
    device = str(engine.model.device)
    free = (
        machine.accelerator_bytes
        if device.startswith("cuda")
        else machine.available_bytes + int(engine.model.get_memory_footprint())
    )
    allowed = min(free, recipe.memory) if recipe.memory is not None else free
    number = "4bit" if recipe.method == "qlora" else str(engine.model.dtype).removeprefix("torch.")
    return plan_memory(
        layout, recipe, number=number, device=device, allowed=allowed, longest=text.longest
    )


def _hire(
    learner: Any,
    engine: HfEngine,
    materials: Sequence[Material],
    recipe: Recipe,
    desk: Desk,
    text: Text,
    plan: MemoryPlan,
    course: Course,
    weights: Weights,
    per_step: int,
) -> Any:
    """The Tutor of this training."""
    from medtask.train.language.learner import Batches, LanguageTutor, measure_wording, take_one
    from medtask.train.language.schedule import order_batches
    from medtask.train.loop import make_arguments
    from medtask.train.validate import Verdict, combine_verdicts, judge_rows

    def validate() -> Verdict:
        learner.eval()
        verdicts = []
        for material, lessons, passages in zip(
            materials, text.validation, text.validation_passages, strict=True
        ):
            if isinstance(material.task.form, FreeText | Fields):
                found = Verdict(measure_wording(learner, passages, plan.pack_tokens))
            else:
                # what was kept of a shared prefix is what the weights made of it before
                engine.reader.prefix_tokens = ()
                found = judge_rows(material.task, engine, lessons)
            verdicts.append((len(lessons), found))
        return combine_verdicts(verdicts)

    lengths = [passage.longest for passage in text.train]
    batches = order_batches(
        text.tasks, lengths, per_step, course.steps * _count_processes(), recipe.seed
    )
    # Items are taken in their order: chance has done its work in schedule.py, where it can be
    # repeated.
    more: dict[str, Any] = {
        "per_device_train_batch_size": 1,
        "train_sampling_strategy": "sequential",
    }
    if recipe.method == "qlora":
        more["optimizer"] = "paged_adamw_32bit"
    arguments = make_arguments(recipe, course, desk, device=engine.model.device.type, **more)
    return LanguageTutor(
        model=learner,
        args=arguments,
        train_dataset=Batches(batches),
        data_collator=take_one,
        passages=text.train,
        pack_tokens=plan.pack_tokens,
        desk=desk,
        course=course,
        weights=weights,
        validate=validate,
        patience=recipe.patience * recipe.validations,
    )


def _write(engine: HfEngine, model: Any, recipe: Recipe, best: Path, draft: Path) -> None:
    from medtask.train.language.adapter import write_adapter, write_full

    if recipe.method == "full":
        write_full(best, draft, cast("HubTokenizer", engine.chat.tokenizer).tokenizer)
    else:
        write_adapter(model, name_base(recipe.base), best, draft)


def _contract(materials: Sequence[Material], recipe: Recipe) -> Trained:
    task = materials[0].task
    said = {find_phi(material.task) for material in materials}
    phi: Phi = "yes" if "yes" in said else "no" if said == {"no"} else "unknown"
    fingerprint = task.fingerprint if len(materials) == 1 else ""
    return Trained(
        "hf", task.kind, (), base=name_base(recipe.base), task_fingerprint=fingerprint, phi=phi
    )


def name_base(reference: str) -> str:
    """A base's reference as it is to stand in a model's folder: a folder's by its whole path, since
    it is read from anywhere.
    """
    path = Path(reference).expanduser()
    return str(path.resolve()) if path.is_dir() else reference
