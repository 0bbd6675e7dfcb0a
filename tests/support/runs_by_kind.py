"""Made-up runs of the other kinds of question: some rows right, some wrong, some without an answer,
hostile texts.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from medtask.evaluation.report.run_summary import SummaryAccumulator
from medtask.records import Answer, AnsweredRow, Option, PassStep, Quote, Status
from support.imaging_run import HOSTILE_TEXTS

DOMAINS = [
    "immunology",
    "epidemiology",
    "surgery",
    "pharmacology",
    "genetics",
    "a label as long as no page can show it " * 6,
]
DOMAIN_DEFINITIONS = [(name, f"articles on {name[:40]}") for name in DOMAINS]
DISEASES = ["glaucoma", "asthma", "gout", "measles", "psoriasis", "migraine"]
DISEASE_DESCRIPTIONS = [
    "raised pressure in the eye",
    "narrow airways",
    "crystals in a joint",
    "a virus with a rash",
    "fast growing skin",
    "a throbbing headache",
]
FAILED_ANSWER = Answer(
    "broken", Status.FAILED, reason="the model gave no usable number (NaN or infinite)"
)


def make_labels_run(rows: int = 120, *, has_gold: bool = True) -> SummaryAccumulator:
    """Literature in domains, with a second pass."""
    chance = random.Random(1)
    gatherer = SummaryAccumulator("labels", DOMAINS, None, has_gold)
    for row in range(1, rows + 1):
        gold = tuple(name for name in DOMAINS if chance.random() < 0.3)
        shares = {
            name: min(0.99, max(0.01, chance.gauss(0.7 if name in gold else 0.25, 0.2)))
            for name in DOMAINS
        }
        value = tuple(name for name in DOMAINS if shares[name] >= 0.5)
        doubtful = any(0.4 < share < 0.6 for share in shares.values())
        status, reason = (
            (Status.REVIEW, "confidence 0.31 is below 0.5") if doubtful else (Status.OK, None)
        )
        answer = Answer(
            f"P-{row}",
            status,
            value,
            0.4 if doubtful else 0.9,
            shares,
            off_set=chance.random() / 4,
            reason=reason,
        )
        if row % 5 == 0:
            steps = (PassStep("first", Status.REVIEW, value[:1], 0.3),)
            answer = Answer(
                f"P-{row}",
                status,
                value,
                0.9,
                shares,
                reason=reason,
                pass_name="refine",
                steps=steps,
            )
        words = ", ".join(name[:30] for name in gold) or "something else"
        gatherer.add(
            AnsweredRow(
                row,
                FAILED_ANSWER if row % 40 == 0 else answer,
                f"An abstract on {words} {row}",
                (*gold, "sociology") if row % 30 == 0 else gold,
            )
        )
    gatherer.add(
        AnsweredRow(
            rows + 1,
            Answer(
                "short",
                Status.TOO_SHORT,
                reason="2 words are fewer than the 5 that the task asks for",
            ),
            "a b",
            (),
        )
    )
    return gatherer


def make_choice_run(
    rows: int = 120, *, has_gold: bool = True, several: bool = False
) -> SummaryAccumulator:
    """Questions with four options, and a model that leans to A and thinks aloud."""
    chance = random.Random(2)
    gatherer = SummaryAccumulator("choice", (), None, has_gold)
    for row in range(1, rows + 1):
        index = chance.randrange(6)
        options = [
            Option(letter, text)
            for letter, text in zip("ABCD", chance.sample(DISEASE_DESCRIPTIONS, 4), strict=True)
        ]
        right = chance.randrange(4)
        options[right] = Option("ABCD"[right], DISEASE_DESCRIPTIONS[index])
        letter = "ABCD"[right] if chance.random() < 0.4 else "A"
        weights = {
            option.letter: chance.random() + 2 * (option.letter == letter) for option in options
        }
        shares = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        value = tuple(sorted({letter, "D"})) if several else letter
        gold = tuple(sorted({"ABCD"[right], "D"})) if several else "ABCD"[right]
        status = Status.REVIEW if shares[letter] < 0.6 else Status.OK
        thoughts = f"Is it {DISEASE_DESCRIPTIONS[index]}? " * (300 if row % 2 else 3)
        answer = Answer(
            f"Q-{row}",
            status,
            value,
            shares[letter],
            shares,
            reason="unsure" if status is Status.REVIEW else None,
            thoughts=thoughts,
        )
        text = (
            HOSTILE_TEXTS[row % len(HOSTILE_TEXTS)]
            if row % 17 == 0
            else f"What is behind {DISEASES[index]}? ({row})"
        )
        gatherer.add(
            AnsweredRow(
                row,
                FAILED_ANSWER if row % 40 == 0 else answer,
                text,
                "none of these" if row % 50 == 0 else gold,
                options,
            )
        )
    return gatherer


def make_answer_run(rows: int = 60, *, has_gold: bool = True) -> SummaryAccumulator:
    """Questions about diseases; some answers hit their limit, some are markup."""
    chance = random.Random(3)
    gatherer = SummaryAccumulator("answer", (), None, has_gold)
    for row in range(1, rows + 1):
        index = row % 6
        gold = (
            f"{DISEASES[index].capitalize()} is {DISEASE_DESCRIPTIONS[index]}. It is treated by "
            f"those who know it, in the clinic of day {row % 9}."
        )
        cause = DISEASE_DESCRIPTIONS[index if chance.random() < 0.6 else 0]
        result = (
            f"The cause of {DISEASES[index]} is {cause}."
            + " And so on, and on." * chance.randrange(30)
        )
        status = Status.TRUNCATED if row % 9 == 0 else Status.OK
        value: str | None = HOSTILE_TEXTS[row % len(HOSTILE_TEXTS)] if row % 19 == 0 else result
        if row % 18 == 0:
            value = None
        reason = (
            "the answer reached max_tokens and was cut after its last whole sentence"
            if status is Status.TRUNCATED
            else None
        )
        answer = Answer(
            f"D-{row}",
            status,
            value,
            text=result,
            reason=reason,
            thoughts="<b>thinking</b>" if row % 2 else None,
            ms=400.0,
        )
        gatherer.add(
            AnsweredRow(
                row,
                answer,
                f"What is {DISEASES[index]}, and how is it treated? "
                f"{HOSTILE_TEXTS[1] if row % 9 == 0 else ''}",
                gold,
            )
        )
    return gatherer


def make_fields_run(rows: int = 80, *, has_gold: bool = True) -> SummaryAccumulator:
    """A tumour registry: a stage, a size with its unit, lymph nodes, a list, a date, quotes."""
    chance = random.Random(4)
    gatherer = SummaryAccumulator("fields", (), None, has_gold)
    for row in range(1, rows + 1):
        stage, size = chance.choice(["I", "II", "III", "IV"]), chance.randrange(5, 60)
        history = "Long history. " * (60 if row % 10 == 0 else 1)
        day = f"2024-03-{row % 28 + 1:02}"
        text = (
            f"{history}Tumour of {size} mm, stage {stage}, seen on {day}. "
            f"{HOSTILE_TEXTS[0] if row % 13 == 0 else ''}"
        )
        gold = {
            "stage": stage,
            "tumour": {"size": {"value": size, "unit": "mm"}, "sites": ["Left Breast", "axilla"]},
            "nodes": None if row % 4 else True,
            "seen": day,
        }
        result = {
            "stage": stage if chance.random() < 0.7 else "I",
            "tumour": {
                "size": {"value": size if row % 6 else None, "unit": "mm"},
                "sites": ["axilla", "left breast"],
            },
            "nodes": row % 3 == 0 if row % 5 == 0 or row % 4 == 0 else None,
            "seen": day if row % 5 else "<i>unknown</i>",
        }
        share = chance.uniform(0.3, 0.99)
        shares = {
            f"stage={name}": share if name == result["stage"] else (1 - share) / 3
            for name in ("I", "II", "III", "IV")
        }
        shares |= {
            "nodes=true": 0.8 if result["nodes"] else 0.2,
            "nodes=false": 0.2 if result["nodes"] else 0.8,
        }
        start = text.index("stage")
        quotes = {"stage": Quote(text[start : start + 8], start, start + 8)} if row % 3 else None
        status = Status.REVIEW if share < 0.5 else Status.OK
        answer = Answer(
            f"T-{row}",
            status,
            result,
            share * 0.8,
            shares,
            text="{}",
            quotes=quotes,
            reason="unsure" if share < 0.5 else None,
        )
        if row % 20 == 0:
            answer = Answer(
                f"T-{row}", Status.TRUNCATED, reason="the fields did not fit into max_tokens (512)"
            )
        gatherer.add(AnsweredRow(row, answer, text, "stage II" if row % 33 == 0 else gold))
    return gatherer


RUNS_BY_KIND: dict[str, Callable[..., SummaryAccumulator]] = {
    "labels": make_labels_run,
    "choice": make_choice_run,
    "several": lambda rows=120, *, has_gold=True: make_choice_run(
        rows, has_gold=has_gold, several=True
    ),
    "answer": make_answer_run,
    "fields": make_fields_run,
}
