"""Exports of one model: size, time, memory, and how alike the answers are, for each target.

    python benchmarks/export.py --data ../shared/data [--model examples/demo_adapter] [--rows 64]
                                [--targets merged,gguf:q8_0,gguf:q4_k_m] [--gated gguf:q4_k_m]
                                [--out export.json]

Each export is one `medtask export --no-check` in a process of its own; the first row of the table
is the same with the parity gate. The exported models then answer prompts of two public sets and are
compared with the model, as the gate compares them. Further targets are mlx, which is slow without a
Mac, and ollama.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import medtask
from medtask.engines.registry import load_model
from medtask.exporting.parity import ModelOutputs, Parity, collect_outputs, compare_outputs
from medtask.exporting.parity_prompts import sample_prompts
from medtask.exporting.targets import find_target
from medtask.records import Prompt

SETS = ("icd9_procedures", "symptom2disease")
TARGETS = "merged,mlflow,gguf:f16,gguf:q8_0,gguf:q6_k,gguf:q5_k_m,gguf:q4_k_m,gguf:q4_0"
# `medtask`, which prints its peak memory at the end.
MEASURED = """
import atexit
from medtask.cli.main import main
from medtask.hardware import measure_peak_memory

atexit.register(lambda: print(measure_peak_memory()["memory"]))
main()
"""


@dataclass(frozen=True)
class Export:
    """One export. ``bytes`` are those of all files; ``peak_bytes`` the memory of the process."""

    target: str
    bytes: int
    seconds: float
    peak_bytes: int


def write_task(folder: Path, data: Path) -> None:
    task = {
        "instruction": "Assign the text to its group.",
        "input": "{{ text }}",
        "answer": {"kind": "label", "labels": json.loads((data / "labels.json").read_text())},
    }
    folder.mkdir()
    (folder / "task.json").write_text(json.dumps(task))


def export(model: str, target: str, out: Path, question: list[str], *options: str) -> Export:
    """Export in a separate process, which is measured. Raises CalledProcessError if it fails."""
    name, _, quantization = target.partition(":")
    arguments = ["export", model, "--to", name, "--out", str(out), "--quiet", *options]
    arguments += ["--quant", quantization] if quantization else []
    arguments += ["--task", *question]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], stdout=subprocess.PIPE, check=True
    )
    seconds = time.perf_counter() - began
    peak_bytes = int(done.stdout.split()[-1])
    files = [out] if out.is_file() else [one for one in out.rglob("*") if one.is_file()]
    return Export(target, sum(one.stat().st_size for one in files), seconds, peak_bytes)


def name_path(path: Path, target: str) -> Path:
    return path.with_suffix(find_target(target.partition(":")[0]).suffix)


def ask_exported(
    target: str, path: Path, prompts: Mapping[str, list[Prompt]]
) -> dict[str, ModelOutputs]:
    engine = find_target(target.partition(":")[0]).import_writer().open_exported(path)
    try:
        return {name: collect_outputs(engine, some) for name, some in prompts.items()}
    finally:
        engine.close()


def format_row(one: Export, parities: Mapping[str, Parity]) -> str:
    cells = [
        one.target.replace(":", " "),
        f"{one.bytes / 1e6:,.0f} MB",
        f"{one.seconds:.0f} s",
        f"{one.peak_bytes / 1e9:.2f} GB",
    ]
    for parity in parities.values():
        clear = "" if parity.clear_agreement is None else f"{parity.clear_agreement:.3f}"
        cells += [f"{parity.agreement:.3f}", clear, f"{parity.mean_kl:.2g}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="examples/demo_adapter")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--targets", default=TARGETS)
    parser.add_argument("--gated", default="gguf:q4_k_m", help="the target that is also gated")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, prompts = Path(temporary), {}
        for data in SETS:
            write_task(folder / data, options.data / data)
            table = medtask.read_table(options.data / data / "dev.jsonl.gz")
            prompts[data] = sample_prompts(medtask.load_task(folder / data), table, options.rows)
        engine = load_model(options.model, dtype="float32")
        expected = {data: collect_outputs(engine, some) for data, some in prompts.items()}
        engine.close()
        question = [str(folder / SETS[0]), str(options.data / SETS[0] / "dev.jsonl.gz")]
        gated_path = name_path(folder / "gated", options.gated)
        gated = export(options.model, options.gated, gated_path, question, "--force")
        print(f"with the gate: {gated.seconds:.0f} s, {gated.peak_bytes / 1e9:.2f} GB", flush=True)
        results = []
        for target in options.targets.split(","):
            path = name_path(folder / "model", target)
            one = export(options.model, target, path, question, "--no-check")
            name, _, quantization = target.partition(":")
            chosen = find_target(name).choose_quantization(quantization or None)
            bounds = find_target(name).bounds[chosen]
            found = ask_exported(target, path, prompts)
            parities = {data: compare_outputs(expected[data], found[data], bounds) for data in SETS}
            print(format_row(one, parities), flush=True)
            results.append(
                asdict(one) | {data: parity.to_json() for data, parity in parities.items()}
            )
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if options.out:
        options.out.write_text(json.dumps({"gated": asdict(gated), "targets": results}, indent=2))


if __name__ == "__main__":
    main()
