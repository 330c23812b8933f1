"""The way to the control plane: its addresses in turn, until one takes the host in.

Each host begins at an address of its own choice, so that hosts spread over the control processes, and
stays where it is connected. What belongs to that connection (images, screens) goes to the same place:
the process that asked for a screen is the one that waits for it.
"""

import random
from collections.abc import Awaitable, Callable, Sequence

from cairn.core import log
from cairn.core.errors import Unavailable
from cairn.wire.addresses import split
from cairn.wire.link import StreamLink

Dial = Callable[[str, int], Awaitable[StreamLink]]

_log = log.get("agent.doors")


class Doors:
    """The control plane's addresses, and the one that is in use."""

    def __init__(
        self,
        addresses: Sequence[str],
        dial: Dial,
        *,
        port: int,
        dice: random.Random | None = None,
    ) -> None:
        """`addresses`: names or addresses, each with a port of its own ("host:port") or without."""
        assert addresses, "a host knows where its control plane is"
        self._addresses = [split(address, port) for address in dict.fromkeys(addresses)]
        (dice or random.Random()).shuffle(self._addresses)  # noqa: S311 - it spreads load
        self._dial = dial

    async def connect(self) -> StreamLink:
        """A connection to the first address that answers, beginning with the last that did. Raises
        Unavailable saying how each failed."""
        failed = []
        for _ in range(len(self._addresses)):
            host, port = self._addresses[0]
            try:
                return await self._dial(host, port)
            except Unavailable as error:
                failed.append(f"{host}:{port}: {error.because or error.message}")
                self._addresses.append(self._addresses.pop(0))
        raise Unavailable(
            "The control plane cannot be reached at any of its addresses.",
            because="; ".join(failed),
        )

    async def connect_here(self) -> StreamLink:
        """A further connection to where the last one went."""
        return await self._dial(*self._addresses[0])
