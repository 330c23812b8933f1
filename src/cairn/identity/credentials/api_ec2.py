"""Keys of EC2 and S3 over HTTP: /v3/users/{id}/credentials/OS-EC2, /v3/ec2tokens and /v3/s3tokens.

The latter two are asked by services that were asked with a signed request: they learn whose it is, as a
token of the key's owner in the key's project. A key that was made by delegation opens what the delegation
opens, and nothing any more when that is over.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from cairn.core.errors import Invalid, NotFound, Unauthenticated
from cairn.core.ids import UserId
from cairn.db.engine import Database, Tx
from cairn.db.secrets import Sealer
from cairn.http.call import Call
from cairn.http.routes import Reply, Route, tells
from cairn.identity import people, places, signin
from cairn.identity.api_tokens import TokenRoutes
from cairn.identity.credentials import credential_store, credentials, ec2_signing
from cairn.identity.credentials.credential_keys import CredentialKeys
from cairn.identity.credentials.credential_store import CREDENTIALS
from cairn.identity.credentials.credentials import EC2, Credential
from cairn.identity.credentials.ec2_signing import Signed
from cairn.identity.delegation import trusts
from cairn.identity.delegation.trusts_store import Trust
from cairn.identity.listing import link, listed
from cairn.identity.methods import application_credential, oauth1
from cairn.identity.methods.method import Named, Proof, ScopeWish
from cairn.identity.shapes import Id
from cairn.identity.signin import Session
from cairn.identity.tokens import TokenIssuer

METHOD = "ec2credential"
BODY_BYTES_MAX = 256 * 1024


class Ec2Wish(Struct, frozen=True, kw_only=True):
    tenant_id: Id


class SignedBody(Struct, frozen=True, kw_only=True):
    """Clients of different ages have different words for it."""

    credentials: Signed | None = None
    credential: Signed | None = None
    ec2_credentials: Signed | None = msgspec.field(name="ec2Credentials", default=None)


class _Key(Struct, frozen=True, kw_only=True):
    """An access key, with what its blob says."""

    credential: Credential
    access: str
    secret: str
    trust_id: str | None = None
    app_cred_id: str | None = None
    access_token_id: str | None = None


class Ec2Routes:
    def __init__(self, issuer: TokenIssuer, sealer: Sealer, tokens: TokenRoutes) -> None:
        self._issuer = issuer
        self._sealer = sealer
        self._tokens = tokens

    def routes(self) -> tuple[Route, ...]:
        mine = "/v3/users/{user_id}/credentials/OS-EC2"
        one = f"{mine}/{{access}}"
        return (
            Route(method="GET", path=mine, rule="identity:ec2_list_credentials", do=self._list),
            Route(method="POST", path=mine, rule="identity:ec2_create_credential", do=self._create,
                  body=Ec2Wish, status=201, target=_of_path),
            Route(method="GET", path=one, rule="identity:ec2_get_credential", do=self._get,
                  target=_of_key),
            Route(method="DELETE", path=one, rule="identity:ec2_delete_credential", do=self._delete,
                  status=204, target=_of_key),
            Route(method="POST", path="/v3/ec2tokens", rule="identity:ec2tokens_validate",
                  run=self._ec2_token, body=SignedBody, body_bytes_max=BODY_BYTES_MAX, reads=True),
            Route(method="POST", path="/v3/s3tokens", rule="identity:s3tokens_validate",
                  run=self._s3_token, body=SignedBody, body_bytes_max=BODY_BYTES_MAX, reads=True),
        )  # fmt: skip

    def _list(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        owner = people.user(tx, call.path["user_id"])
        keys = CredentialKeys(tx, self._sealer)
        kept = credential_store.of_user(tx, owner.id, EC2, limit=credentials.PER_USER_MAX)
        shown = [
            _show(call, _key(credentials.opened(keys, one)))
            for one in kept
            if credentials.is_in_reach(call.who, one.project_id)
        ]
        return listed(call, "credentials", shown)

    def _create(self, tx: Tx, call: Call[Ec2Wish]) -> dict[str, Any]:
        owner = people.user(tx, call.path["user_id"])
        project = places.project(tx, call.body.tenant_id)
        blob = {"access": tx.new_hex_id(), "secret": tx.random_bytes(16).hex(), "trust_id": None}
        new = Credential(
            id="",
            user_id=owner.id,
            project_id=project.id,
            type=EC2,
            blob=msgspec.json.encode(blob).decode(),
        )
        made = credentials.create(tx, self._sealer, call.who, new)
        return {"credential": _show(call, _key(made))}

    def _get(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        return {"credential": _show(call, self._found(tx, call))}

    def _delete(self, tx: Tx, call: Call[None]) -> None:
        credentials.delete(tx, self._found(tx, call).credential.id)

    def _found(self, tx: Tx, call: Call[None]) -> _Key:
        """The key in the path, of the user in the path. Raises NotFound."""
        people.user(tx, call.path["user_id"])
        id_ = credentials.id_of(call.path["access"])
        kept = CREDENTIALS.get(tx, id_)
        if kept is None or kept.type != EC2 or kept.user_id != call.path["user_id"]:
            raise NotFound(f"Could not find credential: {id_}.")
        credentials.require_in_reach(call.who, kept.project_id)
        return _key(credentials.opened(CredentialKeys(tx, self._sealer), kept))

    async def _ec2_token(self, database: Database, call: Call[SignedBody]) -> Reply:
        session = await self._session(database, call, ec2_signing.require_ec2)
        token = self._issuer.issue(session.payload)
        return self._tokens.described(call, session, token, status=200)

    async def _s3_token(self, database: Database, call: Call[SignedBody]) -> Reply:
        """Whose signature it is, without a token: a signed address may be in many hands."""
        session = await self._session(database, call, ec2_signing.require_s3)
        described = self._tokens.described(call, session, "", status=200)
        return Reply(body=described.body)

    async def _session(
        self,
        database: Database,
        call: Call[SignedBody],
        require_signed: Callable[[Signed, str], None],
    ) -> Session:
        body = call.body
        signed = body.credentials or body.credential or body.ec2_credentials
        if signed is None:
            raise Invalid("Expecting to find credentials in the body.")
        access = signed.access
        if access is None:
            raise Unauthenticated("EC2 Signature not supplied")

        def proven(tx: Tx) -> _Key:
            kept = CREDENTIALS.get(tx, credentials.id_of(access))
            if kept is None or kept.type != EC2:
                raise NotFound("EC2 access key not found.")
            found = _key(credentials.opened(CredentialKeys(tx, self._sealer), kept))
            require_signed(signed, found.secret)
            ec2_signing.require_recent(signed, tx.now)
            return found

        def opened(tx: Tx) -> Session:
            return self._opened(tx, proven(tx))

        first = await database.read(proven)
        if first.trust_id is None:
            return await database.read(opened)
        return await database.write(opened)  # A use of the trust may be taken.

    def _opened(self, tx: Tx, key: _Key) -> Session:
        project = Named(id=key.credential.project_id)
        wish: ScopeWish | None = ScopeWish(project=project)
        if key.trust_id is not None:
            trust = _trust(tx, key.trust_id)
            proof = Proof(user_id=trust.trustee_user_id)
            wish = ScopeWish(trust_id=trust.id)
        elif key.app_cred_id is not None:
            proof = application_credential.proof_of(tx, key.app_cred_id)
        elif key.access_token_id is not None:
            proof = oauth1.proof_of(tx, key.access_token_id)
        else:
            proof = Proof(user_id=UserId(key.credential.user_id))
        session = signin.open_session(
            tx, [proof], wish, methods=(METHOD,), lifetime_s=self._issuer.lifetime_s
        )
        if session.project is None or session.project.id != key.credential.project_id:
            raise signin.refused("the key's project is not the one of the delegation")
        return session


def _trust(tx: Tx, id_: str) -> Trust:
    try:
        return trusts.trust(tx, id_)
    except NotFound as error:
        raise signin.refused(f"the key's trust {id_} has ended") from error


def _key(one: Credential) -> _Key:
    blob = credentials.ec2_blob(one.blob)
    return _Key(
        credential=one,
        access=blob["access"],
        secret=_text(blob, "secret") or "",
        trust_id=_text(blob, "trust_id"),
        app_cred_id=_text(blob, "app_cred_id"),
        access_token_id=_text(blob, "access_token_id"),
    )


def _text(blob: Mapping[str, Any], name: str) -> str | None:
    value = blob.get(name)
    return value if isinstance(value, str) else None


def _show(call: Call[Any], key: _Key) -> dict[str, Any]:
    owner = key.credential.user_id
    return {
        "user_id": owner,
        "tenant_id": key.credential.project_id,
        "access": key.access,
        "secret": key.secret,
        "trust_id": key.trust_id,
        "links": link(call, f"users/{owner}/credentials/OS-EC2/{key.access}"),
    }


@tells("target.credential.user_id")
def _of_path(tx: Tx, call: Call[Any]) -> Mapping[str, str | None]:
    return {"target.credential.user_id": call.path["user_id"]}


@tells("target.credential.user_id")
def _of_key(tx: Tx, call: Call[Any]) -> Mapping[str, str | None]:
    id_ = credentials.id_of(call.path["access"])
    return {"target.credential.user_id": credentials.sealed(tx, id_).user_id}
