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
from lessons import (
    NEW,
    PARTS,
    TAGS,
    TEXTS,
    ask_draft,
    make_desk,
    make_material,
    make_rows,
    make_task,
)
from medtask.engines.encoder.classifier import Classifier
from medtask.engines.encoder.engine import EncoderEngine
from medtask.engines.trained import Trained, write_trained
from medtask.errors import EngineError, InputError, ModelNotFound, TooBig, UsageError
from medtask.runs.interrupt import Signals
from medtask.train.encoder import fit_encoder
from medtask.train.journal import Journal, Point, Unwatched
from medtask.train.loop import find_checkpoint, step_of_checkpoint
from medtask.train.material import Material
from medtask.train.recipe import Recipe
from tiny_encoders import save_sentence_encoder


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> str:
    parts = {"Pooling": {"pooling_mode_mean_tokens": True}, "Normalize": {}}
    return str(save_sentence_encoder(tmp_path_factory.mktemp("sentences"), [*TEXTS, *NEW], parts))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_sentence_encoder(tmp_path_factory.mktemp("base"), [*TEXTS, *NEW]))


def recipe(base: str, **more: object) -> Recipe:
    return Recipe(method="encoder", bases=(base,), batch=8, rate=3e-3, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["label", "labels"])
def test_it_learns_and_its_folder_says_what_transformers_says(
    kind: str, base: str, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    names = PARTS if kind == "label" else TAGS
    task = make_task(tmp_path / "task", kind, names)
    desk = make_desk(tmp_path)
    fitted = fit_encoder([make_material(task)], recipe(base, epochs=6), desk)
    assert (
        fitted.trained.engine,
        fitted.trained.kind,
        fitted.trained.labels,
        fitted.trained.base,
    ) == ("encoder", kind, names, base)
    write_trained(desk.draft, fitted.trained)
    tokenizer = AutoTokenizer.from_pretrained(desk.draft)
    model = AutoModelForSequenceClassification.from_pretrained(desk.draft).eval()
    assert model.config.id2label == dict(enumerate(names))
    for text, answer in zip(NEW, ask_draft(task, tmp_path, NEW), strict=True):
        with torch.inference_mode():
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0].double()
        expected = (logits.softmax(dim=-1) if kind == "label" else logits.sigmoid()).numpy()
        assert answer.probabilities is not None
        assert [answer.probabilities[name] for name in names] == pytest.approx(expected, abs=1e-5)
    losses = [
        point.validation_loss for point in desk.journal.points if point.validation_loss is not None
    ]
    assert min(losses) < losses[0] / 3
    found = ask_draft(task, tmp_path, TEXTS)
    gold = [row["gold"] if kind == "label" else tuple(row["gold"]) for row in make_rows(kind=kind)]  # type: ignore[call-overload]
    assert np.mean([answer.value == truth for answer, truth in zip(found, gold, strict=True)]) > 0.9


@pytest.mark.parametrize("kind", ["label", "labels"])
def test_it_begins_with_the_share_of_each_label(
    kind: str, base: str, sentences: str, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file

    names = PARTS if kind == "label" else TAGS
    rows = [
        row
        for place, row in enumerate(make_rows(kind=kind))
        if "knee" in str(row["gold"]) or place % 4 == 0
    ]
    material = make_material(make_task(tmp_path / "task", kind, names), rows)
    truth = [[name in np.atleast_1d(one.record.gold) for name in names] for one in material.train]
    shares = (np.sum(truth, axis=0) + 0.5) / (len(truth) + 1)
    expected = np.log(shares) if kind == "label" else np.log(shares / (1 - shares))
    still = Recipe(method="encoder", epochs=0.1, rate=1e-9)
    for place, file, name in ((base, "model", "classifier.bias"), (sentences, "head", "bias")):
        desk = make_desk(tmp_path / file)
        fit_encoder([material], replace(still, bases=(place,)), desk)
        assert load_file(desk.draft / f"{file}.safetensors")[name] == pytest.approx(
            expected, abs=1e-4
        )


@pytest.mark.parametrize("kind", ["label", "labels"])
def test_a_sentence_encoder_keeps_its_way_to_pool(
    kind: str, sentences: str, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModel, AutoTokenizer

    task = make_task(tmp_path / "task", kind, PARTS if kind == "label" else TAGS)
    desk = make_desk(tmp_path)
    fitted = fit_encoder([make_material(task)], recipe(sentences, epochs=6), desk)
    write_trained(desk.draft, fitted.trained)
    body, tokenizer = (
        AutoModel.from_pretrained(desk.draft).eval(),
        AutoTokenizer.from_pretrained(desk.draft),
    )
    head = load_file(desk.draft / "head.safetensors")
    for text, answer in zip(NEW, ask_draft(task, tmp_path, NEW), strict=True):
        with torch.inference_mode():
            vector = body(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
            logits = (head["weight"] @ vector + head["bias"]).double()
        expected = (logits.softmax(dim=-1) if kind == "label" else logits.sigmoid()).numpy()
        assert answer.probabilities is not None
        assert [answer.probabilities[name] for name in fitted.trained.labels] == pytest.approx(
            expected, abs=1e-5
        )
    losses = [
        point.validation_loss for point in desk.journal.points if point.validation_loss is not None
    ]
    assert min(losses) < 0.8 * losses[0]
    again = fit_encoder(
        [make_material(task)], recipe(str(desk.draft), epochs=1), make_desk(tmp_path / "again")
    )
    assert again.facts["weights"] == fitted.facts["weights"]
    state = load_file(desk.draft / "head.safetensors")
    save_file({**state, "bias": state["bias"][:2]}, desk.draft / "head.safetensors")
    write_trained(desk.draft, fitted.trained)
    with pytest.raises(EngineError, match="could not be loaded as an encoder"):
        medtask.load_model(str(desk.draft))


def test_what_is_kept_is_the_state_with_the_lowest_validation_loss(
    base: str, tmp_path: Path
) -> None:
    task = make_task(tmp_path / "task")
    material = make_material(task)
    desk = make_desk(tmp_path)
    # A rate far too high: the loss rises again.
    fitted = fit_encoder(
        [material],
        Recipe(method="encoder", bases=(base,), batch=8, rate=0.05, epochs=4, patience=9),
        desk,
    )
    write_trained(desk.draft, fitted.trained)
    losses = [
        point.validation_loss for point in desk.journal.points if point.validation_loss is not None
    ]
    answers = ask_draft(task, tmp_path, [lesson.prompt.text for lesson in material.validation])
    given = [
        (answer.probabilities or {})[str(lesson.record.gold)]
        for answer, lesson in zip(answers, material.validation, strict=True)
    ]
    assert -np.log(np.maximum(given, 1e-6)).mean() == pytest.approx(min(losses), abs=1e-4)


def test_a_training_that_was_stopped_goes_on_as_if_nothing_had_happened(
    base: str, tmp_path: Path
) -> None:
    task = make_task(tmp_path / "task")
    whole = fit_encoder([make_material(task)], recipe(base), make_desk(tmp_path / "whole"))
    signals = Signals()

    class Stopper(Unwatched):
        def on_point(self, point: Point) -> None:
            if point.step == 4 and point.loss is not None:
                signals.number = 2

    desk = make_desk(tmp_path / "parts", Stopper(), signals)
    stopped = fit_encoder([make_material(task)], recipe(base), desk)
    assert (stopped.stopped, whole.stopped) == (True, False)
    step = step_of_checkpoint(find_checkpoint(desk.work))
    assert 0 < step < int(str(whole.facts["steps"]))
    write_trained(desk.draft, stopped.trained)
    assert medtask.load_model(str(desk.draft)).info.name == "encoder"
    shutil.rmtree(desk.draft)
    desk.draft.mkdir()
    again = type(desk)(
        desk.draft, desk.work, Journal(desk.journal.path, Unwatched(), step), Unwatched(), Signals()
    )
    resumed = fit_encoder([make_material(task)], recipe(base), again)
    assert resumed.facts["steps"] == whole.facts["steps"]
    one, other = (tmp_path / name / "draft" / "model.safetensors" for name in ("whole", "parts"))
    assert one.read_bytes() == other.read_bytes()


def test_the_same_seed_gives_the_same_model_and_another_another(base: str, tmp_path: Path) -> None:
    material = make_material(make_task(tmp_path / "task"))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit_encoder([material], recipe(base, epochs=1, seed=seed), make_desk(tmp_path / name))
    one, two, three = (
        (tmp_path / name / "draft" / "model.safetensors").read_bytes() for name in "abc"
    )
    assert one == two != three


def test_rows_that_are_too_long_are_cut_and_counted(base: str, tmp_path: Path) -> None:
    rows = make_rows()
    rows[0]["text"] = f"{rows[0]['text']} {'again ' * 100}"
    notes: list[str] = []

    class Listener(Unwatched):
        def on_note(self, text: str) -> None:
            notes.append(text)

    desk = make_desk(tmp_path, Listener())
    fitted = fit_encoder(
        [make_material(make_task(tmp_path / "task"), rows)], recipe(base, epochs=1), desk
    )
    assert fitted.facts["rows_cut"] == 1
    assert fitted.notes == tuple(notes)
    assert notes[0].startswith(
        f"1 of {len(rows)} rows were cut at 64 tokens for training; asked about such a row, the "
        "model refuses it"
    )
    few = make_material(make_task(tmp_path / "task"))
    shorter = fit_encoder(
        [few], recipe(base, epochs=1, row_tokens=5), make_desk(tmp_path / "short")
    )
    assert int(str(shorter.facts["rows_cut"])) > 10


def test_labels_without_examples_are_told_and_never_given(base: str, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", labels=(*PARTS, "elbow"))
    desk = make_desk(tmp_path)
    fitted = fit_encoder([make_material(task)], recipe(base, epochs=1), desk)
    assert fitted.notes == ('no example to learn from: "elbow". The model never gives it.',)
    write_trained(desk.draft, fitted.trained)
    (answer,) = ask_draft(task, tmp_path, ["CT of the knee"])
    assert (answer.probabilities or {})["elbow"] == 0


def test_a_trained_encoder_can_be_trained_for_other_labels(base: str, tmp_path: Path) -> None:
    desk = make_desk(tmp_path / "first")
    write_trained(
        desk.draft,
        fit_encoder(
            [make_material(make_task(tmp_path / "task"))], recipe(base, epochs=1), desk
        ).trained,
    )
    task = make_task(tmp_path / "sides", labels=("left", "right"))
    rows = [{"text": text, "gold": "left" if "left" in text else "right"} for text in TEXTS]
    fitted = fit_encoder(
        [make_material(task, rows)],
        recipe(str(desk.draft), epochs=1),
        make_desk(tmp_path / "second"),
    )
    assert fitted.trained.labels == ("left", "right")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("smollm2-135m", "it is a language model"),
        ("model.gguf", "a GGUF file holds a language model's weights"),
        ("ollama:llama3.2", "the http engine has no weights here"),
        ("http://127.0.0.1:1/v1#m", "the http engine has no weights here"),
        ("vllm:org/name", "the vllm engine has no weights here"),
        ("fake:", "the fake engine has no weights here"),
    ],
)
def test_what_is_no_encoder_is_refused_by_its_name(name: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=f"cannot be trained by --method encoder: {told}"
    ) as refused:
        fit_encoder(
            [make_material(make_task(tmp_path / "task"))], recipe(name), make_desk(tmp_path)
        )
    assert refused.value.fix.startswith("name an encoder: minilm")


def test_what_is_no_encoder_is_refused_by_its_files(base: str, tmp_path: Path) -> None:
    material, desk = make_material(make_task(tmp_path / "task")), make_desk(tmp_path / "desk")
    write_trained(tmp_path / "task", Trained("linear", "label", PARTS))
    with pytest.raises(UsageError, match="it is a linear model, and no encoder"):
        fit_encoder([material], recipe(str(tmp_path / "task")), desk)
    llama = tmp_path / "llama"
    shutil.copytree(base, llama)
    (llama / "config.json").write_text(
        json.dumps(json.loads((llama / "config.json").read_text()) | {"model_type": "llama"})
    )
    with pytest.raises(UsageError, match="llama is a llama model, and no encoder"):
        fit_encoder([material], recipe(str(llama)), desk)
    (llama / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    with pytest.raises(UsageError, match="is an adapter of a language model"):
        fit_encoder([material], recipe(str(llama)), desk)
    with pytest.raises(ModelNotFound, match="there is no model"):
        fit_encoder([material], recipe("no such model"), desk)
    with pytest.raises(UsageError, match="takes one base, and 2 are named"):
        fit_encoder([material], Recipe(method="encoder", bases=(base, "minilm")), desk)
    assert not list(desk.draft.iterdir())


def test_a_folder_that_lacks_weights_is_refused(base: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, tmp_path / "broken")
    held = load_file(tmp_path / "broken" / "model.safetensors")
    del held["encoder.layer.1.output.dense.weight"]
    save_file(held, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        EngineError, match=r"lacks weights of its own kind \(bert\.encoder\.layer\.1"
    ):
        fit_encoder(
            [make_material(make_task(tmp_path / "task"))],
            recipe(str(tmp_path / "broken")),
            make_desk(tmp_path),
        )


def test_what_cannot_be_learnt_is_refused(base: str, tmp_path: Path) -> None:
    task, desk = make_task(tmp_path / "task"), make_desk(tmp_path)
    material = make_material(task)
    with pytest.raises(TooBig, match=r"takes about .* may be used here") as refused:
        fit_encoder([material], recipe(base, memory=100_000), desk)
    assert "--checkpointing" in refused.value.fix
    with pytest.raises(UsageError, match="not trained in float16"):
        fit_encoder([material], recipe(base, dtype="float16"), desk)
    with pytest.raises(InputError, match="stopped by validation rows"):
        fit_encoder([Material(task, material.train, ())], recipe(base), desk)
    with pytest.raises(InputError, match='only "knee" stands in the gold'):
        fit_encoder(
            [make_material(task, [{"text": text, "gold": "knee"} for text in TEXTS])],
            recipe(base),
            desk,
        )
    with pytest.raises(UsageError, match="kind answer, and --method encoder learns a fixed set"):
        fit_encoder([Material(make_task(tmp_path / "text", "answer"), (), ())], recipe(base), desk)


def test_activations_that_are_computed_again_change_nothing(base: str, tmp_path: Path) -> None:
    material = make_material(make_task(tmp_path / "task"))
    for name, again in (("a", True), ("b", False)):
        fit_encoder(
            [material], recipe(base, epochs=1, checkpointing=again), make_desk(tmp_path / name)
        )
    from safetensors.torch import load_file

    one, two = (load_file(tmp_path / name / "draft" / "model.safetensors") for name in "ab")
    assert all(np.allclose(one[name], two[name], atol=1e-5) for name in one)


@pytest.mark.slow
def test_minilm_learns_from_a_few_rows(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task")
    desk = make_desk(tmp_path)
    fitted = fit_encoder([make_material(task)], Recipe(method="encoder", batch=8), desk)
    assert fitted.trained.base == "minilm"
    write_trained(desk.draft, fitted.trained)
    engine = medtask.load_model(str(desk.draft))
    assert isinstance(engine, EncoderEngine) and isinstance(engine.reader, Classifier)
    assert [
        answer.value for answer in ask_draft(task, tmp_path, ["an old brain", "her knee hurts"])
    ] == ["brain", "knee"]
