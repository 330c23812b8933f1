"""Policy: who may do what, as tables of rules in oslo.policy's language, compiled once.

    "role:reader and project_id:%(project_id)s or rule:admin"

Source: oslo.policy documentation, "Policy rule expressions". Known checks: role, rule, is_admin,
project_id, user_id, domain_id, system_scope, a literal compared with a target field, `@` and `!`.
A wrong rule is refused when the table is compiled, with its name.
"""

import re
from collections.abc import Callable, Mapping

from cairn.core.caller import Caller

Target = Mapping[str, str | None]
Check = Callable[[Caller, Target], bool]

SHARED = {
    "admin": "role:admin",
    "service": "role:service",
    "anyone": "@",
    "nobody": "!",
    "project_reader": "rule:admin or (role:reader and project_id:%(project_id)s)",
    "project_member": "rule:admin or (role:member and project_id:%(project_id)s)",
    "project_manager": "rule:admin or (role:manager and project_id:%(project_id)s)",
}
"""Rules that every service's table may name."""

_WORD = re.compile(r"\s*(\(|\)|'[^']*':%\([^)]+\)s|[^\s()]+:%\([^)]+\)s|[^\s()]+)")


class BadRule(Exception):
    """A rule that cannot be compiled; the text names rule and reason."""


class Policy:
    """A compiled table."""

    def __init__(self, rules: Mapping[str, str]) -> None:
        self.rules = {**SHARED, **rules}
        self._checks: dict[str, Check] = {}
        for name in self.rules:
            self._named(name, ())

    def allows(self, rule: str, who: Caller, target: Target) -> bool:
        return self._checks[rule](who, target)

    def _named(self, name: str, above: tuple[str, ...]) -> Check:
        if name in self._checks:
            return self._checks[name]
        if name in above:
            raise BadRule(f"rule '{name}' refers to itself: {' -> '.join((*above, name))}")
        if name not in self.rules:
            raise BadRule(f"rule '{above[-1] if above else ''}' names the unknown rule '{name}'")
        self._checks[name] = _Compiler(self.rules[name], name, self, (*above, name)).compile()
        return self._checks[name]


class _Compiler:
    """Recursive descent over: expression = term {"or" term}; term = factor {"and" factor}."""

    def __init__(self, text: str, name: str, policy: Policy, above: tuple[str, ...]) -> None:
        self._words = _WORD.findall(text)
        self._name, self._policy, self._above = name, policy, above
        self._at = 0

    def compile(self) -> Check:
        if not self._words:
            return _always  # oslo.policy: an empty rule allows.
        check = self._expression()
        if self._at != len(self._words):
            raise BadRule(f"rule '{self._name}': unexpected '{self._words[self._at]}'")
        return check

    def _expression(self) -> Check:
        checks = [self._term()]
        while self._accept("or"):
            checks.append(self._term())
        if len(checks) == 1:
            return checks[0]
        return lambda who, target: any(check(who, target) for check in checks)

    def _term(self) -> Check:
        checks = [self._factor()]
        while self._accept("and"):
            checks.append(self._factor())
        if len(checks) == 1:
            return checks[0]
        return lambda who, target: all(check(who, target) for check in checks)

    def _factor(self) -> Check:
        if self._accept("not"):
            inner = self._factor()
            return lambda who, target: not inner(who, target)
        if self._accept("("):
            check = self._expression()
            if not self._accept(")"):
                raise BadRule(f"rule '{self._name}': a parenthesis is not closed")
            return check
        if self._at == len(self._words):
            raise BadRule(f"rule '{self._name}' ends too early")
        self._at += 1
        return self._check(self._words[self._at - 1])

    def _accept(self, word: str) -> bool:
        if self._at < len(self._words) and self._words[self._at].lower() == word:
            self._at += 1
            return True
        return False

    def _check(self, word: str) -> Check:
        if word == "@":
            return _always
        if word == "!":
            return _never
        kind, colon, value = word.partition(":")
        if not colon:
            raise BadRule(f"rule '{self._name}': '{word}' is no check")
        if kind == "rule":
            return self._policy._named(value, self._above)
        if kind == "role":
            role = value.lower()
            return lambda who, target: role in who.roles
        return _comparison(kind, value)


def _always(who: Caller, target: Target) -> bool:
    return True


def _never(who: Caller, target: Target) -> bool:
    return False


def _comparison(kind: str, value: str) -> Check:
    """`kind` is a field of the caller or a quoted literal; `value` a literal or %(field of target)s."""
    field = value[2:-2] if value.startswith("%(") and value.endswith(")s") else None
    if kind == "None" and field is not None:
        # A field that is there and empty: a global role has no domain.
        return lambda who, target: field in target and target[field] is None

    def compare(who: Caller, target: Target) -> bool:
        left = kind[1:-1] if kind.startswith("'") else credential(who, kind)
        right = target.get(field) if field is not None else value
        return left is not None and left == right

    return compare


def credential(who: Caller, kind: str) -> str | None:
    """A field of the caller under oslo.policy's name for it."""
    match kind:
        case "project_id" | "tenant_id" | "tenant":
            return who.project_id
        case "user_id":
            return who.user_id
        case "domain_id" | "token.domain.id":
            return who.scope_domain_id
        case "user_domain_id" | "token.user.domain.id":
            return who.user_domain_id
        case "project_domain_id" | "token.project.domain.id":
            return who.project_domain_id
        case "system_scope":
            return "all" if who.is_system else None
        case "is_admin":
            return str(who.is_admin)
        case _:
            return None
