"""`medtask ask`: one question and its answer, or one after the other."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medtask.cli import show
from medtask.cli.inputs import AllowRemote, load_engine
from medtask.errors import InputError, MedtaskError, UsageError

if TYPE_CHECKING:
    from medtask.engines.base import Engine
    from medtask.records import Generated, Limits, Prompt
    from medtask.tasks.task import Task

_INSTRUCTION = "Answer the question."
_HINT = "Each line is a question of its own. An empty line or Ctrl-D ends; Ctrl-C stops an answer."
_ENDINGS = {
    "length": "it reached {tokens} before its end; --max-tokens allows more",
    "loop": "it repeated itself",
    "deadline": "its time was over",
}

OnText = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one question. ``text`` ends with a whole sentence, also where the model was
    stopped (``truncated``).
    """

    text: str
    ended: str
    thoughts: str | None
    tokens: int
    seconds: float

    @property
    def truncated(self) -> bool:
        return self.ended != "stop"


@dataclass(frozen=True, slots=True)
class _Desk:
    """Everything that is the same for all questions of one call."""

    task: Task
    engine: Engine
    context: str
    think: int | None


def ask(
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="Default: standard input, or a prompt.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Default: smollm2-135m.")
    ] = None,
    context: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A text that is shown before the question.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="The longest answer.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0: always the likeliest word.")] = 0.0,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of chance, where the temperature is above 0.")
    ] = 0,
    think: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Think first, for at most N tokens.")
    ] = None,
    allow_remote: AllowRemote = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document in place of the text.")
    ] = False,
) -> None:
    """Ask a model one question, and watch the answer being written.

    Without a question it asks for one after the other; none knows of those before it.
    """
    from medtask.engines.registry import DEFAULT_MODEL
    from medtask.privacy import no_network
    from medtask.runs.manifest import list_destinations
    from medtask.tasks.task import FreeText, Task

    if question is None and not sys.stdin.isatty():
        question = sys.stdin.buffer.read().decode("utf-8", "replace")
    if question is None and as_json:
        raise UsageError(
            "--json needs a question", fix='name it, as in: medtask ask "What is glaucoma?" --json'
        )
    if question is not None and not question.strip():
        raise UsageError(
            "there is no question", fix='name one, as in: medtask ask "What is glaucoma?"'
        )
    form = FreeText(
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        context="context" if context else None,
    )
    task = Task(name="ask", instruction=_INSTRUCTION, input="{{ question }}", form=form)
    read = _read_text(context) if context else ""
    if sys.stderr.isatty():
        show.say((f"Loading {model or DEFAULT_MODEL}", "dim"), stderr=True)
    with ExitStack() as stack:
        engine = stack.enter_context(
            closing(load_engine(model or DEFAULT_MODEL, allow_remote=allow_remote))
        )
        # To a remote model the question is sent on purpose, and to no other machine.
        stack.enter_context(
            no_network(
                [
                    address
                    for addresses in list_destinations(engine).values()
                    for address in addresses
                ]
            )
        )
        desk = _Desk(task, engine, read, think)
        if question is None:
            _answer_lines(desk)
        elif as_json:
            show.show_json(_describe(question, reply_to(desk, question), engine.info.title))
        else:
            _show_answer(desk, question)


def _answer_lines(desk: _Desk) -> None:
    """Answer line by line until there is no more."""
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() its keys and its memory of earlier lines
    show.say((_HINT, "dim"), stderr=True)
    while True:
        try:
            line = input("? ")
        except EOFError:
            show.say()
            return
        except KeyboardInterrupt:
            show.say()
            continue
        if not line.strip():
            return
        try:
            _show_answer(desk, line)
        except KeyboardInterrupt:
            show.say()
            show.say(("stopped", "dim"), stderr=True)
        except MedtaskError as error:
            show.show_error(error)
        show.say()


def _show_answer(desk: _Desk, question: str) -> None:
    """Write the answer while it comes, on a terminal; elsewhere when it is whole."""
    watched = sys.stdout.isatty()
    reply = reply_to(
        desk,
        question,
        show.write_piece if watched else None,
        _write_thought if sys.stderr.isatty() else None,
    )
    show.show_exactly("" if watched else reply.text)
    if reply.truncated:
        reason = _ENDINGS[reply.ended].format(tokens=show.count(reply.tokens, "token"))
        show.say(("note: ", "yellow"), f"the answer was stopped: {reason}", stderr=True)


def reply_to(
    desk: _Desk, question: str, on_text: OnText | None = None, on_thought: OnText | None = None
) -> Reply:
    """Think, where that is wanted, and answer; ``on_text`` and ``on_thought`` get each piece as it
    is written.

    InputError where the question cannot be asked: it does not fit, say.
    """
    from medtask.decision.asking import write_limits
    from medtask.decision.text import end_at_sentence
    from medtask.records import Fault, Limits, Record
    from medtask.tasks.prompt import build_prompt
    from medtask.tasks.task import FreeText

    prompt = build_prompt(
        desk.task, Record("question", {"question": question, "context": desk.context})
    )
    if isinstance(prompt, Fault):
        raise InputError(f"the question cannot be asked: {prompt.reason}", fix="write it in words")
    assert isinstance(desk.task.form, FreeText)
    thought = None
    if desk.think:
        thought = _write(desk.engine, prompt, Limits(desk.think, think=True), on_thought)
        prompt = replace(prompt, thoughts=thought.text)
        if on_thought:
            on_thought("\n\n")
    written = _write(desk.engine, prompt, write_limits(desk.task.form), on_text)
    parts = [part for part in (thought, written) if part]
    return Reply(
        written.text.strip() if written.ended == "stop" else end_at_sentence(written.text),
        written.ended,
        thought.text if thought else None,
        sum(part.tokens for part in parts),
        sum(part.ms for part in parts) / 1000,
    )


def _write(engine: Engine, prompt: Prompt, limits: Limits, on_text: OnText | None) -> Generated:
    from medtask.records import Fault

    (said,) = engine.generate([prompt], limits, on_text=on_text)
    if isinstance(said, Fault):
        raise InputError(
            f"the question cannot be asked: {said.reason}",
            fix="shorten it, or the text of --context",
        )
    return said


def _read_text(path: Path) -> str:
    from medtask.data.decode import detect_encoding, read_lines

    return "".join(read_lines(path, detect_encoding(path)[0]))


def _write_thought(piece: str) -> None:
    show.write_piece(piece, "dim", stderr=True)


def _describe(question: str, reply: Reply, title: str) -> dict[str, Any]:
    return {
        "question": question.strip(),
        "answer": reply.text,
        "truncated": reply.truncated,
        "ended": reply.ended,
        "thoughts": reply.thoughts,
        "model": title,
        "tokens": reply.tokens,
        "seconds": round(reply.seconds, 3),
    }
