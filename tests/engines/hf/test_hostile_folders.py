"""S4: nothing in a model's folder is run. Each folder has code that would leave a mark."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("peft", reason="the hf engine is not installed")

from medtask.engines.registry import load_model
from medtask.errors import MedtaskError
from medtask.records import Branch, Message, Prompt
from support.tiny_adapters import save_adapter
from support.tiny_encoders import save_sentence_encoder
from support.tiny_models import save_model

# transformers' own, in peft
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")

PROMPT = Prompt("1", (Message("user", "Where?"),), (Branch("", ("knee", "wrist")),), "")


class Mark:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.path,))


def change_json(file: Path, **values: object) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | values))


def write_pickle(file: Path, mark: Path) -> None:
    file.write_bytes(pickle.dumps(Mark(mark)))


def write_code(folder: Path, mark: Path) -> None:
    """A module whose import leaves the mark."""
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    for name in ("evil.py", "modeling_evil.py", "__init__.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"{code}class Model: pass\n")


def replace_by_pickle(folder: Path, mark: Path) -> None:
    write_pickle(folder / "pytorch_model.bin", mark)
    (folder / "model.safetensors").unlink()


def write_training_pickles(folder: Path, mark: Path) -> None:
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        write_pickle(folder / name, mark)


def write_hostile_template(folder: Path, mark: Path) -> None:
    (folder / "chat_template.jinja").write_text(
        "{{ messages.__class__.__mro__[-1].__subclasses__() }}"
        f"{{{{ cycler.__init__.__globals__.os.system('touch {mark}') }}}}"
    )


def replace_adapter_by_pickle(folder: Path, mark: Path) -> None:
    write_pickle(folder / "adapter_model.bin", mark)
    (folder / "adapter_model.safetensors").unlink()


# What is done to the folder of a model that loads.
HOSTILE_MODELS: dict[str, Callable[[Path, Path], None]] = {
    "a pickle in the place of the weights": replace_by_pickle,
    "a pickle beside the weights": lambda folder, mark: write_pickle(
        folder / "pytorch_model.bin", mark
    ),
    "pickles of a training": lambda folder, mark: (
        [
            write_pickle(folder / name, mark)
            for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth")
        ]
        and None
    ),
    "a pickle of joblib": lambda folder, mark: write_pickle(folder / "model.joblib", mark),
    "a model class of its own": lambda folder, _: change_json(
        folder / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"}
    ),
    "a model class and type of its own": lambda folder, _: change_json(
        folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Model"}
    ),
    "a tokenizer class of its own": lambda folder, _: change_json(
        folder / "tokenizer_config.json",
        tokenizer_class="Model",
        auto_map={"AutoTokenizer": ["evil.Model", "evil.Model"]},
    ),
    "an attention in its own code": lambda folder, _: change_json(
        folder / "config.json", _attn_implementation_internal="evil/kernel"
    ),
    "an attention from the Hub": lambda folder, _: change_json(
        folder / "config.json", attn_implementation="evil/kernel"
    ),
    "a quantisation of its own": lambda folder, _: change_json(
        folder / "config.json",
        quantization_config={"quant_method": "evil", "modules": "evil.Model"},
    ),
    "a way to generate of its own": lambda folder, _: change_json(
        folder / "generation_config.json", custom_generate="evil", trust_remote_code=True
    ),
    "a template that calls Python": write_hostile_template,
}
HOSTILE_ADAPTERS: dict[str, Callable[[Path, Path], None]] = {
    "pickled weights": replace_adapter_by_pickle,
    "pickled weights beside safe ones": lambda folder, mark: write_pickle(
        folder / "adapter_model.bin", mark
    ),
    "a class of its own": lambda folder, _: change_json(
        folder / "adapter_config.json",
        auto_mapping={"base_model_class": "Model", "parent_library": "evil"},
    ),
    "a type of its own": lambda folder, _: change_json(
        folder / "adapter_config.json", peft_type="EVIL"
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "llama", "llama")


def use(folder: Path) -> None:
    """Load and ask the model; it may be refused."""
    with suppress(MedtaskError), closing(load_model(str(folder), dtype="float32")) as engine:
        list(engine.score([PROMPT]))


@pytest.mark.parametrize("name", HOSTILE_MODELS)
def test_no_code_of_a_model_is_run(
    name: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, folder = tmp_path / "mark", tmp_path / "model"
    shutil.copytree(base, folder)
    write_code(folder, mark)
    HOSTILE_MODELS[name](folder, mark)
    monkeypatch.chdir(folder)
    use(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", HOSTILE_ADAPTERS)
def test_no_code_of_an_adapter_is_run(name: str, base: Path, tmp_path: Path) -> None:
    mark, folder = tmp_path / "mark", tmp_path / "adapter"
    save_adapter(folder, base, target_modules="all-linear")
    write_code(folder, mark)
    HOSTILE_ADAPTERS[name](folder, mark)
    use(folder)
    assert not mark.exists()


def test_no_module_that_an_encoder_names_is_imported(tmp_path: Path) -> None:
    mark, folder = tmp_path / "mark", tmp_path / "encoder"
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    save_sentence_encoder(folder, ["a knee hurts"], {"Pooling": pooling})
    write_code(folder, mark)
    parts = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*parts, {"type": "evil.Model", "path": ""}]))
    use(folder)
    assert not mark.exists()


def test_the_code_of_these_folders_leaves_its_mark_when_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_code(tmp_path, tmp_path / "imported")
    write_pickle(tmp_path / "x.bin", tmp_path / "unpickled")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    __import__("evil")
    pickle.loads((tmp_path / "x.bin").read_bytes())
    assert (tmp_path / "imported").exists()
    assert (tmp_path / "unpickled").exists()
