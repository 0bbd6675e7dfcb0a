"""Hybrids: a mixture to the last digit, of the very models that the weights were fitted for."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import medtask
from medtask.engines.base import EngineInfo
from medtask.engines.fake import FakeEngine
from medtask.engines.hybrid import (
    HybridEngine,
    HybridMember,
    average_branch_scores,
    get_member_identity,
    load_hybrid,
    normalise_member_reference,
    save_hybrid,
)
from medtask.engines.load_options import LoadOptions
from medtask.engines.model_metadata import ModelMetadata, write_model_metadata
from medtask.errors import EngineError, InputError, UsageError
from medtask.records import Branch, BranchScores, Description, Fault, Option, Prompt, Scores
from medtask.training.linear import fit_linear
from medtask.training.recipe import Recipe
from support.small_trainings import (
    PARTS,
    TAGS,
    make_task,
    make_training_context,
    make_training_data,
)

LABEL_BRANCH = Branch("", PARTS, descriptions=tuple(map(Description, PARTS)))
PROMPTS = [
    Prompt(f"r{row}", (), (LABEL_BRANCH,), text)
    for row, text in enumerate(("MRI of the knee", "CT of the left wrist", "a fall"))
]
HYBRID_MODEL = ModelMetadata("hybrid", "label", PARTS)


def save_members(folder: Path, *members: HybridMember) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    save_hybrid(folder, members, HYBRID_MODEL)
    return folder


def make_fake_member(seed: int, weight: float) -> HybridMember:
    reference = f"fake:seed={seed}"
    return HybridMember(
        reference, get_member_identity(medtask.load_model(reference), reference), weight
    )


@pytest.fixture
def linear_folder(tmp_path: Path) -> Path:
    fit_linear(
        [make_training_data(make_task(tmp_path / "task"))],
        Recipe(method="linear"),
        make_training_context(tmp_path / "models" / "words"),
    )
    return (tmp_path / "models" / "words" / "draft").rename(tmp_path / "models" / "linear")


def test_every_probability_is_the_weighted_mean_of_the_members(
    linear_folder: Path, tmp_path: Path
) -> None:
    reference = normalise_member_reference(str(linear_folder))
    words = medtask.load_model(reference)
    folder = save_members(
        tmp_path / "h",
        make_fake_member(1, 0.2),
        make_fake_member(2, 0.3),
        HybridMember(reference, get_member_identity(words, reference), 0.5),
    )
    engine = medtask.load_model(str(folder))
    assert isinstance(engine, HybridEngine)
    members = [FakeEngine(seed=1), FakeEngine(seed=2), words]
    alone = [
        {result.record_id: result for result in member.score(PROMPTS) if isinstance(result, Scores)}
        for member in members
    ]
    found = list(engine.score(PROMPTS))
    assert [result.record_id for result in found] == ["r0", "r1", "r2"]
    for result in found:
        assert isinstance(result, Scores)
        parts = [one[result.record_id].branches[0] for one in alone]
        for index, logprob in enumerate(result.branches[0].logprobs):
            by_hand = sum(
                weight * math.exp(part.logprobs[index])
                for weight, part in zip((0.2, 0.3, 0.5), parts, strict=True)
            )
            assert math.exp(logprob) == pytest.approx(by_hand, abs=1e-12)
        off_sets = [part.off_set or 0.0 for part in parts]
        assert result.branches[0].off_set == pytest.approx(
            0.2 * off_sets[0] + 0.3 * off_sets[1] + 0.5 * off_sets[2]
        )
    (rest,) = engine.score(PROMPTS, cached=["r0", "r2"])
    assert isinstance(rest, Scores) and isinstance(found[1], Scores)
    assert (rest.record_id, rest.branches) == ("r1", found[1].branches)
    engine.close()


def test_bounds_are_weighted_and_unknown_values_stay_unknown() -> None:
    sure = BranchScores((0.0, -math.inf), off_set=0.4, slack=0.001)
    unsure = BranchScores((-1.0, -1.0), slack=0.01)
    mixed = average_branch_scores([sure, unsure], [0.25, 0.75])
    assert np.exp(mixed.logprobs) == pytest.approx([0.25 + 0.375, 0.375])
    assert (mixed.off_set, mixed.slack) == (pytest.approx(0.4), pytest.approx(0.00775))
    assert average_branch_scores([unsure, unsure], [0.5, 0.5]).off_set is None
    assert average_branch_scores([sure, sure], [0.5, 0.5]).logprobs == (0.0, -math.inf)
    broken = average_branch_scores([sure, BranchScores((math.nan, 0.0))], [0.5, 0.5])
    assert all(map(math.isnan, broken.logprobs))
    assert all(
        map(
            math.isnan,
            average_branch_scores([BranchScores((-math.inf, -math.inf))], [1.0]).logprobs,
        )
    )


def test_a_row_that_one_member_cannot_read_gets_no_half_of_an_answer() -> None:
    members = [FakeEngine(seed=1), FakeEngine(seed=2, too_long=["r1"])]
    found = list(HybridEngine(members, [0.5, 0.5], EngineInfo("hybrid", "both", {})).score(PROMPTS))
    assert [type(result) for result in found] == [Scores, Fault, Scores]
    assert isinstance(found[1], Fault)
    assert found[1].reason.endswith("(fake engine (no model: the answers mean nothing))")


@pytest.mark.parametrize("kind", ["label", "labels"])
def test_it_answers_whole_tasks(kind: str, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", kind, PARTS if kind == "label" else TAGS)
    rows = [{"text": prompt.text} for prompt in PROMPTS]
    mixed = list(
        medtask.predict(
            task,
            medtask.load_model(
                str(
                    save_members(
                        tmp_path / "h", make_fake_member(1, 0.25), make_fake_member(2, 0.75)
                    )
                )
            ),
            rows,
        )
    )
    first, second = (list(medtask.predict(task, FakeEngine(seed=seed), rows)) for seed in (1, 2))
    for result, one, other in zip(mixed, first, second, strict=True):
        assert result.probabilities and one.probabilities and other.probabilities
        expected = {
            name: 0.25 * one.probabilities[name] + 0.75 * other.probabilities[name]
            for name in result.probabilities
        }
        assert result.probabilities == pytest.approx(expected, abs=1e-12)


def test_likelihoods_of_whole_texts_are_no_probabilities() -> None:
    engine = HybridEngine(
        [FakeEngine(), FakeEngine(seed=1)], [0.5, 0.5], EngineInfo("hybrid", "both", {})
    )
    options = (Option("A", "narrow airways"), Option("B", "a virus"))
    letters = Prompt("r", (), (Branch("", ("A", "B"), weigh="text"),), "asthma?", options)
    assert isinstance(next(engine.score([letters])), Scores)
    texts = Prompt(
        "r", (), (Branch("", ("narrow airways", "a virus"), weigh="text"),), "asthma?", options
    )
    with pytest.raises(EngineError, match="`readout: text` needs") as refused:
        next(engine.score([texts]))
    assert refused.value.fix == "set `readout: letter`"


def test_a_member_that_is_another_model_by_now_is_named(
    linear_folder: Path, tmp_path: Path
) -> None:
    reference = normalise_member_reference(str(linear_folder))
    member = HybridMember(
        reference, get_member_identity(medtask.load_model(reference), reference), 0.5
    )
    folder = save_members(tmp_path / "h", member, make_fake_member(1, 0.5))
    load_hybrid(str(folder)).close()
    write_model_metadata(
        linear_folder, ModelMetadata("linear", "label", PARTS, base="another training")
    )
    with pytest.raises(
        InputError,
        match=r"is not the model for which the weights of .*h were fitted: its contract is",
    ) as refused:
        load_hybrid(str(folder))
    assert "train the hybrid again" in refused.value.fix


def test_it_finds_its_members_where_they_were_and_beside_it_where_both_were_moved(
    linear_folder: Path, tmp_path: Path
) -> None:
    reference = normalise_member_reference(str(linear_folder))
    assert Path(reference).is_absolute()
    member = HybridMember(
        reference, get_member_identity(medtask.load_model(reference), reference), 0.5
    )
    save_members(tmp_path / "models" / "h", member, make_fake_member(1, 0.5))
    found = list(load_hybrid(str(tmp_path / "models" / "h")).score(PROMPTS))
    (tmp_path / "models").rename(tmp_path / "elsewhere")
    moved = [
        result
        for result in load_hybrid(str(tmp_path / "elsewhere" / "h")).score(PROMPTS)
        if isinstance(result, Scores)
    ]
    assert [result.branches for result in moved] == [
        result.branches for result in found if isinstance(result, Scores)
    ]


def test_folders_are_named_absolutely_and_models_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sentences").mkdir()
    (tmp_path / "minilm").mkdir()
    assert normalise_member_reference("sentences") == str(tmp_path / "sentences")
    assert normalise_member_reference("encoder:sentences") == f"encoder:{tmp_path / 'sentences'}"
    for reference in (
        "minilm",
        "fake:seed=1",
        "org/name@main",
        "ollama:llama3.2:1b",
        "http://localhost:8000/v1#m",
    ):
        assert normalise_member_reference(reference) == reference


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"members": [{"reference": "fake:"}]}',
        '{"members": []}',
        '{"members": [{"reference": "fake:", "identity": {}, "weight": 0.7}]}',
        (
            '{"members": [{"reference": "fake:", "identity": {}, "weight": 2}, {"reference": '
            '"fake:", "identity": {}, "weight": -1}]}'
        ),
    ],
)
def test_an_unusable_list_of_members_is_refused(content: str, tmp_path: Path) -> None:
    folder = save_members(tmp_path / "h", make_fake_member(1, 0.5), make_fake_member(2, 0.5))
    (folder / "hybrid.json").write_text(content)
    with pytest.raises(InputError, match="is not the file that training wrote"):
        load_hybrid(str(folder))
    write_model_metadata(folder, HYBRID_MODEL)
    with pytest.raises(InputError, match="cannot be read"):
        load_hybrid(str(folder))


def test_options_go_to_the_members_that_have_a_use_for_them(
    linear_folder: Path, tmp_path: Path
) -> None:
    reference = normalise_member_reference(str(linear_folder))
    member = HybridMember(
        reference, get_member_identity(medtask.load_model(reference), reference), 1.0
    )
    alone = save_members(tmp_path / "alone", member)
    with pytest.raises(UsageError, match="no model of this hybrid supports --device"):
        medtask.load_model(str(alone), device="cpu")
    both = save_members(
        tmp_path / "both", HybridMember(reference, member.identity, 0.5), make_fake_member(1, 0.5)
    )
    medtask.load_model(str(both), device="cpu").close()


def test_the_manifest_can_report_what_it_is_made_of_and_where_records_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_members(tmp_path / "h", make_fake_member(1, 0.25), make_fake_member(2, 0.75))
    info = load_hybrid(str(folder)).info
    assert info.title == f"{folder}, 25% fake:seed=1 + 75% fake:seed=2"
    assert info.identity["contract"]
    assert not info.remote
    assert json.loads(json.dumps(info.details))["members"][1]["weight"] == 0.75

    def load(reference: str, options: LoadOptions) -> FakeEngine:
        engine = FakeEngine(seed=int(reference[-1]))
        engine.info = EngineInfo(
            "http",
            "far away",
            engine.info.identity,
            destinations={f"https://far/{reference[-1]}": ("1.2.3.4",)},
        )
        return engine

    monkeypatch.setattr("medtask.engines.hybrid.load_model", load)
    info = load_hybrid(str(folder)).info
    assert info.remote
    assert info.destinations == {"https://far/1": ("1.2.3.4",), "https://far/2": ("1.2.3.4",)}
