"""`medtask purge`: remove an object of the server with every trace of its texts."""

from __future__ import annotations

from typing import Annotated

import typer

from medtask.cli import console as show
from medtask.cli.commands.serve import (
    DEFAULT_DATA_FOLDER,
    DatabaseUrl,
    DataFolder,
    require_server_packages,
)
from medtask.display import format_suggestion, join_alternatives
from medtask.errors import UsageError


def purge(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="dataset, task, model or run.")],
    number: Annotated[int, typer.Argument(metavar="ID", help="Its number on the server.")],
    data: DataFolder = DEFAULT_DATA_FOLDER,
    db: DatabaseUrl = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove an object of the server and all that is kept of it.

    Its files and reviews, and what the file of the database keeps of removed rows.
    """
    require_server_packages()
    from medtask.server.purge import PURGEABLE, purge
    from medtask.server.settings import ServerSettings

    if what not in PURGEABLE:
        raise UsageError(
            f"{what} cannot be purged{format_suggestion(what, PURGEABLE)}",
            fix=f"name one of {join_alternatives(tuple(PURGEABLE))}",
        )
    settings = ServerSettings(data_folder=data, database_url=db)
    if not yes and not _confirm(f"Remove {what} {number} for ever?"):
        raise UsageError("nothing was removed", fix="answer y, or give --yes")
    for removed in purge(settings, what, number):
        show.print_line(f"Removed {removed}.")


def _confirm(question: str) -> bool:
    """Whether the user agrees; not at the end of standard input, as in a job of cron."""
    try:
        return typer.confirm(question, err=True)
    except typer.Abort as error:
        if isinstance(error.__context__, EOFError):
            return False
        raise KeyboardInterrupt from None
