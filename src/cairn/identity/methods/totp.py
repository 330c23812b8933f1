"""Signing in with a passcode of an authenticator: TOTP (RFC 6238) with HMAC-SHA-1, six digits, 30 seconds.

The secret is a credential of type `totp`, its blob in base32. The passcode of the step before is good too,
for clocks that are late and people who type; each is good once, and wrong ones are counted (`lockout`):
a million passcodes are soon tried.
"""

import base64
import binascii
import hmac

from msgspec import Struct

from cairn.core.errors import Invalid
from cairn.db.engine import Database, Tx
from cairn.db.secrets import Sealer
from cairn.http.call import Call
from cairn.identity import signin
from cairn.identity.accounts.guesses import PASSCODE
from cairn.identity.accounts.lockout import Attempt, Lockout, bare
from cairn.identity.credentials import credential_store
from cairn.identity.credentials.credential_keys import CredentialKeys
from cairn.identity.methods.method import Named, Proof
from cairn.identity.methods.password import domain_name
from cairn.identity.records import User
from cairn.identity.shapes import AuthBody

STEP_S = 30
STEPS_BEFORE = 1
DIGITS = 6
SECRETS_MAX = 16  # authenticators of one user that are asked
_NOBODYS = base64.b32encode(bytes(20))


class Match(Struct, frozen=True, kw_only=True):
    credential_id: str
    step: int


class TotpMethod:
    name = PASSCODE

    def __init__(self, sealer: Sealer, lockout: Lockout) -> None:
        self._sealer = sealer
        self._lockout = lockout

    async def prove(self, database: Database, call: Call[AuthBody]) -> Proof:
        part = call.body.auth.identity.totp
        if part is None:
            raise Invalid("Expecting to find totp in identity.")
        who = part.user
        named = Named(id=who.id, name=who.name, domain=domain_name(who.domain))
        found, match = await database.read(lambda tx: self._look(tx, named, who.passcode))
        user = found.user
        if user is None or found.is_locked or match is None or not await _use(database, match):
            await self._lockout.note_wrong(database, found)
            raise signin.refused("locked out" if found.is_locked else "unknown user or passcode")
        if not await self._lockout.note_right(database, found):
            raise signin.refused(f"user {user.id} was locked out during the sign-in")

        def still_the_same(tx: Tx, user: User) -> None:
            if credential_store.CREDENTIALS.get(tx, match.credential_id) is None:
                raise signin.refused(f"user {user.id} lost the credential during the sign-in")
            if self._lockout.is_locked(tx, PASSCODE, user):
                raise signin.refused(f"user {user.id} was locked out during the sign-in")

        return Proof(user_id=user.id, recheck=still_the_same)

    def _look(self, tx: Tx, named: Named, passcode: str) -> tuple[Attempt, Match | None]:
        found = self._lockout.attempt(tx, PASSCODE, named)
        owner = found.user.id if found.user else "-"
        mine = credential_store.of_user(tx, owner, PASSCODE, limit=SECRETS_MAX)
        keys = CredentialKeys(tx, self._sealer)
        secrets = [(one.id, keys.open(one)) for one in mine] or [("-", _NOBODYS)]
        now = int(tx.now.timestamp()) // STEP_S
        matches = [
            Match(credential_id=credential_id, step=step)
            for credential_id, secret in secrets
            for step in range(now - STEPS_BEFORE, now + 1)
            if _is_passcode(secret, step, passcode)
        ]
        return found, matches[-1] if matches and mine else None


def passcode(secret: bytes, step: int) -> str:
    """RFC 4226, section 5.3, of the step's number."""
    digest = hmac.digest(secret, step.to_bytes(8, "big"), "sha1")
    start = digest[-1] & 0xF
    number = int.from_bytes(digest[start : start + 4], "big") & 0x7FFFFFFF
    return str(number % 10**DIGITS).zfill(DIGITS)


def _is_passcode(blob: bytes, step: int, given: str) -> bool:
    text = blob.decode(errors="replace").replace(" ", "").rstrip("=").upper()
    try:
        secret = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        return False  # Whoever stored it made a mistake: it matches nothing.
    return hmac.compare_digest(passcode(secret, step).encode(), given.encode())


async def _use(database: Database, match: Match) -> bool:
    """Note that the passcode was used; False if it, or a later one, was used before."""
    return await bare(database).write(
        lambda tx: credential_store.use_step(tx, match.credential_id, match.step)
    )
