"""Check the packages of constraints.txt for known vulnerabilities.

    make audit

Those that are accepted are in accepted_risks.toml, each with its reason and the date until which it
is. The list of known vulnerabilities comes from pip-audit, which needs a network.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MAX_ACCEPTANCE = timedelta(days=183)


def read_accepted_risks() -> list[dict[str, Any]]:
    """The entries of accepted_risks.toml."""
    text = (Path(__file__).parent / "accepted_risks.toml").read_text("utf-8")
    accepted: list[dict[str, Any]] = tomllib.loads(text)["accepted"]
    return accepted


def read_pinned_versions() -> dict[str, str]:
    """The versions in constraints.txt, by package."""
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    found = (re.match(r"([\w.-]+)==([^\s;]+)", line) for line in lines)
    return {one[1].lower(): one[2] for one in found if one}


def find_problems(risk: dict[str, Any], pinned: str | None, today: date) -> list[str]:
    """Why an entry no longer justifies the pinned version; empty if it does."""
    name, expires = risk["package"], risk["expires"]
    if pinned is None:
        return [f"{name} is not in constraints.txt: remove its entry"]
    problems = []
    if today > expires:
        problems.append(f"{name} was accepted until {expires}: review it again")
    if expires - risk["reviewed"] > MAX_ACCEPTANCE:
        problems.append(f"{name} is accepted for more than {MAX_ACCEPTANCE.days} days")
    if pinned in risk.get("refused_versions", ()):
        problems.append(f"{name} {pinned} must not be used: pin another version")
    elif pinned != risk["version"]:
        problems.append(f"{name} {pinned} was not reviewed, only {risk['version']}")
    return problems


def check_accepted_risks(today: date) -> list[str]:
    """The problems of all entries."""
    pinned = read_pinned_versions()
    return [
        problem
        for risk in read_accepted_risks()
        for problem in find_problems(risk, pinned.get(risk["package"]), today)
    ]


def build_audit_command() -> list[str]:
    """The command that looks up the pinned versions, without what is accepted."""
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip"]
    command += ["--requirement", str(ROOT / "constraints.txt")]
    for risk in read_accepted_risks():
        for vulnerability in risk["vulnerabilities"]:
            command += ["--ignore-vuln", vulnerability]
    return command


def main() -> None:
    """Print what is accepted, and exit with 1 if that is too much or there is more."""
    for risk in read_accepted_risks():
        print(f"accepted until {risk['expires']}: {risk['package']} {risk['version']}")
    if problems := check_accepted_risks(date.today()):
        sys.exit("\n".join(problems))
    if find_spec("pip_audit") is None:
        sys.exit("pip-audit is not installed: only the accepted risks were checked")
    sys.exit(subprocess.run(build_audit_command(), check=False).returncode)


if __name__ == "__main__":
    main()
