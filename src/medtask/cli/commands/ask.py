"""`medtask ask`: answer a single question, or an interactive sequence of questions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medtask.cli import console as show
from medtask.cli.inputs import describe_default_model
from medtask.cli.model_options import add_load_options, load_engine
from medtask.display import format_count
from medtask.engines.load_options import LoadOptions
from medtask.errors import InputError, MedtaskError, UsageError
from medtask.runs.signals import resume_after_signal

if TYPE_CHECKING:
    from medtask.engines.base import Engine
    from medtask.records import Generated, Limits, Prompt
    from medtask.tasks.task import Task

_USAGE_HINT = (
    "Each line is a separate question. An empty line or Ctrl-D ends; Ctrl-C stops an answer."
)
_STOP_REASONS = {
    "length": "it reached {tokens}; increase --max-tokens",
    "loop": "it repeated itself",
    "deadline": "it reached the time limit",
}

TextCallback = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class AskReply:
    """The answer to one question.

    If generation stopped at the token limit (``truncated``), ``text`` is cut after its last
    complete sentence.
    """

    text: str
    finish_reason: str
    thoughts: str | None
    tokens: int
    seconds: float

    @property
    def truncated(self) -> bool:
        return self.finish_reason != "stop"


@dataclass(frozen=True, slots=True)
class AskSession:
    """Settings shared by all questions of one call."""

    task: Task
    engine: Engine
    context: str
    thinking_tokens: int | None


@add_load_options
def ask(
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION", help="Default: standard input, or an interactive prompt."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Default: smollm2-135m.")
    ] = None,
    context: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text file that is shown before the question."),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Maximum length of the answer.")
    ] = 256,
    temperature: Annotated[
        float, typer.Option(min=0, help="Sampling temperature; 0: the most likely token.")
    ] = 0.0,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Random seed, for temperatures above 0.")
    ] = 0,
    think: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Reason first, for at most N tokens.")
    ] = None,
    *,
    load_options: LoadOptions,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of the text.")
    ] = False,
) -> None:
    """Ask a model one question.

    Without a question it opens an interactive prompt; each question is independent of earlier ones.
    """
    from medtask.engines.files.model_files import BUILT_IN_MODEL
    from medtask.prediction.prompt_versions import match_prompts
    from medtask.runs.manifest import guard_network
    from medtask.tasks.single_question import CONTEXT_COLUMN, make_question_task
    from medtask.tasks.task import FreeText

    if question is None and not sys.stdin.isatty():
        question = _read_stdin()
    if question is None and as_json:
        raise UsageError(
            "--json needs a question", fix='name it, as in: medtask ask "What is glaucoma?" --json'
        )
    if question is not None and not question.strip():
        raise UsageError(
            "there is no question", fix='name one, as in: medtask ask "What is glaucoma?"'
        )
    answer_spec = FreeText(
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        context=CONTEXT_COLUMN if context else None,
    )
    task = make_question_task(answer_spec)
    context_text = _read_context(context) if context else ""
    if sys.stderr.isatty():
        show.print_line((f"Loading {model or BUILT_IN_MODEL}", "dim"), stderr=True)
    if model is None:
        show.print_note(describe_default_model(BUILT_IN_MODEL))
    with ExitStack() as stack:
        engine = stack.enter_context(closing(load_engine(model or BUILT_IN_MODEL, load_options)))
        # Sending the question to a remote model is intended, so its host is allowed, and no other.
        stack.enter_context(guard_network(engine))
        session = AskSession(match_prompts(task, engine, {}), engine, context_text, think)
        if question is None:
            _answer_interactively(session)
        elif as_json:
            show.print_json(
                _describe_reply(question, answer_question(session, question), engine.info.title)
            )
        else:
            _print_answer(session, question)


def _answer_interactively(session: AskSession) -> None:
    """Read questions line by line and answer them until the input ends."""
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() its keys and its memory of earlier lines
    show.print_line((_USAGE_HINT, "dim"), stderr=True)
    while True:
        try:
            line = input("? ")
        except EOFError:
            show.print_line()
            return
        except KeyboardInterrupt:
            resume_after_signal()
            show.print_line()
            continue
        if not line.strip():
            return
        try:
            _print_answer(session, line)
        except KeyboardInterrupt:
            resume_after_signal()
            show.print_line()
            show.print_line(("stopped", "dim"), stderr=True)
        except MedtaskError as error:
            show.print_error(error)
        show.print_line()


def _print_answer(session: AskSession, question: str) -> None:
    """Print the answer: streamed on a terminal, otherwise when it is complete."""
    is_terminal = sys.stdout.isatty()
    reply = answer_question(
        session,
        question,
        show.print_chunk if is_terminal else None,
        _print_thoughts if sys.stderr.isatty() else None,
    )
    show.print_verbatim("" if is_terminal else reply.text)
    if reply.truncated:
        reason = _STOP_REASONS[reply.finish_reason].format(
            tokens=format_count(reply.tokens, "token")
        )
        show.print_note(f"the answer was stopped: {reason}")


def answer_question(
    session: AskSession,
    question: str,
    on_text: TextCallback | None = None,
    on_thought: TextCallback | None = None,
) -> AskReply:
    """Answer one question, with reasoning if the session asks for it.

    ``on_text`` and ``on_thought`` receive each piece as it is generated.

    Raises:
        InputError: The question cannot be asked, for example because it is too long.
    """
    from medtask.prediction.kinds import get_kind_prediction
    from medtask.prediction.truncation import cut_at_sentence
    from medtask.records import Fault, Limits, Record
    from medtask.tasks.prompt import build_prompt

    prompt = build_prompt(
        session.task, Record("question", {"question": question, "context": session.context})
    )
    if isinstance(prompt, Fault):
        raise InputError(f"the question cannot be asked: {prompt.reason}", fix="write it in words")
    thought = None
    if session.thinking_tokens:
        thought = _generate(
            session.engine, prompt, Limits(session.thinking_tokens, think=True), on_thought
        )
        prompt = replace(prompt, thoughts=thought.text)
        if on_thought:
            on_thought("\n\n")
    written = _generate(
        session.engine, prompt, get_kind_prediction(session.task).build_limits(), on_text
    )
    parts = [part for part in (thought, written) if part]
    return AskReply(
        written.text.strip() if written.finish_reason == "stop" else cut_at_sentence(written.text),
        written.finish_reason,
        thought.text if thought else None,
        sum(part.tokens for part in parts),
        sum(part.ms for part in parts) / 1000,
    )


def _generate(
    engine: Engine, prompt: Prompt, limits: Limits, on_text: TextCallback | None
) -> Generated:
    from medtask.records import Fault

    (result,) = engine.generate([prompt], limits, on_text=on_text)
    if isinstance(result, Fault):
        raise InputError(
            f"the question cannot be asked: {result.reason}",
            fix="shorten it, or the text of --context",
        )
    return result


def _read_stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"byte {error.start:,} of standard input is not valid UTF-8",
            fix="convert the text to UTF-8, or give it as --context FILE, whose encoding is "
            "detected",
        ) from None


def _read_context(path: Path) -> str:
    from medtask.tables.encoding import detect_encoding, read_lines

    return "".join(read_lines(path, detect_encoding(path).name))


def _print_thoughts(piece: str) -> None:
    show.print_chunk(piece, "dim", stderr=True)


def _describe_reply(question: str, reply: AskReply, title: str) -> dict[str, Any]:
    return {
        "question": question.strip(),
        "answer": reply.text,
        "truncated": reply.truncated,
        "ended": reply.finish_reason,
        "thoughts": reply.thoughts,
        "model": title,
        "tokens": reply.tokens,
        "seconds": round(reply.seconds, 3),
    }
