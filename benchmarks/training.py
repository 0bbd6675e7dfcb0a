"""How fast is training, beside TRL's SFTTrainer? Samples a second of the same model, adapter, rows
and optimizer, in one process.

    python benchmarks/training.py [--base smollm2-135m] [--rows 64] [--steps 4] [--seed 0]

The task has 29 labels with definitions in its prompt (about 250 tokens that all rows share) and
short rows of its own. Both sides train the same LoRA (rank 16, all linear layers) with AdamW in
float32, in steps of 32 rows, and learn the answer alone: TRL gets the very chats as prompt and
completion, and reads --their-batch of them at once, in as many parts of a step (all 32, with their
logits over the whole vocabulary, take more than 24 GB). Steps of the two are taken in turn, so that
a machine that others use slows down both alike; the first step of each is not counted. Ratios are
to be compared, not seconds. Needs the extra `peers`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LABELS = {
    "CT head": "bleed or head injury",
    "CT chest": "lung nodule or infection",
    "CT abdomen": "acute abdomen",
    "CT pelvis": "pelvic mass",
    "CT spine": "fracture of the spine",
    "CT sinus": "sinusitis",
    "CT neck": "swelling of the neck",
    "CT aorta": "aneurysm or dissection",
    "CT kidneys": "stones",
    "MRI brain": "tumour or infection",
    "MRI spine": "cord compression",
    "MRI knee": "meniscus",
    "MRI shoulder": "rotator cuff",
    "MRI hip": "necrosis of the head",
    "MRI wrist": "ligaments",
    "MRI ankle": "tendons",
    "MRI liver": "focal lesion",
    "MRI prostate": "raised PSA",
    "MRI heart": "cardiomyopathy",
    "MRI breast": "extent of cancer",
    "Ultrasound liver": "gallstones",
    "Ultrasound kidneys": "hydronephrosis",
    "Ultrasound thyroid": "nodule",
    "Ultrasound leg veins": "thrombosis",
    "Ultrasound pelvis": "ovarian cyst",
    "Radiograph chest": "pneumonia",
    "Radiograph hand": "fracture",
    "Radiograph foot": "foreign body",
    "Mammography": "screening",
}
REQUEST_ENDINGS = (
    "pain since Monday",
    "known disease, new finding",
    "follow-up after surgery",
    "please exclude",
    "seen by consultant today",
)


def write_task(folder: Path, rows: int) -> Path:
    """A task folder with a table of made-up requests."""
    answer = {"kind": "label", "labels": LABELS}
    task = {
        "name": "orders",
        "instruction": "Choose the examination.",
        "input": "{{ text }}",
        "gold": "gold",
        "answer": answer,
    }
    names = list(LABELS)
    made = [
        {
            "text": (
                f"{LABELS[names[at % len(names)]]}, "
                f"{REQUEST_ENDINGS[at % len(REQUEST_ENDINGS)]}, case {at}"
            ),
            "gold": names[at % len(names)],
        }
        for at in range(rows)
    ]
    (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, made)) + "\n", encoding="utf-8")
    return folder


def prepare_medtask(folder: Path, base: str, batch: int, seed: int) -> Any:
    """A function that takes one of our steps; it returns the rows, and the tokens that rows
    have.
    """
    import torch

    from medtask.engines.registry import load_model
    from medtask.tables.read import read_table
    from medtask.tasks.load import load_task
    from medtask.training.language.adapter import add_adapter
    from medtask.training.language.batching import split_into_packs
    from medtask.training.language.loss_model import LanguageLossModel
    from medtask.training.language.tokenized_example import tokenize_examples
    from medtask.training.recipe import Recipe
    from medtask.training.training_data import build_training_data

    recipe = Recipe(method="lora", bases=(base,), batch=batch, seed=seed)
    task = load_task(folder)
    training_data = build_training_data(task, read_table(folder / "rows.jsonl"), seed=seed)
    engine: Any = load_model(base, dtype="float32")
    tokenized = tokenize_examples(task, engine.chat, training_data.train)
    model = add_adapter(engine.model, recipe)
    learner = LanguageLossModel(model, engine.model, packed=engine.packed)
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], lr=1e-4
    )

    def train_step(number: int) -> tuple[int, int]:
        rows = [tokenized[(number * batch + at) % len(tokenized)] for at in range(batch)]
        learner.train()
        for pack in split_into_packs(rows, 2048):
            (learner(pack).total / batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return batch, sum(passage.max_length for passage in rows)

    return train_step, training_data, engine


def prepare_trl(
    training_data: Any, engine: Any, base: str, batch: int, micro_batch: int, seed: int, out: Path
) -> Any:
    """A function that takes one step of TRL's SFTTrainer over the same rows."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    from medtask.engines.files.model_files import locate_model
    from medtask.engines.files.weights import dequantize_gguf
    from medtask.training.chat_data import build_chat_turns

    files = locate_model(base)
    source = dequantize_gguf(files.path)[0] if files.is_gguf else files.path
    turns = [build_chat_turns(training_data.task, lesson) for lesson in training_data.train]
    chats = [
        {
            "prompt": [{"role": turn.role, "content": turn.content} for turn in asked],
            "completion": [{"role": answer.role, "content": answer.content}],
        }
        for asked, answer in turns
    ]
    config = SFTConfig(
        output_dir=str(out),
        per_device_train_batch_size=micro_batch,
        max_steps=1,
        use_cpu=engine.model.device.type == "cpu",
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        dataloader_pin_memory=False,
        log_level="error",
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list(chats),
        peft_config=LoraConfig(
            r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        processing_class=engine.chat.tokenizer.tokenizer,
    )
    trainer.create_optimizer()
    batches: Iterator[Any] = iter(())

    def train_step(number: int) -> tuple[int, int]:
        nonlocal batches
        rows = tokens = 0
        trainer.current_gradient_accumulation_steps = batch // micro_batch
        for _ in range(batch // micro_batch):
            inputs = next(batches, None)
            if inputs is None:
                batches = iter(trainer.get_train_dataloader())
                inputs = next(batches)
            trainer.training_step(trainer.model, inputs)
            rows, tokens = (
                rows + len(inputs["input_ids"]),
                tokens + int(inputs["attention_mask"].sum()),
            )
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        return rows, tokens

    return train_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--their-batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = write_task(Path(name), options.rows)
        medtask_step, training_data, engine = prepare_medtask(
            folder, options.base, options.batch, options.seed
        )
        trl_step = prepare_trl(
            training_data,
            engine,
            options.base,
            options.batch,
            options.their_batch,
            options.seed,
            folder / "trl",
        )
        speeds: dict[str, list[float]] = {"medtask, packed": [], "TRL SFTTrainer": []}
        tokens = {}
        for number in range(options.steps + 1):
            for trainer_name, step in zip(speeds, (medtask_step, trl_step), strict=True):
                begun = time.perf_counter()
                rows, read = step(number)
                speeds[trainer_name].append(rows / (time.perf_counter() - begun))
                tokens[trainer_name] = read / rows
    print(
        f"{len(LABELS)} labels with definitions, {options.batch} rows a step, {options.steps} "
        "steps each, in turn"
    )
    median_speeds = {who: statistics.median(found[1:]) for who, found in speeds.items()}
    for trainer_name, speed in median_speeds.items():
        print(
            f"{trainer_name:18} {speed:6.2f} samples/s "
            f"({min(speeds[trainer_name][1:]):.2f}-{max(speeds[trainer_name][1:]):.2f}), "
            f"{tokens[trainer_name]:.0f} tokens a sample"
        )
    print(f"ratio {median_speeds['medtask, packed'] / median_speeds['TRL SFTTrainer']:.1f}")


if __name__ == "__main__":
    main()
