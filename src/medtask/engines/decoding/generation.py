"""What writing is whoever writes: drafts are begun, written, shown to who reads along, and told as
results.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain

from medtask.engines.decoding.sequence import DecodingSequence
from medtask.errors import EngineError
from medtask.records import Fault, Generated, Prompt

SequenceCallback = Callable[[DecodingSequence], None]


def generate_texts(
    prompts: Sequence[Prompt],
    cached: Collection[str],
    on_text: Callable[[str], None] | None,
    create: Callable[[], Sequence[DecodingSequence]],
    decode: Callable[[Sequence[DecodingSequence], SequenceCallback], Iterator[DecodingSequence]],
) -> Iterator[Generated | Fault]:
    """See Engine.generate. ``create`` makes a draft for each prompt (see begin_drafts);
    ``decode`` is given those that can be written, yields each once it is done, and calls Show
    with a draft whenever it has grown.
    """
    if on_text and len(prompts) > 1:
        raise EngineError(
            "only one text can be shown while it is written", fix="ask about one prompt at a time"
        )
    if all(prompt.record_id in cached for prompt in prompts):
        return
    seqs = create()
    on_update = _make_text_callback(on_text) if on_text else _ignore_update
    runnable = [seq for seq in seqs if seq.fault is None]
    for seq in chain((seq for seq in seqs if seq.fault), decode(runnable, on_update)):
        on_update(seq)
        if seq.record_id not in cached:
            yield seq.to_result()


def _make_text_callback(on_text: Callable[[str], None]) -> SequenceCallback:
    """Hands on each further piece of the one draft's text as soon as it is certain."""
    sent_length = 0

    def show(seq: DecodingSequence) -> None:
        nonlocal sent_length
        text = seq.get_text()
        if len(text) > sent_length:
            on_text(text[sent_length:])
            sent_length = len(text)

    return show


def _ignore_update(seq: DecodingSequence) -> None:
    """Nobody reads along."""
