"""What a project may have of something, as the service that has it says: a table of limits for each slice.

The tables of all slices are collected in `cairn.slices`; where a project or an operator differs from them,
identity keeps a row (identity/quotas.py).
"""

from collections.abc import Mapping
from functools import cached_property

from msgspec import Struct

UNLIMITED = -1


class Limit(Struct, frozen=True, kw_only=True):
    """How much of one resource a project may have unless somebody decided otherwise."""

    name: str  # as the service's own API calls it; no two slices use the same
    default: int  # -1: unlimited
    unit: str = ""  # "MiB", "GiB"; "" counts things
    is_idle: bool = False  # kept because the API shows it; nothing here is limited by it


class Limits(Struct, frozen=True, kw_only=True, dict=True):
    """All limits of one service."""

    service: str  # its type in the catalog: "compute"
    limits: tuple[Limit, ...]

    @cached_property
    def defaults(self) -> Mapping[str, int]:
        return {limit.name: limit.default for limit in self.limits}

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.defaults)

    @cached_property
    def working(self) -> tuple[Limit, ...]:
        """Those that limit something."""
        return tuple(limit for limit in self.limits if not limit.is_idle)
