"""A question put to an engine, in as many steps as its kind takes: think, write, score."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from medtask.decision.fields import find_branches, read_object
from medtask.engines.base import Engine
from medtask.errors import EngineError, InputError, UsageError
from medtask.records import Fault, Generated, Limits, Prompt, Scores, Status
from medtask.tasks.task import Choice, Fields, FreeText, Reasoning, ScoredField, Task
from medtask.tasks.wording import close_tag, open_tag

# Prompts that are written for together. What one is written next to can move its last digits, so a
# resumed run writes all of a batch again that it has not whole: no more than the ledger would lose
# anyway.
WRITTEN_TOGETHER = 64

_ABLE = "choose a model of the hf, llamacpp or mlx engine (`medtask models` lists them)"

Said = TypeVar("Said", Scores | Fault, Generated | Fault)

EARLY_SECTIONS_SHARE = (
    2  # sections before the last get at most one part in so many of the tokens together
)


@dataclass(frozen=True, slots=True)
class Heard:
    """Everything that an engine said about one prompt.

    ``prompt``: as it was asked last, with thoughts and branches. ``text``: what was written,
    ``final`` its last section; ``ended``: how that ended. ``fields``: of kind ``fields``, those
    that the prompt's branches ask about. ``notes``: what did not go as the task wants it.
    """

    prompt: Prompt
    scores: Scores | None = None
    text: str | None = None
    final: str | None = None
    ended: str = "stop"
    fields: tuple[ScoredField, ...] = ()
    notes: tuple[str, ...] = ()
    ms: float = 0.0
    tokens_read: int = 0
    tokens_reused: int = 0

    def hear(self, said: Scores | Generated) -> Heard:
        """The same with one more of the engine's results; its costs add up."""
        return replace(
            self,
            scores=said if isinstance(said, Scores) else self.scores,
            ms=self.ms + said.ms,
            tokens_read=self.tokens_read + said.tokens_read,
            tokens_reused=self.tokens_reused + said.tokens_reused,
        )

    def note(self, text: str) -> Heard:
        return replace(self, notes=(*self.notes, text))


def ask(
    task: Task, engine: Engine, prompts: Sequence[Prompt], known: Collection[str] = ()
) -> Iterator[Heard | Fault]:
    """Ask each prompt of the task that is not ``known``, once; results come in any order.

    ``known``: see Engine.score. EngineError where the engine cannot do what the task's kind takes.
    """
    check_engine(task, engine)
    if task.reasoning is None and not _is_written(task):
        by_id = {prompt.record_id: prompt for prompt in prompts}
        for said in _exactly_once(engine.score(prompts, known), prompts, known):
            yield said if isinstance(said, Fault) else Heard(by_id[said.record_id]).hear(said)
        return
    for batch in _batch(prompts):
        if any(prompt.record_id not in known for prompt in batch):
            yield from (
                said for said in _ask_batch(task, engine, batch) if _name(said) not in known
            )


def check_engine(task: Task, engine: Engine) -> None:
    """EngineError, or InputError, where the engine can never answer this task (its further passes
    apart).
    """
    caps, title = engine.caps, engine.info.title
    if task.phi and engine.info.details.get("remote"):
        fix = (
            "choose a model on this machine, or take `phi: true` out if the table holds no "
            "patient's data"
        )
        raise UsageError(f"the task says `phi: true`, and {title} is not on this machine", fix=fix)
    if not _is_written(task) and caps.score == "none" and not caps.choose:
        raise EngineError(f"{title} cannot be held to a set of answers", fix=_ABLE)
    if isinstance(task.form, Choice) and task.form.readout == "text" and caps.score != "exact":
        raise EngineError(
            f"{title} cannot weigh whole texts, which `readout: text` takes",
            fix=f"set `readout: letter`, or {_ABLE}",
        )
    if (_is_written(task) or task.reasoning) and not caps.generate:
        raise EngineError(f"{title} cannot write text", fix=_ABLE)
    if isinstance(task.form, Fields) and not caps.schema:
        raise EngineError(f"{title} cannot be held to a JSON schema", fix=_ABLE)
    limit = engine.context_tokens
    wanted = {
        "budget under reasoning": task.reasoning.budget if task.reasoning else 0,
        "max_tokens": getattr(task.form, "max_tokens", 0),
    }
    for name, tokens in wanted.items():
        if limit is not None and tokens >= limit:
            raise InputError(
                f"{name} is {tokens:,} tokens, and the model's whole context {limit:,}",
                fix=(
                    f"lower {name}, so that it leaves room for the prompt, or choose a model "
                    "with a larger context"
                ),
            )


def write_limits(form: FreeText | Fields) -> Limits:
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


def _is_written(task: Task) -> bool:
    return isinstance(task.form, FreeText | Fields)


def _batch(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """Batches of prompts that share their examples where possible, since those share a prefix."""
    groups: dict[object, list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault(prompt.messages[:-1], []).append(prompt)
    ordered = [prompt for group in groups.values() for prompt in group]
    for start in range(0, len(ordered), WRITTEN_TOGETHER):
        yield ordered[start : start + WRITTEN_TOGETHER]


def _ask_batch(task: Task, engine: Engine, batch: Sequence[Prompt]) -> Iterator[Heard | Fault]:
    heard: dict[str, Heard] = {prompt.record_id: Heard(prompt) for prompt in batch}
    if task.reasoning:
        _think(engine, heard, task.reasoning)
    match task.form:
        case FreeText() as form:
            yield from _write_text(engine, heard, form)
        case Fields() as form:
            yield from _write_fields(engine, heard, form)
        case _:
            yield from _score(engine, heard)


def _think(engine: Engine, heard: dict[str, Heard], reasoning: Reasoning) -> None:
    """Put the model's thoughts into each prompt. A row that has no room or no time for them is
    asked without.
    """
    limits = Limits(reasoning.budget, think=True, deadline_s=reasoning.deadline_s)
    for said in _exactly_once(engine.generate(_prompts(heard), limits), _prompts(heard)):
        before = heard[said.record_id]
        if isinstance(said, Fault):
            heard[said.record_id] = before.note(f"answered without thinking: {said.reason}")
        elif said.ended == "deadline":
            note = f"answered without thinking: its {reasoning.deadline_s:g} seconds had passed"
            heard[said.record_id] = before.hear(said).note(note)
        else:
            heard[said.record_id] = replace(
                before.hear(said), prompt=replace(before.prompt, thoughts=said.text)
            )


def _score(engine: Engine, heard: dict[str, Heard]) -> Iterator[Heard | Fault]:
    again: dict[str, Heard] = {}
    for said in _exactly_once(engine.score(_prompts(heard)), _prompts(heard)):
        before = heard[said.record_id]
        if (
            isinstance(said, Fault)
            and said.status is Status.TOO_LONG
            and before.prompt.thoughts is not None
        ):
            # There was room to think, and then none to answer.
            again[said.record_id] = replace(
                before, prompt=replace(before.prompt, thoughts=None)
            ).note(f"answered without its thoughts: {said.reason}")
        else:
            yield said if isinstance(said, Fault) else before.hear(said)
    if again:
        yield from _score(engine, again)


def _write_text(engine: Engine, heard: dict[str, Heard], form: FreeText) -> Iterator[Heard | Fault]:
    """Write, section by section: one that does not end by itself is closed, so that the last one
    always begins.
    """
    limits = write_limits(form)
    sections = form.sections or ("",)
    for place, section in enumerate(sections):
        last = place == len(sections) - 1
        for name, before in heard.items():
            opened = before.prompt.written + (open_tag(section) if section else "")
            heard[name] = replace(before, prompt=replace(before.prompt, written=opened))
        here = (
            limits
            if last
            else replace(
                limits,
                max_tokens=max(1, form.max_tokens // (EARLY_SECTIONS_SHARE * (len(sections) - 1))),
            )
        )
        here = replace(here, stop=(*here.stop, close_tag(section))) if section else here
        for said in _exactly_once(engine.generate(_prompts(heard), here), _prompts(heard)):
            before = heard[said.record_id]
            if isinstance(said, Fault):
                del heard[said.record_id]
                yield said
                continue
            written = before.prompt.written + said.text + (close_tag(section) if section else "")
            after = replace(before.hear(said), text=written, final=said.text, ended=said.ended)
            heard[said.record_id] = replace(
                after, prompt=replace(before.prompt, written=written + ("" if last else "\n"))
            )
    yield from heard.values()


def _write_fields(engine: Engine, heard: dict[str, Heard], form: Fields) -> Iterator[Heard | Fault]:
    """Write the object, then score what could have stood in its enum and boolean fields."""
    asked: dict[str, Heard] = {}
    for said in _exactly_once(
        engine.generate(_prompts(heard), write_limits(form)), _prompts(heard)
    ):
        if isinstance(said, Fault):
            yield said
            continue
        before = heard[said.record_id]
        after = replace(before.hear(said), text=said.text, final=said.text, ended=said.ended)
        value = read_object(said.text)
        found = find_branches(form, value) if value is not None and said.ended == "stop" else []
        if not found:
            yield after
            continue
        fields, branches = zip(*found, strict=True)
        asked[said.record_id] = replace(
            after, prompt=replace(before.prompt, branches=branches), fields=fields
        )
    for outcome in _score(engine, asked) if asked else ():
        if isinstance(outcome, Heard):
            yield outcome
        else:  # the object stands, only its probabilities are missing
            yield replace(asked[outcome.record_id], fields=()).note(
                f"its enums were not scored: {outcome.reason}"
            )


def _prompts(heard: dict[str, Heard]) -> list[Prompt]:
    return [one.prompt for one in heard.values()]


def _name(said: Heard | Fault) -> str:
    return said.record_id if isinstance(said, Fault) else said.prompt.record_id


def _exactly_once(
    results: Iterator[Said], prompts: Sequence[Prompt], known: Collection[str] = ()
) -> Iterator[Said]:
    """What the engine says to each prompt that is not known; EngineError unless it says exactly one
    thing to each.
    """
    waiting = {prompt.record_id for prompt in prompts} - set(known)
    for said in results:
        if said.record_id in waiting:
            waiting.remove(said.record_id)
            yield said
        elif said.record_id not in known:
            raise EngineError(
                "the engine answered a record that it was not asked, or one record twice",
                fix=_PROTOCOL,
            )
    if waiting:
        raise EngineError(
            f"the engine left {len(waiting)} of {len(prompts)} records without a word",
            fix=_PROTOCOL,
        )


_PROTOCOL = "report this: an engine must give exactly one result per prompt"
