"""`medtask export`: write a model for another system, and prove that it is still the same model."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medtask.cli import console as show
from medtask.cli.inputs import AsJson, Offline, Quiet, disable_downloads, open_table
from medtask.cli.table_options import add_read_options
from medtask.display import format_count
from medtask.errors import EngineError, InputError, UsageError
from medtask.tables.read_options import ReadOptions

if TYPE_CHECKING:
    from medtask.exporting.parity import Parity

DEFAULT_ROWS = 64


@add_read_options
def export(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="A trained folder, a model of the Hub, a folder or a .gguf file."
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help="The format or system: merged, gguf, ollama, mlx, mlflow, onnx or hub.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The folder or file to write.")
    ] = None,
    quant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Quantisation of the target, such as q4_k_m."),
    ] = None,
    task: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="TASK DATA",
            help="The prompts to compare; default: invented sentences in the task's words.",
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of prompts to compare.")
    ] = DEFAULT_ROWS,
    register: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="The model's name in MLflow, or the repository on the Hub."
        ),
    ] = "",
    public: Annotated[
        bool, typer.Option("--public", help="With --to hub: make the new repository public.")
    ] = False,
    acknowledge_phi: Annotated[
        bool,
        typer.Option(
            "--acknowledge-phi",
            help="With --to hub: send a model that learnt from texts of patients.",
        ),
    ] = False,
    unchecked: Annotated[
        bool,
        typer.Option("--no-check", help="Do not compare the exported model with its source."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Publish even if the comparison fails; the card says so."),
    ] = False,
    check: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="Only compare model B with model A."),
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Only compare an export with its SHA-256 hashes."),
    ] = None,
    *,
    read_options: ReadOptions,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a model for another system, and compare the two.

    --to names what is written: merged, a folder in transformers' format with the adapter merged;
    gguf, a file for llama.cpp; ollama, a folder with such a file and a Modelfile;
    mlx, a folder for mlx-lm on Apple silicon; mlflow, a Python function on data frames;
    onnx, an encoder in a folder for onnxruntime;
    hub, a folder that is sent to the repository --register of the Hugging Face Hub.
    Before the export appears at its path, model and export are asked the same prompts: their
    tokens must be equal, and their answers and probabilities alike within the bounds of the target.
    """
    disable_downloads(offline)
    _refuse_two_actions(verify, check, (model, out))
    if verify is not None:
        _verify(verify, as_json=as_json)
        return
    question = _Question(task, read_options, rows)
    if check is not None:
        _check(*check, question, to=to, quant=quant, as_json=as_json)
        return
    if model is None or to is None or out is None:
        raise UsageError(
            "an export needs a model, a target and a path",
            fix="medtask export MODEL --to merged --out FOLDER",
        )
    _refuse_unused(to, {"--public": public, "--acknowledge-phi": acknowledge_phi}, register)
    _export(
        model,
        question,
        {
            "to": to,
            "out": out,
            "quant": quant,
            "check": not unchecked,
            "force": force,
            "register": register,
            "public": public,
            "acknowledge_phi": acknowledge_phi,
        },
        quiet=quiet,
        as_json=as_json,
    )


def _refuse_two_actions(
    verify: Path | None, check: tuple[str, str] | None, export: tuple[object, object]
) -> None:
    """Raise UsageError if a command names more than one of an export and the two comparisons."""
    names = [
        flag for flag, given in (("--verify", verify), ("--check", check)) if given is not None
    ]
    if names and (len(names) > 1 or export != (None, None)):
        raise UsageError(
            f"{' and '.join(names)} only compares, and the command names more",
            fix="give --verify PATH or --check A B without MODEL and --out",
        )


def _refuse_unused(to: str, of_hub: Mapping[str, bool], register: str) -> None:
    """Raise UsageError for options of another target."""
    flags = [flag for flag, given in of_hub.items() if given and to != "hub"]
    if register and to not in ("hub", "mlflow"):
        flags.append("--register")
    if flags:
        raise UsageError(
            f"{flags[0]} has no effect with --to {to}",
            fix="leave it out, or use --to hub",
        )


@dataclass(frozen=True, slots=True)
class _Question:
    """Which prompts are compared."""

    names: tuple[str, str] | None
    read_options: ReadOptions
    rows: int

    @contextmanager
    def open(self) -> Iterator[dict[str, Any]]:
        """Yield the arguments of the public functions."""
        from medtask.tasks.load import load_task

        if self.names is None:
            yield {"rows": self.rows}
            return
        task = load_task(self.names[0])
        with open_table(task, self.names[1], self.read_options) as table:
            yield {"task": task, "table": table, "rows": self.rows}


def _export(
    model: str, question: _Question, options: Mapping[str, Any], *, quiet: bool, as_json: bool
) -> None:
    from medtask.exporting.export import export as export_model

    on_step = show.make_step_printer(quiet=quiet)
    with question.open() as asked, redirect_stdout(sys.stderr):
        exported = export_model(model, on_step=on_step, **options, **asked)
    if as_json:
        show.print_json(exported.to_json())
        return
    for note in exported.notes:
        show.print_line(note)
    _print_parity(exported.parity) if exported.parity else show.print_warning(
        "not compared with its source"
    )
    show.print_line((str(exported.path), "bold"), f"   {exported.report.name}")


def _check(
    first: str,
    second: str,
    question: _Question,
    *,
    to: str | None,
    quant: str | None,
    as_json: bool,
) -> None:
    from medtask.exporting.export import compare_models
    from medtask.exporting.targets import find_target

    target = find_target(to or "merged")
    bounds = target.bounds[target.choose_quantization(quant)]
    with question.open() as asked, redirect_stdout(sys.stderr):
        parity = compare_models(first, second, bounds=bounds, **asked)
    show.print_json(parity.to_json()) if as_json else _print_parity(parity)
    if not parity.passed:
        raise EngineError(
            f"{second} is not the same model as {first}", fix="export it again, with the gate"
        )


def _print_parity(parity: Parity) -> None:
    show.print_line(
        f"{format_count(parity.prompts, 'prompt')}: {parity.agreement:.3f} of the answers agree "
        f"(at least {parity.bounds.agreement:g}), mean divergence {parity.mean_kl:.2g} nats "
        f"(at most {parity.bounds.kl:g}), largest {parity.max_kl:.2g}"
    )
    for problem in parity.problems:
        show.print_warning(problem)


def _verify(path: Path, *, as_json: bool) -> None:
    from medtask.exporting.export import verify_export

    problems = verify_export(path)
    if as_json:
        show.print_json({"path": str(path), "problems": problems})
    elif not problems:
        show.print_line(f"{path}: all files are as they were exported")
    if problems:
        raise InputError(
            f"{path} is not as it was exported: " + "; ".join(problems),
            fix="copy or export it again",
        )
