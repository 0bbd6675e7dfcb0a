"""Compares the tokens of a GGUF file with those of the model's own tokenizer.

The prompts of the parity gate may have no digits, letters with accents or blank lines, which
tokenizers split in different ways.
"""

from __future__ import annotations

from pathlib import Path

from medtask.engines.tokens.tokenizer import HfTokenizer
from medtask.errors import EngineError

_TEXTS = (
    "Größe 12,5 × 3 mm; 37.8 °C, 250 µg/d, HbA1c≥7%—ICD-10:E11.9",
    "  two  blanks,\ta tab\n\n a line\r\nand  the end ",
    "It's the patient's 2nd CT (2024-03-15), 1234567 U/l.\nHe'll COME back, WE'RE sure.",
    "naïve façade Ångström œdème señor; Straße, Fuß, ärztlich",
    "боль 左腕の骨折 مريض 🙂 ≥ ½ ²",
    "snake_case camelCase a=b; <p>x</p> https://a.example/b?c=1#d ----- ..... !!!",
    "nn" * 40,  # a word whose merges are all alike: the first ones must be the same
)


def compare_tokens(tokenizer_folder: Path, path: Path) -> list[str]:
    """A sentence if llama.cpp reads some of the texts as other tokens than transformers.

    Args:
        tokenizer_folder: The folder of the model's tokenizer.
        path: The GGUF file.

    Raises:
        EngineError: llama.cpp cannot read the file.
    """
    import llama_cpp
    from transformers import AutoTokenizer

    from medtask.engines.llamacpp.log import collect_log_errors
    from medtask.engines.llamacpp.tokenizer import GgufTokenizer

    own = HfTokenizer(AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False))
    collect_log_errors()
    settings = llama_cpp.llama_model_default_params()
    settings.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
    if not model:
        raise EngineError("llama.cpp cannot read the written file", fix="export the model again")
    try:
        found = GgufTokenizer(model, path.stem, {}).encode(_TEXTS)
    finally:
        llama_cpp.llama_model_free(model)
    others = sum(one != other for one, other in zip(own.encode(_TEXTS), found, strict=True))
    if not others:
        return []
    return [f"{others} of {len(_TEXTS)} test texts have other tokens: the tokenizer differs"]
