"""Tiny BERTs with a vocabulary of whole words, saved as folders: sentence encoders, and classifiers
that were trained a little.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as t

_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def make_tokenizer(texts: Sequence[str], context: int) -> t.PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    vocabulary = {word: index for index, word in enumerate((*_SPECIALS, *words))}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return t.PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=context, **named)


def make_config(tokenizer: t.PreTrainedTokenizerFast, **more: Any) -> t.BertConfig:
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return t.BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        initializer_range=0.3,
        **shape,
        **dropout,
        **more,
    )


def save_sentence_encoder(
    folder: Path,
    texts: Sequence[str],
    parts: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> Path:
    """A random encoder. ``parts``: the modules after the transformer by their type; ``settings``:
    of sentence_bert_config.json.
    """
    torch.manual_seed(7)
    tokenizer = make_tokenizer(texts, 64)
    t.BertModel(make_config(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if parts is None:
        return folder
    listed = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    ]
    for number, (name, config) in enumerate(parts.items(), 1):
        path = f"{number}_{name}"
        (folder / path).mkdir()
        (folder / path / "config.json").write_text(json.dumps(config))
        listed.append(
            {
                "idx": number,
                "name": str(number),
                "path": path,
                "type": f"sentence_transformers.models.{name}",
            }
        )
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": 64, "do_lower_case": False, **settings})
    )
    return folder


def save_classifier(
    folder: Path,
    texts: Sequence[str],
    targets: Sequence[Sequence[float]],
    labels: Sequence[str],
    *,
    several: bool,
    steps: int = 40,
) -> Path:
    """A classifier that has learned which of ``labels`` each text has; ``targets``: [texts, labels]
    of 0 and 1.
    """
    torch.manual_seed(7)
    tokenizer = make_tokenizer(texts, 64)
    kind = "multi_label_classification" if several else "single_label_classification"
    named = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    model = t.BertForSequenceClassification(make_config(tokenizer, problem_type=kind, **named))
    batch = tokenizer(list(texts), padding=True, return_tensors="pt")
    table = torch.tensor(targets)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch, labels=table if several else table.argmax(dim=1)).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
