"""Alembic's entry: runs the steps on the connection that `cairn.db.migrate` hands over."""

from typing import Any, Literal

from alembic import context

from cairn.db.columns import Json, Time, metadata


def render_item(kind: str, item: Any, autogen_context: Any) -> str | Literal[False]:
    """Write our own types as what the database has: a step must not change when the code does."""
    if kind == "type" and isinstance(item, Time):
        return "sa.BigInteger()"
    if kind == "type" and isinstance(item, Json):
        return "sa.Text()"
    return False


def compare_type(_context: Any, _column: Any, existing: Any, wanted: Any, *_: Any) -> bool | None:
    """A Time is a BigInteger and a Json a Text there: no difference. Else alembic compares."""
    if isinstance(wanted, Time | Json):
        return not isinstance(existing, type(wanted.impl_instance))
    return None


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=True,
    render_item=render_item,
    compare_type=compare_type,
)
with context.begin_transaction():
    context.run_migrations()
