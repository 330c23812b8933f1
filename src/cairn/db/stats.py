"""What the database of this process has done, for /metrics."""

from collections import Counter

from cairn.core.meter import Meter

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Stats:
    """Counts and times of transactions; those of SQLite and PostgreSQL mean the same."""

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, str]] = Counter()  # (read or write, ok or failed)
        self.read_seconds = Meter()
        self.group_seconds = Meter()  # a group of writes, with the commit that they share
        self.group_sizes = Meter(SIZES)
        self.retries = 0  # of what clashed, or lost its connection

    def grouped(self, size: int, failed: int, seconds: float) -> None:
        """A group of writes is over."""
        self.ended["write", "ok"] += size - failed
        self.ended["write", "failed"] += failed
        self.group_sizes.add(size)
        self.group_seconds.add(seconds)
