"""Output of the preview of one row's prompt."""

from __future__ import annotations

from medtask.cli import console as show
from medtask.display import escape_control_characters, format_count
from medtask.prediction.prompt_preview import PromptPreview
from medtask.records import Fault


def print_preview(preview: PromptPreview) -> None:
    rendered = preview.rendered
    if isinstance(rendered, Fault):
        show.print_line(f"{preview.record_id} is skipped: {rendered.status}, {rendered.reason}")
        return
    shared = f"{preview.shared_tokens:,} of them shared with other rows"
    show.print_line(
        ("row ", "dim"),
        preview.record_id,
        (
            (
                f" as {preview.model} reads it: "
                f"{format_count(rendered.prompt_tokens, 'token')}, {shared}\n"
            ),
            "dim",
        ),
    )
    show.print_verbatim(rendered.prompt)
    if rendered.texts:
        show.print_line(("\ncontinuation for each answer", "dim"))
        width = min(40, max(map(len, rendered.texts)))
        for name, text in rendered.texts.items():
            cost = format_count(rendered.tokens[name], "token")
            show.print_line(
                f"  {escape_control_characters(name, keep=''):<{width}}  {text!r}",
                (f"  {cost}", "dim"),
            )
    elif preview.schema:
        show.print_line(("\nJSON schema of the generated text", "dim"))
        show.print_json(preview.schema)
    else:
        show.print_line(("\nfollowed by generated text", "dim"))
    for note in preview.notes:
        show.print_fact("note", note)
    for warning in preview.warnings:
        show.print_warning(warning)
