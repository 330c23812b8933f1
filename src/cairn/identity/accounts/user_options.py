"""What may be set about one user: the exceptions to the rules for all, and the user's own stricter ones.

Source: api-ref, Identity v3, "Users", resource options. An option that is null is taken back.
"""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from cairn.core.errors import Invalid
from cairn.http.bodies import said

Flag = bool | UnsetType | None
MethodName = Annotated[str, Meta(min_length=1, max_length=64)]
Rule = Annotated[list[MethodName], Meta(min_length=1, max_length=16)]


class UserOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ignore_change_password_upon_first_use: Flag = UNSET
    ignore_password_expiry: Flag = UNSET
    ignore_lockout_failure_attempts: Flag = UNSET
    ignore_user_inactivity: Flag = UNSET
    lock_password: Flag = UNSET
    multi_factor_auth_enabled: Flag = UNSET
    multi_factor_auth_rules: Annotated[list[Rule], Meta(max_length=64)] | UnsetType | None = UNSET

    def given(self) -> dict[str, Any]:
        """What was said; None takes an option back. Raises Invalid on a rule that says a thing twice."""
        rules = self.multi_factor_auth_rules or []
        if any(len(set(rule)) < len(rule) for rule in rules) or len(
            {tuple(rule) for rule in rules}
        ) < len(rules):
            raise Invalid(
                "Invalid input for user: 'options.multi_factor_auth_rules' must not name a rule, or a"
                " method within a rule, twice."
            )
        return said(self)


def merged(old: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What was not said stays as it is."""
    return {name: value for name, value in {**old, **given}.items() if value is not None}
