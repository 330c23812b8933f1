"""Arithmetic of addresses: parsing with clear refusals, pools, overlaps, autoconfigured addresses.

Pure; the service decides, this computes. Texts are kept in the canonical form of `ipaddress`, so that
equal addresses are equal texts in the database.
"""

import ipaddress
import itertools
import re
from collections.abc import Iterable, Sequence

from cairn.core.errors import Conflict, Invalid
from cairn.network.records import Range

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Cidr = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def ip(text: str, field: str) -> Ip:
    """Raises Invalid, naming the field."""
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise Invalid(
            f"InvalidInput: Invalid input for {field}. Reason: '{text[:64]}' is not a valid IP address."
        ) from error


def cidr(text: str, field: str) -> Cidr:
    """A network without host bits. Raises Invalid, naming the field."""
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise Invalid(
            f"InvalidInput: Invalid input for {field}. Reason: '{text[:64]}' is not a valid IP subnet."
        ) from error
    if "/" not in text or str(loose.network_address) != str(
        ipaddress.ip_address(text.partition("/")[0])
    ):
        raise Invalid(
            f"InvalidInput: Invalid input for {field}. Reason: '{text[:64]}' isn't a recognized IP "
            f"subnet cidr, '{loose}' is recommended."
        )
    return loose


def loose_cidr(text: str, field: str) -> Cidr:
    """An address or a network; host bits are dropped. Raises Invalid, naming the field."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise Invalid(
            f"InvalidInput: Invalid input for {field}. Reason: '{text[:64]}' is not a valid IP subnet."
        ) from error


def mac(text: str, field: str = "mac_address") -> str:
    """In lower case with colons; unicast and not zero. Raises Invalid, naming the field."""
    plain = text.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(plain) or plain == "00:00:00:00:00:00" or int(plain[:2], 16) & 1:
        raise Invalid(
            f"InvalidInput: Invalid input for {field}. Reason: '{text[:40]}' is not a valid MAC address."
        )
    return plain


def new_mac(random: bytes) -> str:
    """A MAC of the block that OpenStack uses, from three random bytes."""
    return "fa:16:3e:" + ":".join(f"{byte:02x}" for byte in random[:3])


def overlapping(wanted: Cidr, others: Iterable[str]) -> str | None:
    """The first of `others` that shares an address with `wanted`."""
    for other in others:
        known = ipaddress.ip_network(other)
        if known.version == wanted.version and known.overlaps(wanted):
            return other
    return None


def default_gateway(network: Cidr) -> str:
    """The first host address, or the only one."""
    return str(network[1] if network.num_addresses > 1 else network[0])


def usable(network: Cidr) -> tuple[int, int]:
    """First and last address that a port may have, as numbers."""
    first, last = int(network[0]), int(network[-1])
    if network.num_addresses <= 2:
        return first, last
    # IPv4 has a broadcast address; of IPv6 only the first is special (subnet-router anycast).
    return first + 1, last - 1 if network.version == 4 else last


def default_pools(network: Cidr, gateway: str | None) -> tuple[Range, ...]:
    """All usable addresses but the gateway's."""
    first, last = usable(network)
    kind = type(network[0])
    if gateway is None or ipaddress.ip_address(gateway) not in network:
        return (Range(start=str(kind(first)), end=str(kind(last))),)
    at = int(ipaddress.ip_address(gateway))
    pieces = [(first, min(last, at - 1)), (max(first, at + 1), last)]
    return tuple(
        Range(start=str(kind(low)), end=str(kind(high))) for low, high in pieces if low <= high
    )


def checked_pools(
    network: Cidr, pools: Sequence[tuple[str, str]], gateway: str | None
) -> tuple[Range, ...]:
    """Pools as a user wants them, in order. Raises Invalid or Conflict, naming the pool."""
    first, last = usable(network)
    ranges: list[tuple[int, int]] = []
    for start_text, end_text in pools:
        start, end = ip(start_text, "allocation_pools"), ip(end_text, "allocation_pools")
        shown = f"{start}-{end}"
        if start.version != network.version or end.version != network.version or end < start:  # type: ignore[operator]
            raise Invalid(f"InvalidAllocationPool: The allocation pool {shown} is not valid.")
        if int(start) < first or int(end) > last:
            raise Invalid(
                f"OutOfBoundsAllocationPool: The allocation pool {shown} spans beyond the subnet "
                f"cidr {network}."
            )
        ranges.append((int(start), int(end)))
    kind = type(network[0])
    ranges.sort()
    for (_, end_before), (start_after, _) in itertools.pairwise(ranges):
        if start_after <= end_before:
            raise Conflict(
                f"OverlappingAllocationPools: Found overlapping allocation pools for {network}."
            )
    result = tuple(Range(start=str(kind(low)), end=str(kind(high))) for low, high in ranges)
    if gateway is not None and holds(result, gateway):
        raise Conflict(
            f"GatewayConflictWithAllocationPools: Gateway ip {gateway} conflicts with allocation "
            "pools."
        )
    return result


def holds(pools: Iterable[Range], address: str) -> bool:
    at = ipaddress.ip_address(address)
    return any(
        at.version == ipaddress.ip_address(p.start).version
        and int(ipaddress.ip_address(p.start)) <= int(at) <= int(ipaddress.ip_address(p.end))
        for p in pools
    )


def size(pools: Iterable[Range]) -> int:
    return sum(
        int(ipaddress.ip_address(p.end)) - int(ipaddress.ip_address(p.start)) + 1 for p in pools
    )


def nth(pools: Iterable[Range], index: int) -> str:
    """The address at `index` when all pools are laid end to end."""
    for pool in pools:
        first = ipaddress.ip_address(pool.start)
        length = int(ipaddress.ip_address(pool.end)) - int(first) + 1
        if index < length:
            return str(first + index)
        index -= length
    raise AssertionError("the index is beyond the pools")


def autoconfigured(network: Cidr, mac_address: str) -> str:
    """The address that a host gives itself in a /64 (RFC 4291, appendix A: modified EUI-64)."""
    octets = [int(part, 16) for part in mac_address.split(":")]
    octets[0] ^= 0x02
    suffix = bytes([*octets[:3], 0xFF, 0xFE, *octets[3:]])
    return str(network[0] + int.from_bytes(suffix))


def with_prefix(address: str, network: str) -> str:
    """10.0.0.5 in 10.0.0.0/24 is 10.0.0.5/24."""
    return f"{address}/{network.partition('/')[2]}"


def first_free_prefix(prefixes: Iterable[str], length: int, taken: Iterable[str]) -> str | None:
    """The lowest network of `length` within `prefixes` that overlaps none of `taken`."""
    used = sorted((ipaddress.ip_network(t) for t in taken), key=lambda n: (n.version, int(n[0])))
    for prefix in sorted((ipaddress.ip_network(p) for p in prefixes), key=lambda n: int(n[0])):
        if prefix.prefixlen > length:
            continue
        step = 1 << (prefix.max_prefixlen - length)
        at, end = int(prefix[0]), int(prefix[-1])
        for known in used:
            if known.version != prefix.version or int(known[-1]) < at:
                continue
            if int(known[0]) >= at + step:
                break
            # Past the obstacle, and up to the next multiple of our own size.
            at = (int(known[-1]) // step + 1) * step
        if at + step - 1 <= end:
            return f"{type(prefix[0])(at)}/{length}"
    return None
