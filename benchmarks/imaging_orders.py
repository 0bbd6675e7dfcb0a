"""Generated imaging orders with 29 protocols, for measurements of speed, not of quality."""

from __future__ import annotations

import itertools
import random

from medtask.records import Record
from medtask.tasks.task import Label, Task

_REGIONS = {
    "CT": [
        *("head", "sinuses", "neck", "chest", "abdomen and pelvis"),
        *("kidneys ureters bladder", "cervical spine", "pulmonary arteries", "aorta"),
    ],
    "MRI": [
        *("brain", "pituitary", "inner ear", "cervical spine", "lumbar spine", "shoulder"),
        *("knee", "liver", "pancreas", "prostate", "heart"),
    ],
    "Ultrasound": ["thyroid", "right upper quadrant", "kidneys", "scrotum", "leg veins"],
    "Radiograph": ["chest", "hand", "pelvis", "foot"],
}
_REASONS = [
    "pain",
    "fall from standing",
    "weight loss",
    "fever",
    "known mass, follow-up",
    "raised markers",
    "swelling",
    "new weakness",
]
_FORMS = [
    "{age} y, {reason}, please image {region}",
    "{region}: {reason} since {days} d",
    "?cause of {reason}. {region} requested. Age {age}, for {days} d",
]


def make_imaging_orders(rows: int, seed: int = 0) -> tuple[Task, list[Record]]:
    """A task with 29 labels and ``rows`` different records."""
    protocols = [(method, region) for method, regions in _REGIONS.items() for region in regions]
    labels = tuple(
        Label(
            f"{method} {region}",
            f"{method} examination that answers a question about {region}",
            f"{method} {region}",
        )
        for method, region in protocols
    )
    rng = random.Random(seed)
    texts: dict[str, None] = {}
    for number in itertools.count():
        if len(texts) == rows:
            break
        _, region = rng.choice(protocols)
        text = _FORMS[number % 3].format(
            age=rng.randint(1, 99),
            reason=rng.choice(_REASONS),
            region=region,
            days=rng.randint(1, 60),
        )
        texts[text] = None
    task = Task(
        "imaging-orders",
        "Choose the imaging protocol for the order.",
        "{{ text }}",
        labels=labels,
        fingerprint="benchmark",
    )
    return task, [Record(str(number), {"text": text}) for number, text in enumerate(texts)]
