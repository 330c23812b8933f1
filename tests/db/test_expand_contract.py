"""Steps of the schema are harmless to the release before, or say that they contract and since when they may.

While one release replaces the other, control processes of both work on the same tables. So a step adds:
tables, columns that may be empty or have a default of the database's, indexes. What takes away names in
`CONTRACTS` the release that was the last to use it, at least two before its own.
"""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import inspect

from cairn import __version__
from cairn.db import migrate
from cairn.db.engine import Database, open_sqlite

STEPS = sorted((migrate._FOLDER / "versions").glob("[0-9]*.py"))
FIRST = "0001"  # makes everything; there is no release before it
TAKES_AWAY = {
    "drop_table": "drops a table", "drop_column": "drops a column",
    "rename_table": "renames a table", "execute": "runs a statement that nobody can judge",
    "create_unique_constraint": "refuses rows that were allowed",
    "create_check_constraint": "refuses rows that were allowed",
    "create_foreign_key": "refuses rows that were allowed",
}  # fmt: skip


def harm(text: str) -> Iterator[str]:
    """What in a step's `upgrade` the release before could not live with."""
    tree = ast.parse(text)
    upgrade = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "upgrade")
    for call in (n for n in ast.walk(upgrade) if isinstance(n, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        words = {k.arg: k.value for k in call.keywords}
        if name in TAKES_AWAY:
            yield f"line {call.lineno} {TAKES_AWAY[name]}"
        elif name == "alter_column":
            if "new_column_name" in words:
                yield f"line {call.lineno} renames a column"
            if is_false(words.get("nullable")):
                yield f"line {call.lineno} refuses rows without a value"
            if "type_" in words:
                yield f"line {call.lineno} changes a type"
        elif name == "create_index" and is_true(words.get("unique")):
            yield f"line {call.lineno} refuses rows that were allowed"
        elif name == "add_column":
            yield from harm_of_column(call)


def harm_of_column(call: ast.Call) -> Iterator[str]:
    for column in (a for a in call.args if isinstance(a, ast.Call)):
        words = {k.arg: k.value for k in column.keywords}
        if is_false(words.get("nullable")) and "server_default" not in words:
            yield f"line {call.lineno} adds a column that the release before does not fill"


def is_false(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def contracts(text: str) -> str | None:
    """The release that was the last to use what the step takes away."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CONTRACTS":
            return str(ast.literal_eval(node.value))
    return None


def releases_between(older: str, newer: str) -> int:
    """By the second number, which every release raises: 0.3.1 and 0.5.0 are two apart."""
    (a, b), (c, d) = ([int(n) for n in v.split(".")[:2]] for v in (older, newer))
    return d - b if a == c else 1000


@pytest.mark.parametrize("path", STEPS, ids=lambda path: path.stem)
def test_a_step_expands_or_contracts_late_enough(path: Path) -> None:
    text, number = path.read_text(), path.name.split("_", 1)[0]
    found = [] if number == FIRST else list(harm(text))
    last_used = contracts(text)
    if last_used is None:
        assert not found, f"{path.name} must say CONTRACTS: {found}"
    else:
        assert found, f"{path.name} takes nothing away"
        assert releases_between(last_used, __version__) >= 2


@pytest.mark.parametrize(
    ("line", "is_harmful"),
    [
        ("op.create_table('t', sa.Column('a', sa.Integer(), nullable=False))", False),
        ("b.add_column(sa.Column('a', sa.Integer(), nullable=True))", False),
        ("b.add_column(sa.Column('a', sa.Text(), server_default='', nullable=False))", False),
        ("b.create_index('i', ['a'], unique=False)", False),
        ("b.drop_index('i')", False),
        ("b.add_column(sa.Column('a', sa.Integer(), nullable=False))", True),
        ("b.drop_column('a')", True),
        ("op.drop_table('t')", True),
        ("op.rename_table('t', 'u')", True),
        ("b.alter_column('a', new_column_name='b')", True),
        ("b.alter_column('a', nullable=False)", True),
        ("b.alter_column('a', nullable=True)", False),
        ("b.alter_column('a', type_=sa.Text())", True),
        ("b.create_index('i', ['a'], unique=True)", True),
        ("b.create_unique_constraint('u', ['a'])", True),
        ("op.execute('UPDATE t SET a = 1')", True),
    ],
)
def test_the_judge_knows_harm(line: str, is_harmful: bool) -> None:
    step = f"def upgrade():\n    with op.batch_alter_table('t') as b:\n        {line}\n"
    assert bool(list(harm(step))) is is_harmful


def test_releases_are_counted_by_their_second_number() -> None:
    assert releases_between("0.3.1", "0.5.0") == 2
    assert releases_between("0.3.1", "0.3.9") == 0


# --- how steps are run -------------------------------------------------------------------------------

STEP = '''"""{title}."""

from alembic import op
import sqlalchemy as sa

revision = "{number}"
down_revision = "{before}"
{more}

def upgrade() -> None:
    op.{does}
'''
MAKE = 'create_table("{0}", sa.Column("id", sa.Integer(), primary_key=True))'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release with the steps: make x; make y; contract: drop x."""
    copy = tmp_path / "migrations"
    shutil.copytree(migrate._FOLDER, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (copy / "versions").glob("[0-9]*.py"):
        path.unlink()
    write(copy, "0001", MAKE.format("x"), title="Make x")
    write(copy, "0002", MAKE.format("y"), title="Make y")
    write(copy, "0003", 'drop_table("x")', more='CONTRACTS = "0.1"')
    monkeypatch.setattr(migrate, "_FOLDER", copy)
    return copy


def write(folder: Path, number: str, does: str, *, title: str = "A step", more: str = "") -> None:
    before = f"{int(number) - 1:04}"
    text = STEP.format(number=number, before=before, does=does, title=title, more=more)
    if number == "0001":
        text = text.replace('"0000"', "None")
    (folder / "versions" / f"{number}_step.py").write_text(text)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Database]:
    database = open_sqlite(tmp_path / "cairn.db")
    yield database
    database.close()


def tables(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names()) - {"alembic_version"}


def test_steps_are_listed_with_what_they_do(folder: Path, empty: Database) -> None:
    assert [(s.number, s.title, s.contracts) for s in migrate.pending(empty)] == [
        ("0001", "Make x", False),
        ("0002", "Make y", False),
        ("0003", "A step", True),
    ]


def test_contracting_steps_wait_until_they_are_asked_for(folder: Path, empty: Database) -> None:
    migrate.upgrade(empty)
    assert tables(empty) == {"x", "y"}
    assert [s.number for s in migrate.pending(empty)] == ["0003"]
    migrate.upgrade(empty)
    assert tables(empty) == {"x", "y"}
    migrate.upgrade(empty, with_contracts=True)
    assert tables(empty) == {"y"}
    assert migrate.pending(empty) == []
    migrate.upgrade(empty, with_contracts=True)


def test_a_later_step_takes_those_before_it_along(folder: Path, empty: Database) -> None:
    migrate.upgrade(empty)
    write(folder, "0004", MAKE.format("z"))
    migrate.upgrade(empty)
    assert tables(empty) == {"y", "z"}


def test_a_database_that_a_newer_release_expanded_is_used_as_it_is(
    folder: Path, empty: Database
) -> None:
    migrate.upgrade(empty, with_contracts=True)
    for number in ("0003", "0002"):
        (folder / "versions" / f"{number}_step.py").unlink()
    migrate.upgrade(empty)
    assert migrate.current(empty) == "0003"
    assert tables(empty) == {"y"}
