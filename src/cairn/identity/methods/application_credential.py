"""Signing in with an application credential: its secret opens one project, with some of its owner's roles."""

from cairn.core.errors import Invalid, Unauthenticated
from cairn.db.engine import Database, Tx
from cairn.http.call import Call
from cairn.identity import signin
from cairn.identity.accounts.passwords import Passwords
from cairn.identity.delegation import application_credentials
from cairn.identity.delegation import application_credentials_store as store
from cairn.identity.delegation.application_credentials_store import (
    APPLICATION_CREDENTIALS,
    ApplicationCredential,
)
from cairn.identity.methods.method import Named, Proof, ScopeWish
from cairn.identity.methods.password import domain_name
from cairn.identity.records import User
from cairn.identity.shapes import ApplicationCredentialMethod as Part
from cairn.identity.shapes import AuthBody
from cairn.identity.tokens import microseconds


class ApplicationCredentialMethod:
    name = application_credentials.KIND

    def __init__(self, passwords: Passwords) -> None:
        self._passwords = passwords

    async def prove(self, database: Database, call: Call[AuthBody]) -> Proof:
        part = call.body.auth.identity.application_credential
        if part is None:
            raise Invalid("Expecting to find application_credential in identity.")
        if call.body.auth.scope is not None:
            raise Unauthenticated(
                "Error authenticating with application credential: Application credentials cannot"
                " request a scope."
            )

        def look_up(tx: Tx) -> tuple[ApplicationCredential | None, str | None]:
            one = _claimed(tx, part)
            return one, store.secret_hash(tx, one.id) if one else None

        one, old = await database.read(look_up)
        verdict = await self._passwords.verify(old, part.secret)
        if one is None or old is None or not verdict.is_right:
            raise signin.refused("unknown application credential or wrong secret")
        id_ = one.id
        if better := verdict.better_hash:
            await database.write(lambda tx: store.replace_secret_hash(tx, id_, old=old, new=better))
        return await database.read(lambda tx: proof_of(tx, id_))


def _claimed(tx: Tx, part: Part) -> ApplicationCredential | None:
    if part.id is not None:
        return APPLICATION_CREDENTIALS.get(tx, part.id)
    if part.name is None:
        raise Invalid("Expecting to find id or name in application_credential.")
    if part.user is None:
        raise Invalid("Expecting to find user in application_credential.")
    owner = Named(id=part.user.id, name=part.user.name, domain=domain_name(part.user.domain))
    user = signin.candidate(tx, owner).user
    if user is None:
        return None
    columns = store.application_credentials.c
    return APPLICATION_CREDENTIALS.find(tx, columns.user_id == user.id, columns.name == part.name)


def proof_of(tx: Tx, id_: str) -> Proof:
    """What the credential proves as it is now; whoever asks has its secret, or a token by it."""
    one = APPLICATION_CREDENTIALS.get(tx, id_)
    if one is None:
        raise signin.refused(f"application credential {id_} is gone")

    def still_there(tx: Tx, user: User) -> None:
        now = APPLICATION_CREDENTIALS.get(tx, id_)
        if now is None or now.user_id != user.id:
            raise signin.refused(f"application credential {id_} is gone")
        if now.expires_at is not None and now.expires_at <= tx.now:
            raise signin.refused(f"application credential {id_} has expired")

    return Proof(
        user_id=one.user_id,
        recheck=still_there,
        place=ScopeWish(project=Named(id=one.project_id)),
        role_ids=frozenset(one.role_ids),
        ends_us=microseconds(one.expires_at) if one.expires_at else None,
        delegation=application_credentials.delegation(tx, one),
    )
