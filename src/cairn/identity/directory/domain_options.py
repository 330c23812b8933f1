"""Which options a domain may set for itself, of what kind each is, and what it is where nobody set it.

The list is Keystone's own whitelist (administration guide, "Domain-specific configuration"), so that a
configuration written for it can be taken over as it is. What has no meaning here is kept and shown all
the same; `directory.config` says which ones count.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct

from cairn.core.errors import Denied, Invalid

Config = Mapping[str, Mapping[str, Any]]
"""Options by group."""

VALUE_CHARACTERS_MAX = 4096
LIST_MAX = 100


class Kind(StrEnum):
    TEXT = "a text"
    NUMBER = "a number"
    FLAG = "true or false"
    TEXTS = "a list of texts"


class Option(Struct, frozen=True):
    kind: Kind = Kind.TEXT
    default: Any = None
    choices: tuple[str, ...] = ()
    is_secret: bool = False
    least: int = 0  # of a number


def _flag(default: bool | None = False) -> Option:
    return Option(Kind.FLAG, default)


def _number(default: int | float | None, least: int = 0) -> Option:
    return Option(Kind.NUMBER, default, least=least)


def _texts(*default: str) -> Option:
    return Option(Kind.TEXTS, list(default))


OPTIONS: Mapping[str, Mapping[str, Option]] = {
    "identity": {"driver": Option(default="sql"), "list_limit": _number(None)},
    "ldap": {
        "url": Option(default="ldap://localhost"),
        "user": Option(),
        "password": Option(is_secret=True),
        "suffix": Option(default="cn=example,cn=com"),
        "query_scope": Option(default="one", choices=("one", "sub")),
        "page_size": _number(0),
        "alias_dereferencing": Option(
            default="default", choices=("never", "searching", "always", "finding", "default")
        ),
        "debug_level": _number(None, -1),
        "chase_referrals": _flag(None),
        "user_tree_dn": Option(),
        "user_filter": Option(),
        "user_objectclass": Option(default="inetOrgPerson"),
        "user_id_attribute": Option(default="cn"),
        "user_name_attribute": Option(default="sn"),
        "user_mail_attribute": Option(default="mail"),
        "user_description_attribute": Option(default="description"),
        "user_pass_attribute": Option(default="userPassword"),
        "user_enabled_attribute": Option(default="enabled"),
        "user_enabled_invert": _flag(),
        "user_enabled_mask": _number(0),
        "user_enabled_default": Option(default="True"),
        "user_attribute_ignore": _texts("default_project_id"),
        "user_default_project_id_attribute": Option(),
        "user_enabled_emulation": _flag(),
        "user_enabled_emulation_dn": Option(),
        "user_enabled_emulation_use_group_config": _flag(),
        "user_additional_attribute_mapping": _texts(),
        "group_tree_dn": Option(),
        "group_filter": Option(),
        "group_objectclass": Option(default="groupOfNames"),
        "group_id_attribute": Option(default="cn"),
        "group_name_attribute": Option(default="ou"),
        "group_members_are_ids": _flag(),
        "group_member_attribute": Option(default="member"),
        "group_desc_attribute": Option(default="description"),
        "group_attribute_ignore": _texts(),
        "group_additional_attribute_mapping": _texts(),
        "tls_cacertfile": Option(),
        "tls_cacertdir": Option(),
        "use_tls": _flag(),
        "tls_req_cert": Option(default="demand", choices=("demand", "never", "allow")),
        "use_pool": _flag(True),
        "pool_size": _number(10, 1),
        "pool_retry_max": _number(3, 1),
        "pool_retry_delay": _number(0.1),
        "pool_connection_timeout": _number(-1, -1),
        "pool_connection_lifetime": _number(600, 1),
        "use_auth_pool": _flag(True),
        "auth_pool_size": _number(100, 1),
        "auth_pool_connection_lifetime": _number(60, 1),
    },
}

READABLE_COMPLIANCE = ("password_regex", "password_regex_description")
"""Of the group `security_compliance`, which no domain may set: what everybody may read."""


def refused(reason: str) -> Denied:
    """Keystone's answer to whatever cannot be configured: 403, not 400."""
    return Denied(f"Invalid domain specific configuration: {reason}.")


def require_known(group: str | None, option: str | None = None) -> None:
    """Denied unless a domain may set this group, and this option of it."""
    if group is None:
        return
    if group not in OPTIONS:
        raise refused(f"Group {group[:80]} is not supported for domain specific configurations")
    if option is not None and option not in OPTIONS[group]:
        raise refused(
            f"Option {option[:80]} in group {group} is not supported for domain specific"
            " configurations"
        )


def require_valid(config: Mapping[str, Any]) -> None:
    """Denied when a configuration names what cannot be set, Invalid on a value that cannot be."""
    if not config:
        raise refused("No options specified")
    for group, options in config.items():
        if not options or not isinstance(options, dict):
            raise refused(
                f"The value of group {group[:80]} specified in the config should be a dictionary of"
                " options"
            )
        for name, value in options.items():
            require_known(group, name)
            _require_value(f"config.{group}.{name}", OPTIONS[group][name], value)


def _require_value(field: str, option: Option, value: Any) -> None:
    if value is None:
        return
    match option.kind:
        case Kind.TEXT:
            is_right = isinstance(value, str | bool | int) and _is_short(value)
        case Kind.NUMBER:
            is_right = _number_of(value) is not None
        case Kind.FLAG:
            is_right = isinstance(value, bool) or str(value).lower() in ("true", "false")
        case Kind.TEXTS:
            is_right = (isinstance(value, str) and _is_short(value)) or (
                isinstance(value, list)
                and len(value) <= LIST_MAX
                and all(isinstance(item, str) and _is_short(item) for item in value)
            )
    if not is_right:
        raise Invalid(f"Field '{field}' must be {option.kind}.")
    if option.choices and value not in option.choices:
        raise Invalid(f"Field '{field}' must be one of {', '.join(option.choices)}.")
    number = _number_of(value) if option.kind is Kind.NUMBER else None
    if number is not None and not option.least <= number <= 1 << 31:
        raise Invalid(f"Field '{field}' must be {option.least} to {1 << 31}.")


def _is_short(value: object) -> bool:
    return len(str(value)) <= VALUE_CHARACTERS_MAX


def _number_of(value: object) -> float | None:
    """A number as JSON has it or, as configuration files do, as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if abs(found) != float("inf") and found == found else None


def default(group: str | None = None, option: str | None = None) -> dict[str, Any]:
    """What holds where nobody set anything. Of secrets there is no default to read."""
    require_known(group, option)
    if group is not None and option is not None:
        if OPTIONS[group][option].is_secret:
            raise refused(
                f"Reading the default for option {option} in group {group} is not supported"
            )
        return {option: OPTIONS[group][option].default}
    groups = [group] if group is not None else list(OPTIONS)
    return {
        g: {name: o.default for name, o in OPTIONS[g].items() if not o.is_secret} for g in groups
    }
