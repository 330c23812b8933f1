"""How strict passwords and accounts are: Keystone's `[security_compliance]`, as one record.

Every field that is 0 or empty asks for nothing. The operator's settings of the same names are in
`cairn.settings`, with the reasons for their defaults.
"""

import re
from datetime import datetime, timedelta

from msgspec import Struct

from cairn.core.errors import Invalid
from cairn.identity.records import User


class Security(Struct, frozen=True, kw_only=True):
    lockout_failures: int = 5  # wrong guesses in a row that lock a user out
    lockout_s: int = 300  # for how long
    password_days: int = 0  # after which a password must be changed
    password_days_min: int = 0  # for which one's own new password must be kept
    passwords_unique: int = 0  # so many last passwords may not be chosen again
    password_pattern: str = ""  # what a password must match, from its first character on
    password_pattern_says: str = ""  # the same in words, for whoever chose another
    password_change_first: bool = (
        False  # a password that somebody else has set is good for one change
    )
    inactive_days: int = 0  # without a sign-in after which a user is disabled

    def __post_init__(self) -> None:
        try:
            re.compile(self.password_pattern)
        except re.error as error:
            raise Invalid(
                f"The setting 'password_pattern' is no regular expression: {error}."
            ) from error

    def require_good(self, password: str) -> None:
        """Invalid unless the password is as the operator wants them."""
        if self.password_pattern and not re.match(self.password_pattern, password):
            says = self.password_pattern_says or f"it must match {self.password_pattern}"
            raise Invalid(f"The password does not match the requirements: {says}.")

    def expiry(self, now: datetime, user: User, *, is_own: bool) -> datetime | None:
        """When a password that is set now expires. `is_own`: the user has chosen it."""
        must_change = self.password_change_first and not user.options.get(
            "ignore_change_password_upon_first_use"
        )
        if must_change and not is_own:
            return now
        if not self.password_days or user.options.get("ignore_password_expiry"):
            return None
        return (now + timedelta(days=self.password_days)).replace(microsecond=0)


def is_expired(user: User, now: datetime) -> bool:
    expires_at = user.password_expires_at
    is_exempt = bool(user.options.get("ignore_password_expiry"))
    return expires_at is not None and expires_at <= now and not is_exempt


USUAL = Security()
"""What holds where nobody has said anything else."""
