"""The keys that sign tokens: numbered, as Keystone's key repository has them, in the shared database.

The highest number is the primary and signs; all verify. `0` is staged: the next primary, already known to
everyone who verifies before anybody signs with it. Rotation makes the staged key primary, stages a new
one and drops the oldest, so a token stays readable for `keep - 2` rotations after its key stopped
signing. Source of the scheme: Keystone administration guide, "Fernet - Key Repository".
"""

import base64
import time
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

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
_PREFIX = "identity.fernet."
_log = log.get("identity.keys")


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
        keep: int = 3,
        folder: Path | None = None,
    ) -> None:
        """Load the keys; make the first two if there are none. `folder`: where an earlier release kept
        them as files, which are taken over."""
        assert keep >= 2, "a staged key and a primary are the least"
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._keep = keep
        before = _files(folder)
        try:
            database.write_now(lambda tx: self._ensure(tx, before))
        except Conflict:  # Another process made them at the same moment.
            database.write_now(lambda tx: self._ensure(tx, before))
        self._load()
        database.on_wake(self._hint)

    def sign(self, data: bytes) -> bytes:
        if self._is_stale:
            self._load()
        return self._fernet.encrypt(data)

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
        """Sign with the staged key from now on, unless somebody has just rotated. Repeatable."""
        known = self._known(tx)
        if known[STAGED].age_s < if_older_s:
            return False
        primary = max(known) + 1
        secrets.rename(tx, self._sealer, _name(STAGED), _name(primary))
        secrets.put(tx, self._sealer, _name(STAGED), _new_key(tx))
        for number in sorted({*known, primary} - {STAGED})[: -(self._keep - 1)]:
            secrets.forget(tx, _name(number))
        tx.wake(TOPIC)
        _log.info("token keys rotated", primary=primary)
        return True

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

    def _load(self) -> None:
        self._is_stale = False
        try:
            known = self._database.read_now(self._known)
        except BaseException:
            self._is_stale = True
            raise
        # The staged one was made when the primary began to sign.
        self._staged_at_s = self._clock.now().timestamp() - known[STAGED].age_s
        self._loaded_s = time.monotonic()
        # By number, so that the primary is first and the staged 0 last.
        self._fernet = MultiFernet([Fernet(known[n].data) for n in sorted(known, reverse=True)])

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
