"""What a command is doing, how long each step took: a display on a terminal, plain lines elsewhere.

It goes to standard error; what a command is asked for goes to standard output.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

REMIND_S = 10.0  # without a terminal, how often a step that goes on says so


class Step:
    """One step under way."""

    def __init__(self, what: str, status: "Status | None") -> None:
        self.what = what
        self.detail = ""
        self._status = status
        self._told_at = time.monotonic()

    def tell(self, detail: str) -> None:
        """Say what the step waits for; may be called often."""
        self.detail = detail
        if self._status is not None:
            self._status.update(f"{self.what} [dim]{detail}[/dim]")
        elif time.monotonic() - self._told_at >= REMIND_S:
            self._told_at = time.monotonic()
            print(f"  {self.what}: {detail}", file=sys.stderr, flush=True)


class Steps:
    """The steps of one command, and how long each took."""

    def __init__(self) -> None:
        self.taken_s: list[tuple[str, float]] = []
        self._console: Console | None = None

    def __enter__(self) -> "Steps":
        if sys.stderr.isatty():
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._console = None

    @contextmanager
    def step(self, what: str) -> Iterator[Step]:
        """Show `what` while the body runs, then whether it went well and how long it took."""
        began = time.monotonic()
        if self._console is None:
            print(f"- {what} …", file=sys.stderr, flush=True)
            yield from self._timed(what, Step(what, None), began)
        else:
            with self._console.status(what) as status:
                yield from self._timed(what, Step(what, status), began)

    def _timed(self, what: str, step: Step, began: float) -> Iterator[Step]:
        try:
            yield step
        except BaseException:
            self._end(f"✗ {what}, after {time.monotonic() - began:.1f} s", "red")
            raise
        taken_s = time.monotonic() - began
        self.taken_s.append((what, taken_s))
        self._end(f"✓ {what}: {taken_s:.1f} s", "green")

    def _end(self, line: str, colour: str) -> None:
        if self._console is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._console.print(f"[{colour}]{line[0]}[/{colour}]{line[1:]}")

    def show_total(self) -> None:
        """One closing line: the whole time, and the steps that took most of it."""
        total_s = sum(taken for _, taken in self.taken_s)
        print(f"\nIn all {total_s:.1f} s:", file=sys.stderr)
        for what, taken in self.taken_s:
            if taken >= 0.05:
                print(f"  {taken:6.1f} s  {what}", file=sys.stderr)
