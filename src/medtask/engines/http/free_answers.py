"""Finds the choice in an answer of a server that cannot be constrained to a set.

Models decorate their answers: ``(B)``, ``**B**``, ``$\\boxed{B}$``, ``ANSWER: B``, ``B. Heart``,
``{"answer": "B"}``. A decoration is removed only if it covers the whole answer, so that "A or B",
"not B" and answers with an explanation are never read as a choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from medtask.engines.tokens.thinking import THINKING_FORMATS
from medtask.names import Names
from medtask.records import Branch
from medtask.tasks.containers import parse_container

MAX_DECORATION = 200  # characters of an answer besides the choice and its description
_MAX_PARTS = 60  # parts of one answer that are compared with the choices

_MAX_SIDE_MARKS = 30  # characters besides the choice, where a description follows or precedes it

Span = tuple[int, int]

_ANSWER_KEYS = frozenset(
    (
        "answer",
        "final answer",
        "correct answer",
        "answer letter",
        "choice",
        "option",
        "letter",
        "label",
        "labels",
        "class",
        "category",
        "classification",
        "prediction",
        "result",
        "output",
        "response",
        "value",
    )
)
_THOUGHTS = re.compile(
    "|".join(
        rf"\s*{re.escape(one.start_text.strip())}.*?{re.escape(one.end_text.strip())}"
        for one in THINKING_FORMATS
    )
    + r"|\s*<(think|thinking|thought|reasoning)>.*?</\1>",
    re.DOTALL | re.IGNORECASE,
)
_EDGE = " \t\r\n.,:;()[]{}*_`$\"'“”–—―=>→|-"
_ADJECTIVE = (
    r"(?:final|correct|right|best|single|only|most|likely|appropriate|probable|suitable|selected"
    r"|chosen)"
)
_NOUN = (
    r"(?:answers?|ans\.?|option|choice|letter|label|class|category|classification|diagnosis|response"
    r"|result|solution|antwort|lösung|réponse|respuesta|opción|risposta|opzione|resposta|svar|svaret"
    r"|antwoord|odpowiedź|odpověď|odpoveď|válasz|ответ|відповідь|cevap|答案|答え|回答|正解|정답)"
)
_LEAD_IN = (
    r"(?:(?:so|thus|hence|therefore|then)\b[,:]?\s+)?(?:i (?:think|believe)(?: that)?\s+)?"
    r"(?:(?:the|my|your|die|la|le|el|il|het)\s+)?"
    rf"(?:{_ADJECTIVE}\s+)*{_NOUN}"
    r"(?:\s+(?:correcte?|correcta|corretta|correta|choice|option|letter|number))?"
)
_IS = r"(?:is|would be|should be|must be|ist|est|es|è|é|er|är|to jest)"
# Decorations of a whole answer; a named group is what they surround.
_DECORATIONS = tuple(
    re.compile(pattern, re.DOTALL | re.IGNORECASE)
    for pattern in (
        r"```[\w+-]*\s*(?P<a>.*?)\s*```|~~~[\w+-]*\s*(?P<b>.*?)\s*~~~",
        r"[*_`\"'“”‘’„«»]{1,3}(?P<a>.*)",
        r"(?P<a>.*?)[*_`\"'“”‘’„«»]{1,3}",
        r"\((?P<a>.*)\)|\[(?P<b>.*)\]|\{(?P<c>.*)\}|<(?P<d>[^<>]*)>",
        r"（(?P<a>.*)）|【(?P<b>.*)】|「(?P<c>.*)」",
        r"\$\$?(?P<a>[^$]*)\$\$?|\\\((?P<b>.*)\\\)|\\\[(?P<c>.*)\\\]",
        r"\\(?:boxed|fbox|mbox|text\w*|math\w*|operatorname)\s*\{(?P<a>.*)\}",
        r"<(?P<tag>answer|final|final_answer|choice|option|label|result|response|output|b|strong"
        r"|i|em|code|p)>(?P<a>.*)</(?P=tag)>",
        r"(?P<a>.*?)[.,;:!)\]。．、，：]",
        r"(?:[-*•·>]|#{1,6})\s+(?P<a>.*)",
        rf"[*_]*{_LEAD_IN}(?:\s*[*_]*\s*[:=：]\s*[*_]*|\s+{_IS}\b\s*:?|[是は为]|\s+-\s|\s)"
        r"\s*(?P<a>.*)",
        r"(?:i|we)(?:['’]d|['’]ll| would| will)?\s+(?:choose|select|pick|go with)\s+(?P<a>.*)",
        r"(?:it|this) is\s+(?P<a>.*)",
        r"(?P<a>.*?)\s+I hope it is correct",
        rf"(?P<a>.*?)\s+is\s+(?:(?:the|my)\s+)?(?:{_ADJECTIVE}\s+)*(?:{_ADJECTIVE}|{_NOUN})",
    )
)
_SEPARATOR = re.compile(r"[\s.,:;()\[\]*_`$–—―=>→|-]+")


@dataclass(frozen=True, slots=True)
class FoundChoice:
    """The choice of an answer.

    Attributes:
        index: The index of the choice.
        span: Where the answer names it; None if that is not known.
        spellings: For each choice, the text that would be there instead.
    """

    index: int
    span: Span | None
    spellings: tuple[str, ...]


def find_choice(text: str, branch: Branch, choices: Sequence[str]) -> FoundChoice | None:
    """Find the choice that an answer names; None if it names none, or could name several.

    An answer names a choice by itself, by its description if there is one, or by both.

    Args:
        text: The answer.
        branch: The question.
        choices: The choices, as sent to the server.
    """
    answer = text.strip()
    if answer in choices:
        start = text.index(answer)
        return FoundChoice(choices.index(answer), (start, start + len(answer)), tuple(choices))
    finder = _ChoiceFinder(branch, choices)
    thoughts = _THOUGHTS.match(text)
    parts = finder.list_parts(text, (thoughts.end() if thoughts else 0, len(text)))
    return finder.find_in_parts(text, parts) or finder.find_in_objects(text, parts)


class _ChoiceFinder:
    """The choices of one question, their descriptions, and how answers name them."""

    def __init__(self, branch: Branch, choices: Sequence[str]) -> None:
        self._branch = branch
        self._choices = tuple(choices)
        described = len(branch.descriptions) == len(choices)
        descriptions = [
            tuple(one.name for one in branch.descriptions),
            tuple(one.definition for one in branch.descriptions),
        ]
        self._by_choice = Names(self._choices)
        self._by_description = [
            (texts, Names(filter(None, texts))) for texts in descriptions if described
        ]
        longest_choice = max(map(len, choices))
        longest = max(len(text) for texts in descriptions for text in texts) if described else 0
        self._max_length = longest_choice + longest + MAX_DECORATION
        self._max_side_length = longest_choice + _MAX_SIDE_MARKS
        prefix = re.escape(branch.prefix.strip().rstrip(":"))
        self._prefix = re.compile(
            rf"[*_\"]*{prefix}[*_\"]*\s*:\s*(?P<a>.*)", re.DOTALL | re.IGNORECASE
        )

    def list_parts(self, text: str, span: Span) -> list[Span]:
        """The answer, and what remains of it if any decorations are removed."""
        first = _trim(text, *span)
        parts = {first: None} if first[1] - first[0] <= self._max_length else {}
        pending = list(parts)
        patterns = (*_DECORATIONS, self._prefix) if self._branch.prefix.strip() else _DECORATIONS
        while pending and len(parts) < _MAX_PARTS:
            part = pending.pop(0)
            for pattern in patterns:
                if (match := pattern.fullmatch(text, *part)) is None:
                    continue
                (name,) = (name for name in "abcd" if match.groupdict().get(name) is not None)
                inner = _trim(text, *match.span(name))
                if inner[0] < inner[1] and inner not in parts:
                    parts[inner] = None
                    pending.append(inner)
        return list(parts)

    def find_in_parts(self, text: str, parts: Sequence[Span]) -> FoundChoice | None:
        """The choice that is all of a part, or followed by its description, or described."""
        named = _match_parts(text, parts, self._choices, self._by_choice)
        named |= {pair for part in parts for pair in self._find_pairs(text, part)}
        if named:
            return _select_single(named, self._choices)
        for texts, names in self._by_description:
            if described := _match_parts(text, parts, texts, names):
                return _select_single(described, texts)
        return None

    def find_in_objects(self, text: str, parts: Sequence[Span]) -> FoundChoice | None:
        """The choice in a JSON object or a list, or in a Python literal of one."""
        for part in parts:
            container = parse_container(text[slice(*part)])
            if container is None:
                continue
            values = list(_list_values(container))
            found = [find_choice(value, self._branch, self._choices) for value in values]
            indices = {None if one is None else one.index for one in found}
            if len(indices) != 1 or found[0] is None:
                return None
            at = text.find(f'"{values[0]}"')
            is_known = len(values) == 1 and at >= 0 and found[0].span is not None
            span = found[0].span if is_known else None
            return replace(found[0], span=span and (at + 1 + span[0], at + 1 + span[1]))
        return None

    def _find_pairs(self, text: str, part: Span) -> Iterator[tuple[int, Span]]:
        """A choice and its description, in either order, such as "B. Heart"."""
        # A mark between the two can belong to either: "Kidney (left) (B)".
        places = {
            place
            for separator in _SEPARATOR.finditer(text, *part)
            for place in range(separator.start(), separator.end() + 1)
        }
        for place in places if self._by_description else ():
            sides = (part[0], place), (place, part[1])
            for first, second in (sides, sides[::-1]):
                if first[1] - first[0] > self._max_side_length:
                    continue
                named = _match_parts(
                    text, self._list_sides(text, first), self._choices, self._by_choice
                )
                for index, span in named:
                    if any(
                        index == described
                        for texts, names in self._by_description
                        for described, _ in _match_parts(
                            text, self._list_sides(text, second), texts, names
                        )
                    ):
                        yield index, span

    def _list_sides(self, text: str, span: Span) -> list[Span]:
        """A side of a pair, with and without the marks at its ends."""
        start, end = span
        bare = text[start:end].strip(_EDGE)
        at = text.find(bare, start)
        return [*self.list_parts(text, span), (at, at + len(bare))] if bare else []


def _trim(text: str, start: int, end: int) -> Span:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())


def _match_parts(
    text: str, parts: Sequence[Span], values: Sequence[str], names: Names
) -> set[tuple[int, Span]]:
    """Each part that is one of the values, with the index of the value."""
    return {
        (values.index(name), part)
        for part in parts
        if (name := names.find(text[slice(*part)])) is not None
    }


def _select_single(found: set[tuple[int, Span]], spellings: tuple[str, ...]) -> FoundChoice | None:
    """The choice, if all findings agree, at the shortest of their places."""
    if len({index for index, _ in found}) > 1:
        return None
    index, span = min(found, key=lambda one: (one[1][1] - one[1][0], one[1]))
    return FoundChoice(index, span, spellings)


def _list_values(container: list[object] | dict[object, object]) -> Iterator[str]:
    """The values of an object's answer keys, or of a list."""
    if isinstance(container, dict):
        values = [
            value
            for key, value in container.items()
            if re.sub(r"[\W_]+", " ", str(key)).strip().casefold() in _ANSWER_KEYS
        ]
    else:
        values = container
    for value in values:
        if isinstance(value, dict | list):
            yield from _list_values(value)
        else:
            yield str(value)
