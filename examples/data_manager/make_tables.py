"""Write the tables of the tutorial "A data manager's day": invented operations, in two languages.

    python make_tables.py                    # inngrep.xlsx (Norwegian) and eingriffe.xlsx (German)
    python make_tables.py --gold inngrep.xlsx --rows 250      # fills in gold, as a person would
    python make_tables.py --correct review.xlsx --rows 40     # fills in the column "corrected"

Both tables have 400 rows and no gold. Each text is made from fragments that belong to its purpose,
so that the script knows the right answer. The same command always writes the same rows.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from random import Random

import xlsxwriter
from python_calamine import CalamineWorkbook

ROWS = 400


@dataclass(frozen=True)
class Language:
    """Texts of one table.

    ``purposes`` has four lines for each purpose: its name, operations, reasons and remarks.
    """

    columns: tuple[str, str, str, str, str]  # id, patient, date, operation, gold
    prefix: str
    age: str
    purposes: str

    def list_fragments(self) -> dict[str, list[list[str]]]:
        """The operations, reasons and remarks by purpose."""
        lines = re.split(r"(?<!\|)\n", self.purposes.strip())  # "|" at the end goes on
        return {
            name.strip(): [re.split(r"\s*\|\s*", part.strip()) for part in parts]
            for name, *parts in zip(*[iter(lines)] * 4, strict=True)
        }


NORWEGIAN = Language(
    ("Saksnr", "Pasient", "Dato", "Inngrep", "Formål"),
    "P",
    "Pasient {} år.",
    """
    kurativ
    Høyresidig hemikolektomi | Lav fremre reseksjon | Nefrektomi venstre side |
      Lobektomi høyre overlapp | Mastektomi med aksilledisseksjon | Ventrikkelreseksjon
    for adenokarsinom | for påvist kreft uten fjernmetastaser | for T2-svulst
    frie reseksjonsrender | tumor fjernet i sin helhet | radikalt, 14 lymfeknuter
    lindrende
    Avlastende kolostomi | Innleggelse av øsofagusstent | Pleuradrenasje |
      Gastroenterostomi | Vertebroplastikk L3 | Biliær stent
    ved inoperabel svulst | ved utbredte levermetastaser | ved spredt sykdom
    for å lindre smerter | for å bedre passasjen | mot tiltagende tung pust
    diagnostisk
    Diagnostisk laparoskopi | Koloskopi med biopsi | Mediastinoskopi |
      Grovnålsbiopsi av mamma | Cystoskopi | Lymfeknutebiopsi på halsen
    ved mistanke om malignitet | på grunn av uklar oppfylning | til stadieinndeling
    vev sendt til histologi | ingen reseksjon | prøver tatt fra tre steder
    rekonstruktiv
    Rekonstruksjon av bryst med lapp | Tilbakelegging av stomi | Proteseskifte bryst |
      Dekning med fri lapp | Plastikk av bukvegg | Neoblære av ileum
    etter tidligere kreftbehandling | ett år etter reseksjon | etter stråleskade
    god sirkulasjon i lappen | anastomose uten lekkasje | symmetri oppnådd
    """,
)
GERMAN = Language(
    ("Fallnr", "Patient", "Datum", "Eingriff", "Ziel"),
    "M",
    "Patient, {} Jahre.",
    """
    kurativ
    Hemikolektomie rechts | Tiefe anteriore Resektion | Nephrektomie links |
      Lobektomie rechter Oberlappen | Mastektomie mit Axilladissektion | Gastrektomie
    bei Adenokarzinom | bei gesichertem Karzinom ohne Fernmetastasen | bei T2-Tumor
    Resektionsränder frei | Tumor vollständig entfernt | R0, 14 Lymphknoten
    palliativ
    Entlastendes Kolostoma | Einlage eines Ösophagusstents | Pleuradrainage |
      Gastroenterostomie | Vertebroplastie LWK 3 | Gallengangsstent
    bei inoperablem Tumor | bei ausgedehnten Lebermetastasen | bei Streuung
    zur Linderung der Schmerzen | damit wieder Nahrung passiert | gegen Atemnot
    diagnostisch
    Diagnostische Laparoskopie | Koloskopie mit Biopsie | Mediastinoskopie |
      Stanzbiopsie der Mamma | Zystoskopie | Lymphknotenbiopsie am Hals
    bei Verdacht auf Malignität | bei unklarer Raumforderung | zum Staging
    Gewebe zur Histologie | keine Resektion | Proben aus drei Stellen
    rekonstruktiv
    Brustrekonstruktion mit Lappen | Rückverlagerung des Stomas | Prothesenwechsel |
      Deckung mit freiem Lappen | Plastik der Bauchwand | Neoblase aus Ileum
    nach früherer Krebstherapie | ein Jahr nach Resektion | nach Strahlenschaden
    Lappen gut durchblutet | Anastomose dicht | Symmetrie erreicht
    """,
)
TABLES = {"inngrep.xlsx": NORWEGIAN, "eingriffe.xlsx": GERMAN}


def list_operations(language: Language) -> list[tuple[str, str]]:
    """All texts of a language with their purpose, in a fixed random order."""
    random = Random(21)
    texts = {
        purpose: [_join(parts, turn) for turn, parts in enumerate(product(*fragments))]
        for purpose, fragments in language.list_fragments().items()
    }
    for one in texts.values():
        random.shuffle(one)
    purposes = random.choices(list(texts), weights=(4, 3, 2, 1), k=ROWS)
    sources: dict[str, Iterator[str]] = {purpose: cycle(one) for purpose, one in texts.items()}
    return [
        (f"{language.age.format(random.randint(35, 89))} {next(sources[purpose])}", purpose)
        for purpose in purposes
    ]


def _join(parts: Sequence[str], turn: int) -> str:
    operation, reason, remark = parts
    # Some notes have two lines, as they are typed in a hospital.
    return f"{operation} {reason}{chr(10) if turn % 5 == 0 else ', '}{remark}."


def write_table(path: Path, language: Language, gold_rows: int = 0) -> None:
    """Write a table; the first ``gold_rows`` rows have gold."""
    with xlsxwriter.Workbook(str(path)) as book:
        sheet = book.add_worksheet("Export")
        number = book.add_format({"num_format": "000000"})
        sheet.write_row(0, 0, language.columns)
        for row, (text, purpose) in enumerate(list_operations(language), 1):
            sheet.write_number(row, 0, 13 * row, number)  # shown as 000013
            sheet.write_string(row, 1, f"{language.prefix}{(row + 1) // 2:04}")
            sheet.write_string(row, 2, f"{1 + row % 28:02}.{1 + row % 12:02}.2025")
            sheet.write_string(row, 3, text)
            if row <= gold_rows:
                sheet.write_string(row, 4, purpose)


def fill_corrections(path: Path, count: int) -> None:
    """Write the right answers into the column "corrected" of a review table's first rows."""
    rows = CalamineWorkbook.from_path(str(path)).get_sheet_by_index(0).to_python()
    header = rows[0]
    language = next(one for one in TABLES.values() if one.columns[3] in header)
    purposes = dict(list_operations(language))
    text, corrected = header.index(language.columns[3]), header.index("corrected")
    with xlsxwriter.Workbook(str(path)) as book:
        sheet = book.add_worksheet("answers")
        for number, cells in enumerate(rows):
            if 0 < number <= count:
                cells[corrected] = purposes[cells[text]]
            sheet.write_row(number, 0, cells)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the tables of the tutorial.")
    parser.add_argument("--gold", type=Path, metavar="TABLE", help="fill in gold in this table")
    parser.add_argument("--rows", type=int, default=250, help="rows to fill in (default: 250)")
    parser.add_argument("--correct", type=Path, metavar="REVIEW", help="fill in a review table")
    options = parser.parse_args(arguments)
    if options.correct:
        fill_corrections(options.correct, options.rows)
    elif options.gold:
        write_table(options.gold, TABLES[options.gold.name], options.rows)
    else:
        for name, language in TABLES.items():
            write_table(Path(name), language)


if __name__ == "__main__":
    main()
