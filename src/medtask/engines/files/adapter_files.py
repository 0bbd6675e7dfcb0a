"""Facts about a PEFT adapter's folder: its base, its tokenizer, and the size of its vocabulary."""

from __future__ import annotations

from pathlib import Path

from medtask.engines.files.model_files import ADAPTER_CONFIG, read_model_json
from medtask.engines.files.weights import read_safetensors_header
from medtask.errors import InputError
from medtask.stored_weights import ADAPTER_FILE

_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings")
# Parts of the names of weights that are stored whole. PEFT may store one under several names.
_PEFT_PARTS = (".base_layer.", ".modules_to_save.", ".original_module.")
_QUANTIZED_SUFFIXES = ("-unsloth-bnb-4bit", "-bnb-4bit")


def find_tokenizer_folder(base: Path, adapter: Path | None) -> Path:
    """The folder with the tokenizer and the chat template that an adapter was trained with.

    TRL, Unsloth and LLaMA-Factory save them beside the adapter; without them it is the base.
    """
    if adapter is not None and (adapter / "tokenizer_config.json").is_file():
        return adapter
    return base


def count_tokens(folder: Path) -> int:
    """The number of tokens of a tokenizer, by its largest id; 0 if it has no tokenizer.json."""
    ids: list[int] = []
    if (folder / "tokenizer.json").is_file():
        content = read_model_json(folder / "tokenizer.json")
        vocabulary = (content.get("model") or {}).get("vocab") or {}
        ids += vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        ids += [int(token["id"]) for token in content.get("added_tokens") or ()]
        if (folder / "added_tokens.json").is_file():
            ids += read_model_json(folder / "added_tokens.json").values()
    return max(ids, default=-1) + 1


def normalize_stored_name(name: str) -> str:
    """The name in the base of a weight that PEFT stores whole."""
    for part in _PEFT_PARTS:
        name = name.replace(part, ".")
    return name


def find_embedding_rows(adapter: Path) -> int | None:
    """The rows of the embeddings that an adapter stores; None if it stores none."""
    path = adapter / ADAPTER_FILE
    for name, entry in (read_safetensors_header(path) if path.is_file() else {}).items():
        owner, _, part = normalize_stored_name(name).rpartition(".")
        if part == "weight" and owner.endswith(_EMBEDDINGS):
            return int(entry["shape"][0])
    return None


def check_vocabulary(adapter: Path, base: Path, base_rows: int) -> int:
    """The rows of the embeddings of an adapter's model.

    Args:
        adapter: The adapter's folder.
        base: The folder of its base.
        base_rows: The rows of the base's embeddings.

    Raises:
        InputError: Tokens were added in the training, and their embeddings are not stored.
    """
    rows = find_embedding_rows(adapter) or base_rows
    # Tokenizers of some models, such as Gemma 3, name a token that the embeddings do not have.
    if (tokens := count_tokens(adapter)) > max(rows, count_tokens(base)):
        raise InputError(
            f"the tokenizer in {adapter} has {tokens:,} tokens, and the embeddings {rows:,}: those "
            "of tokens that were added in the training are missing",
            fix="save the adapter again with its embeddings (PEFT: save_embedding_layers=True), or "
            "merge it with the library that trained it",
        )
    return rows


def check_base_format(base: str, config: Path) -> None:
    """Raise InputError if the weights of an adapter's base are stored quantised."""
    quantization = read_model_json(config).get("quantization_config")
    if not isinstance(quantization, dict):
        return
    full = next(
        (base.removesuffix(suffix) for suffix in _QUANTIZED_SUFFIXES if base.endswith(suffix)), ""
    )
    raise InputError(
        f"the adapter's base {base} is stored quantised ({quantization.get('quant_method')}), so "
        "nothing can be merged into it",
        fix=f"set base_model_name_or_path in {ADAPTER_CONFIG} to the model that it was quantised "
        f"from{f', {full}' if full else ''}",
    )
