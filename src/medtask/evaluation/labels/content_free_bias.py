"""A model's preferences on inputs without content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from medtask.display import format_percent, isolate_name
from medtask.evaluation.labels.finding import LabelFinding
from medtask.evaluation.statistics.intervals import Metric

# An outcome is reported if its share is this many times the uniform share, or differs from its
# share in gold by this factor.
MIN_PREFERENCE_RATIO = 2.0
# total variation from uniform shares, from which on the bias as a whole is reported
MIN_TOTAL_VARIATION = 0.25


@dataclass(frozen=True, slots=True)
class ContentFreeBias:
    """Mean probability of each outcome on inputs without content (Zhao et al. 2021, "Calibrate
    Before Use").

    Attributes:
        shares: Mean probability of each outcome.
        exclusive: Whether exactly one outcome applies, so that the probabilities sum to 1.
        inputs: Probabilities for each input.
        gold: Frequency of each outcome in gold, if known.
        noun: Term for an outcome.
    """

    shares: Mapping[str, float]
    exclusive: bool
    inputs: Mapping[str, Mapping[str, float]]
    gold: Mapping[str, Metric] = field(default_factory=dict)
    noun: str = "label"

    @property
    def uniform_share(self) -> float:
        return 1 / len(self.shares) if self.exclusive else 0.5

    @property
    def distance_from_uniform(self) -> float:
        """Total variation from a uniform distribution, or mean distance from 0.5, in [0, 1)."""
        apart = sum(abs(share - self.uniform_share) for share in self.shares.values())
        return apart / 2 if self.exclusive else apart / len(self.shares)


def find_bias(bias: ContentFreeBias) -> list[LabelFinding]:
    """Outcomes that the model prefers, the most preferred first."""
    found = []
    for name, share in sorted(bias.shares.items(), key=lambda item: -item[1]):
        always = all(shares[name] > bias.uniform_share for shares in bias.inputs.values())
        high = (
            share >= MIN_PREFERENCE_RATIO * bias.uniform_share if bias.exclusive else share >= 0.75
        )
        if high and always and len(bias.shares) > 1:
            found.append(_build_finding(bias, name, share))
    if not found and bias.exclusive and bias.distance_from_uniform >= MIN_TOTAL_VARIATION:
        most = max(bias.shares, key=bias.shares.__getitem__)
        found.append(_build_finding(bias, most, bias.shares[most]))
    return found


def _build_finding(bias: ContentFreeBias, name: str, share: float) -> LabelFinding:
    gold = bias.gold.get(name)
    frequent = f"; gold has it in {format_percent(gold.value)} of {gold.n:,} rows" if gold else ""
    seen = (
        f"without any input the model gives {isolate_name(name)} {format_percent(share)} "
        f"({format_percent(bias.uniform_share)} would be even{frequent})"
    )
    advice = (
        "calibrate its answers (a bias for each label takes this out), or write definitions "
        "and examples of equal weight"
    )
    if bias.noun == "letter":
        advice = "write `debias: permute`: letters are then asked for in every order and averaged"
    figures = {
        "share": share,
        "even": bias.uniform_share,
        "gold": asdict(gold) if gold else None,
        "inputs": len(bias.inputs),
    }
    return LabelFinding("prior", "look", (name,), seen, advice, figures, share / bias.uniform_share)
