"""`medtask bundle`: medtask, its packages and a model for a machine without network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medtask.cli import console as show
from medtask.cli.inputs import AsJson, Offline, Quiet, disable_downloads
from medtask.display import format_bytes, format_count


def bundle(
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="The model reference, as in medtask run.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to write.")],
    extra: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="An extra of medtask (repeatable); default: what the model needs."
        ),
    ] = None,
    wheel: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The wheel of medtask; default: built, or from the index."
        ),
    ] = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Collect medtask, its packages and a model for another machine.

    The folder has the versions of this environment, hashes of all files, and install.py, which
    verifies and installs them: python FOLDER/install.py NEW_FOLDER.
    """
    disable_downloads(offline)
    from medtask.exporting.bundle import bundle as write_bundle

    on_step = show.make_step_printer(quiet=quiet)
    written = write_bundle(model, out=out, extras=extra, wheel=wheel, on_step=on_step)
    if as_json:
        show.print_json(written.to_json())
        return
    show.print_line(
        f"{written.path}/   {format_count(written.wheels, 'package')}, "
        f"{format_bytes(written.bytes)}, for Python {written.python} on {written.system} "
        f"{written.machine}"
    )
    show.print_line(f"SHA-256 of its list of hashes: {written.sha256}")
    show.print_line(f"on the other machine: python {written.path.name}/install.py medtask-env")
