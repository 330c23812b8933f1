"""What a domain sets for itself: where its users come from, and how they are found there.

The verbs behind `/v3/domains/{id}/config`. Source: api-ref, Identity v3, "Domain configuration", and
what Keystone's own manager answers where the reference is silent. A change is hinted at (`TOPIC`), so that
every process looks at its directories anew.
"""

from collections.abc import Mapping
from typing import Any

from cairn.core.errors import NotFound
from cairn.core.ids import DomainId
from cairn.db.engine import Tx
from cairn.db.secrets import Sealer
from cairn.identity.directory import domain_config_store as store
from cairn.identity.directory.domain_options import refused, require_known, require_valid

TOPIC = "identity.directories"


def show(
    tx: Tx, domain_id: DomainId, group: str | None = None, option: str | None = None
) -> dict[str, Any]:
    """All options by group, one group's by group, or one option alone. NotFound when none is set."""
    require_known(group, option)
    config = store.config_of(tx, domain_id)
    if group is not None:
        config = {g: options for g, options in config.items() if g == group}
    if option is not None and group is not None:
        options = config.get(group, {})
        if option not in options:
            raise _missing(domain_id, group, option)
        return {option: options[option]}
    if not config:
        raise _missing(domain_id, group, option)
    return config


def whole(tx: Tx, sealer: Sealer, domain_id: DomainId) -> dict[str, dict[str, Any]]:
    """With secrets, and with these put in where a text refers to one: "ldap://%(password)s@..."."""
    config = store.config_of(tx, domain_id)
    for group, hidden in store.secrets_of(tx, sealer, domain_id).items():
        shown = config.setdefault(group, {})
        for name, value in shown.items():
            if isinstance(value, str):
                shown[name] = _filled(value, hidden)
        shown.update(hidden)
    return config


def create(tx: Tx, sealer: Sealer, domain_id: DomainId, config: Mapping[str, Any]) -> bool:
    """Set these options in place of all that were set; whether there were any."""
    require_valid(config)
    before = whole(tx, sealer, domain_id)
    store.remove(tx, domain_id)
    store.put(tx, sealer, domain_id, _flat(config))
    tx.wake(TOPIC)
    return bool(before)


def update(
    tx: Tx,
    sealer: Sealer,
    domain_id: DomainId,
    config: Mapping[str, Any],
    group: str | None = None,
    option: str | None = None,
) -> None:
    """Set these options besides those that are set. With `group` or `option` only that, and only if it is
    set already."""
    if group is not None and option is not None:
        config = {group: config}
    require_valid(config)
    require_known(group, option)
    if group is not None:
        _require_only(config, group, option)
        before = whole(tx, sealer, domain_id).get(group)
        if not before or (option is not None and option not in before):
            raise _missing(domain_id, group, option)
    store.put(tx, sealer, domain_id, _flat(config))
    tx.wake(TOPIC)


def delete(
    tx: Tx,
    sealer: Sealer,
    domain_id: DomainId,
    group: str | None = None,
    option: str | None = None,
) -> None:
    require_known(group, option)
    if group is not None:
        before = whole(tx, sealer, domain_id).get(group)
        if not before or (option is not None and option not in before):
            raise _missing(domain_id, group, option)
    store.remove(tx, domain_id, group, option)
    tx.wake(TOPIC)


def forget(tx: Tx, domain_id: DomainId) -> None:
    """The domain ends."""
    store.remove(tx, domain_id)
    tx.wake(TOPIC)


def _filled(text: str, hidden: Mapping[str, Any]) -> str:
    for name, value in hidden.items():
        text = text.replace(f"%({name})s", value)
    return text


def _require_only(config: Mapping[str, Any], group: str, option: str | None) -> None:
    if option is not None and set(config[group]) != {option}:
        raise refused(
            f"Trying to update option {option} in group {group}, so that, and only that, option must be"
            " specified in the config"
        )
    if set(config) != {group}:
        raise refused(
            f"Trying to update group {group}, so that, and only that, group must be specified in the"
            " config"
        )


def _flat(config: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    return [(g, name, value) for g, options in config.items() for name, value in options.items()]


def _missing(domain_id: DomainId, group: str | None, option: str | None) -> NotFound:
    what = "any options"
    if group is not None:
        what = f"group {group}" if option is None else f"option {option} in group {group}"
    return NotFound(f"Could not find {what} in domain configuration for domain {domain_id}.")
