"""Links, addresses and namespaces of this host, by `ip` and `ethtool`; each call is repeatable.

Works in the network namespace in which the process runs. Only `listen_in` enters another one, in a thread
that ends with it, so that the process itself never moves.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import threading
from pathlib import Path

import msgspec
from msgspec import Struct

from cairn.core.errors import CloudError, NotFound, Unavailable
from cairn.drivers.networks.layout import PhysicalNetwork

NAMESPACES = Path("/run/netns")
_INNER_LINK = "meta"  # a metadata namespace's end of its pair
_TIMEOUT_S = 10.0
_CLONE_NEWNET = 0x40000000  # sched.h


class Link(Struct, frozen=True):
    ifname: str
    ifalias: str = ""
    mtu: int = 0


class _Address(Struct, frozen=True):
    family: str
    local: str
    prefixlen: int


class _Addressed(Struct, frozen=True):
    ifname: str = ""
    mtu: int = 0
    addr_info: tuple[_Address, ...] = ()


async def run(*command: str, feed: str = "", env: dict[str, str] | None = None) -> bytes:
    """Run a program to its end. Unavailable when it fails or hangs; `because` has what it said."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
        )
    except OSError as error:
        raise Unavailable(
            f"the host cannot run {Path(command[0]).name}", because=f"{command[0]}: {error}"
        ) from error
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, err = await process.communicate(feed.encode())
    except (TimeoutError, asyncio.CancelledError) as error:
        process.kill()
        await process.wait()
        if isinstance(error, asyncio.CancelledError):
            raise
        raise Unavailable(
            "a network command took too long", because=f"{' '.join(command)}: {_TIMEOUT_S} s"
        ) from error
    if process.returncode:
        said = err.decode(errors="replace").strip()
        raise Unavailable("a network command failed", because=f"{' '.join(command)} {feed}: {said}")
    return out


def exists(link: str) -> bool:
    try:
        socket.if_nametoindex(link)
    except OSError:
        return False
    return True


def names() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


async def all_links() -> list[Link]:
    return msgspec.json.decode(await run("ip", "-j", "link", "show"), type=list[Link])


async def remove(link: str) -> None:
    if exists(link):
        try:
            await run("ip", "link", "del", "dev", link)
        except CloudError:
            if exists(link):  # else it went by itself meanwhile: the other end of a pair did
                raise


async def remove_unused_tap(link: str) -> None:
    """Remove a tap unless a process has it open, such as another OVS's."""
    if exists(link):
        with contextlib.suppress(CloudError):
            await run("ip", "tuntap", "del", "dev", link, "mode", "tap")


async def make_tap(name: str, mtu: int, alias: str) -> bool:
    """A persistent tap, up, that whoever opens `/dev/net/tun` with its name may use. False: it was there.

    The opener's flags count (IFF_TAP | IFF_NO_PI, IFF_VNET_HDR at will), multi-queue is off.
    """
    made = not exists(name)
    commands = [f"tuntap add dev {name} mode tap"] if made else []
    # The host itself has no business in a guest's network: no link-local address, no solicitations.
    commands.append(f"link set dev {name} mtu {mtu} alias {alias} addrgenmode none up")
    await run("ip", "-batch", "-", feed="\n".join(commands))
    return made


async def _ensure_pair(outer: str, host: str) -> bool:
    """Two links that are one cable. False: they were there."""
    if exists(outer) and exists(host):
        return False
    await remove(outer)
    await remove(host)
    await run("ip", "link", "add", outer, "type", "veth", "peer", "name", host)
    return True


async def make_host_pair(
    outer: str, host: str, physical: PhysicalNetwork, mtu: int, alias: str
) -> bool:
    """The pair of links by which the host itself is a neighbour outside. False: it was there."""
    made = await _ensure_pair(outer, host)
    commands = (
        f"link set dev {outer} mtu {mtu} alias {alias} addrgenmode none up",
        f"link set dev {host} mtu {mtu} alias {alias} up",
        f"addr replace {physical.host_address} dev {host}",
    )
    await run("ip", "-batch", "-", feed="\n".join(commands))
    return made


async def make_underlay_pair(
    outer: str, host: str, address: str, mac: str, mtu: int, alias: str
) -> bool:
    """The pair of links by which a userspace datapath's tunnels reach the host. False: it was there."""
    made = await _ensure_pair(outer, host)
    commands = (
        f"link set dev {outer} mtu {mtu} alias {alias} addrgenmode none up",
        f"link set dev {host} address {mac} mtu {mtu} alias {alias} addrgenmode none up",
        f"addr replace {address} dev {host}",
    )
    await run("ip", "-batch", "-", feed="\n".join(commands))
    return made


async def interface_of(address: str, *, but: str) -> tuple[str, int] | None:
    """The interface that has the address, and its MTU; `but` is left out of account."""
    shown = await run("ip", "-j", "addr", "show", "to", address)
    for link in msgspec.json.decode(shown, type=list[_Addressed]):
        if link.addr_info and link.ifname not in ("", but):
            return link.ifname, link.mtu
    return None


async def addresses_of(link: str, namespace: str | None = None) -> list[str]:
    """The IPv4 and IPv6 addresses with their lengths, link-local ones left out."""
    where = ["-n", namespace] if namespace else []
    shown = await run("ip", *where, "-j", "addr", "show", "dev", link)
    return [
        f"{address.local}/{address.prefixlen}"
        for link_seen in msgspec.json.decode(shown, type=list[_Addressed])
        for address in link_seen.addr_info
        if not address.local.startswith("fe80:")
    ]


async def finish_checksums(link: str, namespace: str | None = None) -> None:
    """Have the kernel finish the checksums of what it sends over the link.

    A userspace datapath reads bare frames; left to "hardware" that is not there, no TCP would connect.
    """
    inside = ["ip", "netns", "exec", namespace] if namespace else []
    await run(*inside, "ethtool", "-K", link, "tx", "off")


# --- namespaces --------------------------------------------------------------------------------------


def namespace_exists(namespace: str) -> bool:
    return (NAMESPACES / namespace).exists()


async def make_metadata_namespace(
    namespace: str, outer: str, mac: str, addresses: tuple[str, ...], alias: str
) -> None:
    """A namespace with one link, whose other end is `outer` here, and exactly these addresses."""
    if not namespace_exists(namespace):
        await run("ip", "netns", "add", namespace)
    if not (exists(outer) and await _has_inner_link(namespace)):
        await remove(outer)
        await run(
            "ip", "link", "add", outer, "type", "veth",
            "peer", "name", _INNER_LINK, "netns", namespace,
        )  # fmt: skip
    inside = [
        f"link set dev lo alias {alias} up",
        f"link set dev {_INNER_LINK} address {mac} up",
        *(f"addr replace {address} dev {_INNER_LINK}" for address in addresses),
        *(
            f"addr del {old} dev {_INNER_LINK}"
            for old in await addresses_of(_INNER_LINK, namespace)
            if old not in addresses
        ),
    ]
    await run("ip", "-n", namespace, "-batch", "-", feed="\n".join(inside))
    await run("ip", "link", "set", "dev", outer, "alias", alias, "addrgenmode", "none", "up")


async def finish_metadata_checksums(namespace: str) -> None:
    await finish_checksums(_INNER_LINK, namespace)


async def _has_inner_link(namespace: str) -> bool:
    shown = await run("ip", "-n", namespace, "-j", "link", "show")
    return any(link.ifname == _INNER_LINK for link in msgspec.json.decode(shown, type=list[Link]))


async def namespace_alias(namespace: str) -> str:
    """Whose the namespace is; "" when nobody marked it or it is broken."""
    try:
        shown = await run("ip", "-n", namespace, "-j", "link", "show", "dev", "lo")
    except CloudError:
        return ""
    return msgspec.json.decode(shown, type=list[Link])[0].ifalias


async def remove_namespace(namespace: str) -> None:
    if namespace_exists(namespace):
        await run("ip", "netns", "del", namespace)


def listen_in(namespace: str, address: str, port: int) -> socket.socket:
    """A listening TCP socket inside a namespace. NotFound: there is no such namespace."""
    made: list[socket.socket | OSError] = []
    thread = threading.Thread(
        target=lambda: made.append(_listen_in(namespace, address, port)), name="enter-namespace"
    )
    thread.start()
    thread.join()
    match made[0]:
        case FileNotFoundError() as error:
            raise NotFound("the network's metadata service is not open", because=str(error))
        case OSError() as error:
            raise Unavailable(
                "the network's metadata service cannot listen",
                because=f"{address}:{port} in {namespace}: {error}",
            )
        case listener:
            return listener


def _listen_in(namespace: str, address: str, port: int) -> "socket.socket | OSError":
    """Runs in a thread of its own, which is never used again: it stays in the namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        handle = os.open(NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(handle, _CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, f"setns: {os.strerror(code)}")
        finally:
            os.close(handle)
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # A new agent may listen before the connections of the old one have faded away.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((address, port))
            listener.listen(64)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        return error


# --- the host's own stack ----------------------------------------------------------------------------


async def guard(table: str, interfaces: tuple[str, ...]) -> None:
    """Keep the host's own stack away from frames that belong to a userspace datapath.

    Such a datapath only listens to a link, and the kernel goes on receiving there: it would answer guests'
    ARP for the host's addresses and take their packets, past every security group (Open vSwitch,
    "Using Open vSwitch with userspace datapath", firewall rules).
    """
    ours = ", ".join(f'"{name}"' for name in ("cvt*", "cvm*", "cvx-*", *interfaces))
    drop = f"iifname {{ {ours} }} drop"
    rules = [
        f"add table inet {table}",  # so that the deletion below finds something
        f"add table arp {table}",
        f"delete table inet {table}",
        f"delete table arp {table}",
        f"add table inet {table}",
        f"add chain inet {table} in {{ type filter hook prerouting priority raw; }}",
        f"add rule inet {table} in {drop}",
        f"add table arp {table}",
        f"add chain arp {table} in {{ type filter hook input priority 0; }}",
        f"add rule arp {table} in {drop}",
    ]
    await run("nft", "-f", "-", feed="\n".join(rules))


async def unguard(table: str) -> None:
    for family in ("inet", "arp"):
        with contextlib.suppress(CloudError):  # there is no such table, or no packet filter at all
            await run("nft", "delete", "table", family, table)
