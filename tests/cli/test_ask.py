from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medtask.engines.fake import FakeEngine
from medtask.records import Generated, Limits, Prompt
from support.command_line import RunCommand

FAKE = ("--model", "fake:")
ANSWER = "Nobody knows. This was written about 17 characters of text."


class ScriptedEngine(FakeEngine):
    """Writes the given texts, and records the questions."""

    def __init__(self, text: str) -> None:
        super().__init__(generated_texts={"question": text})
        self.prompts: list[Prompt] = []
        self.limits: list[Limits] = []

    def generate(
        self,
        prompts: object,
        limits: Limits,
        cached: object = (),
        on_text: Callable[[str], None] | None = None,
    ) -> Iterator[Generated]:  # type: ignore[override]
        self.prompts += list(prompts)  # type: ignore[call-overload]
        self.limits.append(limits)
        return super().generate(prompts, limits, cached, on_text)  # type: ignore[arg-type, return-value]


@pytest.fixture
def install_scripted_engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ScriptedEngine]:
    def install(text: str) -> ScriptedEngine:
        engine = ScriptedEngine(text)
        monkeypatch.setattr("medtask.engines.fake.load_fake", lambda *_, **__: engine)
        return engine

    return install


def test_a_question_is_answered_on_standard_output_and_nothing_else_is(medtask: RunCommand) -> None:
    outcome = medtask("ask", "What is glaucoma?", *FAKE)
    assert (outcome.code, outcome.out, outcome.err) == (0, f"{ANSWER}\n", "")


def test_the_question_is_worded_as_in_a_run_of_kind_answer(
    medtask: RunCommand, install_scripted_engine: Callable[[str], ScriptedEngine], tmp_path: Path
) -> None:
    engine = install_scripted_engine("Fine.")
    (tmp_path / "letter.txt").write_bytes("Tension 24 mmHg, né en 1950.".encode("cp1252"))
    medtask("ask", "What is glaucoma?", *FAKE)
    medtask("ask", "What is glaucoma?", "--context", tmp_path / "letter.txt", *FAKE)
    bare, with_context = [prompt.messages[-1].content for prompt in engine.prompts]
    assert bare == "Answer the question.\n\nWhat is glaucoma?"
    assert with_context == (
        "Answer the question.\n\n"
        "The context is between <xq> and </xq>.\n\n"
        "Context: <xq> Tension 24 mmHg, né en 1950. </xq>\n\nQuestion: What is glaucoma?"
    )


def test_a_question_can_come_through_a_pipe(medtask: RunCommand) -> None:
    outcome = medtask("ask", *FAKE, stdin=b"What is glaucoma?\n")
    assert (outcome.code, outcome.out) == (0, f"{ANSWER}\n")


def test_the_document_reports_how_the_answer_ended(medtask: RunCommand) -> None:
    document = json.loads(medtask("ask", "What is glaucoma?", "--json", "--think", 3, *FAKE).out)
    assert document["question"] == "What is glaucoma?"
    assert document["answer"] == ANSWER
    assert (document["truncated"], document["ended"]) == (False, "stop")
    assert document["thoughts"] == "hm hm hm"
    assert document["tokens"] == 3 + len(ANSWER.split())


def test_an_answer_that_is_cut_off_ends_with_a_whole_sentence_and_reports_it(
    medtask: RunCommand, install_scripted_engine: Callable[[str], ScriptedEngine]
) -> None:
    install_scripted_engine("It harms the optic nerve. Dr. Who says that it")
    document = json.loads(
        medtask("ask", "What is glaucoma?", "--json", "--max-tokens", 8, *FAKE).out
    )
    assert (document["answer"], document["truncated"], document["ended"]) == (
        "It harms the optic nerve.",
        True,
        "length",
    )
    outcome = medtask("ask", "What is glaucoma?", "--max-tokens", 8, *FAKE)
    assert outcome.out == "It harms the optic nerve.\n"
    assert outcome.err == (
        "note: the answer was stopped: it reached 8 tokens; increase --max-tokens\n"
    )


def test_settings_reach_the_model_and_thoughts_come_first(
    medtask: RunCommand, install_scripted_engine: Callable[[str], ScriptedEngine]
) -> None:
    engine = install_scripted_engine("Fine.")
    medtask(
        "ask", "Why?", "--temperature", 0.7, "--seed", 3, "--max-tokens", 50, "--think", 20, *FAKE
    )
    thinking, writing = engine.limits
    assert (thinking.think, thinking.max_tokens) == (True, 20)
    assert (writing.think, writing.max_tokens, writing.temperature, writing.seed) == (
        False,
        50,
        0.7,
        3,
    )
    assert engine.prompts[0].thoughts is None
    assert engine.prompts[1].thoughts


@pytest.mark.parametrize(
    ("words", "stdin", "code"),
    [
        (["ask", " "], b"", 2),
        (["ask"], b"", 2),
        (["ask"], b" \n", 2),
        (["ask"], "Größe?".encode("cp1252"), 4),
        (["ask", "\u200b\u200b"], b"", 4),
        (["ask", "Why?", "--context", "nowhere.txt"], b"", 4),
        (["ask", "Why?", "--max-tokens", "0"], b"", 2),
        (["ask", "Why?", "--temperature", "-1"], b"", 2),
    ],
)
def test_a_mistake_is_reported_with_its_remedy(
    medtask: RunCommand, words: list[str], stdin: bytes, code: int
) -> None:
    outcome = medtask(*words, *FAKE, stdin=stdin)
    assert outcome.code == code
    assert outcome.out == ""
    assert "  fix: " in outcome.err or "Usage: " in outcome.err


def test_a_question_that_does_not_fit_is_reported(
    medtask: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "medtask.engines.fake.load_fake", lambda *_, **__: FakeEngine(too_long=["question"])
    )
    outcome = medtask("ask", "Why?", *FAKE)
    assert outcome.code == 4
    assert "does not fit" in outcome.err


def test_what_a_model_writes_cannot_steer_a_terminal(
    medtask: RunCommand, install_scripted_engine: Callable[[str], ScriptedEngine]
) -> None:
    install_scripted_engine("Red \x1b[31m and \u202e turned.")
    assert medtask("ask", "Why?", *FAKE).out == "Red \\x1b[31m and \\u202e turned.\n"


class Terminal:
    """The command line on a pseudo-terminal, with somebody at its keys."""

    def __init__(self, *words: str) -> None:
        self.keys, terminal_end = os.openpty()
        environment = {**os.environ, "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "200"}
        command = [sys.executable, "-m", "medtask", *words]
        self.process = subprocess.Popen(
            command, env=environment, stdin=terminal_end, stdout=terminal_end, stderr=terminal_end
        )
        os.close(terminal_end)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.keys, text.encode())

    def wait_for(self, text: str, times: int = 1, seconds: float = 30) -> None:
        """Read what is shown until ``text`` is on it so many times."""
        until = time.monotonic() + seconds
        while self.shown.count(text) < times:
            ready, _, _ = select.select([self.keys], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"{text!r} was not shown {times} times, but {self.shown!r}"
            self.shown += os.read(self.keys, 65536).decode()

    def close(self) -> int:
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()
            os.close(self.keys)


pseudo_terminal = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


@pseudo_terminal
def test_the_loop_answers_line_by_line_until_an_empty_one() -> None:
    terminal = Terminal("ask", "--model", "fake:")
    terminal.wait_for("Ctrl-C stops an answer")
    terminal.wait_for("? ")
    terminal.type("What is glaucoma?\n")
    terminal.wait_for(ANSWER)
    terminal.type("What is gout?\n")
    # Nothing of the first question is in the second prompt.
    terminal.wait_for("about 13 characters")
    terminal.type("\n")
    assert terminal.close() == 0


@pseudo_terminal
def test_the_loop_ends_with_the_end_of_input() -> None:
    terminal = Terminal("ask", "--model", "fake:")
    terminal.wait_for("? ")
    terminal.type("\x04")
    assert terminal.close() == 0


@pseudo_terminal
def test_an_interrupt_stops_the_answer_and_not_the_loop() -> None:
    terminal = Terminal("ask", "--model", "fake:ms_per_row=20000")
    terminal.wait_for("? ")
    terminal.type("What is glaucoma?\n")
    terminal.wait_for("glaucoma?\r\n")
    time.sleep(2)  # a busy machine is slow to begin
    terminal.process.send_signal(signal.SIGINT)
    terminal.wait_for("stopped")
    terminal.wait_for("\n? ", seconds=12)
    terminal.type("\n")
    assert terminal.close() == 0
    assert ANSWER not in terminal.shown


@pseudo_terminal
def test_on_a_terminal_an_answer_is_written_as_it_comes_and_ends_its_line() -> None:
    terminal = Terminal("ask", "What is glaucoma?", "--model", "fake:", "--think", "2")
    terminal.wait_for(f"{ANSWER}\r\n")
    assert "hm hm" in terminal.shown
    assert terminal.close() == 0
