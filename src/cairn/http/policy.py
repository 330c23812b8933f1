"""Policy: who may do what, as tables of rules in oslo.policy's language, compiled once.

    "role:reader and project_id:%(project_id)s or rule:admin"

The language is in expressions.py; here a rule's tree becomes a function of caller and target. Two
differences to oslo.policy, both on the safe side: a wrong rule is refused when the table is compiled,
and a field that the caller does not have (a project, under a token for the system) equals nothing,
not even a target's field that is empty.
"""

from collections.abc import Callable, Mapping

from cairn.core.caller import Caller
from cairn.http import expressions
from cairn.http.expressions import (
    Always,
    And,
    BadRule,
    Compared,
    Expression,
    Named,
    Never,
    Not,
    Or,
    Role,
    Template,
)

__all__ = ["CREDENTIALS", "SHARED", "BadRule", "Check", "Policy", "Target"]

Target = Mapping[str, str | None]
Check = Callable[[Caller, Target], bool]

SHARED = {
    "admin": "role:admin and domain_id:None",
    "service": "role:service",
    "anyone": "@",
    "nobody": "!",
    "project_reader": "rule:admin or (role:reader and project_id:%(project_id)s)",
    "project_member": "rule:admin or (role:member and project_id:%(project_id)s)",
    "project_manager": "rule:admin or (role:manager and project_id:%(project_id)s)",
}
"""Rules that every service's table may name."""

CREDENTIALS: Mapping[str, Callable[[Caller], str | None]] = {
    "user_id": lambda who: who.user_id,
    "user": lambda who: who.user_id,
    "project_id": lambda who: who.project_id,
    "tenant_id": lambda who: who.project_id,
    "tenant": lambda who: who.project_id,
    "domain_id": lambda who: who.scope_domain_id,
    "user_domain_id": lambda who: who.user_domain_id,
    "project_domain_id": lambda who: who.project_domain_id,
    "token.user.id": lambda who: who.user_id,
    "token.user.domain.id": lambda who: who.user_domain_id,
    "token.project.id": lambda who: who.project_id,
    "token.project.domain.id": lambda who: who.project_domain_id,
    "token.domain.id": lambda who: who.scope_domain_id,
    "system_scope": lambda who: "all" if who.is_system else None,
    "is_admin": lambda who: str(who.is_admin),
    "is_admin_project": lambda who: (
        "True"
    ),  # No project is marked: each may be the administrator's.
}
"""Fields of the caller under oslo.policy's names for them; besides, `roles`."""


class Policy:
    """A compiled table. `replace` exchanges it whole: callers keep the object."""

    def __init__(self, rules: Mapping[str, str | Expression]) -> None:
        self.rules: Mapping[str, str | Expression] = {}
        self._checks: Mapping[str, Check] = {}
        self.replace(rules)

    def replace(self, rules: Mapping[str, str | Expression]) -> None:
        """Another table from now on. Raises BadRule and changes nothing."""
        whole = {**SHARED, **rules}
        checks = _Compiler(whole).all()
        self.rules, self._checks = whole, checks

    def allows(self, rule: str, who: Caller, target: Target) -> bool:
        return self._checks[rule](who, target)


class _Compiler:
    def __init__(self, rules: Mapping[str, str | Expression]) -> None:
        self._rules = rules
        self._checks: dict[str, Check] = {}

    def all(self) -> Mapping[str, Check]:
        for name in self._rules:
            self._named(name, ())
        return self._checks

    def _named(self, name: str, above: tuple[str, ...]) -> Check:
        if name in self._checks:
            return self._checks[name]
        if name in above:
            raise BadRule(f"rule '{name}' refers to itself: {' -> '.join((*above, name))}")
        if name not in self._rules:
            raise BadRule(f"rule '{above[-1] if above else ''}' names the unknown rule '{name}'")
        text = self._rules[name]
        try:
            tree = expressions.parse(text) if isinstance(text, str) else text
            self._checks[name] = self._check(tree, (*above, name))
        except BadRule as error:
            if str(error).startswith("rule '"):
                raise
            raise BadRule(f"rule '{name}': {error}") from error
        return self._checks[name]

    def _check(self, tree: Expression, above: tuple[str, ...]) -> Check:
        match tree:
            case Always():
                return _always
            case Never():
                return _never
            case Named(name=name):
                return self._named(name, above)
            case Role(match=match):
                return _role(match)
            case Compared():
                return _comparison(tree)
            case Not(of=inner):
                check = self._check(inner, above)
                return lambda who, target: not check(who, target)
            case And(of=several):
                return _all(tuple(self._check(part, above) for part in several))
            case Or(of=several):
                return _any(tuple(self._check(part, above) for part in several))


def _always(who: Caller, target: Target) -> bool:
    return True


def _never(who: Caller, target: Target) -> bool:
    return False


def _all(checks: tuple[Check, ...]) -> Check:
    def hold(who: Caller, target: Target) -> bool:
        for check in checks:  # noqa: SIM110 - a generator costs more, and this is asked at each request
            if not check(who, target):
                return False
        return True

    return hold


def _any(checks: tuple[Check, ...]) -> Check:
    def holds(who: Caller, target: Target) -> bool:
        for check in checks:  # noqa: SIM110 - as above
            if check(who, target):
                return True
        return False

    return holds


def _role(match: Template) -> Check:
    if match.fields:
        text_of = _text_of(match)

        def has(who: Caller, target: Target) -> bool:
            wanted = text_of(target)
            return wanted is not None and _in(who.roles, wanted.lower())

        return has
    role = match.texts[0].lower()
    return lambda who, target: role in who.roles or _in(who.roles, role)


def _in(roles: frozenset[str], wanted: str) -> bool:
    return any(role.lower() == wanted for role in roles)


def _comparison(check: Compared) -> Check:
    text_of = _text_of(check.match)
    if check.literal is not None:
        literal = check.literal
        return lambda who, target: text_of(target) == literal
    if check.kind == "roles":
        return lambda who, target: text_of(target) in who.roles
    get = CREDENTIALS.get(check.kind)
    if get is None:
        known = ", ".join((*CREDENTIALS, "role", "roles", "rule"))
        raise BadRule(f"'{check.kind}' is no field of the caller; known are: {known}")

    if not check.match.fields and check.match.texts[0] == "None":
        return lambda who, target: get(who) is None  # "domain_id:None": not scoped to a domain

    def compare(who: Caller, target: Target) -> bool:
        mine = get(who)
        return mine is not None and mine == text_of(target)

    return compare


def _text_of(match: Template) -> Callable[[Target], str | None]:
    """The text with the target's fields in it; None when the target lacks one. An empty field is "None"."""
    if not match.fields:
        text = match.texts[0]
        return lambda target: text
    if match.texts == ("", ""):
        field = match.fields[0]

        def value(target: Target) -> str | None:
            found = target.get(field, _LACKS)
            return None if found is _LACKS else str(found)

        return value

    def filled(target: Target) -> str | None:
        said = match.texts[0]
        for field, text in zip(match.fields, match.texts[1:], strict=True):
            found = target.get(field, _LACKS)
            if found is _LACKS:
                return None
            said += str(found) + text
        return said

    return filled


_LACKS = "\0lacks"
