"""Which providers may sign a user in, as the user's own attribute `federated` shows and sets it."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement

from cairn.core.ids import UserId
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.identity.accounts import expiry
from cairn.identity.federation import service, store
from cairn.identity.federation.records import Link
from cairn.identity.shapes import FederatedRef


def link(tx: Tx, user_id: UserId, wish: Sequence[FederatedRef]) -> None:
    """Let these sign the user in, and no others."""
    service.link_user(
        tx,
        user_id,
        [
            Link(
                provider_id=one.idp_id,
                protocol_id=protocol.protocol_id,
                unique_id=protocol.unique_id,
                user_id=user_id,
            )
            for one in wish
            for protocol in one.protocols
        ],
    )


def shown(tx: Tx, user_id: UserId) -> dict[str, Any]:
    """The attribute, if the user has it."""
    by_provider: dict[str, list[dict[str, str]]] = {}
    for one in store.links_of_user(tx, user_id):
        protocol = {"protocol_id": one.protocol_id, "unique_id": one.unique_id}
        by_provider.setdefault(one.provider_id, []).append(protocol)
    found = [{"idp_id": id_, "protocols": protocols} for id_, protocols in by_provider.items()]
    return {"federated": found} if found else {}


def filters(call: Call[Any]) -> list[ColumnElement[bool]]:
    """Conditions on users for `idp_id`, `protocol_id` and `unique_id` in the query."""
    names = {"idp_id": "provider_id", "protocol_id": "protocol_id", "unique_id": "unique_id"}
    asked = {column: call.query.get(name) for name, column in names.items()}
    wanted = {column: value for column, value in asked.items() if value is not None}
    return [store.is_linked(**wanted)] if wanted else []


def ends_of(tx: Tx, user_id: UserId) -> dict[str, str]:
    """When the user's memberships end that a provider gave, by group."""
    return {one.group_id: expiry.text(one.ends_at) for one in store.lasting_groups(tx, user_id)}
