"""Signing in with a token that one has already: for another scope, never for longer."""

import msgspec

from cairn.core.caller import Delegation
from cairn.core.errors import Denied, Invalid, NotFound, Unauthenticated
from cairn.db.engine import Database
from cairn.http.call import Call
from cairn.identity.delegation import application_credentials
from cairn.identity.methods.application_credential import proof_of
from cairn.identity.methods.method import Proof
from cairn.identity.shapes import AuthBody
from cairn.identity.tokens import Payload, TokenIssuer


class TokenMethod:
    name = "token"

    def __init__(self, issuer: TokenIssuer) -> None:
        self._issuer = issuer

    async def prove(self, database: Database, call: Call[AuthBody]) -> Proof:
        wanted = call.body.auth.identity.token
        if wanted is None:
            raise Invalid("Expecting to find token in identity.")
        try:
            parent = self._issuer.payload(wanted.id)
        except Unauthenticated as error:
            # Keystone's answer: the token is a thing that was looked for.
            raise NotFound("Could not find token.", because=error.because) from error
        if parent.delegation is not None:
            return await self._by_delegation(database, call, parent, parent.delegation)
        return Proof(
            user_id=parent.user_id,
            parent=parent,
            ends_us=parent.expires_us,
            federation=parent.federation,
        )

    async def _by_delegation(
        self, database: Database, call: Call[AuthBody], parent: Payload, lent: Delegation
    ) -> Proof:
        """Another just like it, where the token is by an application credential; else Denied."""
        if lent.kind != application_credentials.KIND:
            raise Denied(
                "You are not authorized to perform the requested action: Using a token issued via"
                " delegation to create another token."
            )
        if call.body.auth.scope is not None:
            raise Denied(
                "You are not authorized to perform the requested action: Using an application"
                " credential token to create a scoped token is not allowed."
            )
        proof = await database.read(lambda tx: proof_of(tx, lent.id))
        ends = [parent.expires_us, *([proof.ends_us] if proof.ends_us is not None else [])]
        return msgspec.structs.replace(proof, parent=parent, ends_us=min(ends))
