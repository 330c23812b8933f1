"""What may be done to volume types. They name a quality of storage; so far every pool has but one."""

from collections.abc import Mapping

from cairn.core.caller import Caller
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.db.engine import Tx
from cairn.volume import quota, store
from cairn.volume.records import DEFAULT_TYPE, VolumeType


def visible(tx: Tx, who: Caller) -> list[VolumeType]:
    """Public ones; an administrator sees all."""
    return [t for t in store.all_types(tx) if t.is_public or who.is_admin]


def find(tx: Tx, who: Caller, id_or_name: str) -> VolumeType:
    """By id, else by name. Raises NotFound."""
    known = visible(tx, who)
    matching = [t for t in known if t.id == id_or_name] or [
        t for t in known if t.name == id_or_name
    ]
    if matching:
        return matching[0]
    raise NotFound(f"Volume type {id_or_name[:64]} could not be found.")


def get(tx: Tx, who: Caller, type_id: str) -> VolumeType:
    for volume_type in visible(tx, who):
        if volume_type.id == type_id:
            return volume_type
    raise NotFound(f"Volume type {type_id[:64]} could not be found.")


def create(
    tx: Tx, *, name: str, description: str | None, is_public: bool, extra_specs: dict[str, str]
) -> VolumeType:
    """Raises Conflict when the name is taken."""
    _require_free_name(tx, name)
    new = VolumeType(
        id=tx.new_id(),
        name=name,
        description=description,
        is_public=is_public,
        extra_specs=extra_specs,
    )
    store.add_type(tx, new)
    return new


def change(tx: Tx, who: Caller, type_id: str, changes: Mapping[str, object]) -> VolumeType:
    """Raises Conflict when the name is taken, Invalid for the default type, which is built in."""
    found = get(tx, who, type_id)
    if found.id == DEFAULT_TYPE.id:
        raise Invalid(f"Volume type {DEFAULT_TYPE.name} is built in and cannot be changed.")
    if "name" in changes and changes["name"] != found.name:
        _require_free_name(tx, str(changes["name"]))
    if changes:
        store.change_type(tx, type_id, **changes)
    return get(tx, who, type_id)


def delete(tx: Tx, who: Caller, type_id: str) -> None:
    """Raises Conflict while volumes have it, Invalid for the default type."""
    found = get(tx, who, type_id)
    if found.id == DEFAULT_TYPE.id:
        raise Invalid(f"Volume type {DEFAULT_TYPE.name} is built in and cannot be deleted.")
    if store.has_volumes_of_type(tx, type_id):
        raise Conflict(f"Volume type {type_id} is in use.")
    quota.forget_type(tx, type_id)
    store.remove_type(tx, type_id)


def _require_free_name(tx: Tx, name: str) -> None:
    if any(t.name == name for t in store.all_types(tx)):
        raise Conflict(f"Volume type {name} already exists.")
