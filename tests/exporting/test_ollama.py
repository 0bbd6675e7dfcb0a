"""Folders for Ollama: their template renders what the model's own template renders."""

from __future__ import annotations

import os
import re
from pathlib import Path

import jinja2
import pytest

pytest.importorskip("llama_cpp", reason="llama.cpp reads the written files")

from medtask.engines.tokens.tokenizer import HfTokenizer
from medtask.errors import EngineError
from medtask.exporting.chat_parts import find_chat_parts
from medtask.exporting.export import export
from medtask.exporting.ollama import write_modelfile, write_template
from support.tiny_models import TEMPLATES, make_tokenizer, save_model

USER, ANSWER, SYSTEM = ("user", "What?"), ("assistant", "That."), ("system", "Be brief.")
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
)
ALL_TEMPLATES = {
    **TEMPLATES,
    "default system": DEFAULT_SYSTEM + TEMPLATES["chatml"],
    "bos": "{{ bos_token }}" + TEMPLATES["chatml"],
    "bos before each question": TEMPLATES["inst"].replace("[INST]", "{{ bos_token }}[INST]"),
    "braces": TEMPLATES["chatml"].replace("<|im_end|>", "{{ '{{end}}' }}<|im_end|>"),
}


def render_go(template: str, turns: list[tuple[str, str]]) -> str:
    """Render a template of Go's, of the few actions that are written, through Jinja."""
    system = turns[0][1] if turns[0][0] == "system" else ""
    translations = {
        r"if not \.System": "{% if not system %}",
        r"range \$i, \$_ := \.Messages": "{% for turn in turns %}",
        r"if \$i": "{% if loop.index0 %}",
        r'if eq \.Role "(\w+)"': r"{% if turn[0] == '\1' %}",
        r'else if eq \.Role "(\w+)"': r"{% elif turn[0] == '\1' %}",
        r"\.Content": "{{ turn[1] }}",
        r'"(\{\{|\}\})"': r"{{ '\1' }}",
    }
    ends: list[str] = []

    def translate(match: re.Match[str]) -> str:
        action = match[1]
        if action == "end":
            return ends.pop()
        for pattern, replacement in translations.items():
            if found := re.fullmatch(pattern, action):
                if action.startswith(("if", "range")):
                    ends.append("{% endif %}" if action.startswith("if") else "{% endfor %}")
                return found.expand(replacement)
        raise AssertionError(action)

    translated = re.sub(r'\{\{ ("\{\{"|"\}\}"|[^"{}]*(?:"\w+")?) \}\}', translate, template)
    environment = jinja2.Environment(keep_trailing_newline=True)
    return environment.from_string(translated).render(turns=turns, system=system)


@pytest.mark.parametrize("name", ALL_TEMPLATES)
def test_the_template_renders_what_the_models_own_template_renders(name: str) -> None:
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = ALL_TEMPLATES[name]
    parts = find_chat_parts(HfTokenizer(tokenizer))
    assert parts is not None
    template = write_template(parts)
    chats = [[USER], [USER, ANSWER, USER], [USER, ANSWER, USER, ANSWER, USER]]
    if name in ("chatml", "default system", "bos", "braces"):
        chats += [[SYSTEM, *chat] for chat in chats]
    for chat in chats:
        messages = [{"role": role, "content": content} for role, content in chat]
        expected = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        assert render_go(template, chat) == expected
        # Ollama adds the token by itself, and would read it twice.
        without_bos = render_go(write_template(parts, "<bos>"), chat)
        assert without_bos == expected.removeprefix("<bos>")


def test_a_template_that_counts_its_messages_has_no_parts() -> None:
    tokenizer = make_tokenizer("chatml")
    tokenizer.chat_template = TEMPLATES["chatml"].replace("|>{{", "|>{{ loop.index }} {{", 1)
    assert find_chat_parts(HfTokenizer(tokenizer)) is None


def test_the_token_that_ollama_adds_is_not_in_the_template() -> None:
    parts = find_chat_parts(HfTokenizer(make_tokenizer("gemma")))
    assert parts is not None
    assert parts.default_system == "<bos>"
    assert "<bos>" not in write_modelfile(parts, "<bos>", ["<end_of_turn>"], 4096)
    assert "<bos>" in write_modelfile(parts, "", ["<end_of_turn>"], 4096)


def test_without_parts_the_template_is_left_to_ollama() -> None:
    assert write_modelfile(None, "", ["</s>"], 512, ['Say """yes""".']) == (
        "FROM ./model.gguf\n"
        'PARAMETER stop "</s>"\n'
        "PARAMETER num_ctx 512\n"
        "PARAMETER temperature 0\n"
        "LICENSE \"\"\"Say '''yes'''.\"\"\"\n"
    )


def install_ollama(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program that stands for Ollama, which cannot be installed by pip."""
    folder.mkdir()
    program = folder / "ollama"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_folder_is_complete_and_the_command_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    base = save_model(tmp_path / "base", "llama")
    (base / "LICENSE").write_text("Use it well.")
    done = export(base, to="ollama", quant="f16", out=tmp_path / "Our Model", rows=4)
    assert {"model.gguf", "Modelfile", "prompt.txt"} == set(done.manifest.files)
    modelfile = (done.path / "Modelfile").read_text()
    assert 'PARAMETER stop "<|im_end|>"\nPARAMETER num_ctx 512\n' in modelfile
    assert 'LICENSE """Use it well."""' in modelfile
    assert "ollama create our-model -f" in done.notes[-1]


def test_a_model_that_ollama_does_not_have_afterwards_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_ollama(
        tmp_path / "bin",
        monkeypatch,
        '[ "$1" = create ] && exit 0; echo "Error: model not found" >&2; exit 1',
    )
    base = save_model(tmp_path / "base", "llama")
    with pytest.raises(EngineError, match="ollama show model` failed: Error: model not found"):
        export(base, to="ollama", quant="f16", out=tmp_path / "model", rows=4)
    assert (tmp_path / "model" / "Modelfile").is_file()


def test_ollama_creates_the_model_from_the_published_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_ollama(tmp_path / "bin", monkeypatch, f'echo "$@" >> {tmp_path}/calls')
    base = save_model(tmp_path / "base", "llama")
    done = export(base, to="ollama", quant="f16", out=tmp_path / "model", rows=4)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == [f"create model -f {tmp_path}/model/Modelfile", "show model"]
    assert done.notes[-1] == "created in Ollama: use it with --model ollama:model"
