"""What writing is whoever writes: drafts are begun, written, shown to who reads along, and told as
results.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain

from medtask.engines.writing.draft import Draft
from medtask.errors import EngineError
from medtask.records import Fault, Generated, Prompt

Show = Callable[[Draft], None]


def write_texts(
    prompts: Sequence[Prompt],
    known: Collection[str],
    on_text: Callable[[str], None] | None,
    begin: Callable[[], Sequence[Draft]],
    write: Callable[[Sequence[Draft], Show], Iterator[Draft]],
) -> Iterator[Generated | Fault]:
    """See Engine.generate. ``begin`` makes a draft for each prompt (see begin_drafts); ``write`` is
    given those that can be written, yields each once it is done, and calls Show with a draft
    whenever it has grown.
    """
    if on_text and len(prompts) > 1:
        raise EngineError(
            "only one text can be shown while it is written", fix="ask about one prompt at a time"
        )
    if all(prompt.record_id in known for prompt in prompts):
        return
    drafts = begin()
    show = _show_to(on_text) if on_text else _show_nobody
    able = [draft for draft in drafts if draft.fault is None]
    for draft in chain((draft for draft in drafts if draft.fault), write(able, show)):
        show(draft)
        if draft.record_id not in known:
            yield draft.finish()


def _show_to(on_text: Callable[[str], None]) -> Show:
    """Hands on each further piece of the one draft's text as soon as it is certain."""
    shown = 0

    def show(draft: Draft) -> None:
        nonlocal shown
        text = draft.text()
        if len(text) > shown:
            on_text(text[shown:])
            shown = len(text)

    return show


def _show_nobody(draft: Draft) -> None:
    """Nobody reads along."""
