"""The keys that sign tokens: numbered, as Keystone's key repository has them, in the shared database.

The highest number is the primary and signs; all verify. `0` is staged: the next primary, already known to
everyone who verifies before anybody signs with it. Rotation makes the staged key primary and stages a new
one. A key that signs no more is kept for as long as a token of it may live, however often somebody
rotates: how many there are follows from that. Source of the scheme: Keystone administration guide,
"Fernet - Key Repository".

Two rotations shortly after each other would sign with a key that was staged a moment ago, which another
process may not know yet. So a key signs only when it has been there for `SETTLE_S`; until then the one
before it goes on. Another process looks for keys it does not know no more often than every `LOOK_AGAIN_S`.
"""

import base64
import itertools
import time
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from msgspec import Struct

from cairn.core import log
from cairn.core.clock import Clock
from cairn.core.errors import Conflict
from cairn.db import secrets
from cairn.db.engine import Database, Tx
from cairn.db.feed import EVERYTHING
from cairn.db.secrets import Sealer

TOPIC = "identity.keys"
STAGED = 0
LOOK_AGAIN_S = 5.0  # a foreign token makes us look for new keys no more often than this
SETTLE_S = (
    10.0  # between a key's staging and its first signature, at least; beyond what clocks differ
)
KNOWN_S = 300.0  # after which a process that signs makes sure that its primary still is one
SPARE_S = 600.0  # beyond a token's life, for those who have not heard yet and sign on
KEYS_MAX = 32  # each makes a forged token dearer to refuse
_PREFIX = "identity.fernet."
_log = log.get("identity.keys")


class Key(Struct, frozen=True, kw_only=True):
    """What may be known of a key."""

    number: int
    state: str  # "staged", "primary" or "retired": verifies what it has signed
    age_s: float  # in this number's place
    needed_s: float | None = None  # for how long a token of a retired key may still live


class KeyRepository:
    """The keys in memory. Another process may rotate them: a hint, or an unknown signature, looks again.

    Only the thread of the event loop may use it.
    """

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        *,
        clock: Clock,
        lifetime_s: float = 3600.0,
        folder: Path | None = None,
    ) -> None:
        """Load the keys; make the first two if there are none. `lifetime_s`: how long a token lives at
        most. `folder`: where an earlier release kept the keys as files, which are taken over."""
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._kept_s = lifetime_s + SETTLE_S + SPARE_S
        before = _files(folder)
        try:
            database.write_now(lambda tx: self._ensure(tx, before))
        except Conflict:  # Another process made them at the same moment.
            database.write_now(lambda tx: self._ensure(tx, before))
        self._load()
        database.on_wake(self._hint)

    def sign(self, data: bytes) -> bytes:
        if self._is_stale or time.monotonic() > self._loaded_s + KNOWN_S:
            self._load()
        now_s = self._clock.now().timestamp()
        for settled_s, fernet in self._signers:
            if settled_s <= now_s:
                return fernet.encrypt(data)
        return self._signers[-1][1].encrypt(data)

    def read(self, token: bytes) -> bytes | None:
        """What was signed; None when no key of ours did it."""
        try:
            return self._fernet.decrypt(token)
        except InvalidToken:
            if not self._is_stale and time.monotonic() < self._loaded_s + LOOK_AGAIN_S:
                return None
        self._load()
        try:
            return self._fernet.decrypt(token)
        except InvalidToken:
            return None

    def rotate(self, tx: Tx, *, if_older_s: float = 0.0) -> bool:
        """Sign with the staged key from now on, unless somebody has just rotated. Repeatable. Raises
        Conflict when more keys than is sensible are still needed."""
        known = self._known(tx)
        if known[STAGED].age_s < if_older_s:
            return False
        outlived = self._outlived(known)
        if len(known) - len(outlived) >= KEYS_MAX:
            least_s = min(left for left in self._left_s(known).values() if left > 0)
            raise Conflict(
                f"Living tokens still need all {KEYS_MAX} keys; the first is free in"
                f" {least_s:.0f} seconds."
            )
        primary = max(known) + 1
        secrets.rename(tx, self._sealer, _name(STAGED), _name(primary))
        secrets.put(tx, self._sealer, _name(STAGED), _new_key(tx))
        for number in outlived:
            secrets.forget(tx, _name(number))
        tx.wake(TOPIC)
        _log.info("token keys rotated", primary=primary)
        return True

    def retire(self, tx: Tx) -> int:
        """Forget the keys that no living token needs; how many there were."""
        outlived = self._outlived(self._known(tx))
        for number in outlived:
            secrets.forget(tx, _name(number))
        if outlived:
            tx.wake(TOPIC)
        return len(outlived)

    def shown(self, tx: Tx) -> list[Key]:
        """All keys, the primary first, without what is secret."""
        known = self._known(tx)
        left_s, primary = self._left_s(known), max(known)
        states = {STAGED: "staged", primary: "primary"}
        return [
            Key(
                number=number,
                state=states.get(number, "retired"),
                age_s=known[number].age_s,
                needed_s=max(0.0, left_s[number]) if number in left_s else None,
            )
            for number in sorted(known, reverse=True)
        ]

    def next_retirement_s(self) -> float | None:
        """How long until a key can be forgotten; None while none is retired."""
        if self._is_stale:
            self._load()
        if self._first_end_s is None:
            return None
        return self._first_end_s - self._clock.now().timestamp()

    def age_s(self) -> float:
        """How long the primary has been signing."""
        if self._is_stale:
            self._load()
        return self._clock.now().timestamp() - self._staged_at_s

    def _ensure(self, tx: Tx, before: dict[int, bytes]) -> None:
        known = self._known(tx)
        if not known:
            for number, key in before.items():
                secrets.put(tx, self._sealer, _name(number), key)
            known = self._known(tx)
        if not set(known) - {STAGED}:
            secrets.put(tx, self._sealer, _name(STAGED + 1), _new_key(tx))
        if STAGED not in known:
            secrets.put(tx, self._sealer, _name(STAGED), _new_key(tx))

    def _known(self, tx: Tx) -> dict[int, secrets.Secret]:
        found = secrets.all_under(tx, self._sealer, _PREFIX)
        return {int(secret.name.removeprefix(_PREFIX)): secret for secret in found}

    def _left_s(self, known: dict[int, secrets.Secret]) -> dict[int, float]:
        """For how long each retired key is needed: it stopped signing when the next one began."""
        numbers = sorted(known.keys() - {STAGED})
        return {
            number: self._kept_s - known[following].age_s
            for number, following in itertools.pairwise(numbers)
        }

    def _outlived(self, known: dict[int, secrets.Secret]) -> list[int]:
        return [number for number, left in self._left_s(known).items() if left <= 0]

    def _load(self) -> None:
        self._is_stale = False
        try:
            known = self._database.read_now(self._known)
        except BaseException:
            self._is_stale = True
            raise
        now_s = self._clock.now().timestamp()
        # The staged one was made when the primary began to sign.
        self._staged_at_s = now_s - known[STAGED].age_s
        self._loaded_s = time.monotonic()
        self._first_end_s = min((now_s + s for s in self._left_s(known).values()), default=None)
        # By number, so that the primary is first and the staged 0 last.
        fernets = {n: Fernet(known[n].data) for n in sorted(known, reverse=True)}
        self._fernet = MultiFernet(list(fernets.values()))
        # A key was staged when the one before it became primary.
        before = {n: known[n - 1].age_s for n in known if n - 1 in known and n - 1 != STAGED}
        self._signers = [
            (now_s - before[n] + SETTLE_S if n in before else 0.0, fernet)
            for n, fernet in fernets.items()
            if n != STAGED
        ]

    def _hint(self, topic: str) -> None:
        if topic in (TOPIC, EVERYTHING):
            self._is_stale = True


def _name(number: int) -> str:
    return f"{_PREFIX}{number}"


def _new_key(tx: Tx) -> bytes:
    """As `Fernet.generate_key` makes them."""
    return base64.urlsafe_b64encode(tx.random_bytes(32))


def _files(folder: Path | None) -> dict[int, bytes]:
    if folder is None or not folder.is_dir():
        return {}
    return {int(p.name): p.read_bytes() for p in folder.iterdir() if p.name.isdecimal()}
