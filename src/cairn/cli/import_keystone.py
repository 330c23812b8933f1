"""`cairn import keystone FILE`: users, projects, roles and assignments of a Keystone, from its dump.

This reads the dump and sends the rows that matter, one a line, to the operator's API, which decides what
becomes of each and does all or nothing (identity/importing/importing.py).
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cairn.cli import import_dump
from cairn.cli.cloud import as_operator
from cairn.cli.main import state_option
from cairn.core.errors import Invalid
from cairn.identity.importing.shape import LEFT_OUT, ROWS_MAX, TABLES

TIMEOUT_S = 1800.0
BATCH_BYTES = 1 << 18
NOTES_SHOWN = 50


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--all", "show_all", is_flag=True, help="Show every remark, however many.")
@state_option
def keystone(file: Path, dry_run: bool, show_all: bool, state: Path | None) -> None:
    """Take over domains, projects, users, groups, roles and assignments from FILE.

    FILE is what `mysqldump keystone` or `pg_dump keystone` wrote (gzip is fine). Ids are kept; passwords
    stay valid. What is here already stays as it is, so that it may be run again.
    """
    from cairn import settings as settings_file

    settings = settings_file.load(settings_file.state_dir(state))
    cloud = as_operator(settings, timeout_s=TIMEOUT_S)
    cloud.get("identity", "/auth/projects")  # A kept token that is too old is renewed now.
    left_out: Counter[str] = Counter()
    path = f"/import/keystone?dry_run={str(dry_run).lower()}"
    said = cloud.stream("cairn", path, _batches(file, left_out))["import"]
    _print(said, left_out, show_all=show_all)


def _batches(file: Path, left_out: Counter[str]) -> Iterator[bytes]:
    """The rows that matter as lines, many at once; others are counted."""
    batch = bytearray()
    taken = 0
    for table, columns, values in import_dump.rows(file):
        wanted = TABLES.get(table)
        if wanted is None:
            if table in LEFT_OUT:
                left_out[table] += 1
            continue
        taken += 1
        if taken > ROWS_MAX:
            raise Invalid(f"The dump has more than {ROWS_MAX} rows to take over.")
        row = dict(zip(columns, values, strict=True))
        line = json.dumps([table, *(row.get(column) for column in wanted)], ensure_ascii=False)
        try:
            batch += line.encode() + b"\n"
        except UnicodeEncodeError as error:
            raise Invalid(f"Table {table} has a row that is no UTF-8: {line[:80]!a}") from error
        if len(batch) >= BATCH_BYTES:
            yield bytes(batch)
            batch.clear()
    if not taken:
        raise Invalid(
            f"{file.name} has no row of a Keystone's tables.",
            because="it must be a dump of its database with data, as SQL text",
        )
    yield bytes(batch)


def _print(said: dict[str, Any], left_out: Counter[str], *, show_all: bool) -> None:
    for line in table(said["counts"]):
        click.echo(line)
    notes = said["notes"] if show_all else said["notes"][:NOTES_SHOWN]
    for note in notes:
        click.echo(f"- {note}")
    more = said["notes_total"] - len(notes)
    if more > 0:
        click.echo(f"- and {more} more remarks{'' if show_all else ': see --all'}")
    for name, count in sorted(left_out.items()):
        click.echo(f"- not imported: {count} x {name}: {LEFT_OUT[name]}")
    if said["dry_run"]:
        click.echo("Nothing was changed: this was a dry run.")
    elif said["changed"]:
        click.echo("Done, all of it in one transaction.")
    else:
        click.echo("Everything is here already; nothing was changed.")


def table(counts: dict[str, dict[str, int]]) -> list[str]:
    """What becomes of each kind of thing, one a line."""
    heads = ("new", "here", "merged", "left out")
    lines = [f"{'':<22}" + "".join(f"{head:>10}" for head in heads)]
    for kind, numbers in counts.items():
        cells = "".join(f"{numbers.get(head.replace(' ', '_'), 0):>10}" for head in heads)
        lines.append(f"{kind:<22}{cells}")
    return lines
