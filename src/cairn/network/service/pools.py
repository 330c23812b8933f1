"""Subnet pools: prefixes from which subnets are cut without anybody choosing an address."""

import ipaddress

from msgspec import UNSET

from cairn.core.caller import Caller
from cairn.core.errors import Conflict, Invalid
from cairn.db.engine import Tx
from cairn.network import addresses
from cairn.network.records import Search, SubnetPool
from cairn.network.service.access import admit, owner_of, require_owner
from cairn.network.store import networks as store
from cairn.network.store import resources, tables
from cairn.network.wishes import SubnetPoolWish, SubnetWish, said


def find_pools(tx: Tx, who: Caller, search: Search) -> list[SubnetPool]:
    return store.find_pools(tx, who.reach, search)


def get_pool(tx: Tx, who: Caller, pool_id: str) -> SubnetPool:
    return store.pool(tx, who.reach, pool_id)


def create_pool(tx: Tx, who: Caller, wish: SubnetPoolWish) -> SubnetPool:
    """Raises Invalid, Conflict, OverQuota."""
    project_id = owner_of(who, wish.project_id)
    admit(tx, "subnetpool", project_id)
    if wish.prefixes is UNSET:
        raise Invalid(
            "HTTPBadRequest: Failed to parse request. Required attribute 'prefixes' not specified"
        )
    if wish.name is UNSET:
        raise Invalid(
            "HTTPBadRequest: Failed to parse request. Required attribute 'name' not specified"
        )
    prefixes, version = _prefixes(said(wish.prefixes, ()))
    longest = 32 if version == 4 else 128
    shortest = said(wish.prefix_length_min, 8 if version == 4 else 64)
    maximum = said(wish.prefix_length_max, longest)
    usual = said(wish.prefix_length_default, shortest)
    _require_lengths(shortest, usual, maximum, longest)
    if said(wish.is_default, False):
        _require_no_other_default(tx, version, None)
    pool_id = tx.new_id()
    resources.add(
        tx,
        tables.subnet_pools,
        id=pool_id,
        project_id=project_id,
        name=said(wish.name, ""),
        description=said(wish.description, ""),
        ip_version=version,
        prefixes=prefixes,
        prefix_length_default=usual,
        prefix_length_min=shortest,
        prefix_length_max=maximum,
        quota=said(wish.quota, None),
        is_shared=said(wish.is_shared, False),
        is_default=said(wish.is_default, False),
    )
    return store.pool(tx, None, pool_id)


def update_pool(tx: Tx, who: Caller, pool_id: str, wish: SubnetPoolWish) -> SubnetPool:
    """Prefixes may grow, never shrink: subnets were cut from them."""
    pool = store.pool(tx, who.reach, pool_id)
    require_owner(who, pool, "subnet pool")
    values = {
        name: value
        for name in ("name", "description", "prefix_length_default", "prefix_length_min",
                     "prefix_length_max", "quota", "is_default")
        if (value := getattr(wish, name)) is not UNSET
    }  # fmt: skip
    _require_lengths(
        said(wish.prefix_length_min, pool.prefix_length_min),
        said(wish.prefix_length_default, pool.prefix_length_default),
        said(wish.prefix_length_max, pool.prefix_length_max),
        32 if pool.ip_version == 4 else 128,
    )
    if wish.prefixes is not UNSET:
        prefixes, version = _prefixes(said(wish.prefixes, ()))
        if version != pool.ip_version:
            raise Invalid("IllegalSubnetPoolUpdate: The IP version of a subnet pool cannot change.")
        known = [ipaddress.ip_network(p) for p in prefixes]
        for old in map(ipaddress.ip_network, pool.prefixes):
            if not any(old.subnet_of(new) for new in known):  # type: ignore[arg-type]
                raise Invalid(
                    "IllegalSubnetPoolPrefixUpdate: Existing prefixes must be a subset of the new "
                    f"prefixes: {old} is missing."
                )
        values["prefixes"] = prefixes
    if wish.is_default is True:
        _require_no_other_default(tx, pool.ip_version, pool.id)
    resources.change(tx, tables.subnet_pools, pool.id, values)
    return store.pool(tx, None, pool.id)


def delete_pool(tx: Tx, who: Caller, pool_id: str) -> None:
    pool = store.pool(tx, who.reach, pool_id)
    require_owner(who, pool, "subnet pool")
    if store.cidrs_of_pool(tx, pool.id):
        raise Conflict(
            "SubnetPoolDeleteError: Unable to delete subnet pool: Subnet pool has existing allocations."
        )
    resources.remove(tx, tables.subnet_pools, pool.id)


def chosen(tx: Tx, who: Caller, wish: SubnetWish) -> SubnetPool | None:
    """The pool that a subnet is to be cut from, if any. Raises NotFound, Invalid."""
    if pool_id := said(wish.subnet_pool_id, None):
        return store.pool(tx, who.reach, pool_id)
    if said(wish.wants_default_pool, False):
        version = said(wish.ip_version, 4)
        pool = store.default_pool(tx, version)
        if pool is None:
            raise Invalid(f"BadRequest: No default subnetpool found for IPv{version}.")
        return pool
    return None


def cut(tx: Tx, pool: SubnetPool, wish: SubnetWish, project_id: str) -> addresses.Cidr:
    """A block of the pool that nobody has: the one that is wished, or the lowest."""
    taken = store.cidrs_of_pool(tx, pool.id)
    if text := said(wish.cidr, None):
        block = addresses.cidr(text, "cidr")
        inside = any(
            block.version == p.version and block.subnet_of(p)  # type: ignore[arg-type]
            for p in map(ipaddress.ip_network, pool.prefixes)
        )
        if not inside or addresses.overlapping(block, (c for _, c in taken)):
            raise Invalid(
                "SubnetAllocationError: Failed to allocate subnet: Cannot allocate requested subnet "
                "from the available set of prefixes."
            )
    else:
        length = said(wish.prefix_length, None) or pool.prefix_length_default
        if not pool.prefix_length_min <= length <= pool.prefix_length_max:
            raise Invalid(
                f"PrefixLenOutOfRange: Unable to allocate subnet with prefix length {length}, the "
                f"pool allows {pool.prefix_length_min} to {pool.prefix_length_max}."
            )
        found = addresses.first_free_prefix(pool.prefixes, length, (c for _, c in taken))
        if found is None:
            raise Invalid(
                "SubnetAllocationError: Failed to allocate subnet: Insufficient prefix space to "
                f"allocate subnet size /{length}."
            )
        block = addresses.cidr(found, "cidr")
    if pool.quota is not None:
        unit = 32 if pool.ip_version == 4 else 64
        held = [ipaddress.ip_network(c) for p, c in taken if p == project_id]
        if sum(2 ** max(0, unit - n.prefixlen) for n in (*held, block)) > pool.quota:
            raise Conflict("SubnetPoolQuotaExceeded: Per-tenant subnet pool prefix quota exceeded.")
    return block


def _prefixes(texts: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    blocks = [addresses.cidr(t, "prefixes") for t in texts]
    versions = {b.version for b in blocks}
    if len(versions) != 1:
        raise Invalid("PrefixVersionMismatch: Cannot mix IPv4 and IPv6 prefixes in a subnet pool.")
    version = versions.pop()
    merged = ipaddress.collapse_addresses(blocks)  # type: ignore[type-var]
    return tuple(str(b) for b in merged), version


def _require_lengths(shortest: int, usual: int, longest: int, limit: int) -> None:
    if not 0 < shortest <= usual <= longest <= limit:
        raise Invalid(
            "IllegalSubnetPoolPrefixBounds: Illegal prefix bounds: min_prefixlen "
            f"({shortest}) <= default_prefixlen ({usual}) <= max_prefixlen ({longest}) <= {limit} "
            "does not hold."
        )


def _require_no_other_default(tx: Tx, version: int, pool_id: str | None) -> None:
    other = store.default_pool(tx, version)
    if other is not None and other.id != pool_id:
        raise Invalid(f"InvalidInput: A default subnetpool for IPv{version} exists already.")
