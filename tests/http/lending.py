"""What only its owner can make, and the callers of these tests own nothing: one of each way to delegate."""

from collections.abc import Mapping
from datetime import timedelta

from cairn.core.ids import ProjectId, UserId
from cairn.db.engine import Tx
from cairn.identity.delegation.application_credentials_store import (
    ACCESS_RULES,
    APPLICATION_CREDENTIALS,
    ApplicationCredential,
    KeptRule,
)
from cairn.identity.delegation.oauth_store import (
    ACCESS_TOKENS,
    REQUEST_TOKENS,
    AccessToken,
    RequestToken,
)
from cairn.identity.delegation.trusts_store import TRUSTS, Trust


def lend(tx: Tx, ids: Mapping[str, str]) -> dict[str, str]:
    """Their ids, by the word before them in a path."""
    user_id, project_id = UserId(ids["users"]), ProjectId(ids["projects"])
    role_ids, later = (ids["roles"],), tx.now + timedelta(days=1)
    rule = KeptRule(id=tx.new_hex_id(), user_id=user_id, service="s", method="GET", path="/")
    ACCESS_RULES.add(tx, rule)
    credential = ApplicationCredential(
        id=tx.new_hex_id(), name="n", user_id=user_id, project_id=project_id, role_ids=role_ids
    )
    APPLICATION_CREDENTIALS.add(tx, credential)
    trust = Trust(
        id=tx.new_hex_id(), trustor_user_id=user_id, trustee_user_id=user_id,
        project_id=project_id, impersonation=False, role_ids=role_ids,
    )  # fmt: skip
    TRUSTS.add(tx, trust)
    asked = RequestToken(
        id=tx.new_hex_id(), consumer_id=ids["consumers"], project_id=project_id, expires_at=later
    )
    REQUEST_TOKENS.add(tx, asked)
    given = AccessToken(
        id=tx.new_hex_id(), consumer_id=ids["consumers"], project_id=project_id, user_id=user_id,
        role_ids=role_ids, expires_at=later,
    )  # fmt: skip
    ACCESS_TOKENS.add(tx, given)
    return {
        "access_rules": rule.id,
        "application_credentials": credential.id,
        "trusts": trust.id,
        "authorize": asked.id,
        "access_tokens": given.id,
    }
