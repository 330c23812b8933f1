"""How a run is shown while it goes on: a live table on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.status import Status

PLAIN_PERIOD_S = 5.0  # between two lines about the same steps


class Display:
    """`tell` may be called as often as one likes."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._told_s: dict[str, float] = {}  # when each step was last shown
        self._began_s = time.monotonic()

    def __enter__(self) -> "Display":
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status("starting")
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def tell(self, what: str) -> None:
        at_s = time.monotonic() - self._began_s
        if self._status is not None:
            self._status.update(f"[dim]{at_s:5.0f} s[/dim] {what}")
            return
        step = "".join(c for c in what if not c.isdigit())
        if at_s - self._told_s.get(step, -PLAIN_PERIOD_S) >= PLAIN_PERIOD_S:
            self._told_s[step] = at_s
            print(f"{at_s:6.1f} s  {what}", file=sys.stderr, flush=True)
