"""What the agent must still know after a reboot: the last spec that it accepted.

One file, written whole beside the old one and renamed over it, so that a power cut leaves either. It may
hold passwords for guests: readable by its owner only.
"""

import os
from pathlib import Path

import msgspec

from cairn.core import log
from cairn.wire.spec import NodeSpec

_log = log.get("agent.ledger")
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(NodeSpec)


class Ledger:
    def __init__(self, path: Path) -> None:
        self._path = path

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

    def load(self) -> NodeSpec | None:
        return None if self._data is None else _decoder.decode(self._data)

    def save(self, spec: NodeSpec) -> None:
        self._data = _encode(spec)
