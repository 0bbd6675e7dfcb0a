"""Linear models: what is loaded says what scikit-learn's pipeline said, and nothing else is
loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_union

import medtask
from medtask.engines.linear import LinearEngine, load_linear, save_linear
from medtask.engines.model_metadata import ModelMetadata, write_model_metadata
from medtask.errors import EngineError, InputError, UsageError
from medtask.records import Branch, Description, Prompt, Scores, Status
from medtask.unicode_text import split_terms
from support.small_trainings import PARTS, TAGS, TEXTS

GOLD = [next(part for part in PARTS if part in text) for text in TEXTS]
LABEL_MATRIX = np.array(
    [[part in text for part in PARTS[:2]] + ["fall" in text] for text in TEXTS], dtype=int
)
NEW_TEXTS = [
    "CT of the knee",
    "a fall on the right wrist and the knee",
    "nothing of it at all",
    "",
    "ÉCRAN",
]

word_vectorizer = TfidfVectorizer(sublinear_tf=True, max_features=40, ngram_range=(1, 2))
character_vectorizer = TfidfVectorizer(
    analyzer="char_wb",
    ngram_range=(2, 3),
    use_idf=False,
    norm=None,
    strip_accents="unicode",
    stop_words=None,
)
plain_vectorizer = TfidfVectorizer(
    stop_words=["of", "the"],
    lowercase=False,
    token_pattern=r"\w+",
    binary=True,
    norm="l1",
    smooth_idf=False,
)
tokenizing_vectorizer = TfidfVectorizer(tokenizer=split_terms, token_pattern=None)

SINGLE_CLASSIFIER = LogisticRegression(C=10)
PER_LABEL_CLASSIFIER = OneVsRestClassifier(LogisticRegression(C=10, solver="liblinear"))


def score_texts(
    engine: LinearEngine,
    texts: Sequence[str],
    branches: tuple[Branch, ...],
    cached: Sequence[str] = (),
) -> list[Scores]:
    found = {}
    for result in engine.score(
        [Prompt(str(row), (), branches, text) for row, text in enumerate(texts)], cached
    ):
        assert isinstance(result, Scores)
        found[result.record_id] = result
    return [found[name] for name in sorted(found, key=int)]


def make_label_branch(names: Sequence[str]) -> tuple[Branch, ...]:
    return (
        Branch(
            "", tuple(f" {name}" for name in names), descriptions=tuple(map(Description, names))
        ),
    )


def make_yes_no_branches(names: Sequence[str]) -> tuple[Branch, ...]:
    return tuple(
        Branch(f"{name}: ", ("yes", "no"), descriptions=(Description(name),)) for name in names
    )


@pytest.mark.parametrize(
    "features",
    [
        [word_vectorizer],
        [character_vectorizer],
        [plain_vectorizer],
        [tokenizing_vectorizer],
        [word_vectorizer, character_vectorizer],
    ],
    ids=["words", "letters", "plain", "tokenizer", "both"],
)
@pytest.mark.parametrize(
    "classifier", [SINGLE_CLASSIFIER, PER_LABEL_CLASSIFIER], ids=["together", "each"]
)
@pytest.mark.parametrize("count", [3, 2])
def test_probabilities_are_those_of_the_pipeline_that_was_saved(
    features: list[Any], classifier: Any, count: int, tmp_path: Path
) -> None:
    texts, gold = zip(
        *[pair for pair in zip(TEXTS, GOLD, strict=True) if pair[1] in PARTS[:count]], strict=True
    )
    union = make_union(*features).fit(texts)
    classifier.fit(union.transform(texts), gold)
    fitted = [part for _, part in union.transformer_list]
    save_linear(tmp_path / "m", fitted, classifier, ModelMetadata("linear", "label", PARTS[:count]))
    scores = score_texts(
        load_linear(str(tmp_path / "m")), NEW_TEXTS, make_label_branch(PARTS[:count])
    )
    expected = classifier.predict_proba(union.transform(NEW_TEXTS))[
        :, [list(classifier.classes_).index(part) for part in PARTS[:count]]
    ]
    assert np.exp([result.branches[0].logprobs for result in scores]) == pytest.approx(
        expected, abs=1e-9
    )
    assert all(result.branches[0].off_set == pytest.approx(0, abs=1e-12) for result in scores)


@pytest.fixture
def multi_label_folder(tmp_path: Path) -> Path:
    PER_LABEL_CLASSIFIER.fit(word_vectorizer.fit_transform(TEXTS), LABEL_MATRIX)
    save_linear(
        tmp_path / "tags",
        word_vectorizer,
        PER_LABEL_CLASSIFIER,
        ModelMetadata("linear", "labels", TAGS, phi="no"),
    )
    return tmp_path / "tags"


@pytest.fixture
def single_label_folder(tmp_path: Path) -> Path:
    SINGLE_CLASSIFIER.fit(word_vectorizer.fit_transform(TEXTS), GOLD)
    save_linear(
        tmp_path / "parts",
        word_vectorizer,
        SINGLE_CLASSIFIER,
        ModelMetadata("linear", "label", PARTS, abstain="unclear"),
    )
    return tmp_path / "parts"


def test_each_of_several_labels_has_the_probability_of_its_own_classifier(
    multi_label_folder: Path,
) -> None:
    scores = score_texts(
        load_linear(str(multi_label_folder)), NEW_TEXTS, make_yes_no_branches(TAGS)
    )
    found = np.exp([[branch.logprobs for branch in result.branches] for result in scores])
    assert found[..., 0] == pytest.approx(
        PER_LABEL_CLASSIFIER.predict_proba(word_vectorizer.transform(NEW_TEXTS)), abs=1e-9
    )
    assert found.sum(axis=-1) == pytest.approx(1, abs=1e-12)
    (one,) = score_texts(
        load_linear(str(multi_label_folder)), NEW_TEXTS[:1], make_yes_no_branches(["fall"])
    )
    assert one.branches == (scores[0].branches[2],)


def test_labels_that_are_not_asked_about_are_left_out_and_counted(
    single_label_folder: Path,
) -> None:
    engine = load_linear(str(single_label_folder))
    (full,), (some,) = (
        score_texts(engine, NEW_TEXTS[:1], make_label_branch(PARTS)),
        score_texts(engine, NEW_TEXTS[:1], make_label_branch(["wrist", "knee", "unclear"])),
    )
    knee, wrist, brain = np.exp(full.branches[0].logprobs)
    assert np.exp(some.branches[0].logprobs) == pytest.approx(
        [wrist / (knee + wrist), knee / (knee + wrist), 0]
    )
    assert some.branches[0].off_set == pytest.approx(brain)


def test_known_rows_are_left_out_and_change_nothing(single_label_folder: Path) -> None:
    engine = load_linear(str(single_label_folder))
    full = score_texts(engine, NEW_TEXTS, make_label_branch(PARTS))
    rest = score_texts(engine, NEW_TEXTS, make_label_branch(PARTS), cached=["0", "3"])
    assert [result.branches for result in rest] == [
        result.branches for result in full if result.record_id not in {"0", "3"}
    ]


@pytest.mark.parametrize(
    ("branches", "error", "message"),
    [
        (
            make_label_branch(["knee", "elbow", "hip"]),
            InputError,
            'was not trained on "elbow", "hip"; it knows "knee", "wrist", "brain"',
        ),
        (
            make_yes_no_branches(["knee"]),
            InputError,
            "trained for tasks of kind 'label'; this one has the kind 'labels'",
        ),
        (
            (Branch("", ("a", "b")),),
            EngineError,
            "does not know what the candidates of this question mean",
        ),
    ],
)
def test_what_the_model_was_not_trained_for_is_refused(
    single_label_folder: Path, branches: tuple[Branch, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        score_texts(load_linear(str(single_label_folder)), NEW_TEXTS, branches)


def test_it_answers_a_task_of_each_kind_and_refuses_the_others(
    single_label_folder: Path, multi_label_folder: Path, tmp_path: Path
) -> None:
    def answer(model: Path, rows: list[dict[str, object]], **form: Any) -> list[medtask.Answer]:
        (tmp_path / "task.json").write_text(
            json.dumps({"instruction": "Decide.", "input": "{{ text }}", "answer": form})
        )
        return list(medtask.predict(medtask.load_task(tmp_path), load_linear(str(model)), rows))

    rows: list[dict[str, object]] = [
        {"text": text} for text in ("MRI of the left wrist after a fall", "CT of the brain")
    ]
    found = answer(
        single_label_folder,
        rows,
        kind="label",
        labels=["brain", "wrist", "knee"],
        abstain="unclear",
    )
    assert [result.value for result in found] == ["wrist", "brain"]
    assert found[0].status is Status.OK
    assert found[0].probabilities is not None
    assert found[0].probabilities["unclear"] == 0
    assert [
        result.value
        for result in answer(
            multi_label_folder, rows, kind="labels", labels=["fall", "wrist", "knee"]
        )
    ] == [("fall", "wrist"), ()]
    options: list[dict[str, object]] = [{"text": "where?", "options": ["knee", "secret"]}]
    with pytest.raises(EngineError, match="questions with their own options") as refused:
        answer(single_label_folder, options, kind="choice", options="options")
    assert "secret" not in str(refused.value)
    with pytest.raises(EngineError, match="cannot write text"):
        answer(single_label_folder, rows, kind="answer")


def test_it_shows_what_it_reads(single_label_folder: Path) -> None:
    engine = load_linear(str(single_label_folder))
    rendering = engine.render(
        Prompt("r", (), make_label_branch(["knee", "unclear"]), "CT of the knee")
    )
    assert rendering.prompt == "CT of the knee"
    assert rendering.candidates == ("knee", "")


@pytest.mark.parametrize(
    "option", [{"adapter": "a"}, {"quantize": "4bit"}, {"device": "cuda"}, {"dtype": "float16"}]
)
def test_options_that_have_no_meaning_are_refused(
    single_label_folder: Path, option: dict[str, str]
) -> None:
    with pytest.raises(UsageError, match="the linear engine does not support"):
        medtask.load_model(str(single_label_folder), **option)
    assert medtask.load_model(
        str(single_label_folder), device="auto", memory=None
    ).caps.batch_invariant


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda words: words["features"][0]["settings"].update(input="filename"), "cannot be read"),
        (
            lambda words: words["features"][0]["settings"].update(analyzer="sentence"),
            "cannot be read",
        ),
        (lambda words: words["features"][0]["settings"].update(tokenizer="eval"), "cannot be read"),
        (
            lambda words: words["features"][0]["settings"].update(token_pattern="(a+)+$"),
            "cannot be read",
        ),
        (
            lambda words: words["features"][0]["settings"].update(ngram_range=[1, 10**6]),
            "cannot be read",
        ),
        (lambda words: words["features"][0]["terms"].append("more"), "cannot be read"),
        (
            lambda words: words["features"][0]["terms"].append(words["features"][0]["terms"][0]),
            "cannot be read",
        ),
        (lambda words: words.update(link="each"), "does not fit its labels and terms"),
        (lambda words: words.update(features=[]), "cannot be read|does not fit"),
    ],
)
def test_a_model_that_is_not_what_it_should_be_is_refused(
    single_label_folder: Path, change: Any, message: str
) -> None:
    path = single_label_folder / "linear.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="is not the file that training wrote"):
        load_linear(str(single_label_folder))
    write_model_metadata(single_label_folder, ModelMetadata("linear", "label", PARTS))
    with pytest.raises(InputError, match=message):
        load_linear(str(single_label_folder))


def test_pickles_are_not_read(single_label_folder: Path) -> None:
    class UnpicklingTrap:
        def __reduce__(self) -> Any:
            return (Path.touch, (single_label_folder / "ran",))

    np.savez(
        single_label_folder / "linear.npz",
        weights=np.array([UnpicklingTrap()], dtype=object),
        offsets=np.zeros(3),
    )
    write_model_metadata(single_label_folder, ModelMetadata("linear", "label", PARTS))
    with pytest.raises(InputError, match="cannot be read"):
        load_linear(str(single_label_folder))
    assert not (single_label_folder / "ran").exists()


@pytest.mark.parametrize(
    ("vectorizer", "classifier", "trained", "message"),
    [
        (
            TfidfVectorizer(analyzer=str.split),
            SINGLE_CLASSIFIER,
            ModelMetadata("linear", "label", PARTS),
            "a model cannot keep",
        ),
        (
            TfidfVectorizer(token_pattern=r"(\w+\s?)+"),
            SINGLE_CLASSIFIER,
            ModelMetadata("linear", "label", PARTS),
            "a model cannot keep",
        ),
        (
            TfidfVectorizer(tokenizer=str.split, token_pattern=None),
            SINGLE_CLASSIFIER,
            ModelMetadata("linear", "label", PARTS),
            "a model cannot keep",
        ),
        (
            word_vectorizer,
            SINGLE_CLASSIFIER,
            ModelMetadata("linear", "label", ("knee", "wrist", "elbow")),
            'labels of the metadata: "brain", "elbow"',
        ),
        (
            word_vectorizer,
            SINGLE_CLASSIFIER,
            ModelMetadata("linear", "labels", PARTS),
            "needs one classifier per label",
        ),
        (
            word_vectorizer,
            PER_LABEL_CLASSIFIER,
            ModelMetadata("linear", "labels", PARTS),
            "needs one classifier per label",
        ),
        (
            character_vectorizer,
            SINGLE_CLASSIFIER,
            ModelMetadata("linear", "label", PARTS),
            "weights a label for",
        ),
    ],
)
def test_what_cannot_be_kept_is_not_saved(
    vectorizer: Any, classifier: Any, trained: ModelMetadata, message: str, tmp_path: Path
) -> None:
    fitted = vectorizer.fit(TEXTS)
    classifier.fit(
        (word_vectorizer.fit(TEXTS) if vectorizer is character_vectorizer else fitted).transform(
            TEXTS
        ),
        GOLD,
    )
    with pytest.raises(InputError, match=message):
        save_linear(tmp_path / "m", vectorizer, classifier, trained)
    assert not (tmp_path / "m").exists()


def test_a_label_without_examples_is_reported(tmp_path: Path) -> None:
    table = LABEL_MATRIX.copy()
    table[:, 2] = 0
    with pytest.warns(UserWarning, match="not 2 is present|Label"):
        PER_LABEL_CLASSIFIER.fit(word_vectorizer.fit_transform(TEXTS), table)
    with pytest.raises(InputError, match="a label has no example"):
        save_linear(
            tmp_path / "m",
            word_vectorizer,
            PER_LABEL_CLASSIFIER,
            ModelMetadata("linear", "labels", TAGS),
        )
