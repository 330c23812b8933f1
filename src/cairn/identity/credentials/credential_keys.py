"""The keys that credentials are sealed with: numbered, in the shared database, the highest one seals.

They lie in the table of secrets, sealed themselves by the key that is not in the database. A rotation
makes a new key, seals every credential anew with it and forgets the older ones, in one transaction: so
whoever reads a credential finds its key, and an old copy of the database with an old key opens nothing new.
"""

import msgspec

from cairn.db import secrets
from cairn.db.engine import Tx
from cairn.db.secrets import KEY_BYTES, Sealer
from cairn.identity.credentials import credential_store
from cairn.identity.credentials.credential_store import Sealed

_PREFIX = "identity.credential."
_NONCE_BYTES = 12
_BATCH = 500


class CredentialKeys:
    """The keys as one transaction sees them."""

    def __init__(self, tx: Tx, sealer: Sealer) -> None:
        found = secrets.all_under(tx, sealer, _PREFIX)
        self._sealers = {int(s.name.removeprefix(_PREFIX)): Sealer(s.data) for s in found}
        self._tx = tx
        self._sealer = sealer

    @property
    def newest(self) -> int:
        """The number of the key that seals; 0 while there is none."""
        return max(self._sealers, default=0)

    def add(self) -> int:
        """Make a key, which seals from now on."""
        number, key = self.newest + 1, self._tx.random_bytes(KEY_BYTES)
        secrets.put(self._tx, self._sealer, f"{_PREFIX}{number}", key)
        self._sealers[number] = Sealer(key)
        return number

    def forget_before(self, number: int) -> None:
        for old in [known for known in self._sealers if known < number]:
            secrets.forget(self._tx, f"{_PREFIX}{old}")
            del self._sealers[old]

    def seal(self, credential_id: str, blob: bytes) -> tuple[int, bytes]:
        """The key's number and the sealed blob."""
        number = self.newest or self.add()
        nonce = self._tx.random_bytes(_NONCE_BYTES)
        return number, self._sealers[number].seal(credential_id, blob, nonce=nonce)

    def open(self, credential: Sealed) -> bytes:
        """Raises Invalid: the row was tampered with, or is another one's."""
        return self._sealers[credential.key_number].open(credential.id, credential.sealed)


def rotate_credential_keys(tx: Tx, sealer: Sealer) -> int:
    """Seal every credential anew with a new key and forget the old ones; how many there were.

    One transaction: some 20 microseconds a credential, for which other writes wait.
    """
    keys = CredentialKeys(tx, sealer)
    number, count = keys.add(), 0
    for batch in credential_store.sealed_before(tx, number, batch=_BATCH):
        for old in batch:
            key_number, sealed = keys.seal(old.id, keys.open(old))
            new = msgspec.structs.replace(old, key_number=key_number, sealed=sealed)
            credential_store.save(tx, new)
            count += 1
    keys.forget_before(number)
    return count


def key_ages(tx: Tx, sealer: Sealer) -> dict[int, float]:
    """Each key's number, and for how many seconds there has been one."""
    found = secrets.all_under(tx, sealer, _PREFIX)
    return {int(one.name.removeprefix(_PREFIX)): one.age_s for one in found}
