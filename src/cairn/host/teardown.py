"""Takes from the machine what Cairn put there, for one state directory; other installations are untouched.

The order is that of dependence: who starts things, then guests, then their network. The drivers know
best what they made; whatever process of ours still runs after that names the state directory on its
command line, and is ended for it. At the end it looks, and says what is left.
"""

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path

from cairn.core.errors import CloudError, Invalid
from cairn.host import processes, supervise
from cairn.settings import Settings

STOP_S_MAX = supervise.STOP_S_MAX + 5.0
KILL_S_MAX = 5.0
UNITS = tuple(f"cairn-{part}.service" for part in processes.PARTS)


def stop(settings: Settings) -> None:
    """End supervisor, control plane and agent, however they were started. Guests run on."""
    _stop_units()
    known = supervise.look(settings.state)
    if known:
        _end([known["pid"]], within_s=STOP_S_MAX)
    _end(_parts(settings.state), within_s=STOP_S_MAX)


def remove(settings: Settings, engine_dir: Path | None) -> None:
    """After `stop`: end guests and network, and remove every interface and namespace."""
    asyncio.run(_remove_with_drivers(settings, engine_dir))
    _end(list(processes.engines(settings.state)), within_s=KILL_S_MAX)
    for mount in reversed(_mounts(settings.state)):
        subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)
    left = left_overs(settings)
    if left:
        raise CloudError(f"this could not be removed: {', '.join(left)}")


def wipe(settings: Settings) -> None:
    """Delete the state directory. Refuses one that is not Cairn's."""
    if not settings.state.exists():
        return
    if not settings.node_id_file.exists() and any(settings.state.iterdir()):
        raise Invalid(f"{settings.state} is not a state directory of Cairn; nothing was deleted")
    shutil.rmtree(settings.state)


def left_overs(settings: Settings) -> list[str]:
    """What of this state directory still runs, is mounted, or is an interface."""
    pids = [*_parts(settings.state), *processes.engines(settings.state)]
    left = [f"process {pid} ({processes.name(pid)})" for pid in pids]
    left += [f"mount {mount}" for mount in _mounts(settings.state)]
    links = subprocess.run(["ip", "-j", "link"], check=True, capture_output=True).stdout
    for link in json.loads(links):
        if str(settings.state) in link.get("ifalias", ""):
            left.append(f"interface {link['ifname']}")
    return left


async def _remove_with_drivers(settings: Settings, engine_dir: Path | None) -> None:
    from cairn.agent.main import ovn_options  # a second of imports, for this one command
    from cairn.drivers.hypervisor import qemu
    from cairn.drivers.networks import ovn

    await qemu.tear_down(qemu.QemuOptions(state_dir=settings.agent_dir))
    if (settings.certs_dir / "node.crt").exists():
        await ovn.tear_down(ovn_options(settings, engine_dir))


def _stop_units() -> None:
    """Where `cairn install` was used, systemd would start them again."""
    if shutil.which("systemctl") and Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "--quiet", "stop", *UNITS], check=False, capture_output=True)


def _parts(state: Path) -> list[int]:
    return [part.pid for part in processes.parts() if part.state == state]


def _end(pids: list[int], *, within_s: float) -> None:
    """Ask each to end, kill what does not; by descriptor, so that no number is taken for another."""
    opened: list[int] = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            opened.append(os.pidfd_open(pid))
    try:
        for number, wait_s in ((signal.SIGTERM, within_s), (signal.SIGKILL, KILL_S_MAX)):
            for descriptor in opened:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
            if _wait(opened, wait_s):
                return
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _wait(descriptors: list[int], seconds: float) -> bool:
    """Whether all processes ended in time. A descriptor becomes readable when its process ends."""
    deadline = time.monotonic() + seconds
    for descriptor in descriptors:
        left_s = max(0.0, deadline - time.monotonic())
        if not select.select([descriptor], [], [], left_s)[0]:
            return False
    return True


def _mounts(state: Path) -> list[str]:
    mounts = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        where = line.split()[1]
        if where.startswith(f"{state}/"):
            mounts.append(where)
    return mounts
