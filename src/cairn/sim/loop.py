"""An event loop whose time is its own: when nothing can run, the clock jumps to the next timer.

Everything that asks the loop for time (sleep, timeout, call_later) follows, so minutes of a cloud's life
pass in milliseconds and one seed gives one history. No threads, no sockets, no real waiting.
"""

import asyncio
import selectors
from datetime import UTC, datetime, timedelta
from typing import Any

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Stuck(Exception):
    """Nothing can run and no timer is set: the simulated world has come to a standstill."""


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting, tells the loop how long it would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise Stuck("no timer is set and nothing can run")
        self.now_s += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self.set_exception_handler(self._note)
        self.faults: list[dict[str, Any]] = []

    def time(self) -> float:
        return self._jumping.now_s

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Threads would bring real time in: do the work at once, on the spot."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.faults.append(context)


class LoopClock:
    """A `Clock` that reads the virtual loop; a jump may be added to wall time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.wall_offset_s = 0.0

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._loop.time() + self.wall_offset_s)

    def monotonic_s(self) -> float:
        return self._loop.time()
