"""How the tunnels of a userspace datapath leave a host, and come in, with its own address untouched.

Such a datapath sends outer packets only through a bridge of its own, which must have the tunnels' address.
The usual way makes the host's card a port of that bridge and moves the host's address onto it; then the whole
machine hangs on one daemon's life. Here the bridge has a pair of links to the host instead:

    guests - integration bridge - tunnel - underlay bridge = cvu-ovs - cvu-host = the host's routing - card

Out: the host routes the packets, which have its own address, like anybody's. In: what comes to the host's
address for geneve's port is sent into the pair right at the card, before the host looks at it. Nothing of
the host's is changed, and no connection is tracked. Why not otherwise: docs/decisions/0006. The kernel's
datapath needs none of this.
"""

import asyncio
import contextlib
from pathlib import Path

from cairn.core.errors import CloudError, Unavailable
from cairn.drivers.networks import links
from cairn.drivers.networks.databases import LocalSwitch
from cairn.drivers.networks.layout import OvnOptions

GENEVE_PORT = 6081  # RFC 8926, section 3.3
OUTER_LINK = "cvu-ovs"  # a port of the underlay bridge
HOST_LINK = "cvu-host"

# Of a network that is never routed (RFC 2544, benchmarks): what the bridge takes for its next hop.
_NEXT_HOP, _PREFIX = "198.18.255.1", 30
# Always the same: OVS remembers its next hop for a quarter of an hour, longer than a pair of links may last.
_HOST_MAC, _BRIDGE_MAC = "02:ca:1f:00:00:01", "02:ca:1f:00:00:02"
# More specific than a default route, hence before those that OVS reads from the kernel.
_EVERYWHERE = ("0.0.0.0/1", "128.0.0.0/1")
_TABLE = "cairn_underlay"  # of the host's packet filter
_TRIES, _PAUSE_S = 50, 0.1  # until ovs-vswitchd has made the bridge and seen its address


async def raise_up(options: OvnOptions, switch: LocalSwitch) -> None:
    """Let this host's tunnels reach others and be reached. Repeatable, and needed again when ovs-vswitchd
    died."""
    card, mtu = await _card(options)
    pair = (OUTER_LINK, HOST_LINK)
    if await links.make_underlay_pair(
        *pair, f"{_NEXT_HOP}/{_PREFIX}", _HOST_MAC, mtu, options.alias
    ):
        await switch.leave(OUTER_LINK)
    await links.finish_checksums(HOST_LINK)
    # It passes on what has the host's own address as its source; loose, since answers go another way.
    for name, value in (("forwarding", "1"), ("accept_local", "1"), ("rp_filter", "2")):
        Path(f"/proc/sys/net/ipv4/conf/{HOST_LINK}/{name}").write_text(value)
    bridge = options.underlay_bridge
    await switch.make_underlay(bridge, OUTER_LINK, mac=_BRIDGE_MAC, mtu=mtu)
    for left in reversed(range(_TRIES)):
        if links.exists(bridge):
            break
        if not left:
            raise Unavailable(f"ovs-vswitchd did not make the bridge {bridge}")
        await asyncio.sleep(_PAUSE_S)
    await _give_address(bridge, options)
    await links.run("nft", "-f", "-", feed=_rules(options.underlay_address, card))
    await _lead_everywhere(options)


async def take_down(options: OvnOptions, switch: LocalSwitch) -> None:
    """The last other host has gone."""
    await unhook()
    await switch.remove_bridge(options.underlay_bridge)
    await links.remove(OUTER_LINK)


async def unhook() -> None:
    """Take our rule out of the host's packet filter."""
    with contextlib.suppress(CloudError):  # there is no such table, or no packet filter at all
        await links.run("nft", "delete", "table", "netdev", _TABLE)


def is_there() -> bool:
    """Whether any of it is left."""
    return links.exists(OUTER_LINK)


async def is_up(options: OvnOptions) -> bool:
    """Whether nothing has to be done; the address goes with the bridge when ovs-vswitchd dies."""
    bridge = options.underlay_bridge
    if not (is_there() and links.exists(HOST_LINK) and links.exists(bridge)):
        return False
    return f"{options.underlay_address}/0" in await links.addresses_of(bridge)


async def _card(options: OvnOptions) -> tuple[str, int]:
    """The interface that has the host's address, and its MTU."""
    address = options.underlay_address
    if ":" in address:
        raise Unavailable(
            f"host_address: {address}: OVS's userspace datapath reaches other hosts by IPv4 only"
        )
    found = await links.interface_of(address, but=options.underlay_bridge)
    if found is None:
        raise Unavailable(f"host_address: no interface of this host has {address}")
    return found


async def _give_address(bridge: str, options: OvnOptions) -> None:
    """Give the bridge the tunnels' address, which the card keeps as well.

    Only OVS has a use for it there: no route leads to the bridge. When a link with an address of the host
    goes, a kernel that finds the address nowhere else on that link may drop every route which has it as its
    source; the route of our own, first in the local table, is what it finds.
    """
    address = options.underlay_address
    await links.run(
        "ip", "link", "set", "dev", bridge, "alias", options.alias, "addrgenmode", "none"
    )
    await links.run("ip", "link", "set", "dev", bridge, "up")
    if f"{address}/0" in await links.addresses_of(bridge):
        return
    with contextlib.suppress(CloudError):  # done before
        await links.run("ip", "route", "prepend", "table", "local", "local", address, "dev", bridge)
    await links.run("ip", "addr", "replace", f"{address}/0", "dev", bridge, "noprefixroute")


async def _lead_everywhere(options: OvnOptions) -> None:
    """Tell OVS that every other host is reached through the bridge; it forgets with its process."""
    for network in _EVERYWHERE:
        for left in reversed(range(_TRIES)):
            try:
                await links.run(
                    options.program("ovs-appctl"), "-t", str(options.run_dir / "ovs-vswitchd.ctl"),
                    "ovs/route/add", network, options.underlay_bridge, _NEXT_HOP,
                    f"src={options.underlay_address}",
                    env=options.environment(),
                )  # fmt: skip
                break
            except CloudError:
                if not left:
                    raise
            await asyncio.sleep(_PAUSE_S)


def _rules(address: str, card: str) -> str:
    """Replaces the table whole: deleting needs it to be there, hence the first line."""
    return f"""
add table netdev {_TABLE}
delete table netdev {_TABLE}
table netdev {_TABLE} {{
  chain in {{
    type filter hook ingress device "{card}" priority 0
    ip daddr {address} udp dport {GENEVE_PORT} ether daddr set {_BRIDGE_MAC} fwd to "{HOST_LINK}"
  }}
}}
"""
