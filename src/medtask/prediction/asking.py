"""A question put to an engine, in as many steps as its kind takes: think, write, score."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from medtask.engines.base import Engine
from medtask.errors import EngineError, InputError, UsageError
from medtask.prediction.field_answers import build_field_branches, parse_object
from medtask.records import Fault, Generated, Limits, Prompt, Scores, Status
from medtask.tasks.kinds.answer import format_close_tag, format_open_tag
from medtask.tasks.task import Fields, FreeText, MultipleChoice, Reasoning, ScoredField, Task

# Prompts that are written for together. What one is written next to can move its last digits, so a
# resumed run writes all of a batch again that it has not whole: no more than the ledger would lose
# anyway.
GENERATION_BATCH = 64

_CAPABLE_ENGINE_FIX = (
    "choose a model of the hf, llamacpp or mlx engine (`medtask models` lists them)"
)

OutputT = TypeVar("OutputT", Scores | Fault, Generated | Fault)

EARLY_SECTIONS_DIVISOR = (
    2  # sections before the last get at most one part in so many of the tokens together
)


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """Everything that an engine said about one prompt.

    ``prompt``: as it was asked last, with thoughts and branches. ``text``: what was written,
    ``last_section`` its last section; ``finish_reason``: how that ended. ``fields``: of kind
    ``fields``, those that the prompt's branches ask about. ``notes``: what did not go as the task
    wants it.
    """

    prompt: Prompt
    scores: Scores | None = None
    text: str | None = None
    last_section: str | None = None
    finish_reason: str = "stop"
    fields: tuple[ScoredField, ...] = ()
    notes: tuple[str, ...] = ()
    ms: float = 0.0
    tokens_read: int = 0
    tokens_reused: int = 0

    def add_output(self, result: Scores | Generated) -> EngineOutput:
        """The same with one more of the engine's results; its costs add up."""
        return replace(
            self,
            scores=result if isinstance(result, Scores) else self.scores,
            ms=self.ms + result.ms,
            tokens_read=self.tokens_read + result.tokens_read,
            tokens_reused=self.tokens_reused + result.tokens_reused,
        )

    def add_note(self, text: str) -> EngineOutput:
        return replace(self, notes=(*self.notes, text))


def ask_prompts(
    task: Task, engine: Engine, prompts: Sequence[Prompt], cached: Collection[str] = ()
) -> Iterator[EngineOutput | Fault]:
    """Ask each prompt of the task that is not ``cached``, once; results come in any order.

    ``cached``: see Engine.score. EngineError where the engine cannot do what the task's kind takes.
    """
    check_engine(task, engine)
    if task.reasoning is None and not _is_generated(task):
        by_id = {prompt.record_id: prompt for prompt in prompts}
        for result in _require_one_each(engine.score(prompts, cached), prompts, cached):
            yield (
                result
                if isinstance(result, Fault)
                else EngineOutput(by_id[result.record_id]).add_output(result)
            )
        return
    for batch in _make_batches(prompts):
        if any(prompt.record_id not in cached for prompt in batch):
            yield from (
                said
                for said in _ask_batch(task, engine, batch)
                if _get_record_id(said) not in cached
            )


def check_engine(task: Task, engine: Engine) -> None:
    """EngineError, or InputError, where the engine can never answer this task (its further passes
    apart).
    """
    caps, title = engine.caps, engine.info.title
    if task.phi and engine.info.remote:
        fix = (
            "choose a model on this machine, or take `phi: true` out if the table holds no "
            "patient's data"
        )
        raise UsageError(f"the task says `phi: true`, and {title} is not on this machine", fix=fix)
    if not _is_generated(task) and caps.score == "none" and not caps.choose:
        raise EngineError(f"{title} cannot be held to a set of answers", fix=_CAPABLE_ENGINE_FIX)
    if (
        isinstance(task.answer_spec, MultipleChoice)
        and task.answer_spec.readout == "text"
        and caps.score != "exact"
    ):
        raise EngineError(
            f"{title} cannot weigh whole texts, which `readout: text` takes",
            fix=f"set `readout: letter`, or {_CAPABLE_ENGINE_FIX}",
        )
    if (_is_generated(task) or task.reasoning) and not caps.generate:
        raise EngineError(f"{title} cannot write text", fix=_CAPABLE_ENGINE_FIX)
    if isinstance(task.answer_spec, Fields) and not caps.schema:
        raise EngineError(f"{title} cannot be held to a JSON schema", fix=_CAPABLE_ENGINE_FIX)
    limit = engine.context_tokens
    token_settings = {
        "budget under reasoning": task.reasoning.budget if task.reasoning else 0,
        "max_tokens": getattr(task.answer_spec, "max_tokens", 0),
    }
    for name, tokens in token_settings.items():
        if limit is not None and tokens >= limit:
            raise InputError(
                f"{name} is {tokens:,} tokens, and the model's whole context {limit:,}",
                fix=(
                    f"lower {name}, so that it leaves room for the prompt, or choose a model "
                    "with a larger context"
                ),
            )


def build_limits(form: FreeText | Fields) -> Limits:
    """How the answers of a kind that is written are written."""
    if isinstance(form, Fields):
        return Limits(form.max_tokens, schema=form.schema)
    return Limits(
        form.max_tokens,
        stop=form.stop,
        temperature=form.temperature,
        top_p=form.top_p,
        seed=form.seed,
    )


def _is_generated(task: Task) -> bool:
    return isinstance(task.answer_spec, FreeText | Fields)


def _make_batches(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """Batches of prompts that share their examples where possible, since those share a prefix."""
    groups: dict[object, list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.messages[:-1], []).append(prompt)
    ordered = [prompt for group in groups.values() for prompt in group]
    for start in range(0, len(ordered), GENERATION_BATCH):
        yield ordered[start : start + GENERATION_BATCH]


def _ask_batch(
    task: Task, engine: Engine, batch: Sequence[Prompt]
) -> Iterator[EngineOutput | Fault]:
    outputs: dict[str, EngineOutput] = {prompt.record_id: EngineOutput(prompt) for prompt in batch}
    if task.reasoning:
        _generate_thoughts(engine, outputs, task.reasoning)
    match task.answer_spec:
        case FreeText() as form:
            yield from _generate_text(engine, outputs, form)
        case Fields() as form:
            yield from _generate_fields(engine, outputs, form)
        case _:
            yield from _score_prompts(engine, outputs)


def _generate_thoughts(
    engine: Engine, outputs: dict[str, EngineOutput], reasoning: Reasoning
) -> None:
    """Put the model's thoughts into each prompt. A row that has no room or no time for them is
    asked without.
    """
    limits = Limits(reasoning.budget, think=True, deadline_s=reasoning.deadline_s)
    for result in _require_one_each(
        engine.generate(_list_prompts(outputs), limits), _list_prompts(outputs)
    ):
        before = outputs[result.record_id]
        if isinstance(result, Fault):
            outputs[result.record_id] = before.add_note(
                f"answered without thinking: {result.reason}"
            )
        elif result.finish_reason == "deadline":
            note = f"answered without thinking: its {reasoning.deadline_s:g} seconds had passed"
            outputs[result.record_id] = before.add_output(result).add_note(note)
        else:
            outputs[result.record_id] = replace(
                before.add_output(result), prompt=replace(before.prompt, thoughts=result.text)
            )


def _score_prompts(
    engine: Engine, outputs: dict[str, EngineOutput]
) -> Iterator[EngineOutput | Fault]:
    retried: dict[str, EngineOutput] = {}
    for result in _require_one_each(engine.score(_list_prompts(outputs)), _list_prompts(outputs)):
        before = outputs[result.record_id]
        if (
            isinstance(result, Fault)
            and result.status is Status.TOO_LONG
            and before.prompt.thoughts is not None
        ):
            # There was room to think, and then none to answer.
            retried[result.record_id] = replace(
                before, prompt=replace(before.prompt, thoughts=None)
            ).add_note(f"answered without its thoughts: {result.reason}")
        else:
            yield result if isinstance(result, Fault) else before.add_output(result)
    if retried:
        yield from _score_prompts(engine, retried)


def _generate_text(
    engine: Engine, outputs: dict[str, EngineOutput], form: FreeText
) -> Iterator[EngineOutput | Fault]:
    """Write, section by section: one that does not end by itself is closed, so that the last one
    always begins.
    """
    limits = build_limits(form)
    sections = form.sections or ("",)
    for index, section in enumerate(sections):
        last = index == len(sections) - 1
        for name, before in outputs.items():
            opened = before.prompt.partial_response + (format_open_tag(section) if section else "")
            outputs[name] = replace(before, prompt=replace(before.prompt, partial_response=opened))
        section_limits = (
            limits
            if last
            else replace(
                limits,
                max_tokens=max(
                    1, form.max_tokens // (EARLY_SECTIONS_DIVISOR * (len(sections) - 1))
                ),
            )
        )
        section_limits = (
            replace(section_limits, stop=(*section_limits.stop, format_close_tag(section)))
            if section
            else section_limits
        )
        for result in _require_one_each(
            engine.generate(_list_prompts(outputs), section_limits), _list_prompts(outputs)
        ):
            before = outputs[result.record_id]
            if isinstance(result, Fault):
                del outputs[result.record_id]
                yield result
                continue
            written = (
                before.prompt.partial_response
                + result.text
                + (format_close_tag(section) if section else "")
            )
            after = replace(
                before.add_output(result),
                text=written,
                last_section=result.text,
                finish_reason=result.finish_reason,
            )
            outputs[result.record_id] = replace(
                after,
                prompt=replace(before.prompt, partial_response=written + ("" if last else "\n")),
            )
    yield from outputs.values()


def _generate_fields(
    engine: Engine, outputs: dict[str, EngineOutput], form: Fields
) -> Iterator[EngineOutput | Fault]:
    """Write the object, then score what could have stood in its enum and boolean fields."""
    scored: dict[str, EngineOutput] = {}
    for result in _require_one_each(
        engine.generate(_list_prompts(outputs), build_limits(form)), _list_prompts(outputs)
    ):
        if isinstance(result, Fault):
            yield result
            continue
        before = outputs[result.record_id]
        after = replace(
            before.add_output(result),
            text=result.text,
            last_section=result.text,
            finish_reason=result.finish_reason,
        )
        value = parse_object(result.text)
        found = (
            build_field_branches(form, value)
            if value is not None and result.finish_reason == "stop"
            else []
        )
        if not found:
            yield after
            continue
        fields, branches = zip(*found, strict=True)
        scored[result.record_id] = replace(
            after, prompt=replace(before.prompt, branches=branches), fields=fields
        )
    for scored_output in _score_prompts(engine, scored) if scored else ():
        if isinstance(scored_output, EngineOutput):
            yield scored_output
        else:  # the object stands, only its probabilities are missing
            yield replace(scored[scored_output.record_id], fields=()).add_note(
                f"its enums were not scored: {scored_output.reason}"
            )


def _list_prompts(outputs: dict[str, EngineOutput]) -> list[Prompt]:
    return [output.prompt for output in outputs.values()]


def _get_record_id(output: EngineOutput | Fault) -> str:
    return output.record_id if isinstance(output, Fault) else output.prompt.record_id


def _require_one_each(
    results: Iterator[OutputT], prompts: Sequence[Prompt], cached: Collection[str] = ()
) -> Iterator[OutputT]:
    """What the engine says to each prompt that is not known; EngineError unless it says exactly one
    thing to each.
    """
    missing = {prompt.record_id for prompt in prompts} - set(cached)
    for result in results:
        if result.record_id in missing:
            missing.remove(result.record_id)
            yield result
        elif result.record_id not in cached:
            raise EngineError(
                "the engine answered a record that it was not asked, or one record twice",
                fix=_PROTOCOL_FIX,
            )
    if missing:
        raise EngineError(
            f"the engine left {len(missing)} of {len(prompts)} records without a word",
            fix=_PROTOCOL_FIX,
        )


_PROTOCOL_FIX = "report this: an engine must give exactly one result per prompt"
