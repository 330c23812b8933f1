"""Signing in with a token that one has already: for another scope, never for longer."""

from cairn.core.errors import Denied, Invalid
from cairn.db.engine import Database
from cairn.http.call import Call
from cairn.identity.methods.method import Proof
from cairn.identity.shapes import AuthBody
from cairn.identity.tokens import TokenIssuer


class TokenMethod:
    name = "token"

    def __init__(self, issuer: TokenIssuer) -> None:
        self._issuer = issuer

    async def prove(self, database: Database, call: Call[AuthBody]) -> Proof:
        wanted = call.body.auth.identity.token
        if wanted is None:
            raise Invalid("Expecting to find token in identity.")
        parent = self._issuer.payload(wanted.id)
        if parent.delegation is not None:
            raise Denied("A token by delegation cannot be exchanged for another.")
        return Proof(
            user_id=parent.user_id,
            parent=parent,
            ends_us=parent.expires_us,
            federation=parent.federation,
        )
