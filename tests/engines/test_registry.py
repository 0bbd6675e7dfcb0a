from __future__ import annotations

import importlib.util
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from medtask.engines import registry
from medtask.engines.base import EngineInfo
from medtask.engines.fake import FakeEngine
from medtask.engines.load_options import ALL_OPTIONS, LoadOptions, LoadOptionValues
from medtask.engines.model_metadata import METADATA_FILE
from medtask.engines.registry import EngineChoice, choose_engine, is_installed, load_model
from medtask.engines.specs import BUILT_IN_ENGINES
from medtask.errors import InputError, UsageError


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bool]]:
    """Which engines' packages are here: all but those that a test sets to False."""
    here = dict.fromkeys(BUILT_IN_ENGINES, True)
    monkeypatch.setattr(registry, "is_installed", lambda engine: here[engine])
    return here


@pytest.mark.parametrize(
    ("reference", "engine"),
    [
        ("smollm2-135m", "hf"),
        ("minilm", "encoder"),
        ("google/medgemma-27b-text-it", "hf"),
        ("google/medgemma-27b-text-it@main", "hf"),
        ("hf:model.gguf", "hf"),
        ("model.gguf", "llamacpp"),
        ("no/such/folder/model.gguf", "llamacpp"),
        ("llamacpp:smollm2-135m", "llamacpp"),
        ("mlx:mlx-community/gemma-3-4b-it-4bit", "mlx"),
        ("vllm:google/gemma-3-4b-it", "vllm"),
        ("encoder:BAAI/bge-small-en-v1.5", "encoder"),
        ("fake:seed=3", "fake"),
        ("ollama:gemma3:4b", "http"),
        ("groq:llama-3.3-70b-versatile", "http"),
        ("openai:gpt-5", "http"),
        ("llama-server:any", "http"),
        ("vllm-server:any", "http"),
        ("http://127.0.0.1:8000/v1#m", "http"),
        ("https://models.example.org/v1", "http"),
        ("ollama", "hf"),
        ("", "hf"),
    ],
)
def test_a_reference_has_one_engine(
    reference: str, engine: str, installed: Mapping[str, bool]
) -> None:
    assert choose_engine(reference) == EngineChoice(engine)


def test_a_gguf_file_is_read_by_llama_cpp_or_else_by_transformers_with_a_word(
    installed: dict[str, bool],
) -> None:
    assert choose_engine("model.gguf") == EngineChoice("llamacpp")
    installed["llamacpp"] = False
    choice = choose_engine("model.gguf")
    assert choice.engine == "hf"
    assert choice.note is not None
    assert "llama-cpp-python is not installed" in choice.note


def test_the_built_in_model_is_read_by_whatever_is_here(installed: dict[str, bool]) -> None:
    installed["hf"] = False
    assert choose_engine("smollm2-135m") == EngineChoice("llamacpp")
    installed["llamacpp"] = False
    assert choose_engine("smollm2-135m") == EngineChoice("hf")  # whose error says what to install


@pytest.mark.parametrize(
    ("files", "engine"),
    [
        ({"config.json": {"architectures": ["LlamaForCausalLM"]}}, "hf"),
        ({"config.json": {}}, "hf"),
        ({"config.json": {"architectures": None}}, "hf"),
        ({"config.json": {"architectures": [None]}}, "hf"),
        ({"adapter_config.json": {"base_model_name_or_path": "org/base"}}, "hf"),
        ({}, "hf"),
        ({"config.json": {"architectures": ["BertModel"]}, "modules.json": []}, "encoder"),
        ({"config.json": {"architectures": ["BertForSequenceClassification"]}}, "encoder"),
        (
            {"config.json": {"architectures": ["BertModel"]}},
            "hf",
        ),  # encoder:FOLDER declares an encoder
        (
            {
                METADATA_FILE: {
                    "format": 1,
                    "engine": "linear",
                    "kind": "label",
                    "labels": ["a", "b"],
                }
            },
            "linear",
        ),
        (
            {
                METADATA_FILE: {
                    "format": 1,
                    "engine": "encoder",
                    "kind": "labels",
                    "labels": ["a"],
                },
                "config.json": {},
            },
            "encoder",
        ),
    ],
)
def test_a_folder_says_by_its_files_who_reads_it(
    files: Mapping[str, Any], engine: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        if name == METADATA_FILE:
            content = {
                "base": "",
                "task_fingerprint": "",
                "phi": "no",
                "sha256": {"weights.npz": "0" * 64},
                **content,
            }
        (tmp_path / name).write_text(json.dumps(content))
    assert choose_engine(str(tmp_path)) == EngineChoice(engine)


@pytest.mark.parametrize("name", [METADATA_FILE, "config.json"])
def test_a_folder_whose_first_file_cannot_be_read_is_bad_input(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text('{"format": 1, "engi')
    with pytest.raises(InputError) as caught:
        choose_engine(str(tmp_path))
    assert caught.value.fix


def test_a_home_folder_may_be_written_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "modules.json").write_text("[]")
    assert choose_engine("~/bert") == EngineChoice("encoder")


DOCUMENT = (Path(__file__).parents[2] / "docs" / "reference" / "engines.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("reference", "engine"), re.findall(r"^\| `(\S+)` \| `(\w+)` \|", DOCUMENT, re.MULTILINE)
)
def test_the_engine_of_a_reference_is_the_one_that_the_docs_name(
    reference: str, engine: str, installed: Mapping[str, bool]
) -> None:
    assert choose_engine(reference) == EngineChoice(engine)


def test_the_docs_describe_every_engine_and_how_to_install_it() -> None:
    for name in BUILT_IN_ENGINES:
        assert f"| `{name}`" in DOCUMENT
    for spec in BUILT_IN_ENGINES.values():
        for extra in re.findall(r"medtask\[\w+\]", spec.install):
            assert re.search(rf"^\| `{spec.name}`.*{re.escape(extra)}", DOCUMENT, re.MULTILINE)


def test_every_command_of_the_docs_has_verbs_and_options_that_there_are() -> None:
    import typer.main

    from medtask.cli.main import app

    verbs = typer.main.get_group(app).commands
    shown = re.findall(
        r"\bmedtask (\w+)((?: [^\n`]*)?)",
        "\n".join(re.findall(r"^    .*|`[^`\n]+`", DOCUMENT, re.MULTILINE)),
    )
    assert len(shown) >= 10
    for verb, words in shown:
        options = {name for option in verbs[verb].params for name in option.opts}
        assert set(re.findall(r"--[a-z-]+", words)) <= options
    own = {name for verb in verbs.values() for option in verb.params for name in option.opts}
    second = {
        "--host",
        "--port",
        "--model",
        "--n_ctx",
        "--logits_all",
        "--force-reinstall",
        "--no-cache-dir",
    }
    assert set(re.findall(r"--[a-z][a-z_-]+", DOCUMENT)) <= own | second


def test_every_engine_states_what_it_needs_and_how_to_install_it() -> None:
    without_packages = {spec.name for spec in BUILT_IN_ENGINES.values() if not spec.packages}
    assert without_packages == {"linear", "hybrid", "fake"}
    for spec in BUILT_IN_ENGINES.values():
        assert spec.description
        assert spec.option_fields <= ALL_OPTIONS
        assert bool(spec.packages) == ("pip install" in spec.install)


def test_the_keyword_arguments_of_load_model_are_the_fields_of_its_options() -> None:
    assert set(LoadOptionValues.__annotations__) == ALL_OPTIONS
    hints = get_type_hints(LoadOptions)
    assert get_type_hints(LoadOptionValues) == hints


def test_what_is_installed_is_looked_up_and_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "transformers" else name
    )
    assert not is_installed("hf")
    assert is_installed("llamacpp")
    assert is_installed("fake")


@pytest.mark.parametrize("name", BUILT_IN_ENGINES)
def test_the_loader_of_an_engine_takes_a_reference_and_options(name: str) -> None:
    if not is_installed(name):
        pytest.skip(f"the packages of {name} are not installed")
    parameters = inspect.signature(BUILT_IN_ENGINES[name].import_loader()).parameters
    by_position = [
        name for name, one in parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    assert by_position == ["reference", "options"]


@pytest.mark.parametrize(
    ("reference", "options", "option"),
    [
        ("smollm2-135m", {"allow_remote": True}, "--allow-remote"),
        ("smollm2-135m", {"context_tokens": 4096}, "--context-tokens"),
        ("minilm", {"tokenizer": "org/name"}, "--tokenizer"),
        ("llamacpp:smollm2-135m", {"deadline_s": 3.0}, "--deadline-s"),
        ("llamacpp:smollm2-135m", {"quantize": "4bit"}, "--quantize"),
        ("minilm", {"adapter": "somewhere"}, "--adapter"),
        ("ollama:gemma3:4b", {"dtype": "bfloat16"}, "--dtype"),
        ("http://127.0.0.1:9/v1#m", {"memory": 10**9}, "--memory"),
        ("groq:m", {"adapter": "somewhere", "allow_remote": True}, "--adapter"),
    ],
)
def test_an_option_that_the_engine_does_not_support_is_refused(
    reference: str, options: Mapping[str, Any], option: str
) -> None:
    engine = choose_engine(reference).engine
    if not is_installed(engine):
        pytest.skip(f"the packages of {engine} are not installed")
    with pytest.raises(UsageError) as caught:
        load_model(reference, **options)
    assert option in f"{caught.value} {caught.value.fix}"


def test_options_at_their_defaults_are_never_refused() -> None:
    untouched: dict[str, Any] = {
        "dtype": "auto",
        "device": "auto",
        "quantize": None,
        "memory": None,
        "adapter": None,
        "allow_remote": False,
        "context_tokens": None,
    }
    engine = load_model("minilm" if is_installed("encoder") else "fake:", **untouched)
    assert engine.caps.score == "exact"


def test_the_note_about_a_choice_is_among_the_notes_of_the_engine(
    installed: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(reference: str, options: LoadOptions) -> FakeEngine:
        assert reference == "model.gguf"
        return engine

    engine = FakeEngine()
    installed["llamacpp"] = False
    monkeypatch.setattr(engine, "info", EngineInfo("hf", "a model", {}, notes=("large",)))
    monkeypatch.setattr("medtask.engines.hf.load.load_hf", load)
    assert load_model("model.gguf") is engine
    assert engine.info.notes == ("large", choose_engine("model.gguf").note)


def test_every_preset_of_servers_is_a_reference_of_the_http_engine() -> None:
    address = pytest.importorskip(
        "medtask.engines.http.endpoint", reason="the http engine is not installed"
    )
    assert {choose_engine(f"{name}:model") for name in (*address.PRESETS, "http", "https")} == {
        EngineChoice("http")
    }
