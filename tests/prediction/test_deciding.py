from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.errors import EngineError
from medtask.prediction.deciding import apply_thresholds, decide_answer
from medtask.prediction.engine_output import EngineOutput
from medtask.prediction.kinds.labels import choose_labels
from medtask.records import Answer, Branch, BranchScores, Fault, Option, Prompt, Scores, Status
from medtask.tasks.task import Fields, Label, MultiLabel, MultipleChoice, Review, Task

LABELS = tuple(Label(name, "", name) for name in ("curative", "palliative", "staging"))
TASK = Task(
    "purpose",
    "Which purpose?",
    "{{ text }}",
    labels=LABELS,
    review=Review(confidence_below=0.5, off_set_above=0.9),
)
ABSTAINING = Task(
    "purpose",
    "Which purpose?",
    "{{ text }}",
    labels=LABELS,
    abstain=Label("cannot tell", "", "cannot tell"),
)


def make_output(*branches: BranchScores, task: Task = TASK) -> EngineOutput:
    """What an engine said to a prompt of the task: scores of these branches."""
    asked = Prompt(
        "r", (), (Branch("", tuple(label.verbalizer for label in task.candidates)),), "a text"
    )
    return EngineOutput(asked).add_output(Scores("r", branches, tokens_read=7, tokens_reused=9))


def decide_label(*shares: float, task: Task = TASK, off_set: float | None = None) -> Answer:
    logprobs = tuple(math.log(share) if share else -math.inf for share in shares)
    return decide_answer(task, "r", make_output(BranchScores(logprobs, off_set), task=task))


def test_the_likeliest_label_is_the_answer() -> None:
    answer = decide_label(0.2, 0.7, 0.1)
    assert (answer.status, answer.value, answer.reason) == (Status.OK, "palliative", None)
    assert answer.confidence == pytest.approx(0.7)
    assert answer.probabilities == pytest.approx(
        {"curative": 0.2, "palliative": 0.7, "staging": 0.1}
    )
    assert (answer.tokens_read, answer.tokens_reused) == (7, 9)


def test_on_a_tie_the_label_that_comes_first_wins() -> None:
    assert decide_label(0.1, 0.45, 0.45).value == "palliative"


def test_a_label_may_be_impossible() -> None:
    answer = decide_label(0.0, 1.0, 0.0)
    assert (answer.value, answer.confidence) == ("palliative", 1.0)


@pytest.mark.parametrize(
    "bad",
    [
        (math.nan,) * 3,
        (-1.0, math.nan, -2.0),
        (math.nan, -1.0, -1.0),
        (-math.inf,) * 3,
        (math.inf, -1.0, -1.0),
    ],
)
def test_scores_that_are_no_numbers_fail_the_row_and_leave_no_value(bad: tuple[float, ...]) -> None:
    answer = decide_answer(TASK, "r", make_output(BranchScores(bad)))
    assert answer.status is Status.FAILED
    assert (answer.value, answer.confidence, answer.probabilities) == (None, None, None)
    assert answer.reason == "the model gave no usable number (NaN or infinite)"


@pytest.mark.parametrize(
    "branch",
    [
        BranchScores((0.0, -1.0, -1.0), off_set=math.nan),
        BranchScores((0.0, -1.0, -1.0), slack=math.inf),
    ],
)
def test_a_bound_that_is_no_number_fails_the_row(branch: BranchScores) -> None:
    assert decide_answer(TASK, "r", make_output(branch)).status is Status.FAILED


def test_a_choice_without_probabilities_has_a_value_and_no_confidence() -> None:
    chosen = BranchScores((-math.inf, 0.0, -math.inf), choice_only=True)
    answer = decide_answer(TASK, "r", make_output(chosen))
    assert (answer.status, answer.value, answer.confidence, answer.probabilities) == (
        Status.OK,
        "palliative",
        None,
        None,
    )
    abstained = BranchScores((-math.inf, -math.inf, -math.inf, 0.0), choice_only=True)
    answer = decide_answer(ABSTAINING, "r", make_output(abstained, task=ABSTAINING))
    assert (answer.status, answer.value, answer.reason) == (
        Status.ABSTAINED,
        None,
        "the model chose to abstain",
    )


def test_probabilities_that_are_known_too_loosely_are_not_reported() -> None:
    loose = decide_answer(
        TASK,
        "r",
        make_output(
            BranchScores((math.log(0.9), math.log(0.1), -math.inf), off_set=0.99, slack=0.4)
        ),
    )
    assert (loose.status, loose.value, loose.confidence, loose.probabilities, loose.slack) == (
        Status.OK,
        "curative",
        None,
        None,
        0.4,
    )
    assert loose.reason == "no probability: the server's numbers leave 0.40 of it open"
    close = decide_answer(
        TASK, "r", make_output(BranchScores((math.log(0.9), math.log(0.1), -math.inf), slack=0.02))
    )
    assert close.confidence == pytest.approx(0.9)


def test_low_confidence_goes_to_review_with_the_figures() -> None:
    answer = decide_label(0.3, 0.43, 0.27)
    assert (answer.status, answer.value) == (Status.REVIEW, "palliative")
    assert answer.reason == "confidence 0.43 is below 0.5"


def test_a_figure_just_under_its_bound_is_not_rounded_onto_it() -> None:
    assert decide_label(0.4999, 0.2, 0.3001).reason == "confidence 0.4999 is below 0.5"


def test_probability_outside_the_set_goes_to_review_with_the_figures() -> None:
    assert decide_label(0.9, 0.05, 0.05, off_set=0.9).status is Status.OK
    answer = decide_label(0.9, 0.05, 0.05, off_set=0.97)
    assert (answer.status, answer.off_set) == (Status.REVIEW, 0.97)
    assert answer.reason == "0.97 of the probability lay outside the labels, more than 0.9"


def test_both_warnings_are_reported() -> None:
    assert decide_label(0.4, 0.3, 0.3, off_set=0.97).reason == (
        "confidence 0.40 is below 0.5; 0.97 of the probability lay outside the labels, more than "
        "0.9"
    )


def test_an_abstention_has_a_status_and_no_value() -> None:
    answer = decide_label(0.1, 0.1, 0.1, 0.7, task=ABSTAINING)
    assert (answer.status, answer.value, answer.confidence) == (Status.ABSTAINED, None, None)
    assert answer.probabilities is not None
    assert answer.probabilities["cannot tell"] == pytest.approx(0.7)
    assert decide_label(0.7, 0.1, 0.1, 0.1, task=ABSTAINING).value == "curative"


def test_a_fault_becomes_an_answer_with_its_status_and_reason() -> None:
    assert decide_answer(TASK, "r", Fault("r", Status.TOO_LONG, "9,000 tokens")) == Answer(
        "r", Status.TOO_LONG, reason="9,000 tokens"
    )


@pytest.mark.parametrize(
    "branches", [(BranchScores((0.0,)),), (BranchScores((0.0, -1.0, -1.0)),) * 2]
)
def test_scores_for_other_candidates_than_asked_are_refused(
    branches: tuple[BranchScores, ...],
) -> None:
    with pytest.raises(EngineError):
        decide_answer(TASK, "r", make_output(*branches))


@settings(deadline=None)
@given(st.tuples(*[st.floats()] * 4), st.none() | st.floats(0, 1))
def test_whatever_the_numbers_the_value_is_a_label_or_nothing(
    logprobs: tuple[float, ...], off_set: float | None
) -> None:
    answer = decide_answer(
        ABSTAINING, "r", make_output(BranchScores(logprobs, off_set), task=ABSTAINING)
    )
    if answer.value is None:
        assert answer.confidence is None
        assert answer.status in (Status.FAILED, Status.ABSTAINED)
    else:
        assert answer.value in {label.name for label in LABELS}
        assert answer.status in (Status.OK, Status.REVIEW)
    if answer.probabilities is not None:
        assert math.fsum(answer.probabilities.values()) == pytest.approx(1)
        assert list(answer.probabilities) == [label.name for label in ABSTAINING.candidates]
        assert answer.value is None or answer.confidence == max(answer.probabilities.values())


# Several labels


NEVER_REVIEWED = Review(confidence_below=0.0)


def decide_labels(form: MultiLabel, *shares: float, review: Review = NEVER_REVIEWED) -> Answer:
    task = Task("domains", "Which?", "{{ text }}", form, LABELS, review=review)
    branches = tuple(BranchScores((math.log(share), math.log(1 - share)), 0.5) for share in shares)
    asked = Prompt(
        "r", (), tuple(Branch(f"{label.name}: ", ("yes", "no")) for label in LABELS), "a text"
    )
    return decide_answer(task, "r", EngineOutput(asked).add_output(Scores("r", branches)))


@pytest.mark.parametrize(
    ("form", "shares", "value"),
    [
        (MultiLabel(), (0.6, 0.4, 0.9), ("curative", "staging")),
        (MultiLabel(), (0.1, 0.2, 0.3), ()),
        (MultiLabel(at_least_one=True), (0.1, 0.3, 0.2), ("palliative",)),
        (
            MultiLabel(at_least_one=True, thresholds={"palliative": 0.9}),
            (0.1, 0.3, 0.2),
            ("staging",),
        ),
        (MultiLabel(at_most=1), (0.6, 0.4, 0.9), ("staging",)),
        (MultiLabel(at_most=2), (0.9, 0.9, 0.9), ("curative", "palliative")),
        (
            MultiLabel(thresholds={"curative": 0.6, "palliative": 0.4}),
            (0.59, 0.41, 0.5),
            ("palliative", "staging"),
        ),
    ],
)
def test_labels_apply_from_their_thresholds_on(
    form: MultiLabel, shares: tuple[float, ...], value: tuple[str, ...]
) -> None:
    answer = decide_labels(form, *shares)
    assert answer.value == value
    assert answer.probabilities == pytest.approx(
        dict(zip(("curative", "palliative", "staging"), shares, strict=True))
    )


def test_the_confidence_of_labels_is_the_chance_that_all_of_them_are_right() -> None:
    assert decide_labels(MultiLabel(), 0.6, 0.4, 0.9).confidence == pytest.approx(0.6 * 0.6 * 0.9)
    answer = decide_labels(MultiLabel(), 0.6, 0.4, 0.9, review=Review(confidence_below=0.5))
    assert (answer.status, answer.reason) == (Status.REVIEW, "confidence 0.32 is below 0.5")


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=6), st.booleans(), st.none() | st.integers(1, 3)
)
def test_labels_keep_to_their_limits(
    shares: list[float], at_least_one: bool, at_most: int | None
) -> None:
    named = {f"label {index}": share for index, share in enumerate(shares)}
    chosen = choose_labels(MultiLabel(at_least_one, at_most), named)
    assert list(chosen) == [name for name in named if name in chosen]
    assert len(chosen) <= (at_most or len(named))
    assert chosen or not at_least_one


def test_fitted_thresholds_decide_an_answer_anew() -> None:
    task = Task("domains", "Which?", "{{ text }}", MultiLabel(fit="f1"), LABELS)
    answer = decide_labels(MultiLabel(), 0.6, 0.4, 0.9)
    anew = apply_thresholds(task, answer, {"curative": 0.7, "palliative": 0.3, "staging": 0.5})
    assert anew.value == ("palliative", "staging")
    assert anew.confidence == pytest.approx(0.4 * 0.4 * 0.9)
    noted = replace(
        answer,
        status=Status.REVIEW,
        confidence=0.3,
        reason="confidence 0.30 is below 0.5; read in 5 parts",
    )
    anew = apply_thresholds(task, noted, {"curative": 0.7, "palliative": 0.3, "staging": 0.5})
    assert anew.reason == "confidence 0.14 is below 0.5; read in 5 parts"
    failed = Answer("r", Status.FAILED)
    assert apply_thresholds(task, failed, {}) is failed


# Options of the row


OPTIONS = (Option("A", "no"), Option("B", "yes"), Option("D", "a much longer text"))


def decide_choice(form: MultipleChoice, *branches: tuple[float, ...]) -> Answer:
    task = Task("cases", "Which?", "{{ text }}", form)
    tails = ("yes", "no") if form.several else ("A", "B", "D")
    asked = Prompt(
        "r", (), tuple(Branch("", tails, weigh="text") for _ in branches), "a text", OPTIONS
    )
    return decide_answer(
        task,
        "r",
        EngineOutput(asked).add_output(
            Scores("r", tuple(BranchScores(logprobs) for logprobs in branches))
        ),
    )


def test_letters_are_weighed_against_each_other() -> None:
    answer = decide_choice(
        MultipleChoice(("options",)), (math.log(0.01), math.log(0.02), math.log(0.01))
    )
    assert (answer.value, answer.confidence) == ("B", pytest.approx(0.5))
    assert answer.probabilities == pytest.approx({"A": 0.25, "B": 0.5, "D": 0.25})


def test_over_all_orders_a_preference_for_a_place_cancels_out() -> None:
    always_first = (math.log(0.8), math.log(0.1), math.log(0.1))
    answer = decide_choice(
        MultipleChoice(("options",), debias="permute"), always_first, always_first, always_first
    )
    assert answer.probabilities == pytest.approx(dict.fromkeys("ABD", 1 / 3))


def test_over_all_orders_a_preference_for_an_option_stays() -> None:
    # The option "B" stands at place 1, then 0, then 2 of the three orders.
    orders = [
        tuple(math.log(0.8 if index == at else 0.1) for index in range(3)) for at in (1, 0, 2)
    ]
    answer = decide_choice(MultipleChoice(("options",), debias="permute"), *orders)
    assert answer.probabilities == pytest.approx({"A": 0.1, "B": 0.8, "D": 0.1})


def test_texts_are_weighed_by_their_length_or_as_they_are() -> None:
    logprobs = (-4.0, -4.0, -9.0)  # per character -2, -1.33 and -0.5
    assert (
        decide_choice(MultipleChoice(("options",), readout="text", normalise=True), logprobs).value
        == "D"
    )
    plain = decide_choice(MultipleChoice(("options",), readout="text", normalise=False), logprobs)
    assert (plain.value, plain.confidence) == ("A", pytest.approx(1 / (2 + math.exp(-5))))


def test_several_options_are_decided_each_by_itself() -> None:
    yes, no = (math.log(0.9), math.log(0.1)), (math.log(0.2), math.log(0.8))
    answer = decide_choice(MultipleChoice(("options",), several=True), yes, no, yes)
    assert (answer.value, answer.probabilities) == (
        ("A", "D"),
        pytest.approx({"A": 0.9, "B": 0.2, "D": 0.9}),
    )


@pytest.mark.parametrize(
    ("quote", "status", "quotes", "reason"),
    [
        ("left flank", Status.OK, ["side"], None),
        ("right flank", Status.REVIEW, [], "the quote of side is not in the record"),
    ],
)
def test_a_quote_that_is_not_in_the_record_is_a_reason_for_review(
    quote: str, status: Status, quotes: list[str], reason: str | None
) -> None:
    schema = {"type": "object", "properties": {"side": {}, "side_quote": {"quote": True}}}
    task = Task("side", "?", "{{ text }}", answer_spec=Fields(schema, quoted=(("side",),)))
    written = f'{{"side": "left", "side_quote": "{quote}"}}'
    output = EngineOutput(Prompt("r", (), (), "Pain in the left flank."), text=written)
    answer = decide_answer(task, "r", output)
    assert (answer.status, answer.value, answer.reason) == (status, {"side": "left"}, reason)
    assert list(answer.quotes or {}) == quotes
