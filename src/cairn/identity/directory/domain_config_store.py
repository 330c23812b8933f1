"""Where domains' options are kept. Secret ones are sealed among the other secrets of the control plane."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Column, ColumnElement, String, Table, select

from cairn.core.ids import DomainId
from cairn.db import secrets
from cairn.db.columns import Json, id_column, metadata
from cairn.db.engine import Tx
from cairn.db.secrets import Sealer
from cairn.identity.directory.domain_options import OPTIONS

options = Table(
    "identity_domain_options",
    metadata,
    id_column("domain_id", primary_key=True),
    Column("group_name", String(64), primary_key=True),
    Column("option_name", String(64), primary_key=True),
    Column("value", Json(Any)),
)


def config_of(tx: Tx, domain_id: DomainId) -> dict[str, dict[str, Any]]:
    """What the domain has set, but for secrets."""
    query = select(options).where(options.c.domain_id == domain_id)
    found: dict[str, dict[str, Any]] = {}
    for row in tx.execute(query.order_by(options.c.group_name, options.c.option_name)):
        found.setdefault(row.group_name, {})[row.option_name] = row.value
    return found


def secrets_of(tx: Tx, sealer: Sealer, domain_id: DomainId) -> dict[str, dict[str, Any]]:
    """The secret options that the domain has set."""
    found: dict[str, dict[str, Any]] = {}
    for group, name in _secret_options():
        value = secrets.get(tx, sealer, _secret_name(domain_id, group, name))
        if value is not None:
            found.setdefault(group, {})[name] = value.decode()
    return found


def put(
    tx: Tx, sealer: Sealer, domain_id: DomainId, values: Iterable[tuple[str, str, Any]]
) -> None:
    """Set options: (group, name, value)."""
    for group, name, value in values:
        if OPTIONS[group][name].is_secret:
            _put_secret(tx, sealer, _secret_name(domain_id, group, name), value)
            continue
        changed = tx.execute(
            options.update().where(*_is(domain_id, group, name)).values(value=value)
        )
        if changed.rowcount == 0:
            tx.execute(
                options.insert().values(
                    domain_id=domain_id, group_name=group, option_name=name, value=value
                )
            )


def remove(
    tx: Tx, domain_id: DomainId, group: str | None = None, option: str | None = None
) -> None:
    """Forget one option, a group, or all."""
    tx.execute(options.delete().where(*_is(domain_id, group, option)))
    for secret_group, name in _secret_options():
        if group in (None, secret_group) and option in (None, name):
            secrets.forget(tx, _secret_name(domain_id, secret_group, name))


def domains_with(tx: Tx, group: str, option: str, value: Any) -> list[DomainId]:
    """The domains that have set an option to a value, by id."""
    query = select(options.c.domain_id, options.c.value).where(
        options.c.group_name == group, options.c.option_name == option
    )
    rows = tx.execute(query.order_by(options.c.domain_id))
    return [DomainId(row.domain_id) for row in rows if row.value == value]


def _put_secret(tx: Tx, sealer: Sealer, name: str, value: Any) -> None:
    if value is None:
        secrets.forget(tx, name)
    else:
        secrets.put(tx, sealer, name, str(value).encode())


def _secret_options() -> list[tuple[str, str]]:
    return [(g, name) for g, known in OPTIONS.items() for name, o in known.items() if o.is_secret]


def _secret_name(domain_id: DomainId, group: str, option: str) -> str:
    return f"identity.domain.{domain_id}.{group}.{option}"


def _is(domain_id: DomainId, group: str | None, option: str | None) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [options.c.domain_id == domain_id]
    if group is not None:
        found.append(options.c.group_name == group)
    if option is not None:
        found.append(options.c.option_name == option)
    return found
