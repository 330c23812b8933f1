"""Being a member: whether the agent is connected stands in a file, certificates are renewed, and a host
that was removed cleans up after itself.

The file is for whoever asks on the machine itself (`cairn join`, `cairn status`): a host that joined has
no credentials of the API. Cleaning up ends the agent and what supervises it, so a process of its own does
it; `removed.json` is written first, and whatever starts next goes on from there.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from cairn import __version__
from cairn.agent.renewal import Renewal
from cairn.core import log
from cairn.settings import Settings
from cairn.wire.link import Renewed

_log = log.get("agent.membership")


class HostMembership:
    """See link.Membership."""

    def __init__(self, settings: Settings, renewal: Renewal) -> None:
        self._settings = settings
        self._renewal = renewal
        self._told: dict[str, object] = {}
        self._is_leaving = False
        self._tell(is_connected=False, why="starting")

    def connected(self) -> None:
        self._tell(is_connected=True, why="")

    def disconnected(self, why: str) -> None:
        self._tell(is_connected=False, why=why)

    def removed(self, reason: str) -> None:
        self._tell(is_connected=False, why=reason)
        if self._is_leaving:
            return
        if self._settings.control:
            # To clean up would take the control plane with it, and with it all that it holds.
            _log.error("removed, but a control plane lives here: nothing is deleted", reason=reason)
            return
        self._is_leaving = True
        note = {"reason": reason, "at": time.time()}
        write_whole(self._settings.removal_file, json.dumps(note))
        _log.warning("removed from the cloud: cleaning up", reason=reason)
        start_leaving(self._settings)

    def wait_s(self) -> float:
        return self._renewal.wait_s()

    def request(self) -> bytes:
        return self._renewal.request()

    def accept(self, renewed: Renewed) -> None:
        self._renewal.accept(renewed)

    def _tell(self, *, is_connected: bool, why: str) -> None:
        told = {"is_connected": is_connected, "why": why}
        if {name: self._told.get(name) for name in told} == told:
            return
        own = {"since": time.time(), "pid": os.getpid(), "version": __version__}
        self._told = {**told, **own}
        write_whole(self._settings.agent_state_file, json.dumps(self._told))


def start_leaving(settings: Settings) -> None:
    """Start what ends the agent and all else; it outlives us. Two at once do no harm."""
    with (settings.log_dir / "leave.log").open("ab") as said:
        subprocess.Popen(
            [sys.executable, "-m", "cairn", "leave", "--state", str(settings.state)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd="/",
            start_new_session=True,
        )


def write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.rename(path)
