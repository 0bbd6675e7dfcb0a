"""Guessed encodings: the right letters, or words about the doubt; never wrong ones in silence."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from medtask.errors import EncodingGuessWarning, TableError
from medtask.tables.read import read_table
from support.sentences import ENCODINGS, SENTENCES

ENGLISH = (
    "Patient has severe chest pain and is short of breath.",
    "The tumour was removed in full, margins were free.",
    "No fever, no jaundice today.",
)
PAIRS = [(language, encoding) for language, names in ENCODINGS.items() for encoding in names]


def read_notes(path: Path, texts: list[str], encoding: str) -> tuple[list[str], str]:
    """The texts as they are read from a file in the encoding, and the note about it."""
    rows = "".join(f'{number},"{text}",curative\r\n' for number, text in enumerate(texts, 1))
    path.write_bytes(f"id,note,gold\r\n{rows}".encode(encoding))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EncodingGuessWarning)
        table = read_table(path)
    return [str(row["note"]) for row in table], table.notes[0]


@pytest.mark.parametrize(("language", "encoding"), PAIRS)
def test_a_table_in_one_language_is_read_with_the_right_letters(
    tmp_path: Path, language: str, encoding: str
) -> None:
    texts = list(SENTENCES[language])
    assert read_notes(tmp_path / "notes.csv", texts, encoding)[0] == texts


@pytest.mark.parametrize(("language", "encoding"), PAIRS)
def test_one_foreign_sentence_among_english_ones_is_read_right_or_called_unclear(
    tmp_path: Path, language: str, encoding: str
) -> None:
    unclear = 0
    for sentence in SENTENCES[language]:
        texts = [*ENGLISH, sentence, *ENGLISH]
        found, note = read_notes(tmp_path / "notes.csv", texts, encoding)
        assert found == texts or "unclear" in note, sentence
        unclear += found != texts
    assert unclear <= 1


@pytest.mark.parametrize(
    ("text", "encodings"),
    [
        ("Dose 50 µg daily, 37 °C, range ±2", ("cp1252", "mac_roman")),
        ("The patient’s “mass” – 3 cm", ("cp1252", "mac_roman")),
        ("Costs 30 € a day", ("cp1252", "iso8859-15")),
        ("Given a β-blocker and an α2-agonist", ("cp1253", "cp737")),
        ("Referred by Иванов, больной опухоль", ("cp1251", "koi8-r", "cp866")),
    ],
)
def test_a_few_signs_and_words_in_english_text_are_read_right(
    tmp_path: Path, text: str, encodings: tuple[str, ...]
) -> None:
    for encoding in encodings:
        texts = [*ENGLISH, text, *ENGLISH]
        assert read_notes(tmp_path / "notes.csv", texts, encoding)[0] == texts, encoding


def test_the_warning_shows_words_to_check_and_the_note_shows_none(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_bytes(
        ("id,note\n" + "".join(f"1,{text}\n" for text in SENTENCES["Polish"])).encode("cp1250")
    )
    with pytest.warns(EncodingGuessWarning) as caught:
        table = read_table(path)
    (message,) = [str(one.message) for one in caught]
    assert "read as Windows-1250 (guessed), for example" in message
    assert '"żołądka"' in message or '"świąd"' in message
    assert table.guess_notes == (f"{path}: not UTF-8: read as Windows-1250 (guessed)",)


def test_an_unclear_guess_shows_the_words_in_both_encodings(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_bytes("id,note\n1,Seen by Dr Erdős\n".encode("cp1250"))
    with pytest.warns(EncodingGuessWarning, match="the encoding is unclear") as caught:
        read_table(path)
    assert {"Erdõs", "Erdős"} <= set(str(caught[0].message).replace('"', " ").split())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("language", SENTENCES)
def test_unicode_needs_no_guess(tmp_path: Path, language: str, encoding: str) -> None:
    path = tmp_path / "notes.csv"
    texts = list(SENTENCES[language])
    path.write_bytes(
        ("id\tnote\r\n" + "".join(f"1\t{text}\r\n" for text in texts)).encode(encoding)
    )
    table = read_table(path)
    assert [row["note"] for row in table] == texts
    assert not table.guess_notes


def test_a_file_that_mixes_utf8_with_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_bytes(b"id,note\n1,caf\xc3\xa9\n2,caf\xe9\n")
    with pytest.raises(TableError, match="line 3: byte 21 is not valid UTF-8") as raised:
        read_table(path)
    assert "--encoding" in raised.value.fix
