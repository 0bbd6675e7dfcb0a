"""S23: risks of dependencies are accepted in writing, for one version and until a date."""

from __future__ import annotations

from datetime import date
from itertools import pairwise

import pytest
from release.audit import (
    build_audit_command,
    check_accepted_risks,
    find_problems,
    read_accepted_risks,
    read_pinned_versions,
)

RISK = {
    "package": "x",
    "version": "1.2",
    "refused_versions": ["1.1"],
    "reviewed": date(2026, 1, 1),
    "expires": date(2026, 6, 30),
}


def test_every_accepted_risk_is_of_the_pinned_version() -> None:
    # The release check and `make audit` look at the date of the day. Tests do not: an old commit
    # would fail by itself.
    latest = max(risk["reviewed"] for risk in read_accepted_risks())
    assert check_accepted_risks(latest) == []


def test_every_accepted_risk_has_a_reason() -> None:
    for risk in read_accepted_risks():
        assert len(risk["reason"]) > 80, risk["package"]
        assert risk["brought_by"], risk["package"]


@pytest.mark.parametrize(
    ("pinned", "today", "problem"),
    [
        ("1.2", date(2026, 6, 30), ""),
        ("1.2", date(2026, 7, 1), "until 2026-06-30"),
        ("1.3", date(2026, 2, 1), "not reviewed"),
        ("1.1", date(2026, 2, 1), "must not be used"),
        (None, date(2026, 2, 1), "remove its entry"),
    ],
)
def test_an_entry_counts_for_its_version_until_its_date(
    pinned: str | None, today: date, problem: str
) -> None:
    problems = find_problems(RISK, pinned, today)
    assert len(problems) == bool(problem)
    assert problem in "".join(problems)


def test_nothing_is_accepted_for_longer_than_half_a_year() -> None:
    longer = RISK | {"expires": date(2026, 8, 1)}
    assert find_problems(longer, "1.2", date(2026, 2, 1))


def test_the_audit_leaves_out_accepted_vulnerabilities_and_no_others() -> None:
    command = build_audit_command()
    ignored = [word for option, word in pairwise(command) if option == "--ignore-vuln"]
    assert ignored == ["CVE-2025-69872"]
    assert len(read_pinned_versions()) > 100
