"""One guest's QMP connection: commands with a time limit, events as calls, descriptors by SCM_RIGHTS.

A thin layer over `qemu.qmp`, for three reasons: its own event queue keeps every event for ever, and
guests can cause events; it waits without limit; and it hands descriptors over through asyncio's
transport, which other event loops do not have.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient, Runstate
from qemu.qmp.error import QMPError
from qemu.qmp.qmp_client import ExecuteError

from cairn.core.errors import Unavailable

COMMAND_S_MAX = 8.0
OnEvent = Callable[[str, Mapping[str, Any]], None]

# It logs each lost connection at ERROR; a guest's end is no error, and ours is told from here.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class Refused(Exception):
    """QEMU understood the command and says no; `words` are its own."""

    def __init__(self, command: str, kind: str, words: str) -> None:
        super().__init__(f"{command}: {words}")
        self.kind = kind
        self.words = words


class Monitor:
    """A connection that is open from `connect` until `lost` returns."""

    def __init__(self, client: QMPClient, channel: socket.socket) -> None:
        self._client = client
        self._channel = channel

    @property
    def is_open(self) -> bool:
        return bool(self._client.runstate == Runstate.RUNNING)

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """QEMU's answer. Refused: it says no; Unavailable: it does not answer."""
        try:
            async with asyncio.timeout(COMMAND_S_MAX):
                return await self._client.execute(command, arguments)
        except ExecuteError as error:
            raise Refused(command, error.error_class, str(error)) from error
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            raise Unavailable(
                "the guest's process does not answer",
                because=f"{command}: {type(error).__name__} {error}",
            ) from error

    async def hand_over(self, fd: int, name: str) -> None:
        """Give QEMU a descriptor under a name that the next command may use."""
        socket.send_fds(self._channel, [b" "], [fd])
        await self.execute("getfd", {"fdname": name})

    async def lost(self) -> None:
        """Returns when the connection is no more."""
        while self._client.runstate == Runstate.RUNNING:
            await self._client.runstate_changed()

    async def close(self) -> None:
        """Hang up. Repeatable; the guest does not notice."""
        with contextlib.suppress(QMPError, OSError, EOFError):
            await self._client.disconnect()
        self._channel.close()


async def connect(path: Path, on_event: OnEvent, *, timeout_s: float) -> Monitor:
    """Talk to the QEMU that listens at `path`. Unavailable: nobody there, or no answer."""
    client = QMPClient(path.parent.name)
    client.events.event_filter = _called(on_event)
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel.setblocking(False)
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(channel, str(path))
            await client.connect(channel)
    except (QMPError, OSError, EOFError, TimeoutError) as error:
        channel.close()
        raise Unavailable(
            "the guest's process does not answer", because=f"QMP: {type(error).__name__} {error}"
        ) from error
    except BaseException:
        channel.close()
        raise
    return Monitor(client, channel)


def _called(on_event: OnEvent) -> Callable[[Mapping[str, Any]], bool]:
    """A filter that turns each event into a call and lets none into the queue."""

    def accept(event: Mapping[str, Any]) -> bool:
        on_event(event["event"], event.get("data", {}))
        return False

    return accept
