"""Connections of the simulated world: late, repeated, cut, silent - as the seed has it.

Frames are encoded and decoded for real, so a record that cannot travel fails here first. As on TCP the
order within one connection is kept; what is late is late together. A cut loses what was on its way.
"""

import asyncio
import random
from collections import deque

from cairn.core.errors import Unavailable
from cairn.wire.link import SILENCE_S, Frame, Report, decode, encode


class Wire:
    """One connection's two ends and what the world does to it."""

    def __init__(self, dice: random.Random, *, delay_s_max: float, repeats: float) -> None:
        self._dice = dice
        self._delay_s_max = delay_s_max
        self._repeats = repeats  # probability that a report arrives twice
        self.is_cut = False  # closed: both ends hear of it
        self.is_silent = False  # a cable pulled: nobody hears anything
        self.agent_end = _End(self)
        self.control_end = _End(self)
        self.agent_end.other, self.control_end.other = self.control_end, self.agent_end

    def cut(self) -> None:
        self.is_cut = True
        for end in (self.agent_end, self.control_end):
            end.came.set()

    def tear(self) -> None:
        """The agent hears that it is over; what it sent is still on its way, and control hears nothing.

        So the agent's next connection overlaps this one."""
        self.agent_end.is_torn = True
        self.agent_end.came.set()

    def carry(self, frame: Frame, to: "_End") -> None:
        if self.is_silent or self.is_cut:
            return
        copies = 2 if isinstance(frame, Report) and self._dice.random() < self._repeats else 1
        for _ in range(copies):
            to.expect(encode(frame), self._dice.random() * self._delay_s_max)


class _End:
    """What one side holds; a `Link`."""

    other: "_End"

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._inbox: deque[bytes] = deque()
        self.came = asyncio.Event()
        self._latest_s = 0.0
        self.is_torn = False

    def expect(self, data: bytes, delay_s: float) -> None:
        """Arrive after `delay_s`, but never before what was sent earlier."""
        loop = asyncio.get_running_loop()
        # Timers of the very same moment run in no order: a later frame comes a nanosecond later.
        self._latest_s = max(self._latest_s + 1e-9, loop.time() + delay_s)
        loop.call_at(self._latest_s, self._arrive, data)

    def _arrive(self, data: bytes) -> None:
        if not self._wire.is_cut:
            self._inbox.append(data)
            self.came.set()

    async def send(self, frame: Frame) -> None:
        self.post(frame)

    def post(self, frame: Frame) -> None:
        if self._wire.is_cut or self.is_torn:
            raise Unavailable("The connection is gone.", because="cut")
        self._wire.carry(frame, self.other)

    @property
    def is_congested(self) -> bool:
        return False

    async def receive(self, silence_s: float | None = SILENCE_S) -> Frame:
        # Without a limit of its own the kernel's questions to a dead peer end a connection in time.
        try:
            async with asyncio.timeout(silence_s or SILENCE_S):
                while not self._inbox:
                    if self._wire.is_cut or self.is_torn:
                        raise Unavailable("The connection is gone.", because="cut")
                    self.came.clear()
                    await self.came.wait()
        except TimeoutError as error:
            self._wire.cut()
            raise Unavailable("The connection is gone.", because="silence") from error
        return decode(self._inbox.popleft())

    def close(self) -> None:
        if not self.is_torn:
            self._wire.cut()
