"""Answers of servers that cannot be constrained to a set: which of them name one choice."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.engines.http.free_answers import find_choice
from medtask.records import LETTERS, Branch, Description

ORGANS = ("Spleen", "Kidney (left)", "Pancreas", "None of these")
LETTER_BRANCH = Branch(
    "", tuple("ABCD"), weigh="text", descriptions=tuple(map(Description, ORGANS))
)
LABEL_BRANCH = Branch("", ("CT Brain", "CT Brain/Neck", "MRI"))
# {0} is the choice.
DECORATIONS = (
    "{0}",
    " {0}\n",
    "{0}.",
    "{0})",
    "{0}:",
    "({0})",
    "[{0}]",
    "{{{0}}}",
    "<{0}>",
    "*{0}*",
    "**{0}**",
    "**{0}.**",
    "__{0}__",
    "`{0}`",
    '"{0}"',
    "“{0}”",
    "«{0}»",
    "- {0}",
    "* {0}",
    "> {0}",
    "### {0}",
    "${0}$",
    "$${0}$$",
    r"\({0}\)",
    r"\boxed{{{0}}}",
    r"$\boxed{{{0}}}$",
    r"\[\boxed{{\text{{{0}}}}}\]",
    r"\text{{{0}}}",
    "```\n{0}\n```",
    "```text\n{0}\n```",
    "<answer>{0}</answer>",
    "<think>Let me see.</think>\n\n{0}",
    "Answer: {0}",
    "answer:{0}",
    "ANSWER: {0}",
    "Answer: ({0}).",
    "**Answer:** {0}",
    "**Answer: {0}**",
    "### Answer\n{0}",
    "Answer - {0}",
    "The answer is {0}.",
    "The answer is: {0}",
    "So the answer is ({0}).",
    "The correct answer is **{0}**.",
    "The most likely answer is {0}",
    "The best answer is option {0}.",
    "Final answer: $\\boxed{{{0}}}$",
    "Option {0}",
    "Option {0} is correct.",
    "{0} is the correct answer.",
    "I would choose {0}.",
    "It is {0}.",
    "Ans. {0}",
    "I think that the answer is {0}",
    "Selected option: {0}",
    "The final answer is ${0}$. I hope it is correct.",
    "Antwort: {0}",
    "Réponse : {0}",
    "La respuesta correcta es {0}.",
    "Svaret er {0}",
    "答案是{0}。",
    "答案：{0}",
)
# {1} is the description of the choice.
DESCRIBED = (
    "{0}. {1}",
    "{0}) {1}",
    "({0}) {1}",
    "{0}: {1}",
    "{0} - {1}",
    "{0} – {1}",
    "{0} → {1}",
    "{0}, {1}",
    "{0}\n{1}",
    "{0}. {1}.",
    "**{0}. {1}**",
    "**{0}.** {1}",
    "The answer is {0}. {1}.",
    "Option {0}: {1}",
    "{1} ({0})",
    "{1}",
    "The correct answer is {1}.",
    r"\boxed{{{0}. {1}}}",
)
OBJECTS = (
    lambda name: json.dumps({"answer": name}),
    lambda name: json.dumps({"answer": name}, indent=2),
    lambda name: json.dumps({"Answer": f"({name})", "confidence": 0.9}),
    lambda name: f"```json\n{json.dumps({'answer': name})}\n```",
    lambda name: str({"answer": name}),
    lambda name: json.dumps([name]),
    lambda name: json.dumps({"final_answer": {"label": name}}),
)
# Texts of options: words without the signs that decorations consist of.
WORD = st.text(st.characters(categories=["Ll", "Lu", "Nd"]), min_size=1, max_size=8)
OPTION_TEXT = st.lists(WORD, min_size=1, max_size=3).map(" ".join)
OPTIONS = st.lists(
    OPTION_TEXT.filter(lambda text: len(text) > 2), min_size=2, max_size=5, unique_by=str.casefold
)


def find_index(text: str, branch: Branch) -> int | None:
    found = find_choice(text, branch, branch.candidates)
    return found and found.index


def make_branch(texts: list[str]) -> Branch:
    return Branch("", LETTERS[: len(texts)], descriptions=tuple(map(Description, texts)))


@pytest.mark.parametrize("decoration", DECORATIONS)
def test_a_decorated_choice_is_found(decoration: str) -> None:
    for branch in (LETTER_BRANCH, LABEL_BRANCH):
        for index, choice in enumerate(branch.candidates):
            assert find_index(decoration.format(choice), branch) == index


@pytest.mark.parametrize("pattern", DESCRIBED)
def test_a_choice_with_its_description_is_found(pattern: str) -> None:
    for index, choice in enumerate(LETTER_BRANCH.candidates):
        assert find_index(pattern.format(choice, ORGANS[index]), LETTER_BRANCH) == index


@pytest.mark.parametrize("pattern", [one for one in DESCRIBED if "{0}" in one])
def test_a_choice_with_the_description_of_another_is_not_found(pattern: str) -> None:
    for index, choice in enumerate(LETTER_BRANCH.candidates):
        assert find_index(pattern.format(choice, ORGANS[index - 1]), LETTER_BRANCH) is None


@pytest.mark.parametrize("write", OBJECTS)
def test_a_choice_in_an_object_is_found(write) -> None:
    for branch in (LETTER_BRANCH, LABEL_BRANCH):
        for index, choice in enumerate(branch.candidates):
            assert find_index(write(choice), branch) == index


@given(OPTIONS, st.data())
def test_every_option_is_found_in_every_decoration(texts: list[str], data: st.DataObject) -> None:
    branch = make_branch(texts)
    index = data.draw(st.integers(0, len(texts) - 1))
    decoration = data.draw(st.sampled_from((*DECORATIONS, *DESCRIBED[:-2])))
    answer = decoration.format(LETTERS[index], texts[index])
    assert find_index(answer, branch) == index


@given(OPTIONS, st.data())
def test_two_different_options_are_never_one(texts: list[str], data: st.DataObject) -> None:
    branch = make_branch(texts)
    first, second = data.draw(
        st.lists(st.integers(0, len(texts) - 1), min_size=2, max_size=2, unique=True)
    )
    decorate = data.draw(st.sampled_from(DECORATIONS)).format
    joined = data.draw(
        st.sampled_from(("{} or {}", "{} and {}", "{}/{}", "{}, {}", "{}\n{}", "{} {}"))
    )
    texts_or_letters = data.draw(st.sampled_from((LETTERS, texts)))
    names = texts_or_letters[first], texts_or_letters[second]
    answers = (joined.format(*names), joined.format(*map(decorate, names)))
    for answer in (*answers, decorate(answers[0])):
        # Joined texts of two options can be the text of a third one.
        assert find_index(answer, branch) is None or answers[0] in texts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "B?",
        "not B",
        "Not (B).",
        "The answer is not B.",
        "B is not correct",
        "B is wrong.",
        "The wrong answer is B.",
        "all except B",
        "Neither A nor B",
        "A or maybe B",
        "B because the kidney filters the blood",
        "B. The kidney",
        "~~B~~",
        "E",
        "None of the above",
        "I do not know.",
        "AB",
        "The answer to B",
        '{"answer": null}',
        '{"answer": "B", "choice": "A"}',
        '["A", "B"]',
        '{"explanation": "B"}',
        '{"answer": "B"',
        "<think>It is B, I think",
        "B" * 2000,
        "B" + " " * 3000 + "or C",
    ],
)
def test_other_answers_are_not_a_choice(text: str) -> None:
    assert find_index(text, LETTER_BRANCH) is None


def test_a_letter_is_a_choice_before_it_is_a_description() -> None:
    branch = make_branch(["B", "AB", "A", "O"])
    assert find_index("A", branch) == 0
    assert find_index("(A)", branch) == 0
    assert find_index("C. A", branch) == 2
    assert find_index("O", branch) == 3
    assert find_index("A. AB", branch) is None


def test_choices_that_differ_in_case_only_are_found_as_written() -> None:
    branch = Branch("", ("BB", "Bb", "bb"))
    assert [find_index(f"**{name}**", branch) for name in branch.candidates] == [0, 1, 2]
    assert find_index("bB", branch) is None


def test_the_question_of_a_branch_may_be_repeated() -> None:
    branch = Branch("chest pain: ", ("yes", "no"), descriptions=(Description("chest pain"),))
    assert find_index("Chest pain: yes", branch) == 0
    assert find_index("**chest pain**: No.", branch) == 1
    assert find_index("fever: yes", branch) is None


def test_the_span_is_where_the_choice_is_named() -> None:
    for text in (
        "The answer is (B) Kidney (left).",
        '```json\n{"answer": "B. Kidney (left)"}\n```',
    ):
        found = find_choice(text, LETTER_BRANCH, LETTER_BRANCH.candidates)
        assert found is not None
        start, end = found.span
        assert (text[start:end], text[:start].count("B")) == ("B", 0)
    escaped = find_choice('{"answer": "\\u0042"}', LETTER_BRANCH, LETTER_BRANCH.candidates)
    assert escaped is not None
    assert (escaped.index, escaped.span) == (1, None)
