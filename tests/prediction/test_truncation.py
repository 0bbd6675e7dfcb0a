from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtask.prediction.truncation import cut_at_sentence


@pytest.mark.parametrize(
    ("text", "full"),
    [
        (
            "Glaucoma harms the optic nerve. It is treated with 2.5 ml of",
            "Glaucoma harms the optic nerve.",
        ),
        ("Ask Dr. Lind. She will kn", "Ask Dr. Lind."),
        ("It is rare! Is it? Nobody", "It is rare! Is it?"),
        ("He said “no.” Then he", "He said “no.”"),
        ("- rest\n- drops\n- oper", "- rest\n- drops"),
        ("1. Rest.\n2. Dro", "1. Rest."),
        ("no sentence ends in these wor", "no sentence ends in these"),
        ("糖尿病です。次に", "糖尿病です。"),
        ("word", ""),
        ("", ""),
    ],
)
def test_text_that_broke_off_ends_at_its_last_whole_sentence(text: str, full: str) -> None:
    assert cut_at_sentence(text) == full


@given(st.text(alphabet="ab .!?\n", max_size=40))
def test_what_is_kept_is_the_beginning_of_what_was_written(text: str) -> None:
    assert text.strip().startswith(cut_at_sentence(text))


def test_letters_of_scripts_without_blanks_are_complete_words() -> None:
    assert cut_at_sentence("患者术后恢复良好，出") == "患者术后恢复良好，出"
    assert cut_at_sentence("患者术后恢复良好。出院") == "患者术后恢复良好。"
    assert cut_at_sentence("The wound is hea") == "The wound is"


def test_a_long_row_of_points_takes_no_time():
    started = time.process_time()
    assert cut_at_sentence(f"Yes. {'.' * 50_000}x").startswith("Yes.")
    assert time.process_time() - started < 2
