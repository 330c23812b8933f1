"""Waiting for a guest from another host: the doors that its disks and its memory come through.

The disks' door is one NBD server with an export for each private disk. Its socket is made by the agent, on
the host's own address and a port that the kernel chose, and handed over; the other one QEMU makes, for it
takes no listening socket from others. Both speak TLS with the migration's key and nothing else.
"""

import contextlib
import re
import socket
from collections.abc import Collection, Mapping
from pathlib import Path

from cairn.core.errors import Unavailable
from cairn.core.ids import VolumeId
from cairn.drivers.hypervisor import qmp
from cairn.drivers.hypervisor.process import Process
from cairn.drivers.hypervisor.sender import CAPABILITIES, KEY
from cairn.wire.spec import DiskDoor

_BACKLOG = 16

# What QEMU says when the two machines are not the same.
_UNLIKE = (
    (r"Features 0x\w+ unsupported", "the network cards differ: the hosts have different datapaths"),
    (r"[Mm]achine type", "the other host's QEMU is older, or newer, than this one can follow"),
    (r"Unknown (ramblock|savevm)|[Ss]ize mismatch|Length mismatch", "the guest's hardware differs"),
)


async def open_doors(
    monitor: qmp.Monitor, nodes: Mapping[VolumeId, str], *, address: str, key_dir: Path
) -> tuple[int, tuple[DiskDoor, ...]]:
    """Let the guest in; the port for its memory, and those for its disks."""
    await monitor.execute(
        "object-add",
        {"qom-type": "tls-creds-psk", "id": KEY, "endpoint": "server", "dir": str(key_dir)},
    )
    doors = await _open_disks(monitor, nodes, address=address) if nodes else ()
    states = [{"capability": name, "state": True} for name in CAPABILITIES]
    await monitor.execute("migrate-set-capabilities", {"capabilities": states})
    await monitor.execute("migrate-set-parameters", {"tls-creds": KEY})
    await monitor.execute("migrate-incoming", {"uri": f"tcp:{address}:0"})
    (here, *_) = (await monitor.execute("query-migrate"))["socket-address"]
    return int(here["port"]), doors


async def _open_disks(
    monitor: qmp.Monitor, nodes: Mapping[VolumeId, str], *, address: str
) -> tuple[DiskDoor, ...]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        try:
            listener.bind((address, 0))
        except OSError as error:
            raise Unavailable(
                "this host cannot receive guests at its own address", because=f"{address}: {error}"
            ) from error
        listener.listen(_BACKLOG)
        port = listener.getsockname()[1]
        await monitor.hand_over(listener.fileno(), "disks")
    await monitor.execute(
        "nbd-server-start", {"addr": {"type": "fd", "data": {"str": "disks"}}, "tls-creds": KEY}
    )
    for volume_id, node_name in nodes.items():
        await monitor.execute(
            "block-export-add",
            {
                "type": "nbd",
                "id": f"receive-{volume_id}",
                "node-name": node_name,
                "name": volume_id,
                "writable": True,
            },
        )
    return tuple(DiskDoor(volume_id=v, port=port, export=v) for v in nodes)


def is_connected(waits: Process, ports: set[int]) -> bool:
    """Whether a sender has any of the doors in use."""
    return any(ours.getsockname()[1] in ports for ours in waits.connections())


async def was_written(monitor: qmp.Monitor, nodes: Collection[str]) -> bool:
    """Whether a sender has come so far as to write."""
    nodes_seen = await monitor.execute("query-blockstats", {"query-nodes": True})
    return any(
        seen["stats"]["wr_highest_offset"] > 0 for seen in nodes_seen if seen["node-name"] in nodes
    )


async def has_come(monitor: qmp.Monitor) -> bool:
    """Whether everything is here, and loaded."""
    return bool((await monitor.execute("query-migrate")).get("status") == "completed")


async def shut_doors(monitor: qmp.Monitor) -> None:
    """Before the guest runs: from then on only it may write to its disks. QEMU waits for the last write."""
    with contextlib.suppress(qmp.Refused):  # There were no disks to receive, or it is shut already.
        await monitor.execute("nbd-server-stop")


async def forget_key(monitor: qmp.Monitor) -> None:
    with contextlib.suppress(qmp.Refused):
        await monitor.execute("object-del", {"id": KEY})


def explain(words: str) -> str:
    """Why a guest did not come, from QEMU's last words, for its owner."""
    for pattern, meaning in _UNLIKE:
        if re.search(pattern, words):
            return f"the guest does not fit this host: {meaning}"
    return "the connection to the other host ended before all of the guest had come"
