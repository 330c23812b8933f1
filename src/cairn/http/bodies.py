"""What a body said: fields whose default is UNSET are there only if the client wrote them."""

from typing import Any

import msgspec
from msgspec import UNSET, Struct


def said(body: Struct, *names: str) -> dict[str, Any]:
    """The fields that the client wrote, nulls included: those of `names`, or all of them."""
    fields = msgspec.structs.asdict(body)
    return {name: fields[name] for name in names or fields if fields[name] is not UNSET}
