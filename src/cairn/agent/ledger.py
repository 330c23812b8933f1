"""What the agent must still know after a reboot: the last spec that it accepted. And what it must forget
then: that the control plane confirmed it.

One file for the spec, written whole beside the old one and renamed over it, so that a power cut leaves
either; it may hold passwords for guests: readable by its owner only. The confirmation names the boot of
the host in which it was given, so that it outlives the agent and no reboot.
"""

import os
from pathlib import Path

import msgspec

from cairn.core import log
from cairn.wire.spec import NodeSpec

_log = log.get("agent.ledger")
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(NodeSpec)


BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Ledger:
    def __init__(self, path: Path, *, boot_id: Path = BOOT_ID) -> None:
        self._path = path
        self._confirmed = path.with_name("confirmed")
        self._boot_id = boot_id

    def load(self) -> NodeSpec | None:
        """The spec accepted last; None on a new host."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return _decoder.decode(data)
        except msgspec.DecodeError as error:
            # Another version's file: the control plane will send a whole spec; guests run on meanwhile.
            _log.error("ledger not understood", path=str(self._path), because=str(error))
            return None

    def is_confirmed(self) -> bool:
        """Whether the control plane has confirmed the spec since this host booted."""
        boot = self._this_boot()
        try:
            return boot != "" and self._confirmed.read_text() == boot
        except OSError:
            return False

    def confirm(self) -> None:
        """Need not survive a power cut: after it, it holds no more."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._confirmed.with_suffix(".new")
        temporary.write_text(self._this_boot())
        temporary.rename(self._confirmed)

    def _this_boot(self) -> str:
        try:
            return self._boot_id.read_text().strip()
        except OSError as error:
            _log.error("the boot of this host cannot be told", because=repr(error))
            return ""

    def save(self, spec: NodeSpec) -> None:
        """Return only when it would survive a power cut."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, _encode(spec))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class MemoryLedger:
    """For the simulator: survives the agent, not the world."""

    def __init__(self) -> None:
        self._data: bytes | None = None
        self._is_confirmed = False

    def is_confirmed(self) -> bool:
        return self._is_confirmed

    def confirm(self) -> None:
        self._is_confirmed = True

    def power_cut(self) -> None:
        """The next boot of the host begins."""
        self._is_confirmed = False

    def load(self) -> NodeSpec | None:
        return None if self._data is None else _decoder.decode(self._data)

    def save(self, spec: NodeSpec) -> None:
        self._data = _encode(spec)
