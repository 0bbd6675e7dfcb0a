"""A made-up run to report on: imaging requests, twelve protocols, hostile texts, a model that is
often wrong.
"""

from __future__ import annotations

import random

from medtask.evaluation.report.run_summary import SummaryAccumulator
from medtask.records import Answer, AnsweredRow, Status

PROTOCOLS = {
    "CT head without contrast": (
        "head injury, stroke or bleeding",
        "fall on anticoagulants, drowsy, ?bleed",
    ),
    "CT angiography head and neck": (
        "arteries from the arch to the brain",
        "sudden hemiparesis, LVO? for thrombectomy",
    ),
    "CT pulmonary angiography": (
        "pulmonary embolism",
        "pleuritic pain, tachycardia, D-dimer raised, PE?",
    ),
    "CT abdomen and pelvis with contrast": (
        "acute abdomen, staging of tumours of the belly",
        "peritonitic, lactate 4, perforation?",
    ),
    "CT urinary tract, low dose": ("stones", "loin to groin pain, haematuria, stone?"),
    "MRI brain with and without contrast": (
        "tumour, infection, inflammation of the brain",
        "known glioma, change since last scan?",
    ),
    "MRI lumbar spine": (
        "nerve roots and cauda equina",
        "sciatica for months, foot drop, saddle numbness",
    ),
    "MRI knee": ("ligaments, menisci and cartilage", "twisted at football, locking, meniscus?"),
    "MRI prostate multiparametric": (
        "suspected or known prostate cancer",
        "PSA 7.9, previous negative biopsy",
    ),
    "Chest radiograph": ("heart, lungs, lines and tubes", "NG tube position before feed"),
    "Ultrasound abdomen": (
        "gallbladder, liver, kidneys",
        "RUQ pain after meals, Murphy positive, stones?",
    ),
    "Ultrasound deep veins of the leg": ("thrombosis", "swollen calf after a flight, DVT?"),
}
LABELS = list(PROTOCOLS)
ABSTAIN = "not enough information"
DEFINITIONS = [(name, definition) for name, (definition, _) in PROTOCOLS.items()]
HOSTILE_TEXTS = [
    '<script>alert("row")</script><img src=x onerror=alert(1)> chest film please',
    "رضّ على الرأس بعد سقوط من الدرج، المريض يتناول مميّعات الدم، هل يوجد نزف؟",
    "🤕🩻 knee gave way on the stairs 👩🏽‍⚕️ {{ 7*7 }} ${7*7} </td></table></style>",
    "long story short: " + "pain and more pain, " * 1250,
    '=HYPERLINK("http://example.org") \x00\x1b[31m red \ud800 \u202eright to left',
    "word" * 200,
]
MANIFEST: dict[str, object] = {
    "format": 1,
    "state": "finished",
    "medtask": "0.1.0",
    "command": "medtask run radiology-protocol --gold protocol",
    "created": "2026-11-21T14:12:00+00:00",
    "finished": "2026-11-21T14:12:41+00:00",
    "task": {
        "name": "radiology-protocol",
        "source": "examples/radiology_protocol/task.yaml",
        "fingerprint": "9f2c" * 16,
    },
    "model": {
        "name": "hf",
        "title": "SmolLM2-135M-Instruct (built in), bfloat16 on the CPU",
        "identity": {"reference": "smollm2-135m", "sha256": "41ab" * 16, "dtype": "bfloat16"},
        "details": {"threads": 2, "prefix cache": {"kind": "dynamic", "tokens": 412}},
    },
    "data": {
        "source": "notes.csv",
        "sha256": "77de" * 16,
        "rows": 306,
        "columns": ["note_id", "note", "protocol", "age", "ordered_from"],
    },
    "settings": {"window": 1024, "limit": None, "offline": True},
    "hardware": {
        "processor": "AMD EPYC 7R13",
        "cores": 2,
        "memory_bytes": 8_321_499_136,
        "accelerator_name": None,
    },
    "egress": {"guard": "on", "connections_attempted": 0},
    "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0"},
    "timing": {"sessions": 1, "seconds": 9.1, "rows_per_s": 33.6},
}


def make_imaging_run(
    rows: int = 300, *, has_gold: bool = True, accuracy: float = 0.25, seed: int = 7
) -> SummaryAccumulator:
    """A gatherer that has seen ``rows`` requests and the hostile ones; ``accuracy`` is how
    often the model knows.
    """
    chance = random.Random(seed)
    gatherer = SummaryAccumulator("label", LABELS, ABSTAIN, has_gold)
    for row in range(1, rows + 1):
        gold = chance.choices(LABELS, weights=range(len(LABELS), 0, -1))[0]
        words = PROTOCOLS[gold][1].split()
        text = (
            " ".join(chance.sample(words, k=max(2, len(words) - 2)))
            + f", {chance.randint(18, 95)} years"
        )
        gatherer.add(
            AnsweredRow(
                row,
                make_answer(row, gold, chance, accuracy),
                text,
                gold if row % 50 else "CT brain",
            )
        )
    for row, text in enumerate(HOSTILE_TEXTS, start=rows + 1):
        gatherer.add(
            AnsweredRow(
                row, make_answer(row, "Chest radiograph", chance, 0.0), text, "Chest radiograph"
            )
        )
    return gatherer


def make_answer(row: int, gold: str, rng: random.Random, accuracy: float) -> Answer:
    record_id = f"RX-{row:05}"
    if row % 61 == 0:
        return Answer(record_id, Status.EMPTY_INPUT, reason="the input is empty")
    if row % 97 == 0:
        return Answer(
            record_id,
            Status.TOO_LONG,
            reason=f"{8000 + row} tokens are more than the model's 8,192",
        )
    if row % 149 == 0:
        return Answer(
            record_id, Status.FAILED, reason="the model gave no usable number (NaN or infinite)"
        )
    names = [*LABELS, ABSTAIN]
    weights = [rng.expovariate(1) ** 3 for _ in names]
    if rng.random() < accuracy:
        weights[names.index(gold)] += 40
    share = {name: weight / sum(weights) for name, weight in zip(names, weights, strict=True)}
    best = max(share, key=share.__getitem__)
    cost = {"off_set": rng.betavariate(2, 5), "ms": 30.0, "tokens_read": 18, "tokens_reused": 412}
    if best == ABSTAIN:
        return Answer(
            record_id,
            Status.ABSTAINED,
            probabilities=share,
            reason="the model chose to abstain",
            **cost,
        )  # type: ignore[arg-type]
    status, reason = (
        (Status.OK, None)
        if share[best] >= 0.5
        else (Status.REVIEW, f"confidence {share[best]:.2f} is below 0.5")
    )
    return Answer(record_id, status, best, share[best], share, reason=reason, **cost)  # type: ignore[arg-type]
