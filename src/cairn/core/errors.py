"""The eight kinds of failure, one for each reaction that a caller can have.

A verb or driver raises one of these and nothing else on purpose; only `http/faults.py` knows what they
look like outside. A new subclass needs a caller that treats it differently.
"""


class CloudError(Exception):
    """`message` is for the caller: no paths, SQL or other tenants. `because` is for the operator's log."""

    def __init__(self, message: str, *, because: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.because = because

    def __str__(self) -> str:
        return f"{self.message} ({self.because})" if self.because else self.message


class NotFound(CloudError):
    """Gone, or not yours: the same answer to both."""


class Conflict(CloudError):
    """Wrong state, or somebody was first: look, then decide."""


class Invalid(CloudError):
    """The request itself is wrong; `message` names the field and the reason."""


class Unauthenticated(CloudError):
    """Nobody proved who they are."""


class Denied(CloudError):
    """We know who you are; you may not."""


class OverQuota(CloudError):
    """A limit of the project was reached; `message` names limit and use."""


class NoCapacity(CloudError):
    """No host has room; `message` says what was missing where."""


class Unavailable(CloudError):
    """Transient: the only kind worth repeating as it is."""
