"""Takes Cairn off a host that its cloud has removed: processes, network, units, and at last the state.

It may be cut off anywhere: `removed.json` says that it is to be done, and goes last but for the host's id,
by which the state directory is known to be ours.
"""

import asyncio
import contextlib
import fcntl
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cairn.core.errors import CloudError, Conflict
from cairn.core.ids import NodeId
from cairn.host import engines, teardown
from cairn.settings import Settings
from cairn.wire import tls
from cairn.wire.addresses import split
from cairn.wire.link import WIRE_VERSION, Go, Hello, connect

FAREWELL_S_MAX = 60.0  # for the control plane to hear that all is cleaned up
PAUSE_S = 2.0
UNIT_FOLDER = Path("/etc/systemd/system")

Tell = Callable[[str], None]


def reason(settings: Settings) -> str | None:
    """Why this host is to be cleaned up; None: it is not."""
    try:
        return str(json.loads(settings.removal_file.read_text()).get("reason", ""))
    except FileNotFoundError:
        return None
    except ValueError:
        return "it was removed"


def leave(settings: Settings, tell: Tell) -> None:
    """Repeatable. Raises Conflict: the host is a member, or somebody else cleans up already."""
    if reason(settings) is None:
        raise Conflict(
            "this host was not removed from its cloud: `cairn host remove` does that, at the control"
            " plane, and this host follows by itself"
        )
    if settings.control:
        raise Conflict("a control plane lives here: `cairn wipe` deletes all that it holds")
    with _only_one(settings):
        tell("ending the agent")
        teardown.stop(settings)
        tell("ending guests and network")
        teardown.remove(settings, engines.present(settings.cache))
        _remove_units()
        tell("telling the control plane")
        with contextlib.suppress(TimeoutError):  # It keeps a line about us, which nobody needs.
            asyncio.run(_say_farewell(settings))
        tell("deleting the state directory")
        _delete(settings)


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    settings.run_dir.mkdir(exist_ok=True)
    with (settings.run_dir / "leave.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict("another process is cleaning up this host already") from error
        yield


async def _say_farewell(settings: Settings) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(FAREWELL_S_MAX):
        for _ in range(int(FAREWELL_S_MAX / PAUSE_S)):
            if await _is_heard(settings):
                return
            await asyncio.sleep(PAUSE_S)


async def _is_heard(settings: Settings) -> bool:
    node_id = NodeId(settings.node_id_file.read_text().strip())
    context = tls.client_context(
        authority=settings.certs_dir / "ca.crt",
        certificate=settings.certs_dir / "node.crt",
        key=settings.certs_dir / "node.key",
    )
    for address in settings.control_addresses:
        with contextlib.suppress(CloudError):
            link = await connect(*split(address, settings.node_port), context)
            try:
                hello = Hello(wire_version=WIRE_VERSION, node_id=node_id, kind="left")
                await link.send(hello)
                if isinstance(await link.receive(), Go):
                    return True
            finally:
                link.close()
    return False


def _remove_units() -> None:
    """What `cairn install` has written, if systemd is there."""
    present = [name for name in teardown.UNITS if (UNIT_FOLDER / name).exists()]
    if not present or not shutil.which("systemctl"):
        return
    subprocess.run(["systemctl", "--quiet", "disable", *present], check=False, capture_output=True)
    for name in present:
        (UNIT_FOLDER / name).unlink(missing_ok=True)
    subprocess.run(["systemctl", "daemon-reload"], check=False, capture_output=True)


def _delete(settings: Settings) -> None:
    last = (settings.removal_file, settings.node_id_file)
    for entry in settings.state.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry not in last:
            entry.unlink()
    settings.removal_file.unlink(missing_ok=True)
    teardown.wipe(settings)
