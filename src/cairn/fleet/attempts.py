"""How often somebody failed lately, by address: who guesses is not listened to for a while.

In memory and of this process only: it saves work and log lines. What keeps guesses out is the length of
the secret.
"""

from collections import OrderedDict

from cairn.core.clock import Clock

FAILURES_MAX = 10
WINDOW_S = 60.0
ADDRESSES_MAX = 10_000  # the longest silent are forgotten first


class Attempts:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()  # begun at, how many

    def wait_s(self, address: str) -> float:
        """How long the address must wait before it is listened to; 0: it need not."""
        begun_s, count = self._failures.get(address, (0.0, 0))
        if count < FAILURES_MAX:
            return 0.0
        return max(0.0, begun_s + WINDOW_S - self._clock.monotonic_s())

    def failed(self, address: str) -> None:
        now_s = self._clock.monotonic_s()
        begun_s, count = self._failures.pop(address, (now_s, 0))
        if now_s >= begun_s + WINDOW_S:
            begun_s, count = now_s, 0
        self._failures[address] = (begun_s, count + 1)
        if len(self._failures) > ADDRESSES_MAX:
            self._failures.popitem(last=False)
