"""Times at which something ends, as clients write and read them."""

from datetime import UTC, datetime

from cairn.core.errors import Invalid


def parse(text: str, now: datetime) -> datetime:
    """A moment that is still to come; text without an offset is UTC. Raises Invalid."""
    try:
        moment = datetime.fromisoformat(text[:64])
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid(
            "Field 'expires_at' is no timestamp: it must look like 2030-12-31T23:59:59.000000Z."
        ) from error
    if moment <= now:
        raise Invalid("Field 'expires_at' must not be before now.")
    return moment


def text(moment: datetime) -> str:
    """With microseconds and a Z, as tokens, trusts and memberships have it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def show(moment: datetime | None) -> str | None:
    """The same, where there may be no end."""
    return None if moment is None else text(moment)
