"""Which ways of signing in a user must have proven together: the option `multi_factor_auth_rules`.

Each rule is a set of methods that is enough. Methods that this cloud does not have are left out of a rule,
and rules that are then empty do not count, so a rule for something that was switched off locks nobody out.
Source: Keystone administration guide, "Multi-Factor Authentication".
"""

from collections.abc import Collection

from cairn.identity.records import User

PASSCODE = "totp"


def rules(user: User, served: Collection[str]) -> list[list[str]]:
    """The user's rules, of those methods that are served; [] asks for nothing."""
    if not user.options.get("multi_factor_auth_enabled", True):
        return []
    wanted = user.options.get("multi_factor_auth_rules") or []
    known = [[method for method in rule if method in served] for rule in wanted]
    return [rule for rule in known if rule]


def is_enough(user: User, methods: Collection[str], served: Collection[str]) -> bool:
    """Whether these methods together sign the user in.

    Six digits alone are a second factor, and never the only one unless a rule says so.
    """
    wanted = rules(user, served)
    if not wanted:
        return set(methods) != {PASSCODE}
    return any(set(rule) <= set(methods) for rule in wanted)


def missing(user: User, methods: Collection[str], served: Collection[str]) -> list[list[str]]:
    """The rules that these methods have begun to keep."""
    return [rule for rule in rules(user, served) if set(rule) & set(methods)]
