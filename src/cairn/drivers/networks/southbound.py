"""The door by which other hosts reach the zone's southbound database: TLS only, with our certificates.

It is a row of the database itself, for only there can the pause between probes be said. Other hosts get
OVN's role "ovn-controller": each may change what is its own, told by the name in its certificate, which is
the host's id and its chassis' name; it may read all. This host's own daemons use the unix socket.
"""

import asyncio

import msgspec

from cairn.core.errors import CloudError, Unavailable
from cairn.drivers.networks import links
from cairn.drivers.networks.layout import OvnOptions

# Of silence, until the other end is asked whether it lives. With the 5 s of OVN's own default, a busy
# server's clients give up on it, come back, and keep it busy.
_PROBE_MS = 60_000
_ROLE = "ovn-controller"
_CONNECT_TRIES, _CONNECT_PAUSE_S = 40, 0.2


def address(options: OvnOptions) -> str:
    """Where other hosts reach the database of this one; "" where they cannot."""
    if not options.has_network_role or options.tls is None:
        return ""
    if options.underlay_address.startswith("127.") or options.underlay_address == "::1":
        return ""
    return f"ssl:{_bracketed(options.underlay_address)}:{options.southbound_port}"


async def open_door(options: OvnOptions) -> None:
    """Listen for other hosts. Repeatable: an open door stays open, and who is inside stays."""
    target = f"pssl:{options.southbound_port}:{_bracketed(options.underlay_address)}"
    shown = await _sbctl(options, "-f", "json", "--columns=target,role,inactivity_probe",
                         "list", "connection")  # fmt: skip
    rows = msgspec.json.decode(shown)["data"]
    if rows == [[target, _ROLE, _PROBE_MS]]:
        return
    await _sbctl(
        options, f"--inactivity-probe={_PROBE_MS}", "set-connection", f"role={_ROLE}", target
    )


async def until_followed(options: OvnOptions, controller_socket: str) -> None:
    """Return when OVN's controller speaks with the database that it should follow; else Unavailable."""
    said = b""
    for _ in range(_CONNECT_TRIES):
        await asyncio.sleep(_CONNECT_PAUSE_S)  # first, for it may still tell of the one before
        try:
            said = await links.run(
                options.program("ovn-appctl"), "-t", controller_socket, "connection-status",
                env=options.environment(),
            )  # fmt: skip
        except CloudError as error:  # it is being started again
            said = str(error).encode()
        if said.strip() == b"connected":
            return
    raise Unavailable(
        "the zone's network database does not answer",
        because=f"ovn-controller: {said.decode(errors='replace').strip()}",
    )


async def _sbctl(options: OvnOptions, *words: str) -> bytes:
    program = options.program("ovn-sbctl")
    return await links.run(program, f"--db={options.socket('sb.sock')}", "--timeout=5", *words)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
