"""A project's limits on servers, checked in the transaction of the request that would pass them."""

from cairn.compute import keypairs, store
from cairn.compute.records import LIMITS, Flavor
from cairn.core.errors import OverQuota
from cairn.core.ids import ProjectId, UserId
from cairn.db.engine import Tx
from cairn.identity import service as identity


def limit(tx: Tx, project_id: ProjectId | None, name: str) -> int:
    """-1 is unlimited."""
    return identity.limit(tx, project_id, LIMITS, name)


def limits(tx: Tx, project_id: ProjectId) -> dict[str, int]:
    return identity.limits_of(tx, project_id, LIMITS)


def used(tx: Tx, project_id: ProjectId) -> dict[str, int]:
    """What counts of the whole project; other limits are of one user, or of one server."""
    found = store.usage(tx, project_id)
    return {"instances": found.instances, "cores": found.cores, "ram": found.ram}


def require_servers(tx: Tx, project_id: ProjectId, flavor: Flavor, count: int) -> None:
    """OverQuota when `count` more servers of this flavor would pass a limit."""
    allowed = limits(tx, project_id)
    if all(allowed[name] < 0 for name in ("instances", "cores", "ram")):
        return  # Counting a hundred thousand servers would be for nothing.
    used = store.usage(tx, project_id)
    asked = {
        "instances": count,
        "cores": flavor.vcpus * count,
        "ram": flavor.memory_mib * count,
    }
    over = [
        name
        for name, more in asked.items()
        if allowed[name] >= 0 and getattr(used, name) + more > allowed[name]
    ]
    if over:
        raise OverQuota(
            f"Quota exceeded for {', '.join(over)}: "
            f"Requested {', '.join(str(asked[n]) for n in over)}, "
            f"but already used {', '.join(str(getattr(used, n)) for n in over)} "
            f"of {', '.join(str(allowed[n]) for n in over)} {', '.join(over)}"
        )


def require_metadata(tx: Tx, project_id: ProjectId, items: dict[str, str]) -> None:
    allowed = limit(tx, project_id, "metadata_items")
    if 0 <= allowed < len(items):
        raise OverQuota(f"Maximum number of metadata items exceeds {allowed}")


def require_keypair(tx: Tx, project_id: ProjectId | None, user_id: UserId) -> None:
    allowed = limit(tx, project_id, "key_pairs")
    if allowed >= 0 and keypairs.count(tx, user_id) >= allowed:
        raise OverQuota("Quota exceeded, too many key pairs.")
