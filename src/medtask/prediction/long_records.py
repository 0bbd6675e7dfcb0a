"""Records that are too long for the model: shortened, or read in overlapping parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from medtask.display import format_count, join_reasons
from medtask.engines.base import Engine
from medtask.prediction.asking import ask_prompts
from medtask.prediction.deciding import decide_answer, to_probabilities
from medtask.prediction.engine_output import EngineOutput
from medtask.prediction.kinds import get_kind_prediction
from medtask.prediction.kinds.base import drop_probabilities
from medtask.prediction.probabilities import combine_probabilities
from medtask.prediction.quotes import move_quotes
from medtask.prediction.suspicion import mark_suspicious
from medtask.records import Answer, Fault, Prompt, Record, Status
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import Gate, Task
from medtask.unicode_text import split_words

ELLIPSIS = "\n[…]\n"
OVERLAP_DIVISOR = 8  # a part shares one eighth of its length with the next
_MAX_TRIES = 12
_SHRINK_FACTOR = 0.85


def answer_long_record(
    task: Task, engine: Engine, record: Record, prompt: Prompt, fault: Fault
) -> Answer:
    """Answer a record that did not fit into the model (``fault``), according to the task's gate."""
    characters = _estimate_max_characters(task, engine, prompt)
    shrink_factor = _SHRINK_FACTOR
    if characters is None:  # a server that counts no tokens: lengths are tried
        characters, shrink_factor = len(prompt.text) // 2, 0.5
    for _ in range(_MAX_TRIES):
        if not characters:
            break
        texts = list(split_text(prompt.text, task.gate, characters))
        outputs = _ask_parts(task, engine, record, texts)
        if not isinstance(outputs, Fault):
            return _combine_parts(task, record.id, outputs, prompt.text, texts)
        if outputs.status is not Status.TOO_LONG:
            return decide_answer(task, record.id, outputs)
        characters = int(characters * shrink_factor)
    return decide_answer(task, record.id, fault)


def split_text(text: str, gate: Gate, characters: int) -> Iterator[str]:
    """Split a text into overlapping parts, or shorten it to its beginning and end.

    Each result has about ``characters`` characters and is cut between words if possible. Parts
    without a visible character are left out: a model would be asked about nothing.
    """
    if gate.too_long == "head_tail":
        half = max(1, (characters - len(ELLIPSIS)) // 2)
        yield (
            text[: _find_word_end(text, half)].rstrip()
            + ELLIPSIS
            + text[_find_word_start(text, len(text) - half) :].lstrip()
        )
        return
    step = max(1, characters - characters // OVERLAP_DIVISOR)
    start = 0
    while start < len(text):
        end = (
            len(text)
            if start + characters >= len(text)
            else max(_find_word_end(text, start + characters), start + 1)
        )
        if part := text[start:end].strip():
            yield part
        if end == len(text):
            return
        # The next word may begin after the end of this part, which must not leave a gap.
        start = min(max(_find_word_start(text, start + step), start + 1), end)


def _estimate_max_characters(task: Task, engine: Engine, prompt: Prompt) -> int | None:
    """About how many characters of the text fit into the prompt; None if the engine counts none."""
    plan = engine.plan([prompt])
    if plan is None:
        return None
    characters = (
        len(prompt.text)
        if plan.text_only
        else sum(len(turn.content) for turn in prompt.messages) or 1
    )
    reserve = (
        (task.reasoning.budget if task.reasoning else 0)
        + task.answer_spec.max_tokens
        + int(plan.mean_label_tokens)
        + 16
    )
    max_characters = int(
        (plan.max_input_tokens - reserve) * 0.95 * characters / plan.sequence_tokens[0]
    ) - (characters - len(prompt.text))
    return max(0, min(max_characters, len(prompt.text) - 1))


def _ask_parts(
    task: Task, engine: Engine, record: Record, texts: list[str]
) -> list[EngineOutput] | Fault:
    """The engine's output for each part, in order, or the first fault."""
    prompts = []
    for number, text in enumerate(texts, 1):
        built = build_prompt(task, record, text)
        if isinstance(built, Fault):
            return built
        prompts.append(replace(built, record_id=f"{record.id}\0{number}"))
    outputs = {}
    for output in ask_prompts(task, engine, prompts):
        if isinstance(output, Fault):
            return replace(output, record_id=record.id)
        outputs[output.prompt.record_id] = output
    return [outputs[prompt.record_id] for prompt in prompts]


def _combine_parts(
    task: Task, record_id: str, outputs: list[EngineOutput], text: str, texts: list[str]
) -> Answer:
    if task.gate.too_long == "head_tail":
        words, total = len(split_words(texts[0])), len(split_words(text))
        note = (
            f"too long for the model: only its beginning and its end were read, {words:,} of "
            f"{total:,} words"
        )
        answer = decide_answer(task, record_id, outputs[0].add_note(note))
        return move_quotes(answer, texts[0], text, ELLIPSIS)
    part_probabilities = [
        to_probabilities(task, one.prompt, one.scores) if one.scores else None for one in outputs
    ]
    known_probabilities = [one for one in part_probabilities if one is not None]
    is_choice = any(one.scores.choice_only for one in outputs if one.scores)
    # The mean of choices without probabilities is a vote.
    combine = "vote" if is_choice and task.gate.combine == "mean" else task.gate.combine
    merged = (
        combine_probabilities(known_probabilities, combine, exclusive=not task.several)
        if len(known_probabilities) == len(part_probabilities)
        else None
    )
    answer = get_kind_prediction(task).decide_from_probabilities(record_id, merged)
    if is_choice:
        answer = drop_probabilities(answer)
    rule = {
        "mean": "the mean of their probabilities",
        "max": "their largest probabilities",
        "vote": "one vote each",
    }[combine]
    parts = format_count(len(outputs), "overlapping part")
    note = f"too long for the model: read in {parts}, combined by {rule}"
    part_notes = dict.fromkeys(one_note for one in outputs for one_note in one.notes)
    thoughts = [one.prompt.thoughts for one in outputs if one.prompt.thoughts is not None]
    combined = replace(
        answer,
        reason=join_reasons(answer.reason, note, *part_notes),
        thoughts="\n\n".join(thoughts) if thoughts else None,
        ms=sum(one.ms for one in outputs),
        tokens_read=sum(one.tokens_read for one in outputs),
        tokens_reused=sum(one.tokens_reused for one in outputs),
    )
    suspicions = (one.suspicion for one in outputs if one.suspicion)
    return mark_suspicious(combined, next(suspicions, None))


def _find_word_end(text: str, position: int) -> int:
    """The end of the last whole word before ``position``, unless it is too far away."""
    space = text.rfind(" ", max(0, position - 50), position + 1)
    return space if space > 0 else position


def _find_word_start(text: str, position: int) -> int:
    space = text.find(" ", position, position + 50)
    return space + 1 if space >= 0 else position
