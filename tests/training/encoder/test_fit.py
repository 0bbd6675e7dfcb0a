"""Training encoders: what the folder says is what transformers says, and nothing is trained that is
no encoder.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the hf engine is not installed")

import medtask
from medtask.engines.encoder.classifier import EncoderClassifier
from medtask.engines.encoder.engine import EncoderEngine
from medtask.engines.model_metadata import ModelMetadata, write_model_metadata
from medtask.errors import EngineError, InputError, ModelNotFound, ModelTooLarge, UsageError
from medtask.runs.signals import SignalState
from medtask.training.checkpoints import find_resume_step
from medtask.training.encoder.fit import fit_encoder
from medtask.training.recipe import Recipe
from medtask.training.training_data import TrainingData
from medtask.training.training_log import NullTrainingObserver, TrainingLog, TrainingPoint
from support.small_trainings import (
    NEW_TEXTS,
    PARTS,
    TAGS,
    TEXTS,
    make_rows,
    make_task,
    make_training_context,
    make_training_data,
    predict_with_draft,
)
from support.tiny_encoders import save_sentence_encoder


@pytest.fixture(scope="module")
def sentence_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    parts = {"Pooling": {"pooling_mode_mean_tokens": True}, "Normalize": {}}
    return str(
        save_sentence_encoder(tmp_path_factory.mktemp("sentences"), [*TEXTS, *NEW_TEXTS], parts)
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_sentence_encoder(tmp_path_factory.mktemp("base"), [*TEXTS, *NEW_TEXTS]))


def make_recipe(base: str, **more: object) -> Recipe:
    return Recipe(method="encoder", bases=(base,), batch=8, rate=3e-3, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["label", "labels"])
def test_it_learns_and_its_folder_gives_what_transformers_gives(
    kind: str, base: str, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    names = PARTS if kind == "label" else TAGS
    task = make_task(tmp_path / "task", kind, names)
    context = make_training_context(tmp_path)
    fitted = fit_encoder([make_training_data(task)], make_recipe(base, epochs=6), context)
    assert (
        fitted.trained_model.engine,
        fitted.trained_model.kind,
        fitted.trained_model.labels,
        fitted.trained_model.base,
    ) == ("encoder", kind, names, base)
    write_model_metadata(context.draft_folder, fitted.trained_model)
    tokenizer = AutoTokenizer.from_pretrained(context.draft_folder)
    model = AutoModelForSequenceClassification.from_pretrained(context.draft_folder).eval()
    assert model.config.id2label == dict(enumerate(names))
    for text, answer in zip(NEW_TEXTS, predict_with_draft(task, tmp_path, NEW_TEXTS), strict=True):
        with torch.inference_mode():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0].double()
        expected = (logits.softmax(dim=-1) if kind == "label" else logits.sigmoid()).numpy()
        assert answer.probabilities is not None
        assert [answer.probabilities[name] for name in names] == pytest.approx(expected, abs=1e-5)
    losses = [
        point.validation_loss for point in context.log.points if point.validation_loss is not None
    ]
    assert min(losses) < losses[0] / 3
    found = predict_with_draft(task, tmp_path, TEXTS)
    gold = [row["gold"] if kind == "label" else tuple(row["gold"]) for row in make_rows(kind=kind)]  # type: ignore[call-overload]
    assert np.mean([answer.value == truth for answer, truth in zip(found, gold, strict=True)]) > 0.9


@pytest.mark.parametrize("kind", ["label", "labels"])
def test_it_begins_with_the_share_of_each_label(
    kind: str, base: str, sentence_encoder: str, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file

    names = PARTS if kind == "label" else TAGS
    rows = [
        row
        for index, row in enumerate(make_rows(kind=kind))
        if "knee" in str(row["gold"]) or index % 4 == 0
    ]
    data = make_training_data(make_task(tmp_path / "task", kind, names), rows)
    truth = [[name in np.atleast_1d(one.record.gold) for name in names] for one in data.train]
    shares = (np.sum(truth, axis=0) + 0.5) / (len(truth) + 1)
    expected = np.log(shares) if kind == "label" else np.log(shares / (1 - shares))
    still = Recipe(method="encoder", epochs=0.1, rate=1e-9)
    for index, file, name in (
        (base, "model", "classifier.bias"),
        (sentence_encoder, "head", "bias"),
    ):
        context = make_training_context(tmp_path / file)
        fit_encoder([data], replace(still, bases=(index,)), context)
        assert load_file(context.draft_folder / f"{file}.safetensors")[name] == pytest.approx(
            expected, abs=1e-4
        )


@pytest.mark.parametrize("kind", ["label", "labels"])
def test_a_sentence_encoder_keeps_its_way_to_pool(
    kind: str, sentence_encoder: str, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModel, AutoTokenizer

    task = make_task(tmp_path / "task", kind, PARTS if kind == "label" else TAGS)
    context = make_training_context(tmp_path)
    fitted = fit_encoder(
        [make_training_data(task)], make_recipe(sentence_encoder, epochs=6), context
    )
    write_model_metadata(context.draft_folder, fitted.trained_model)
    body = AutoModel.from_pretrained(context.draft_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(context.draft_folder)
    head = load_file(context.draft_folder / "head.safetensors")
    for text, answer in zip(NEW_TEXTS, predict_with_draft(task, tmp_path, NEW_TEXTS), strict=True):
        with torch.inference_mode():
            vector = body(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
            logits = (head["weight"] @ vector + head["bias"]).double()
        expected = (logits.softmax(dim=-1) if kind == "label" else logits.sigmoid()).numpy()
        assert answer.probabilities is not None
        assert [
            answer.probabilities[name] for name in fitted.trained_model.labels
        ] == pytest.approx(expected, abs=1e-5)
    losses = [
        point.validation_loss for point in context.log.points if point.validation_loss is not None
    ]
    assert min(losses) < 0.8 * losses[0]
    again = fit_encoder(
        [make_training_data(task)],
        make_recipe(str(context.draft_folder), epochs=1),
        make_training_context(tmp_path / "again"),
    )
    assert again.facts["weights"] == fitted.facts["weights"]
    assert again.facts["epochs"] == 1
    state = load_file(context.draft_folder / "head.safetensors")
    save_file({**state, "bias": state["bias"][:2]}, context.draft_folder / "head.safetensors")
    write_model_metadata(context.draft_folder, fitted.trained_model)
    with pytest.raises(EngineError, match="could not be loaded as an encoder"):
        medtask.load_model(str(context.draft_folder))


def test_what_is_kept_is_the_state_with_the_lowest_validation_loss(
    base: str, tmp_path: Path
) -> None:
    task = make_task(tmp_path / "task")
    data = make_training_data(task)
    context = make_training_context(tmp_path)
    # A rate far too high: the loss rises again.
    fitted = fit_encoder(
        [data],
        Recipe(method="encoder", bases=(base,), batch=8, rate=0.05, epochs=4, patience=9),
        context,
    )
    write_model_metadata(context.draft_folder, fitted.trained_model)
    losses = [
        point.validation_loss for point in context.log.points if point.validation_loss is not None
    ]
    answers = predict_with_draft(
        task, tmp_path, [example.prompt.text for example in data.validation]
    )
    given = [
        (answer.probabilities or {})[str(example.record.gold)]
        for answer, example in zip(answers, data.validation, strict=True)
    ]
    assert -np.log(np.maximum(given, 1e-6)).mean() == pytest.approx(min(losses), abs=1e-4)


def test_a_training_that_was_stopped_goes_on_as_if_nothing_had_happened(
    base: str, tmp_path: Path
) -> None:
    task = make_task(tmp_path / "task")
    full = fit_encoder(
        [make_training_data(task)],
        make_recipe(base, epochs=2),
        make_training_context(tmp_path / "whole"),
    )
    signals = SignalState()

    class StoppingObserver(NullTrainingObserver):
        def on_point(self, point: TrainingPoint) -> None:
            if point.step == 4 and point.loss is not None:
                signals.number = 2

    context = make_training_context(tmp_path / "parts", StoppingObserver(), signals)
    stopped = fit_encoder([make_training_data(task)], make_recipe(base, epochs=2), context)
    assert (stopped.interrupted, full.interrupted) == (True, False)
    step = find_resume_step(context.work_folder)
    assert 0 < step < int(str(full.facts["steps"]))
    write_model_metadata(context.draft_folder, stopped.trained_model)
    assert medtask.load_model(str(context.draft_folder)).info.name == "encoder"
    shutil.rmtree(context.draft_folder)
    context.draft_folder.mkdir()
    again = type(context)(
        context.draft_folder,
        context.work_folder,
        TrainingLog(context.log.path, NullTrainingObserver(), step),
        NullTrainingObserver(),
        SignalState(),
    )
    resumed = fit_encoder([make_training_data(task)], make_recipe(base, epochs=2), again)
    assert resumed.facts["steps"] == full.facts["steps"]
    one, other = (tmp_path / name / "draft" / "model.safetensors" for name in ("whole", "parts"))
    assert one.read_bytes() == other.read_bytes()


def test_the_same_seed_gives_the_same_model_and_another_another(base: str, tmp_path: Path) -> None:
    data = make_training_data(make_task(tmp_path / "task"))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit_encoder(
            [data], make_recipe(base, epochs=1, seed=seed), make_training_context(tmp_path / name)
        )
    one, two, three = (
        (tmp_path / name / "draft" / "model.safetensors").read_bytes() for name in "abc"
    )
    assert one == two != three


def test_rows_that_are_too_long_are_cut_and_counted(base: str, tmp_path: Path) -> None:
    rows = make_rows()
    rows[0]["text"] = f"{rows[0]['text']} {'again ' * 100}"
    notes: list[str] = []

    class NoteObserver(NullTrainingObserver):
        def on_note(self, text: str) -> None:
            notes.append(text)

    context = make_training_context(tmp_path, NoteObserver())
    fitted = fit_encoder(
        [make_training_data(make_task(tmp_path / "task"), rows)],
        make_recipe(base, epochs=1),
        context,
    )
    assert fitted.facts["rows_cut"] == 1
    assert fitted.notes == tuple(notes)
    assert notes[0].startswith(
        f"1 of {len(rows)} rows were truncated to 64 tokens for training; in a run the model "
        "refuses such rows"
    )
    few = make_training_data(make_task(tmp_path / "task"))
    shorter = fit_encoder(
        [few], make_recipe(base, epochs=1, row_tokens=5), make_training_context(tmp_path / "short")
    )
    assert int(str(shorter.facts["rows_cut"])) > 10


def test_labels_without_examples_are_reported_and_never_given(base: str, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", labels=(*PARTS, "elbow"))
    context = make_training_context(tmp_path)
    fitted = fit_encoder([make_training_data(task)], make_recipe(base, epochs=1), context)
    assert fitted.notes == ('no training row: "elbow". The model never answers it.',)
    write_model_metadata(context.draft_folder, fitted.trained_model)
    (answer,) = predict_with_draft(task, tmp_path, ["CT of the knee"])
    assert (answer.probabilities or {})["elbow"] == 0


def test_a_trained_encoder_can_be_trained_for_other_labels(base: str, tmp_path: Path) -> None:
    context = make_training_context(tmp_path / "first")
    write_model_metadata(
        context.draft_folder,
        fit_encoder(
            [make_training_data(make_task(tmp_path / "task"))], make_recipe(base, epochs=1), context
        ).trained_model,
    )
    task = make_task(tmp_path / "sides", labels=("left", "right"))
    rows = [{"text": text, "gold": "left" if "left" in text else "right"} for text in TEXTS]
    fitted = fit_encoder(
        [make_training_data(task, rows)],
        make_recipe(str(context.draft_folder), epochs=1),
        make_training_context(tmp_path / "second"),
    )
    assert fitted.trained_model.labels == ("left", "right")


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("smollm2-135m", "it is a language model"),
        ("model.gguf", "a GGUF file holds the quantised weights of a language model"),
        ("ollama:llama3.2", "the http engine cannot train weights"),
        ("http://127.0.0.1:1/v1#m", "the http engine cannot train weights"),
        ("vllm:org/name", "the vllm engine cannot train weights"),
        ("fake:", "the fake engine cannot train weights"),
    ],
)
def test_what_is_no_encoder_is_refused_by_its_name(name: str, output: str, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=f"cannot be trained by --method encoder: {output}"
    ) as refused:
        fit_encoder(
            [make_training_data(make_task(tmp_path / "task"))],
            make_recipe(name),
            make_training_context(tmp_path),
        )
    assert refused.value.fix.startswith("name an encoder (minilm")


def test_what_is_no_encoder_is_refused_by_its_files(base: str, tmp_path: Path) -> None:
    data = make_training_data(make_task(tmp_path / "task"))
    context = make_training_context(tmp_path / "context")
    write_model_metadata(tmp_path / "task", ModelMetadata("linear", "label", PARTS))
    with pytest.raises(UsageError, match="it is a linear model, not an encoder"):
        fit_encoder([data], make_recipe(str(tmp_path / "task")), context)
    llama = tmp_path / "llama"
    shutil.copytree(base, llama)
    (llama / "config.json").write_text(
        json.dumps(json.loads((llama / "config.json").read_text()) | {"model_type": "llama"})
    )
    with pytest.raises(UsageError, match="llama is a llama model, not an encoder"):
        fit_encoder([data], make_recipe(str(llama)), context)
    (llama / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    with pytest.raises(UsageError, match="is an adapter of a language model"):
        fit_encoder([data], make_recipe(str(llama)), context)
    with pytest.raises(ModelNotFound, match="there is no model"):
        fit_encoder([data], make_recipe("no such model"), context)
    with pytest.raises(UsageError, match="takes one base, and 2 are named"):
        fit_encoder([data], Recipe(method="encoder", bases=(base, "minilm")), context)
    assert not list(context.draft_folder.iterdir())


def test_a_folder_that_lacks_weights_is_refused(base: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, tmp_path / "broken")
    tensors = load_file(tmp_path / "broken" / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match=r"1 tensor is missing: bert\.encoder\.layer\.1"):
        fit_encoder(
            [make_training_data(make_task(tmp_path / "task"))],
            make_recipe(str(tmp_path / "broken")),
            make_training_context(tmp_path),
        )


def test_what_cannot_be_learnt_is_refused(base: str, tmp_path: Path) -> None:
    task, context = make_task(tmp_path / "task"), make_training_context(tmp_path)
    data = make_training_data(task)
    with pytest.raises(ModelTooLarge, match=r"takes about .* may be used here") as refused:
        fit_encoder([data], make_recipe(base, memory=100_000), context)
    assert "--checkpointing" in refused.value.fix
    with pytest.raises(UsageError, match="not trained in float16"):
        fit_encoder([data], make_recipe(base, dtype="float16"), context)
    with pytest.raises(InputError, match="needs validation rows"):
        fit_encoder([TrainingData(task, data.train, ())], make_recipe(base), context)
    with pytest.raises(InputError, match='has only "knee"'):
        fit_encoder(
            [make_training_data(task, [{"text": text, "gold": "knee"} for text in TEXTS])],
            make_recipe(base),
            context,
        )
    with pytest.raises(UsageError, match="kind answer, and --method encoder learns a fixed set"):
        fit_encoder(
            [TrainingData(make_task(tmp_path / "text", "answer"), (), ())],
            make_recipe(base),
            context,
        )


def test_activations_that_are_computed_again_change_nothing(base: str, tmp_path: Path) -> None:
    data = make_training_data(make_task(tmp_path / "task"))
    for name, again in (("a", True), ("b", False)):
        fit_encoder(
            [data],
            make_recipe(base, epochs=1, checkpointing=again),
            make_training_context(tmp_path / name),
        )
    from safetensors.torch import load_file

    one, two = (load_file(tmp_path / name / "draft" / "model.safetensors") for name in "ab")
    assert all(np.allclose(one[name], two[name], atol=1e-5) for name in one)


@pytest.mark.slow
def test_minilm_is_the_base_if_none_is_named(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task")
    recipe = Recipe(method="encoder", batch=8, epochs=0.2)
    fitted = fit_encoder([make_training_data(task)], recipe, make_training_context(tmp_path))
    assert fitted.trained_model.base == "minilm"


@pytest.mark.scale
def test_minilm_learns_from_a_few_rows(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task")
    context = make_training_context(tmp_path)
    fitted = fit_encoder([make_training_data(task)], Recipe(method="encoder", batch=8), context)
    assert fitted.trained_model.base == "minilm"
    write_model_metadata(context.draft_folder, fitted.trained_model)
    engine = medtask.load_model(str(context.draft_folder))
    assert isinstance(engine, EncoderEngine) and isinstance(engine.scorer, EncoderClassifier)
    assert [
        answer.value
        for answer in predict_with_draft(task, tmp_path, ["an old brain", "her knee hurts"])
    ] == ["brain", "knee"]
