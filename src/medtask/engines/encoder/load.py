"""From a reference to an encoder that was seen to work: compared with definitions, or with a head
that was trained.
"""

from __future__ import annotations

import math
import warnings
from typing import Literal

from medtask.engines.base import EngineInfo
from medtask.engines.encoder.classifier import HEAD, Classifier
from medtask.engines.encoder.engine import EncoderEngine, Reader
from medtask.engines.encoder.zero_shot import NOTE, TEMPERATURE, YES_MIDDLE, YES_WIDTH, ZeroShot
from medtask.engines.files.locate import ModelFiles, locate_model, read_json
from medtask.engines.files.weights import count_weights, hash_weights
from medtask.engines.heads import Head
from medtask.engines.trained import CONTRACT, Trained, hash_contract, read_trained
from medtask.errors import EngineError, InputError, MedtaskError, MissingExtra, TooBig, UsageError
from medtask.hardware import choose_device, format_bytes, inspect_machine
from medtask.privacy import no_network
from medtask.records import Branch, Meaning, Message, Prompt, Scores
from medtask.similarity import count_context, load_sentence_encoder, load_weights, need_minilm

SCHEME = "encoder:"
MINILM = "minilm"
WORKING_MEMORY = 600_000_000  # Python, torch and one batch's intermediate results
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_HEAD = "ForSequenceClassification"


def load_encoder(
    reference: str,
    *,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str = "auto",
    quantize: str | None = None,
    memory: int | None = None,
    adapter: str | None = None,
) -> EncoderEngine:
    """An EncoderEngine for ``minilm``, ``encoder:org/name[@revision]``, ``encoder:FOLDER``, or a
    folder that training wrote.

    A folder with a label list (``medtask.json``, or the names in the config of a model for sequence
    classification) is asked for its labels; any other is a sentence encoder, which compares texts
    with definitions. ``dtype`` "auto" is float32. ``memory``: bytes that the model and its work may
    take.

    Raises ModelNotFound, MissingExtra, TooBig, InputError, EngineError, or UsageError for a wish
    that cannot be granted.
    """
    if quantize is not None or adapter is not None:
        option = "--quantize" if quantize is not None else "--adapter"
        raise UsageError(f"{option} is not for encoders", fix=f"leave {option} out")
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtra(
            f"{error.name} is not installed here", fix="pip install 'medtask[hf]'"
        ) from None
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()

    name = reference.removeprefix(SCHEME)
    files = ModelFiles(MINILM, need_minilm()) if name == MINILM else locate_model(name)
    if files.is_gguf or files.adapter is not None:
        raise EngineError(f"{name} is no encoder", fix=f"leave {SCHEME} out: `--model {name}`")
    trained = read_trained(files.path) if (files.path / CONTRACT).is_file() else None
    kind = "float32" if dtype == "auto" else dtype
    place = choose_device(device, inspect_machine())
    _check_memory(files, kind, memory)
    with no_network(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what libraries announce to each other
        reader, facts = _load(files, trained, place, kind)
    details: dict[str, object] = {
        "device": place,
        "threads": torch.get_num_threads(),
        "downloaded": files.downloaded,
        **facts,
    }
    engine = EncoderEngine(
        reader,
        EngineInfo("encoder", f"{name}, {kind}, {place}", _identify(files, trained, kind), details),
    )
    _probe(engine, name)
    return engine


def _check_memory(files: ModelFiles, kind: str, memory: int | None) -> None:
    needed = count_weights(files) * _BYTES[kind] + WORKING_MEMORY
    if memory is not None and needed > memory:
        raise TooBig(
            f"{files.reference} needs about {format_bytes(needed)} in {kind}; "
            f"{format_bytes(memory)} may be used here",
            fix="take a smaller model, or raise --memory",
        )


def _load(
    files: ModelFiles, trained: Trained | None, device: str, dtype: str
) -> tuple[Reader, dict[str, object]]:
    """What reads, and what the manifest should tell of it."""
    try:
        head = _read_head(files, trained)
        if head is None:
            encoder = load_sentence_encoder(files.path, device=device, dtype=dtype)
            return ZeroShot(encoder, files.reference), {"pooling": encoder.pooling, "notes": [NOTE]}
        from transformers import AutoModelForSequenceClassification

        if trained is not None and HEAD in trained.sha256:
            from medtask.engines.encoder.pooled import load_pooled

            model, tokenizer = load_pooled(files.path, device, dtype)
        else:
            model, tokenizer = load_weights(
                AutoModelForSequenceClassification, files.path, device, dtype
            )
    except MedtaskError:
        raise
    except (
        Exception
    ) as error:  # files from elsewhere fail in as many ways as there are libraries that read them
        said = str(error).partition("\n")[0]
        raise EngineError(
            f"{files.reference} could not be loaded as an encoder: {type(error).__name__}: {said}",
            fix=(
                "check that the folder is whole and that this version of transformers knows the "
                "architecture (`medtask doctor`)"
            ),
        ) from error
    if model.config.num_labels != len(head.labels) or len(head.labels) < 2 - (
        head.kind == "labels"
    ):
        raise InputError(
            f"{files.reference} gives {model.config.num_labels} numbers for {len(head.labels)} "
            "labels",
            fix="take a model that was trained to classify, with a name for each of its labels",
        )
    known = (
        {"trained_for": trained.task_fingerprint, "base": trained.base, "phi": trained.phi}
        if trained
        else {}
    )
    return Classifier(model, tokenizer, head, count_context(model, tokenizer)), {
        "labels": list(head.labels),
        **known,
        "notes": [],
    }


def _read_head(files: ModelFiles, trained: Trained | None) -> Head | None:
    """The labels that a model was trained on, by medtask or, as its config says, elsewhere; None
    for a sentence encoder.
    """
    if trained is not None:
        if trained.engine != "encoder":
            raise InputError(
                f"{files.path} holds a {trained.engine} model",
                fix=f"name the folder without {SCHEME}",
            )
        return Head(
            files.reference, trained.kind, trained.labels, trained.abstain, trained.untaught
        )
    config = read_json(files.path / "config.json")
    if not any(str(name).endswith(_HEAD) for name in config.get("architectures") or ()):
        return None
    names = config.get("id2label") or {}
    labels = tuple(str(names[key]) for key in sorted(names, key=int))
    if len(set(labels)) < len(labels):
        raise InputError(
            f"{files.reference} has two labels of one name in its config.json",
            fix="correct id2label there",
        )
    return Head(
        files.reference,
        "labels" if config.get("problem_type") == "multi_label_classification" else "label",
        labels,
    )


def _identify(files: ModelFiles, trained: Trained | None, kind: str) -> dict[str, str]:
    identity = {"model": files.reference, "dtype": kind}
    if trained is not None:
        return identity | {"contract": hash_contract(files.path)}
    identity["weights"] = hash_weights(files.path)
    parts = sorted(path.parent for path in files.path.glob("*/config.json"))
    identity |= {f"weights of {part.name}": hash_weights(part) for part in parts}
    if files.revision:
        identity["revision"] = files.revision
    return identity | {"spread": f"{TEMPERATURE:g}, {YES_MIDDLE:g}, {YES_WIDTH:g}"}


def _probe(engine: EncoderEngine, name: str) -> None:
    """One forward pass: models that read no text by themselves, or give no numbers, show it here
    and not on the first row.
    """
    reader = engine.reader
    labels = [Meaning("knee"), Meaning("wrist")]
    branches: tuple[Branch, ...] = (Branch("", ("knee", "wrist"), meanings=tuple(labels)),)
    if isinstance(reader, Classifier):
        labels = [Meaning(label) for label in reader.head.labels]
        tails = tuple(label.name for label in labels)
        branches = (Branch("", tails, meanings=tuple(labels)),)
        if reader.head.kind == "labels":
            branches = tuple(Branch("", ("yes", "no"), meanings=(label,)) for label in labels)
    try:
        (said,) = engine.score(
            [Prompt("probe", (Message("user", "Torn meniscus"),), branches, "Torn meniscus")]
        )
    except (EngineError, ValueError, TypeError, AttributeError, IndexError) as error:
        cause = error.__cause__ or error
        raise EngineError(
            f"{name} does not work as an encoder ({type(cause).__name__})",
            fix=f"name a sentence encoder, or leave {SCHEME} out",
        ) from error
    if not isinstance(said, Scores) or any(
        math.isnan(score.logprobs[0]) for score in said.branches
    ):
        raise EngineError(
            f"{name} gives no numbers", fix="take another dtype (--dtype float32) or another model"
        )
