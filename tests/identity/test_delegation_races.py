"""What may be done so many times only, on databases that really run things at the same time."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from oauthlib import oauth1

from cairn.core.errors import CloudError, Conflict, Unauthenticated
from cairn.core.ids import ProjectId, UserId
from cairn.db.engine import Database, Tx
from cairn.db.secrets import Sealer
from cairn.identity import grants, people, signin
from cairn.identity.delegation import application_credentials, oauth, oauth_signature
from cairn.identity.delegation.application_credentials_store import ApplicationCredential
from cairn.identity.delegation.oauth_store import Consumer, RequestToken
from cairn.identity.delegation.trusts_store import TRUSTS, Trust
from cairn.identity.methods.method import Proof, ScopeWish
from cairn.identity.records import DEFAULT_DOMAIN, User
from tests.identity.test_races import concurrent, first_rows

__all__ = ["concurrent"]
SEALER = Sealer(bytes(32))
AT_ONCE = 20


async def at_once(database: Database, verb: Callable[[Tx], object]) -> list[str]:
    """How each of twenty ended: "done", or the error's kind."""

    async def one() -> str:
        try:
            await database.write(verb)
        except CloudError as error:
            return type(error).__name__
        return "done"

    return sorted(await asyncio.gather(*(one() for _ in range(AT_ONCE))))


@pytest.mark.parametrize("uses", [1, 5])
async def test_a_trust_is_used_as_often_as_it_may(concurrent: Database, uses: int) -> None:
    def begin(tx: Tx) -> None:
        given = first_rows(tx)
        grants.grant(tx, given)
        people.create_user(tx, User(id=UserId("bob"), name="bob", domain_id=DEFAULT_DOMAIN), None)
        trust = Trust(
            id="t", trustor_user_id=UserId("ann"), trustee_user_id=UserId("bob"),
            project_id=ProjectId("p"), impersonation=False, role_ids=(given.role_id,),
            remaining_uses=uses,
        )  # fmt: skip
        TRUSTS.add(tx, trust)

    def sign_in(tx: Tx) -> object:
        bob, wish = Proof(user_id=UserId("bob")), ScopeWish(trust_id="t")
        return signin.open_session(tx, [bob], wish, methods=("token",), lifetime_s=3600)

    await concurrent.write(begin)
    ends = await at_once(concurrent, sign_in)
    assert ends == [Unauthenticated.__name__] * (AT_ONCE - uses) + ["done"] * uses
    left = await concurrent.read(lambda tx: TRUSTS.get(tx, "t"))
    assert left is not None and left.remaining_uses == 0


async def test_one_name_is_taken_once(concurrent: Database) -> None:
    def create(tx: Tx) -> None:
        new = ApplicationCredential(
            id=tx.new_hex_id(), name="n", user_id=UserId("ann"), project_id=ProjectId("p"),
            role_ids=(),
        )  # fmt: skip
        application_credentials.create(tx, new, "hash")

    assert await at_once(concurrent, create) == [Conflict.__name__] * (AT_ONCE - 1) + ["done"]


async def test_a_request_token_becomes_one_access_token(concurrent: Database) -> None:
    def begin(tx: Tx) -> RequestToken:
        oauth.create_consumer(tx, SEALER, Consumer(id="c"))
        asked = oauth.request(tx, SEALER, "c", "p").token
        return RequestToken(
            id=asked.id, consumer_id="c", project_id=ProjectId("p"), user_id=UserId("ann"),
            verifier="v", expires_at=asked.expires_at,
        )  # fmt: skip

    agreed = await concurrent.write(begin)
    ends = await at_once(concurrent, lambda tx: oauth.exchange(tx, SEALER, agreed))
    assert ends.count("done") == 1


async def test_a_nonce_is_used_once(concurrent: Database) -> None:
    now = str(int(datetime.now(UTC).timestamp()))
    client = oauth1.Client("c", client_secret="s", timestamp=now, nonce="n")
    _, headers, _ = client.sign("http://cloud/x", http_method="POST")
    signed = oauth_signature.read("POST", "http://cloud/x", (), headers["Authorization"])
    ends = await at_once(concurrent, lambda tx: oauth.use_nonce(tx, signed))
    assert ends == [Unauthenticated.__name__] * (AT_ONCE - 1) + ["done"]
