"""What failed, how often, since when, and when it may be tried again: one entry a resource."""

from msgspec import Struct

from cairn.core.errors import CloudError
from cairn.wire.report import Trouble

BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)


class _Entry(Struct, kw_only=True):
    trouble: Trouble
    not_before_s: float


class Troubles:
    """Times given to it are the event loop's; `epoch_s` is wall time, for people."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def add(self, key: str, error: Exception, *, now_s: float, epoch_s: float) -> Trouble:
        older = self._entries.get(key)
        tries = older.trouble.tries + 1 if older else 1
        trouble = Trouble(
            message=error.message if isinstance(error, CloudError) else "An internal error.",
            because=(error.because or "") if isinstance(error, CloudError) else repr(error),
            since=older.trouble.since if older else epoch_s,
            tries=tries,
        )
        wait_s = BACKOFF_S[min(tries, len(BACKOFF_S)) - 1]
        self._entries[key] = _Entry(trouble=trouble, not_before_s=now_s + wait_s)
        return trouble

    def clear(self, key: str) -> None:
        self._entries.pop(key, None)

    def keep(self, keys: set[str]) -> None:
        """Forget resources that nobody wants any more."""
        for key in self._entries.keys() - keys:
            del self._entries[key]

    def forgive(self) -> None:
        """Try everything again at once: the wishes changed."""
        for entry in self._entries.values():
            entry.not_before_s = 0.0

    def get(self, key: str) -> Trouble | None:
        entry = self._entries.get(key)
        return entry.trouble if entry else None

    def must_wait(self, key: str, now_s: float) -> bool:
        entry = self._entries.get(key)
        return entry is not None and now_s < entry.not_before_s

    def next_try_s(self) -> float | None:
        """When the first resource may be tried again, on the loop's clock."""
        return min((e.not_before_s for e in self._entries.values()), default=None)
