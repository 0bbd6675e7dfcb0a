"""Commands that run without a network."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def list_no_network_command() -> list[str]:
    """The words before a command that take every network from it, even that to itself."""
    for words in (["unshare", "-n"], ["unshare", "-rn"]):
        if (
            shutil.which(words[0])
            and not subprocess.run([*words, "true"], capture_output=True).returncode
        ):
            return words
    pytest.skip("this machine lets nobody run without a network (unshare -n)")
