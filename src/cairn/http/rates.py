"""How often somebody may ask: token buckets by address, by project, and for sign-ins that fail.

In memory and of this process only: several control processes let through as many times more. The numbers
keep one client that has gone mad from using up the whole process, and slow guessing down; they are far
above what orderly automation does (docs/guide/limits.md has measurements). What keeps guesses out is the
lockout of accounts and the length of secrets.
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from msgspec import Struct

BUCKETS_MAX = 20_000  # of a kind; whoever was silent for longest is forgotten first
BURST_S = 10.0  # requests of so many seconds may come at once
SIGN_IN_BURST_MIN = 100.0  # failed sign-ins of so many minutes may


class Rates(Struct, frozen=True, kw_only=True):
    """0: without a limit."""

    address_per_s: int = 0
    project_per_s: int = 0
    failed_sign_ins_per_min: int = 0


class Buckets:
    """`take(key)` is 0 when it may go on, else the seconds until it may."""

    def __init__(
        self,
        per_s: float,
        burst: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        most: int = BUCKETS_MAX,
    ) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._most = most
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, when counted

    def __len__(self) -> int:
        return len(self._held)

    def take(self, key: str) -> float:
        now = self._clock()
        tokens = self._tokens(key, now)
        if tokens < 1.0:
            return (1.0 - tokens) / self._per_s
        self._put(key, tokens - 1.0, now)
        return 0.0

    def give_back(self, key: str) -> None:
        now = self._clock()
        self._put(key, min(self._burst, self._tokens(key, now) + 1.0), now)

    def _tokens(self, key: str, now: float) -> float:
        held = self._held.get(key)
        if held is None:
            return self._burst
        return min(self._burst, held[0] + (now - held[1]) * self._per_s)

    def _put(self, key: str, tokens: float, now: float) -> None:
        self._held[key] = (tokens, now)
        self._held.move_to_end(key)
        if len(self._held) > self._most:
            self._held.popitem(last=False)


class Limiter:
    """What the shell asks. Each answer is the seconds to wait, 0 to go on."""

    def __init__(self, rates: Rates, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.refused: Counter[str] = Counter()  # by kind, for whoever counts
        self._address = _buckets(rates.address_per_s, BURST_S, clock)
        self._project = _buckets(rates.project_per_s, BURST_S, clock)
        per_min = rates.failed_sign_ins_per_min
        self._sign_in = _buckets(per_min / 60, SIGN_IN_BURST_MIN * 60, clock, burst_max=per_min * 2)

    def address(self, address: str) -> int:
        return self._ask("address", self._address, address)

    def project(self, project_id: str) -> int:
        return self._ask("project", self._project, project_id)

    def sign_in(self, address: str) -> int:
        """Counts as failed until `signed_in` says otherwise: many at once must not all slip through."""
        return self._ask("sign-in", self._sign_in, address)

    def signed_in(self, address: str) -> None:
        if self._sign_in is not None:
            self._sign_in.give_back(_of(address))

    def _ask(self, kind: str, buckets: Buckets | None, key: str) -> int:
        if buckets is None:
            return 0
        wait_s = buckets.take(key if kind == "project" else _of(key))
        if wait_s == 0.0:
            return 0
        self.refused[kind] += 1
        return max(1, math.ceil(wait_s))


def _buckets(
    per_s: float, burst_s: float, clock: Callable[[], float], *, burst_max: float = math.inf
) -> Buckets | None:
    if per_s <= 0:
        return None
    return Buckets(per_s, max(1.0, min(per_s * burst_s, burst_max)), clock=clock)


def _of(address: str) -> str:
    """Whom an address stands for: who has one of IPv6 has a whole /64 of them."""
    if ":" not in address:
        return address
    try:
        known = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(known, IPv6Address) and known.ipv4_mapped is None:
        return str(IPv6Address(int(known) >> 64 << 64))
    return address
