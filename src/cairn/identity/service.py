"""What identity offers other slices and the application; its own API uses the files behind it directly."""

from cairn.identity.bootstrap import Bootstrapped, bootstrap
from cairn.identity.places import project_exists
from cairn.identity.quotas import (
    UNLIMITED,
    limit,
    limits_by_project,
    limits_of,
    reset_limits,
    set_limit,
)

__all__ = [
    "UNLIMITED",
    "Bootstrapped",
    "bootstrap",
    "limit",
    "limits_by_project",
    "limits_of",
    "project_exists",
    "reset_limits",
    "set_limit",
]
