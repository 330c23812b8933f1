"""What a provider says of somebody, turned into who that is here: Keystone's mapping rules.

A rule has `remote` requirements, all of which must hold, and `local` parts, which then apply. In these,
`{0}` stands for the first value that the requirements let through. Source: Keystone administration guide,
"Mapping Combinations"; its schema's versions 1.0, 2.0 (projects have domains) and 3.0 (a claim may list
projects, and what it does not list ends).

Two things are different on purpose. What a provider says is never parsed as text: a list of groups is a
list when the claim is one, not when somebody's name looks like one. And several values where one is meant
are refused instead of written one after the other.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from cairn.core.errors import Invalid
from cairn.identity.federation.claims import Unmapped, values_of

VERSIONS = ("1.0", "2.0", "3.0")
SYNCHRONISES = ("3.0",)  # whose projects are all that a user has
RULES_MAX = 1000
PROJECTS_MAX = 100

R = TypeVar("R", bound=Struct)
Text = Annotated[str, Meta(max_length=1024)]
_PLACE = re.compile(r"\{\{|\}\}|\{(\d{1,4})\}|[{}]")


class DomainRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: Text | None = None
    name: Text | None = None


class LocalUser(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: Text | None = None
    name: Text | None = None
    email: Text | None = None
    domain: DomainRef | None = None
    type: Literal["ephemeral", "local"] = "ephemeral"


class LocalGroup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By id, or by name and domain."""

    id: Text | None = None
    name: Text | None = None
    domain: DomainRef | None = None


class RoleName(Struct, frozen=True, forbid_unknown_fields=True):
    name: Text


class LocalProject(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Text
    roles: Annotated[tuple[RoleName, ...], Meta(max_length=100)]
    domain: DomainRef | None = None


class Local(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user: LocalUser | None = None
    group: LocalGroup | None = None
    groups: Text | None = None
    group_ids: Text | None = None
    projects: Annotated[tuple[LocalProject, ...], Meta(max_length=100)] | None = None
    projects_json: Annotated[str, Meta(pattern=r"^\s*\{\d{1,4}\}\s*$")] | None = None
    domain: DomainRef | None = None


_Values = Annotated[tuple[str | int | bool, ...], Meta(max_length=1000)]


class Remote(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Annotated[str, Meta(min_length=1, max_length=255)]
    any_one_of: _Values | None = None
    not_any_of: _Values | None = None
    whitelist: _Values | None = None
    blacklist: _Values | None = None
    regex: bool | None = None

    @property
    def lists(self) -> list[Sequence[str | int | bool]]:
        found = (self.any_one_of, self.not_any_of, self.whitelist, self.blacklist)
        return [one for one in found if one is not None]

    @property
    def gives_value(self) -> bool:
        """Whether it has a number in the local part: conditions have none."""
        return self.any_one_of is None and self.not_any_of is None


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    local: Annotated[tuple[Local, ...], Meta(max_length=100)]
    remote: Annotated[tuple[Remote, ...], Meta(min_length=1, max_length=100)]


Rules = Annotated[tuple[Rule, ...], Meta(min_length=1, max_length=RULES_MAX)]


class Mapped(Struct, frozen=True, kw_only=True):
    """Who somebody is here, in names that nobody has looked up yet."""

    user: LocalUser
    group_ids: tuple[str, ...] = ()
    groups: tuple[tuple[str, DomainRef], ...] = ()  # name, domain
    projects: tuple[LocalProject, ...] = ()
    synchronises: bool = False  # the user has these projects and no others


def rules_of(document: object, version: str) -> tuple[Rule, ...]:
    """The rules in a mapping. Raises Invalid naming the place that is wrong."""
    if version not in VERSIONS:
        known = ", ".join(VERSIONS)
        raise Invalid(f"Invalid input for mapping: 'schema_version' must be one of {known}.")
    try:
        rules = msgspec.convert(document, Rules)
    except msgspec.ValidationError as error:
        raise Invalid(f"Invalid input for mapping: rules: {error}") from error
    for number, rule in enumerate(rules):
        _require_sound(rule, f"rules[{number}]", version)
    return rules


def _require_sound(rule: Rule, where: str, version: str) -> None:
    for number, remote in enumerate(rule.remote):
        _require_sound_remote(remote, f"{where}.remote[{number}]")
    values = sum(remote.gives_value for remote in rule.remote)
    for number, local in enumerate(rule.local):
        here = f"{where}.local[{number}]"
        group = local.group
        if group is not None and (group.id is None) != bool(group.name and group.domain):
            raise _wrong(f"{here}.group", "it has either an id, or a name and a domain")
        if local.groups is not None and local.domain is None:
            raise _wrong(f"{here}.groups", "'domain' must stand beside it")
        if version == "1.0" and any(p.domain is not None for p in local.projects or ()):
            raise _wrong(f"{here}.projects", "a project's domain needs 'schema_version' 2.0")
        if version not in SYNCHRONISES and local.projects_json is not None:
            raise _wrong(f"{here}.projects_json", "it needs 'schema_version' 3.0")
        for text in _texts(msgspec.to_builtins(local)):
            _require_template(text, values, here)


def _require_sound_remote(remote: Remote, where: str) -> None:
    if len(remote.lists) > 1:
        raise _wrong(where, "any_one_of, not_any_of, whitelist, blacklist: only one is possible")
    if remote.regex is not None and not remote.lists:
        raise _wrong(where, "'regex' says how a list of values is compared, and there is none")
    if not remote.regex:
        return
    for pattern in remote.lists[0]:
        try:
            re.compile(str(pattern))
        except (re.error, RecursionError, OverflowError) as error:
            raise _wrong(where, f"'{str(pattern)[:60]}' is no regular expression") from error


def _require_template(text: str, values: int, where: str) -> None:
    for found in _PLACE.finditer(text):
        if found[0] in ("{", "}"):
            raise _wrong(where, f"'{text[:60]}' has a brace that is not part of a {{number}}")
        if found[1] is not None and int(found[1]) >= values:
            raise _wrong(where, f"'{text[:60]}': 'remote' gives {values} values, counted from 0")


def _texts(part: object) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for inner in part.values():
            yield from _texts(inner)
    elif isinstance(part, list | tuple):
        for inner in part:
            yield from _texts(inner)


def _wrong(where: str, reason: str) -> Invalid:
    return Invalid(f"Invalid input for mapping: {where}: {reason}.")


def evaluate(rules: Sequence[Rule], claims: Mapping[str, Any], *, version: str) -> Mapped:
    """Who the claims' subject is here. Raises Unmapped."""
    user: LocalUser | None = None
    group_ids: dict[str, None] = {}
    groups: dict[tuple[str, DomainRef], None] = {}
    projects: tuple[LocalProject, ...] = ()
    applied: list[Local] = []
    for rule in rules:
        values = _matched(rule.remote, claims)
        if values is None:
            continue
        for local in rule.local:
            applied.append(local)
            if local.user is not None and user is None:
                user = _filled(local.user, values)
            if local.group is not None:
                group = _filled(local.group, values)
                if group.id is not None:
                    group_ids[group.id] = None
                elif group.name is not None and group.domain is not None:
                    groups[group.name, group.domain] = None
            for id_ in _many(local.group_ids, values):
                group_ids[id_] = None
            if local.groups is not None and local.domain is not None:
                domain = _filled(local.domain, values)
                for name in _many(local.groups, values):
                    groups[name, domain] = None
            if local.projects is not None or local.projects_json is not None:
                projects = tuple(_filled(project, values) for project in local.projects or ())
                projects += _listed_projects(local.projects_json, values)
                if version != "1.0" and local.domain is not None:
                    projects = _at_home(projects, _filled(local.domain, values))
    if not applied:
        raise Unmapped("no rule applies to what the provider says")
    user = user or LocalUser()
    if version != "1.0" and user.domain is None and applied[-1].domain is not None:
        user = msgspec.structs.replace(user, domain=applied[-1].domain)
    return Mapped(
        user=user,
        group_ids=tuple(group_ids),
        groups=tuple(groups),
        projects=projects,
        synchronises=version in SYNCHRONISES,
    )


def _listed_projects(place: str | None, values: list[list[str]]) -> tuple[LocalProject, ...]:
    """The projects in a claim: objects, or their JSON as text."""
    found: list[LocalProject] = []
    for text in _many(place, values):
        try:
            said = msgspec.json.decode(text, type=LocalProject | tuple[LocalProject, ...])
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unmapped(f"the claim of projects_json is no list of projects: {error}") from error
        found += said if isinstance(said, tuple) else [said]
    if len(found) > PROJECTS_MAX:
        raise Unmapped(f"the claim of projects_json has more than {PROJECTS_MAX} projects")
    return tuple(found)


def _at_home(projects: tuple[LocalProject, ...], home: DomainRef) -> tuple[LocalProject, ...]:
    return tuple(
        project if project.domain else msgspec.structs.replace(project, domain=home)
        for project in projects
    )


def _matched(requirements: Sequence[Remote], claims: Mapping[str, Any]) -> list[list[str]] | None:
    """The values that the requirements let through, in their order; None if one does not hold."""
    passed: list[list[str]] = []
    for remote in requirements:
        values = values_of(claims, remote.type)
        if not values:
            return None
        hits = [value for value in values if _is_hit(value, remote)]
        if remote.any_one_of is not None:
            if not hits:
                return None
        elif remote.not_any_of is not None:
            if hits:
                return None
        elif remote.whitelist is not None:
            passed.append(hits)
        elif remote.blacklist is not None:
            passed.append([value for value in values if value not in hits])
        else:
            passed.append(values)
    return passed


def _is_hit(value: str, remote: Remote) -> bool:
    if not remote.lists:
        return False
    wanted = [str(one) for one in remote.lists[0]]
    if remote.regex:
        return any(re.search(pattern, value) for pattern in wanted)
    return value in wanted


def _filled(record: R, values: list[list[str]]) -> R:
    """The record with every text in it filled."""
    return msgspec.convert(_filled_tree(msgspec.to_builtins(record), values), type(record))


def _filled_tree(part: Any, values: list[list[str]]) -> Any:
    if isinstance(part, str):
        return _one(part, values)
    if isinstance(part, dict):
        return {key: _filled_tree(inner, values) for key, inner in part.items()}
    if isinstance(part, list | tuple):
        return [_filled_tree(inner, values) for inner in part]
    return part


def _one(template: str, values: list[list[str]]) -> str:
    def put(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0][0]  # Two braces are one.
        given = values[int(found[1])]
        if len(given) != 1:
            raise Unmapped(f"'{template}' needs one value, and there are {len(given)}")
        return given[0]

    return _PLACE.sub(put, template)


def _many(template: str | None, values: list[list[str]]) -> list[str]:
    """For `groups` and `group_ids`: all values where the template is only a place."""
    if template is None:
        return []
    whole = re.fullmatch(r"\s*\{(\d{1,4})\}\s*", template)
    if whole is not None:
        return values[int(whole[1])]
    if "{" not in template:
        return _written_list(template)
    return [_one(template, values)]


def _written_list(text: str) -> list[str]:
    """A list that the operator wrote out in the rule itself, as Keystone takes it."""
    try:
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return [text]
    if not isinstance(found, list):
        return [text]
    return [one for one in found if isinstance(one, str)]
