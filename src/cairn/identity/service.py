"""What identity offers other slices and the application; its own API uses the files behind it directly."""

from cairn.identity.bootstrap import Bootstrapped, bootstrap
from cairn.identity.places import project_exists
from cairn.identity.quotas import (
    defaults_of,
    forget_limits,
    limit,
    limits_by_project,
    limits_in,
    limits_of,
    reset_limits,
    set_default,
    set_limit,
)

__all__ = [
    "Bootstrapped",
    "bootstrap",
    "defaults_of",
    "forget_limits",
    "limit",
    "limits_by_project",
    "limits_in",
    "limits_of",
    "project_exists",
    "reset_limits",
    "set_default",
    "set_limit",
]
