"""A project's limits on volumes and snapshots, checked in the transaction of whatever would pass them.

Besides those of the whole project there are three for each volume type, unlimited unless somebody sets
them. The API names them after the type's name ("gigabytes_fast"); they are kept under its id, so that a
type may be renamed.
"""

from collections.abc import Mapping

from cairn.core.errors import Invalid, OverQuota
from cairn.core.ids import ProjectId
from cairn.core.limits import UNLIMITED
from cairn.db.engine import Tx
from cairn.identity import service as identity
from cairn.volume import store
from cairn.volume.records import LIMITS

_OF_TYPE = ("volumes", "snapshots", "gigabytes")


def limits(tx: Tx, project_id: ProjectId) -> dict[str, int]:
    """By the API's names, those of types included."""
    return _by_shown_name(tx, identity.limits_in(tx, project_id, _all(tx)))


def defaults(tx: Tx) -> dict[str, int]:
    return _by_shown_name(tx, identity.limits_in(tx, None, _all(tx)))


def change(tx: Tx, project_id: ProjectId, wanted: Mapping[str, int]) -> None:
    """Raises Invalid, naming what is no limit."""
    for name, maximum in _kept(tx, wanted).items():
        identity.set_limit(tx, project_id, name, maximum)


def change_defaults(tx: Tx, wanted: Mapping[str, int]) -> None:
    """As `change`, for all projects without limits of their own."""
    for name, maximum in _kept(tx, wanted).items():
        identity.set_default(tx, name, maximum)


def reset(tx: Tx, project_id: ProjectId) -> None:
    identity.reset_limits(tx, project_id, tuple(_all(tx)))


def forget_type(tx: Tx, type_id: str) -> None:
    identity.forget_limits(tx, tuple(_name(kind, type_id) for kind in _OF_TYPE))


def used(tx: Tx, project_id: ProjectId) -> dict[str, int]:
    found = store.usage(tx, project_id)
    return {name: found.of(name) for name in LIMITS.names if name != "per_volume_gigabytes"}


def used_of_types(tx: Tx, project_id: ProjectId) -> dict[str, int]:
    """By the API's names."""
    by_type = store.usage_by_type(tx, project_id)
    return {
        shown: by_type[type_id].of(kind)
        for shown, (kind, type_id) in _shown_names(tx).items()
        if type_id in by_type
    }


def require_room(
    tx: Tx,
    project_id: ProjectId,
    type_id: str,
    *,
    volumes: int = 0,
    snapshots: int = 0,
    gigabytes: int = 0,
    one_volume_gib: int = 0,
) -> None:
    """OverQuota when so much more would pass a limit of the project, or one that it has for this type."""
    of_type = {kind: _name(kind, type_id) for kind in _OF_TYPE}
    declared = {**LIMITS.defaults, **dict.fromkeys(of_type.values(), UNLIMITED)}
    allowed = identity.limits_in(tx, project_id, declared)
    if 0 <= allowed["per_volume_gigabytes"] < one_volume_gib:
        raise OverQuota(
            f"Requested volume size {one_volume_gib}G is larger than maximum allowed limit "
            f"{allowed['per_volume_gigabytes']}G."
        )
    asked = {"volumes": volumes, "snapshots": snapshots, "gigabytes": gigabytes}
    have = store.usage(tx, project_id)
    for name, more in asked.items():
        _require(name, more, have.of(name), allowed[name])
    if all(allowed[name] < 0 for name in of_type.values()):
        return
    by_type = store.usage_by_type(tx, project_id)
    for kind, more in asked.items():
        count = by_type[type_id].of(kind) if type_id in by_type else 0
        _require(f"{kind} of this volume type", more, count, allowed[of_type[kind]])


def _require(name: str, more: int, have: int, allowed: int) -> None:
    if more and 0 <= allowed < have + more:
        raise OverQuota(
            f"Quota exceeded for {name}: requested {more}, but already used {have} of {allowed}."
        )


def _all(tx: Tx) -> dict[str, int]:
    """Every limit that there may be, by the name under which it is kept."""
    of_types = {_name(*of): UNLIMITED for of in _shown_names(tx).values()}
    return {**LIMITS.defaults, **of_types}


def _kept(tx: Tx, wanted: Mapping[str, int]) -> dict[str, int]:
    of_types = _shown_names(tx)
    if unknown := sorted(wanted.keys() - LIMITS.defaults.keys() - of_types.keys()):
        raise Invalid(f"Bad key(s) in quota set: {', '.join(unknown)[:200]}.")
    return {
        name if name in LIMITS.defaults else _name(*of_types[name]): maximum
        for name, maximum in wanted.items()
    }


def _by_shown_name(tx: Tx, kept: Mapping[str, int]) -> dict[str, int]:
    of_types = {shown: kept[_name(*of)] for shown, of in _shown_names(tx).items()}
    return {**of_types, **{name: kept[name] for name in LIMITS.names}}


def _shown_names(tx: Tx) -> dict[str, tuple[str, str]]:
    """Of the limits of types: what the API calls them, to kind and type."""
    return {f"{kind}_{t.name}": (kind, t.id) for t in store.all_types(tx) for kind in _OF_TYPE}


def _name(kind: str, type_id: str) -> str:
    return f"{kind}:{type_id}"
