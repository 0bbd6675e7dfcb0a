"""Migrations: they make the tables that the code has, once, and refuse newer databases."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from medtask.errors import InputError
from medtask.server.access.accounts import create_account
from medtask.server.access.roles import Role
from medtask.server.database import revisions
from medtask.server.database.base import Base
from medtask.server.database.connect import Database
from medtask.server.database.migrate import make_config
from medtask.server.schema import open_database
from medtask.server.settings import ServerSettings
from support.command_line import RunCommand

OPEN = (
    "import sys; from pathlib import Path; from medtask.server.schema import open_database; "
    "from medtask.server.settings import ServerSettings; "
    "open_database(ServerSettings(Path(sys.argv[1]), sys.argv[2])).close()"
)

NEWEST = ScriptDirectory.from_config(make_config()).get_current_head() or ""


def test_the_migrations_make_the_tables_of_the_code(tmp_path: Path, database_url: str) -> None:
    settings = ServerSettings(tmp_path / "data", database_url)
    with closing(open_database(settings)) as database, database.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
        # If this fails: python -m medtask.server.schema "what changes"
        assert differences == []


def test_there_is_one_newest_revision() -> None:
    assert len(ScriptDirectory.from_config(make_config()).get_heads()) == 1


@pytest.mark.slow
def test_of_processes_that_start_together_one_migrates(tmp_path: Path, database_url: str) -> None:
    data = tmp_path / "data"
    command = [sys.executable, "-c", OPEN, str(data), database_url]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, errors
    settings = ServerSettings(data, database_url)
    with closing(open_database(settings)) as database, database.read() as session:
        assert session.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1


def test_a_newer_database_is_refused_and_stays_as_it_is(
    tmp_path: Path, database_url: str, medtask: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ServerSettings(tmp_path / "data", database_url)
    with closing(open_database(settings)) as database, database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InputError, match="newer version"):
        open_database(settings)
    monkeypatch.setenv("MEDTASK_DB", database_url)
    shown = medtask("serve", "--data", tmp_path / "data", "--port", 0)
    assert shown.code == 4
    assert "newer version" in shown.err


FURTHER_REVISION = """
import sqlalchemy as sa
from alembic import op

revision = "{next}"
down_revision = "{newest}"


def upgrade() -> None:
    op.add_column("accounts", sa.Column("added", sa.Text()))
    {then}
"""


def add_revision(folder: Path, monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    """Use migrations with a further one."""
    shutil.copytree(revisions.MIGRATIONS_FOLDER, folder)
    following = f"{int(NEWEST) + 1:04}"
    names = {"{then}": then, "{newest}": NEWEST, "{next}": following}
    text = FURTHER_REVISION
    for name, value in names.items():
        text = text.replace(name, value)
    (folder / "versions" / f"revision_{following}.py").write_text(text)
    monkeypatch.setattr(revisions, "MIGRATIONS_FOLDER", folder)


def list_columns(settings: ServerSettings) -> list[str]:
    with closing(Database(settings.sqlalchemy_url)) as database:
        return [column["name"] for column in inspect(database.engine).get_columns("accounts")]


def test_an_older_database_is_copied_and_migrated(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ServerSettings(tmp_path / "data", database_url)
    with closing(open_database(settings)) as database, database.write() as session:
        create_account(session, "Ada", Role.ADMIN)
    add_revision(tmp_path / "migrations", monkeypatch, "pass")
    open_database(settings).close()
    assert "added" in list_columns(settings)
    if not database_url:
        copy = tmp_path / "data" / f"medtask.db.{NEWEST}.copy"
        assert copy.stat().st_mode & 0o777 == 0o600
        with closing(sqlite3.connect(copy)) as copied:
            assert copied.execute("SELECT name FROM accounts").fetchall() == [("Ada",)]


def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ServerSettings(tmp_path / "data", database_url)
    open_database(settings).close()
    add_revision(tmp_path / "migrations", monkeypatch, "raise RuntimeError('killed')")
    with pytest.raises(RuntimeError, match="killed"):
        open_database(settings)
    assert "added" not in list_columns(settings)
    monkeypatch.undo()
    open_database(settings).close()
