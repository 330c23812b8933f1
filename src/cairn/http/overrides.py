"""An operator's policy: files in oslo.policy's syntax that replace rules of a service's table.

    <state>/policy.d/keystone.yaml        "identity:list_users": "role:auditor or rule:admin"

A file is YAML or JSON: one mapping of rule names to texts, or to lists of lists in the old form. Whatever in
it would silently mean something else than it says is refused, with file, line and what to do: a text that
is no rule, a rule that nobody asks, a field that no request has. All findings are told at once.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import yaml
from msgspec import Struct

from cairn.core.errors import Invalid
from cairn.http import expressions
from cairn.http.expressions import Compared, Expression, Named, Role
from cairn.http.other_names import OTHER_NAMES, RENAMED
from cairn.http.policy import SHARED, BadRule, Policy
from cairn.http.routes import Route, Service

ENDINGS = (".yaml", ".yml", ".json")
FILE_BYTES_MAX = 1 << 20
TOLD_MAX = 20  # findings at a time
_STRING = "tag:yaml.org,2002:str"


class Override(Struct, frozen=True, kw_only=True):
    """One rule as an operator wrote it."""

    rule: str  # as our table has it
    text: str
    tree: Expression
    file: str
    line: int

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


class Overrides(Struct, frozen=True, kw_only=True):
    """All of them: by service, by rule."""

    by_service: Mapping[str, Mapping[str, Override]] = {}
    warnings: tuple[str, ...] = ()

    def table(self, service: Service) -> dict[str, str | Expression]:
        """The service's rules with its overrides in them."""
        own = self.by_service.get(service.name, {})
        return {**service.policy, **{name: one.tree for name, one in own.items()}}


def load(folder: Path | None, services: Sequence[Service]) -> Overrides:
    """Every file in `folder`; none is fine. Raises Invalid that names each wrong line."""
    if folder is None or not folder.is_dir():
        return Overrides()
    by_service: dict[str, dict[str, Override]] = {}
    wrong: list[str] = []
    warnings: list[str] = []
    for file in sorted(folder.iterdir()):
        if file.name.startswith(".") or file.is_dir():
            continue
        service = _service_of(file, services)
        if service is None:
            wrong.append(_unknown_file(file, services))
            continue
        if service.name in by_service:
            wrong.append(f"{file}: there is another file for {service.name}; keep one of them")
            continue
        found = read(file, service)
        by_service[service.name] = found.rules
        wrong += found.wrong
        warnings += found.warnings
    if wrong:
        more = [f"... and {len(wrong) - TOLD_MAX} more"] if len(wrong) > TOLD_MAX else []
        raise Invalid(
            "The policy's overrides are wrong:\n  " + "\n  ".join(wrong[:TOLD_MAX] + more)
        )
    return Overrides(by_service=by_service, warnings=tuple(warnings))


class Found(Struct, kw_only=True):
    """What one file holds, and what is wrong with it."""

    rules: dict[str, Override] = {}
    wrong: list[str] = []
    warnings: list[str] = []


def read(file: Path, service: Service) -> Found:
    """One file, for one service. Nothing is raised: what is wrong is told in the result."""
    found = Found()
    try:
        lines = list(_entries(file))
    except (BadRule, OSError, UnicodeDecodeError) as error:
        found.wrong.append(str(error) if isinstance(error, BadRule) else f"{file}: {error}")
        return found
    named = {leaf.name for *_, tree in lines if tree for leaf in _names(tree)}
    for name, line, text, tree in lines:
        where = f"{file}:{line}"
        if tree is None:
            found.wrong.append(f"{where}: rule '{name}': {text}")
            continue
        for ours in _ours(service, name, named, where, found):
            if ours in found.rules:
                before = found.rules[ours].place
                found.wrong.append(f"{where}: rule '{ours}' stands already at {before}; keep one")
                continue
            found.rules[ours] = Override(rule=ours, text=text, tree=tree, file=str(file), line=line)
    if not found.wrong:
        _judge(service, found)
    return found


def service_named(word: str, services: Iterable[Service]) -> Service | None:
    """By its name ("keystone") or its type ("identity")."""
    return next((s for s in services if word in (s.name, s.kind)), None)


class Fields:
    """The fields of the target that each rule may name: what its routes tell when they ask it."""

    def __init__(self, service: Service) -> None:
        self._policy = service.policy
        self._routes: dict[str, list[Route]] = {}
        for route in service.routes:
            if route.rule is not None:
                self._routes.setdefault(route.rule, []).append(route)
        every = {f for rule in service.policy for f in _fields_below(service.policy, rule)}
        # All that the service's own rules ask about things.
        self._targets = {field for field in every if field.startswith("target.")}

    def of(self, rule: str) -> set[str]:
        own = {"project_id", *_fields_below(self._policy, rule)}
        for route in self._routes.get(rule, ()):
            own |= {part[1:-1] for part in route.path.split("/") if part.startswith("{")}
            if route.target is not None:
                said = getattr(route.target, "fields", None)
                own |= set(said) if said is not None else self._targets
        return own


def _service_of(file: Path, services: Sequence[Service]) -> Service | None:
    return service_named(file.stem, services) if file.suffix in ENDINGS else None


def _unknown_file(file: Path, services: Sequence[Service]) -> str:
    names = ", ".join(f"{s.name}.yaml" for s in services)
    return f"{file}: no service has this name; call it one of {names} or move it away"


def _entries(file: Path) -> Iterator[tuple[str, int, str, Expression | None]]:
    """(rule, line, text, tree); without a tree, the text is what is wrong."""
    text = file.read_bytes()
    if len(text) > FILE_BYTES_MAX:
        raise BadRule(f"{file}: it has more than {FILE_BYTES_MAX} bytes")
    try:
        # JSON may be indented with tabs, which YAML takes for an error; in its texts there are none.
        root = yaml.compose(text.decode().replace("\t", "  "), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = f"{error.problem or error}; put texts in quotes, above all '@' and '!'"
        raise BadRule(f"{file}:{line}: this is neither YAML nor JSON: {problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise BadRule(f"{file}: this is neither YAML nor JSON: {error}") from error
    if root is None or root.tag == "tag:yaml.org,2002:null":
        return
    if not isinstance(root, yaml.MappingNode):
        line = root.start_mark.line + 1
        raise BadRule(f'{file}:{line}: a policy is a mapping: "rule": "what must hold"')
    for key, value in root.value:
        yield (str(key.value), key.start_mark.line + 1, *_rule(value))


def _rule(node: yaml.Node) -> tuple[str, Expression | None]:
    try:
        if isinstance(node, yaml.ScalarNode) and node.tag == _STRING:
            return node.value, expressions.parse(node.value)
        if isinstance(node, yaml.SequenceNode):
            lists = _plain(node)
            return msgspec.json.encode(lists).decode(), expressions.parse_lists(lists)
    except BadRule as error:
        return f"{error}", None
    return 'it is no text; write it in quotes ("@" lets everybody, "!" nobody)', None


def _plain(node: yaml.SequenceNode) -> list[object]:
    return [
        [_leaf(leaf) for leaf in inner.value]
        if isinstance(inner, yaml.SequenceNode)
        else _leaf(inner)
        for inner in node.value
    ]


def _leaf(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag != _STRING:
        raise BadRule("a list of lists holds texts only: [[role:admin], [role:a, role:b]]")
    return str(node.value)


def _ours(
    service: Service, name: str, named: set[str], where: str, found: Found
) -> tuple[str, ...]:
    """The rules of our table that the name means; a name of the operator's own is kept as it is."""
    if name in service.policy or name in SHARED:
        return (name,)
    new = RENAMED.get(service.name, {}).get(name, ())
    if new := tuple(n for n in new if n in service.policy):
        found.warnings.append(f"{where}: '{name}' is an old name; write {', '.join(new)}")
        return new
    if name in OTHER_NAMES:
        return (OTHER_NAMES[name],)
    if name in named:
        return (name,)
    near = difflib.get_close_matches(name, [*service.policy, *SHARED], n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    found.wrong.append(
        f"{where}: no request of {service.name} asks the rule '{name}'{hint} Remove the line, or see"
        f" `cairn policy show {service.name}` for the names"
    )
    return ()


def _judge(service: Service, found: Found) -> None:
    """Whether the whole table still makes sense."""
    for name, one in list(found.rules.items()):
        found.rules[name] = msgspec.structs.replace(one, tree=_with_our_names(one.tree, service))
    overrides = Overrides(by_service={service.name: found.rules})
    table = {**SHARED, **overrides.table(service)}
    for one in found.rules.values():
        try:
            # Each alone first, so that the line that is wrong is the line that is named.
            expressions_of = {n: t for n, t in table.items() if n == one.rule}
            for leaf in _names(one.tree):
                if leaf.name not in table:
                    near = difflib.get_close_matches(leaf.name, list(table), n=2)
                    hint = f"; did you mean {' or '.join(near)}?" if near else "; define it, too"
                    raise BadRule(f"there is no rule '{leaf.name}'{hint}")
            Policy({**_all_free(table), **expressions_of})
        except BadRule as error:
            said = str(error).removeprefix(f"rule '{one.rule}': ")
            found.wrong.append(f"{one.place}: rule '{one.rule}': {said}")
    if found.wrong:
        return
    try:
        Policy(table)
    except BadRule as error:  # What no single line is guilty of: a circle.
        culprit = next((o for o in found.rules.values() if f"'{o.rule}'" in str(error)), None)
        found.wrong.append(f"{culprit.place if culprit else service.name}: {error}")
        return
    _judge_fields(service, table, found)


def _judge_fields(service: Service, table: Mapping[str, str | Expression], found: Found) -> None:
    fields_of = Fields(service)
    for one in found.rules.values():
        fields = set(_fields(one.tree))
        if not fields:
            continue
        asking = [r for r in service.policy if one.rule in (r, *_rules_below(table, r))]
        known: set[str] = set()
        for rule in asking:
            known |= fields_of.of(rule)
        if asking and (unknown := sorted(fields - known)):
            found.wrong.append(
                f"{one.place}: rule '{one.rule}': no request tells the field"
                f" {', '.join(f'%({field})s' for field in unknown)}; known here are"
                f" {', '.join(sorted(known))}"
            )


def _all_free(table: Mapping[str, str | Expression]) -> dict[str, str | Expression]:
    return dict.fromkeys(table, "@")


def _with_our_names(tree: Expression, service: Service) -> Expression:
    """The same, but `rule:admin_required` says what we call it."""
    match tree:
        case Named(name=name) if name in OTHER_NAMES and name not in service.policy:
            return Named(OTHER_NAMES[name])
        case expressions.Not(of=inner):
            return expressions.Not(_with_our_names(inner, service))
        case expressions.And(of=several):
            return expressions.And(tuple(_with_our_names(part, service) for part in several))
        case expressions.Or(of=several):
            return expressions.Or(tuple(_with_our_names(part, service) for part in several))
    return tree


def _names(tree: Expression) -> Iterator[Named]:
    return (leaf for leaf in expressions.leaves(tree) if isinstance(leaf, Named))


def _fields(tree: Expression) -> Iterator[str]:
    for leaf in expressions.leaves(tree):
        if isinstance(leaf, Role | Compared):
            yield from leaf.match.fields


def _tree(table: Mapping[str, str | Expression], rule: str) -> Expression:
    text = table[rule] if rule in table else SHARED[rule]
    return expressions.parse(text) if isinstance(text, str) else text


def _rules_below(table: Mapping[str, str | Expression], rule: str) -> set[str]:
    """Every rule that this one leads to."""
    below: set[str] = set()
    waiting = [rule]
    while waiting:
        for leaf in _names(_tree(table, waiting.pop())):
            if leaf.name not in below:
                below.add(leaf.name)
                waiting.append(leaf.name)
    return below


def _fields_below(table: Mapping[str, str], rule: str) -> Iterator[str]:
    for name in {rule, *_rules_below(table, rule)}:
        yield from _fields(_tree(table, name))
