"""Export as a folder for Ollama: a GGUF file and a Modelfile, from which Ollama creates a model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from medtask.display import shorten
from medtask.engines.base import Engine
from medtask.engines.tokens.chat_format import detect_chat_format
from medtask.engines.tokens.tokenizer import HfTokenizer
from medtask.errors import EngineError
from medtask.exporting.chat_parts import ChatParts, find_chat_parts
from medtask.exporting.gguf import writer
from medtask.exporting.gguf.architectures import count_context_tokens
from medtask.exporting.merged import LICENCE_PATTERNS
from medtask.exporting.parity_prompts import make_default_prompts
from medtask.exporting.source import CausalModel
from medtask.exporting.targets import OLLAMA_WEIGHTS, ExportRequest

MODELFILE, PROMPT_FILE = "Modelfile", "prompt.txt"
# Ollama's own default can cut prompts in silence; a longer context takes memory for each request.
MAX_CONTEXT_TOKENS = 8192
_COMMAND_SECONDS = 600
_ACTION = re.compile(r"\{\{|\}\}")


def write(request: ExportRequest, draft: Path) -> tuple[str, ...]:
    """See `ExportWriter.write`."""
    notes = writer.write(request, draft / OLLAMA_WEIGHTS)
    with CausalModel(request.source) as model:
        from transformers import AutoTokenizer

        tokenizer = HfTokenizer(AutoTokenizer.from_pretrained(model.tokenizer_folder))
        context = min(count_context_tokens(model.config), MAX_CONTEXT_TOKENS)
        licences = [path for one in LICENCE_PATTERNS for path in model.folder.glob(one)]
        texts = [path.read_text("utf-8", "replace") for path in sorted(licences)]
    parts = find_chat_parts(tokenizer)
    if parts is None:
        notes += (
            "the chat template is not written into the Modelfile, because it is not made of fixed "
            "texts: Ollama takes it from the GGUF file",
        )
    chat = detect_chat_format(tokenizer)
    stops = [chat.turn_end.strip()] if chat.has_template and chat.turn_end.strip() else []
    modelfile = write_modelfile(parts, tokenizer.bos_text, stops, context, texts)
    (draft / MODELFILE).write_text(modelfile, encoding="utf-8")
    prompt = make_default_prompts(request.source, 1)[0]
    turns = [{"role": turn.role, "content": turn.content} for turn in prompt.messages]
    (draft / PROMPT_FILE).write_text(
        json.dumps({"messages": turns}, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
    )
    return notes


def check(request: ExportRequest, draft: Path) -> list[str]:
    """See `ExportWriter.check`."""
    return writer.check(request, draft / OLLAMA_WEIGHTS)


def open_exported(draft: Path) -> Engine:
    """See `ExportWriter.open_exported`: the weights that Ollama reads, by llama.cpp."""
    return writer.open_exported(draft / OLLAMA_WEIGHTS)


def write_modelfile(
    parts: ChatParts | None,
    bos_text: str,
    stops: Sequence[str],
    context_tokens: int,
    licences: Sequence[str] = (),
) -> str:
    """The text of a Modelfile.

    Args:
        parts: The parts of the chat template; None to leave it to Ollama.
        bos_text: The token that Ollama adds at the start by itself, left out there.
        stops: Texts that end an answer.
        context_tokens: Tokens of a prompt and its answer together.
        licences: The texts of the model's licences.
    """
    lines = [f"FROM ./{OLLAMA_WEIGHTS}"]
    if parts is not None:
        lines.append(f'TEMPLATE """{write_template(parts, bos_text)}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    lines += [f"PARAMETER num_ctx {context_tokens}", "PARAMETER temperature 0"]
    lines += [f'LICENSE """{text.replace(chr(34) * 3, chr(39) * 3)}"""' for text in licences]
    return "\n".join(lines) + "\n"


def write_template(parts: ChatParts, bos_text: str = "") -> str:
    """A chat template in the language of Go's text/template, without ``bos_text`` at its start."""
    # Without "{{-", which would remove the blanks and line ends that belong to the template.
    branches = "".join(
        f'{{{{ {"else if" if number else "if"} eq .Role "{role}" }}}}'
        f"{_write_start(before, bos_text)}{{{{ .Content }}}}{_escape(after)}"
        for number, (role, (before, after)) in enumerate(sorted(parts.around.items()))
    )
    default = parts.default_system.removeprefix(bos_text)
    return (
        (f"{{{{ if not .System }}}}{_escape(default)}{{{{ end }}}}" if default else "")
        + f"{{{{ range $i, $_ := .Messages }}}}{branches}{{{{ end }}}}{{{{ end }}}}"
        + _escape(parts.prompt_end)
    )


def _write_start(before: str, bos_text: str) -> str:
    """The text before a message; the token that Ollama adds itself is not before the first one."""
    if not bos_text or not before.startswith(bos_text):
        return _escape(before)
    rest = _escape(before.removeprefix(bos_text))
    return f"{{{{ if $i }}}}{_escape(bos_text)}{{{{ end }}}}{rest}"


def _escape(text: str) -> str:
    """Text in a template of Go's."""
    return _ACTION.sub(lambda found: f'{{{{ "{found[0]}" }}}}', text)


def finish(request: ExportRequest, path: Path) -> tuple[str, ...]:
    """See `ExportWriter.finish`: create the model in Ollama, if it is installed here."""
    name = re.sub(r"[^a-z0-9._-]+", "-", request.name.lower()).strip("-.") or "medtask"
    command = ["ollama", "create", name, "-f", str(path / MODELFILE)]
    if shutil.which("ollama") is None:
        return (f"Ollama is not installed here; where it is: {shlex.join(command)}",)
    _run_ollama(command)
    # Ollama has reported success without a model.
    _run_ollama(["ollama", "show", name])
    return (f"created in Ollama: use it with --model ollama:{name}",)


def _run_ollama(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - no shell
            command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
        )
        problem = " ".join(done.stderr.split()) if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = type(error).__name__
    if problem:
        raise EngineError(
            f"the export was written, but `{shlex.join(command)}` failed: {shorten(problem, 300)}",
            fix="start Ollama, and run the command again",
        )
