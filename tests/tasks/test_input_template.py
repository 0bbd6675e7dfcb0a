"""Input templates: what is wrong, and how it is written."""

from __future__ import annotations

from medtask.tasks.input_template import read_template


def test_a_name_with_blanks_gets_the_spelling_that_reads_its_column() -> None:
    ((line, message),) = read_template("x\n{{ Procedure name }}").faults
    assert line == 2
    assert message.endswith('- write {{ row["Procedure name"] }}')


def test_other_faults_of_syntax_get_no_such_advice() -> None:
    ((_, message),) = read_template("{{ a b | }}").faults
    assert "row[" not in message
