"""Records that read like instructions to a model: their answers are marked for review.

The patterns find usual attempts only. They change no prompt and no answer: what a record can do is
limited by the tags around it (`medtask.tasks.fence`) and by the fixed set of answers. Answers of
classifiers are marked as well: they obey nothing, but a label that is named changes their answer.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import NamedTuple

from medtask.display import join_reasons
from medtask.engines.tokens.markers import COMMON_MARKER
from medtask.records import Answer, Prompt, Status
from medtask.tasks.fence import FENCE_TAG

_NOTE = "the text reads like an instruction to the model"

# Repetitions are bounded, so that no text takes longer than its length.
# A verb, at most three words, and a noun: "ignore all the previous instructions".
_WORDS = r"(?:[^\w.!?;\n]{1,5}\w+){0,3}[^\w.!?;\n]{1,5}"
_COMMANDS = "|".join(
    (
        rf"(?:ignore|disregard|forget|override|bypass){_WORDS}"
        r"(?:instructions?|prompts?|rules|directions|labels?|guidelines)",
        rf"(?:ignorer|se bort fra|glem|overse|ignorera|bortse från){_WORDS}"
        r"(?:instruks\w*|instruktion\w*|regler|beskjed\w*)",
        rf"(?:ignoriere\w*|vergiss|vergessen|missachte\w*){_WORDS}"
        r"(?:anweisung\w*|instruktion\w*|regeln|vorgaben)",
        rf"(?:ignore[rz]?|oublie[rz]?|olvida|ignora|dimentica){_WORDS}"
        r"(?:instruct\w*|instrucci\w*|istruzion\w*|consignes|règles|reglas|regole)",
        r"(?:ignore|disregard|forget) (?:everything|anything|all|(?:the )?(?:text|task|rest))"
        r"(?: (?:that is |written )?(?:above|before|below|else)\b|[.,;:!\n]| and\b)",
        r"(?:the|this) (?:model|ai|llm|classifier|assistant) (?:should|must|shall|has to|will)"
        r" (?:always |only )?(?:answer|respond|reply|output|classify|label|choose|select|return)",
        r"you (?:must|should|have to|shall) (?:always |only )?(?:choose|select|output|classify)",
        r"(?:order|command|instruct|tell) you to (?:answer|respond|reply|output|choose|select)",
        r"(?:og|och|und|et|y|e) (?:svara?|antworte\w?|réponde[sz]|contesta|responde|scegli)",
    )
)
# Letters to patients say "you are now due for a visit".
_PROMPT_WORDS = (
    r"(?:system|developer) prompt|prompt injection|you are (?:an ai|a language model)"
    r"|you are now an? (?:\w{1,20} ){0,2}"
    r"(?:ai|model|assistant|bot|chatbot|coder|classifier|annotator|agent|system|pirate)"
    r"|as an ai (?:model|assistant)|new instructions? ?:"
)
# At the start of a sentence, so that "he responded with" is not found. Notes say "return as needed"
# and "drain: output only 20 ml": such verbs need an object that notes do not have.
_DIRECTIVES = (
    r"(?:^|[.!?:;\n]\s{0,5})(?:(?:please|always|you must|now) )?(?:"
    r"(?:answer|respond|reply|classify) "
    r"(?:only|with|as|this|the (?:text|record|note|label|answer)|exactly|label|option)\b"
    r"|(?:output|label|choose|select|return|print) (?:only )?"
    r"(?:(?:this|the) (?:text|record|note|label|answer|option)|exactly|label|option)\b)"
    # Without a full stop before it, only with a capital letter.
    r"|\b(?-i:Answer|Respond|Reply|Classify|Output|Label|Choose|Select|Return|Print) exactly\b"
    r"|\b(?-i:Answer|Respond|Reply) (?:only|with)\b"
    r"|the (?:correct|right|true|only) (?:answer|label|class|category|option) (?:is|must be)\b"
    r"|\b(?:correct|right|true|final|gold) (?:answer|label|class|category|option) ?[=:]"
    r"|\b(?:answer|label) = ?\S"
    r"|\{\s{0,5}[\"']?(?:answer|label|class|category|output)[\"']?\s{0,5}:"
)
# Lines that imitate the form of a prompt or of a chat. Not "Question:" and "Instructions:", which
# requests and discharge notes have, nor "AI: mild" of an echocardiogram.
_FORGED_LINES = (
    r"^[ \t]{0,8}(?:text|answer|system|user|human) ?:"
    r"|^[ \t]{0,8}ai ?:(?! {0,3}(?:no|none|trace|trivial|mild|moderate|severe|absent|[\d+]))"
    r"|^[ \t]{0,8}#{1,6} ?"
    r"(?:text|question|answer|options|instructions?|system|assistant|user|human|ai) ?:"
    r"|^[ \t]{0,8}#{2,6} ?(?:response|input) ?:"
    r"|^[ \t]{0,8}#{1,6} ?(?:answer|label|response) {0,3}$|^[ \t]{0,8}(?:label ?:|```)"
)
# Tags that prompts of other programs put around a text.
_OTHER_TAGS = (
    r"\[/?(?:system|user|assistant)\]|</?(?:text|record|input|document|prompt|instructions?)>"
)
_ASSISTANT_LINE = r"^[ \t]{0,8}assistant ?:"
# Reports of operations name the assistant of the surgeon.
_TEAM_LINE = r"^[ \t]{0,8}(?:(?:co-?|primary |attending )?surgeons?|operator|ana?esthe\w{1,9}) ?:"


class _Suspicion(NamedTuple):
    """A pattern, its name, and texts in lower case of which each match contains one.

    Looking for these is some ten times faster than the pattern. ``unless`` is a pattern of texts in
    which a match means nothing.
    """

    name: str
    hints: tuple[str, ...]
    pattern: re.Pattern[str]
    unless: re.Pattern[str] | None = None

    def is_in(self, text: str, lowered: str) -> bool:
        """Whether a text has a match; ``lowered`` is the text in lower case."""
        return (
            any(hint in lowered for hint in self.hints)
            and self.pattern.search(text) is not None
            and not (self.unless and self.unless.search(text))
        )


_SUSPICIONS = (
    _Suspicion("a control token", ("<", "[", "]~"), re.compile(COMMON_MARKER, re.IGNORECASE)),
    _Suspicion("a tag of a prompt", ("<",), FENCE_TAG),
    _Suspicion("a tag of another prompt", ("<", "["), re.compile(_OTHER_TAGS, re.IGNORECASE)),
    _Suspicion(
        "a command",
        (
            *("ignor", "disregard", "forget", "override", "bypass", "se bort", "glem", "overse"),
            *("bortse", "vergess", "vergiss", "missacht", "oublie", "olvida", "dimentica"),
            *("prompt", "you are", "as an ai", "instruction", "the model", "this model"),
            *("the classifier", "the assistant", "the ai", "this ai", "llm"),
            *("you must", "you should", "you have to", "you shall"),
            *("you to ", "svar", "antwort", "réponde", "contesta", "responde", "scegli"),
        ),
        re.compile(rf"\b(?:{_COMMANDS}|{_PROMPT_WORDS})", re.IGNORECASE),
    ),
    _Suspicion(
        "a demand for an answer",
        (
            *("answer", "respond", "reply", "output", "classify", "label", "choose", "select"),
            *("return", "print", "class", "category", "option"),
        ),
        re.compile(_DIRECTIVES, re.IGNORECASE),
    ),
    _Suspicion(
        "a line of a prompt",
        (
            *("text", "question", "answer", "options", "instruction", "system", "assistant"),
            *("user", "human", "ai:", "ai :", "response", "input", "label", "```"),
        ),
        re.compile(_FORGED_LINES, re.IGNORECASE | re.MULTILINE),
    ),
    _Suspicion(
        "a line of a chat",
        ("assistant",),
        re.compile(_ASSISTANT_LINE, re.IGNORECASE | re.MULTILINE),
        unless=re.compile(_TEAM_LINE, re.IGNORECASE | re.MULTILINE),
    ),
)


def describe_suspicion(prompt: Prompt) -> str | None:
    """Why the text of a prompt reads like an instruction to the model; None if it does not."""
    lowered = prompt.text.lower()
    found = [one.name for one in _SUSPICIONS if one.is_in(prompt.text, lowered)]
    return f"{_NOTE} ({', '.join(found)})" if found else None


def mark_suspicious(answer: Answer, suspicion: str | None) -> Answer:
    """The answer with the status ``review`` and the reason, if there is one."""
    if suspicion is None:
        return answer
    return replace(
        answer,
        status=Status.REVIEW if answer.status is Status.OK else answer.status,
        reason=join_reasons(answer.reason, suspicion),
    )


def is_suspicious(answer: Answer) -> bool:
    """Whether `mark_suspicious` has marked an answer."""
    return _NOTE in (answer.reason or "")
