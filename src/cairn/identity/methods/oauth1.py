"""Signing in with an OAuth 1.0a access token: the request itself is signed with it."""

from cairn.core.errors import Invalid, Unauthenticated
from cairn.db.engine import Database, Tx
from cairn.db.secrets import Sealer
from cairn.http.call import Call
from cairn.identity import grants, signin, store_grants
from cairn.identity.delegation import oauth, oauth_signature
from cairn.identity.delegation.oauth_signature import Signed
from cairn.identity.delegation.oauth_store import ACCESS_TOKENS, AccessToken
from cairn.identity.methods.method import Named, Proof, ScopeWish
from cairn.identity.records import User
from cairn.identity.shapes import AuthBody
from cairn.identity.tokens import microseconds

NAME = "oauth1"


class OAuth1Method:
    name = NAME

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    async def prove(self, database: Database, call: Call[AuthBody]) -> Proof:
        if call.body.auth.identity.oauth1 is None:
            raise Invalid("Expecting to find oauth1 in identity.")
        # Clients sign the bare address, whatever they append to it.
        url = f"{call.base_url}{call.url_path}"
        signed = oauth_signature.read("POST", url, (), call.headers.get("authorization"))
        if not signed.token_id:
            raise Invalid("Expecting to find oauth_token in request.")
        try:
            proof = await database.read(lambda tx: self._proof(tx, signed))
            await database.write(lambda tx: oauth.use_nonce(tx, signed))
        except Unauthenticated as error:
            raise signin.refused(f"OAuth: {error}") from error
        return proof

    def _proof(self, tx: Tx, signed: Signed) -> Proof:
        oauth.require_signed(tx, self._sealer, signed, signed.token_id)
        one = _good(tx, signed.token_id or "")
        if one.consumer_id != signed.consumer_id:
            raise signin.refused(f"access token {one.id} is another consumer's")
        return proof_of(tx, one.id)


def proof_of(tx: Tx, id_: str) -> Proof:
    """What the access token proves as it is now; whoever asks has signed with it, or with a key of it."""
    one = _good(tx, id_)
    implied = grants.implied_by(store_grants.all_implications(tx))

    def still_there(tx: Tx, user: User) -> None:
        _good(tx, one.id)

    return Proof(
        user_id=one.user_id,
        recheck=still_there,
        place=ScopeWish(project=Named(id=one.project_id)),
        role_ids=frozenset(grants.closure(one.role_ids, implied)),
        ends_us=microseconds(one.expires_at),
        delegation=oauth.delegation(one),
    )


def _good(tx: Tx, id_: str) -> AccessToken:
    one = ACCESS_TOKENS.get(tx, id_)
    if one is None or one.expires_at <= tx.now:
        raise signin.refused(f"access token {id_} is gone or has expired")
    return one
