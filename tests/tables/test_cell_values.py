"""No text of a file for people runs as a formula, and every text comes back as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.tables.cell_values import escape_formula, unescape_formula

DANGEROUS = "=+-@\t\r\0"


@given(st.text(st.sampled_from(DANGEROUS + "'a1 \n"), max_size=5) | st.text())
def test_unguard_undoes_guard_and_nothing_dangerous_comes_first(text):
    assert unescape_formula(escape_formula(text)) == text
    assert escape_formula(text)[:1] not in set(DANGEROUS)


@pytest.mark.parametrize("text", ["", "a=1", "'quoted'", "1-2", " =1"])
def test_harmless_text_stays(text):
    assert escape_formula(text) == text == unescape_formula(text)
