"""A life: which state follows which on what event, as one table.

What the table lacks is refused with a `Conflict`. Diagrams and exhaustive tests are made from it.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from cairn.core.errors import Conflict

S = TypeVar("S", bound=StrEnum)


class Life(Generic[S]):
    def __init__(self, what: str, table: Mapping[tuple[S, str], S]) -> None:
        self.what = what  # "volume": for messages
        self.table = dict(table)

    def move(self, state: S, event: str) -> S:
        """The state after `event`; Conflict when the table lacks it."""
        following = self.table.get((state, event))
        if following is None:
            raise Conflict(
                f"Cannot '{event}' a {self.what} while it is in state '{state}'; possible in: "
                f"{', '.join(self.states_for(event)) or 'no state'}."
            )
        return following

    def require(self, state: S, event: str) -> None:
        """Conflict unless `event` may happen in `state`."""
        self.move(state, event)

    def allows(self, state: S, event: str) -> bool:
        return (state, event) in self.table

    def states_for(self, event: str) -> list[str]:
        return sorted(str(s) for s, e in self.table if e == event)
