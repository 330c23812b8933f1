"""An operator's policy: what the language means (as in oslo.policy), what is refused and where."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oslo_config import cfg
from oslo_policy import policy as oslo

from cairn.app import services_without_cloud
from cairn.cli.policy import check as check_command
from cairn.core.caller import Caller
from cairn.core.errors import Invalid, NotFound
from cairn.core.ids import DomainId, ProjectId, UserId
from cairn.db.engine import Database, Tx
from cairn.http import faults, overrides
from cairn.http.call import Call
from cairn.http.policies import Policies
from cairn.http.policy import CREDENTIALS, BadRule, Policy
from cairn.http.routes import Route, Service
from tests.callers import CALLERS, P1, Api, caller


def target_of(tx: Tx, call: Call[Any]) -> Mapping[str, str | None]:
    return {"target.thing.owner": "rita"}


def show(tx: Tx, call: Call[Any]) -> Any:
    return {"thing": call.path["thing_id"]}


SERVICE = Service(
    name="things",
    kind="thing",
    root="/thing",
    catalog_path="/v1",
    policy={
        "thing:list": "rule:project_reader",
        "thing:show": "rule:admin or user_id:%(target.thing.owner)s",
        "thing:delete": "rule:admin",
        "thing:delete:force": "rule:thing:delete",
    },
    shape_fault=faults.nova,
    routes=(
        Route(method="GET", path="/v1/things", rule="thing:list", do=lambda tx, call: {}),
        Route(
            method="GET",
            path="/v1/things/{thing_id}",
            rule="thing:show",
            do=show,
            target=target_of,
        ),
        Route(
            method="DELETE",
            path="/v1/things/{thing_id}",
            rule="thing:delete",
            do=lambda tx, call: None,
            status=204,
        ),
    ),
)


def write(folder: Path, text: str, name: str = "things.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


# --- what the language means -----------------------------------------------------------------------------

NAMES = ("a", "b", "c")
ROLES = ("admin", "reader", "Member", "x")
VALUES = ("p1", "p2", "all", "True", "x")
FIELDS = ("project_id", "user_id", "target.x.domain_id")
MAYBE = "flag"  # a field that may be empty
KINDS = (
    "project_id",
    "user_id",
    "domain_id",
    "system_scope",
    "is_admin",
    "user_domain_id",
    "roles",
)
LITERALS = ("'p1'", "None", "True", "7", '"x"')

matches = st.one_of(
    st.sampled_from(VALUES),
    st.sampled_from(FIELDS).map(lambda f: f"%({f})s"),
    st.sampled_from(FIELDS).map(lambda f: f"p%({f})s"),
)
checks = st.one_of(
    st.sampled_from(["@", "!"]),
    st.sampled_from(ROLES).map(lambda r: f"role:{r}"),
    matches.map(lambda m: f"role:{m}"),
    st.sampled_from(NAMES).map(lambda n: f"rule:{n}"),
    st.tuples(st.sampled_from(KINDS), st.one_of(matches, st.just("None"))).map(":".join),
    st.tuples(st.sampled_from(LITERALS), matches).map(":".join),
    st.sampled_from(LITERALS).map(lambda literal: f"{literal}:%({MAYBE})s"),
)
operators = st.sampled_from(["and", "or", "AND", "Or"])
rules = st.recursive(
    checks,
    lambda inner: st.one_of(
        st.tuples(inner, operators, inner).map(" ".join),
        inner.map(lambda r: f"not {r}"),
        inner.map(lambda r: f"({r})"),
        inner.map(lambda r: f"( {r} )"),
    ),
    max_leaves=12,
)
old_rules = st.lists(st.one_of(checks, st.lists(checks, max_size=3)), max_size=3)
callers = st.builds(
    Caller,
    user_id=st.sampled_from(["u", "p1", "x"]).map(UserId),
    user_domain_id=st.sampled_from(["p2", "x"]).map(DomainId),
    project_id=st.none() | st.sampled_from(["p1", "p2", "x"]).map(ProjectId),
    scope_domain_id=st.none() | st.sampled_from(["p1", "x"]).map(DomainId),
    is_system=st.booleans(),
    is_admin=st.booleans(),
    roles=st.frozensets(st.sampled_from(["admin", "reader", "Member", "p1"])),
)
targets = st.builds(
    lambda known, maybe: known | maybe,
    st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(VALUES)),
    st.dictionaries(st.just(MAYBE), st.none() | st.sampled_from(VALUES)),
)


def credentials(who: Caller) -> dict[str, Any]:
    """What oslo.policy is given."""
    known = {name: get(who) for name, get in CREDENTIALS.items() if "." not in name}
    return known | {"roles": sorted(who.roles)}


def theirs(table: Mapping[str, Any], who: Caller, target: Mapping[str, Any]) -> bool:
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    enforcer = oslo.Enforcer(conf, use_conf=False, policy_file="none")
    enforcer.set_rules(oslo.Rules.from_dict(dict(table)), overwrite=True, use_conf=False)
    return bool(enforcer.enforce("rule", dict(target), credentials(who)))


def ours(table: Mapping[str, Any], who: Caller, target: Mapping[str, Any]) -> bool:
    trees = {
        name: overrides.expressions.parse_lists(rule) if isinstance(rule, list) else rule
        for name, rule in table.items()
    }
    return Policy(trees).allows("rule", who, target)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(rule=rules | old_rules, a=checks, b=st.sampled_from(["", "role:reader"]), who=callers,
       target=targets)  # fmt: skip
@example(rule="role:x or role:y and not role:admin", a="@", b="", who=CALLERS["admin"], target={})
@example(rule=[["role:admin", "@"], "!"], a="@", b="", who=CALLERS["admin"], target={})
@example(rule=[[]], a="@", b="", who=CALLERS["admin"], target={})
@example(rule="None:%(flag)s", a="@", b="", who=CALLERS["bob"], target={"flag": None})
def test_says_what_oslo_policy_says(
    rule: Any, a: str, b: str, who: Caller, target: dict[str, str | None]
) -> None:
    # Only `a` may name others: a circle is refused here and would never end there.
    a = "@" if a.startswith("rule:") else a
    table = {"rule": rule, "a": a, "b": b, "c": "role:member or project_id:%(project_id)s"}
    assert ours(table, who, target) == theirs(table, who, target)


def test_property_sees_both_verdicts() -> None:
    """The comparison above is worth something: the same table says yes to one and no to another."""
    table = {"rule": "role:reader and project_id:%(project_id)s"}
    assert ours(table, CALLERS["alice"], {"project_id": P1})
    assert theirs(table, CALLERS["alice"], {"project_id": P1})
    assert not ours(table, CALLERS["bob"], {"project_id": P1})
    assert not theirs(table, CALLERS["bob"], {"project_id": P1})


def test_token_without_project_is_of_no_project() -> None:
    """oslo.policy would compare "None" with "None"."""
    who = caller("ann", "", "reader")
    system = msgspec.structs.replace(who, project_id=None)
    assert not Policy({"r": "project_id:%(project_id)s"}).allows("r", system, {"project_id": None})


@pytest.mark.parametrize(
    ("rule", "because"),
    [
        ("rol:admin", "no field of the caller"),
        ("role:a and", "ends after 'and'"),
        ("role:a role:b", "not expected"),
        ("(role:a", "not closed"),
        ("role:a)", "not expected"),
        ("or role:a", "missing before 'or'"),
        ("admin", "no check"),
        ("rule:nothing", "unknown rule 'nothing'"),
        ("rule:r", "refers to itself"),
        ("project_id:%(project_id)", "written %(name)s"),
        ("http://example.org/x", "asking another server"),
        ("(" * 100 + "@" + ")" * 100, "deep"),
    ],
)
def test_wrong_rules_are_refused_with_the_reason(rule: str, because: str) -> None:
    with pytest.raises(BadRule, match=r"rule 'r'") as caught:
        Policy({"r": rule})
    assert because in str(caught.value)


# --- files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("things.yaml", '# ours\n"thing:delete": "role:member"  # more\n'),
        ("thing.yml", "thing:delete:\n  - [role:member]\n"),
        ("things.json", '{\n\t"thing:delete": "rule:mine",\n\t"mine": "role:member"\n}'),
    ],
)
def test_file_changes_who_may(sqlite: Database, tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, text, name)
    api = Api(sqlite, SERVICE)
    assert api.delete("/thing/v1/things/1").status_code == 403
    api = with_policy(sqlite, tmp_path)
    assert api.delete("/thing/v1/things/1").status_code == 204
    assert api.delete("/thing/v1/things/1", who="rita").status_code == 403


def with_policy(database: Database, folder: Path) -> Api:
    return Api(database, SERVICE, policies=Policies([SERVICE], folder).tables)


def test_rule_about_a_thing_may_be_overridden(sqlite: Database, tmp_path: Path) -> None:
    write(tmp_path, '"thing:show": "role:reader and not user_id:%(target.thing.owner)s"\n')
    api = with_policy(sqlite, tmp_path)
    assert api.get("/thing/v1/things/1", who="alice").status_code == 200
    assert api.get("/thing/v1/things/1", who="rita").status_code == 403


def test_shared_rules_may_be_overridden_under_their_other_names(tmp_path: Path) -> None:
    write(tmp_path, '"admin_required": "role:boss"\n')
    table = Policies([SERVICE], tmp_path).tables["things"]
    assert table.allows("thing:delete", caller("b", P1, "boss"), {})
    assert not table.allows("thing:delete", CALLERS["admin"], {})


@pytest.mark.parametrize(
    ("text", "line", "because"),
    [
        ('"thing:list": "role:a"\n"thing:sow": "@"\n', 2, "did you mean thing:show"),
        ('"thing:list": "role:a or"\n', 1, "ends after 'or'"),
        ('\n\n"thing:list": "rol:a"\n', 3, "no field of the caller"),
        ('"thing:list": "rule:mine"\n', 1, "there is no rule 'mine'"),
        (
            '"thing:delete": "user_id:%(target.user.id)s"\n',
            1,
            "known here are project_id, thing_id",
        ),
        ('"thing:list": "user_id:%(target.thing.owner)s"\n', 1, "no request tells the field"),
        ('"thing:delete": "rule:thing:delete:force"\n', 1, "refers to itself"),
        ('"thing:list": "@"\n"thing:list": "!"\n', 2, "stands already at"),
        ('"thing:list":\n', 1, "write it in quotes"),
        ('"thing:list": true\n', 1, "write it in quotes"),
        ('"thing:list": @\n', 1, "put texts in quotes"),
        ('"thing:list": {role: admin}\n', 1, "write it in quotes"),
        ('"thing:list": [[[role:a]]]\n', 1, "holds texts only"),
        ("- thing:list\n", 1, "a policy is a mapping"),
        ('"thing:list": "role:a\n', 2, "neither YAML nor JSON"),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, because: str
) -> None:
    file = write(tmp_path, text)
    with pytest.raises(Invalid) as caught:
        Policies([SERVICE], tmp_path)
    assert f"{file}:{line}" in caught.value.message
    assert because in caught.value.message


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, '"thing:x": "@"\n"thing:list": "oops"\n')
    write(tmp_path, "{}", "nothing.yaml")
    with pytest.raises(Invalid) as caught:
        Policies([SERVICE], tmp_path)
    assert "things.yaml:1" in caught.value.message
    assert "things.yaml:2" in caught.value.message
    assert "nothing.yaml: no service has this name" in caught.value.message


def test_old_names_are_understood_with_a_warning(tmp_path: Path) -> None:
    nova = next(s for s in services_without_cloud() if s.name == "nova")
    file = write(tmp_path, '"os_compute_api:os-flavor-manage": "role:x"\n', "nova.yaml")
    found = overrides.read(file, nova)
    assert not found.wrong
    assert set(found.rules) == {
        f"os_compute_api:os-flavor-manage:{verb}" for verb in ("create", "update", "delete")
    }
    assert "is an old name" in found.warnings[0]


def test_files_are_read_again_and_wrong_ones_change_nothing(tmp_path: Path) -> None:
    policies = Policies([SERVICE], tmp_path)
    table = policies.tables["things"]
    assert not table.allows("thing:delete", CALLERS["alice"], {})
    write(tmp_path, '"thing:delete": "role:member"\n')
    policies.reload()
    assert table.allows("thing:delete", CALLERS["alice"], {})
    write(tmp_path, '"thing:delete": "oops"\n')
    policies.reload()
    assert table.allows("thing:delete", CALLERS["alice"], {})
    write(tmp_path, "# nothing any more\n")
    policies.reload()
    assert not table.allows("thing:delete", CALLERS["alice"], {})


def test_shows_what_is_in_force_and_where_it_comes_from(tmp_path: Path) -> None:
    file = write(tmp_path, '\n"thing:delete": "role:member"\n')
    policies = Policies([SERVICE], tmp_path)
    by_name = {row["rule"]: row for row in policies.list_all("thing")}
    assert by_name["thing:delete"]["check"] == "role:member"
    assert by_name["thing:delete"]["default"] == "rule:admin"
    assert by_name["thing:delete"]["source"] == f"{file}:2"
    assert by_name["thing:delete"]["routes"] == ["DELETE /thing/v1/things/{thing_id}"]
    assert by_name["thing:list"]["source"] == "default"
    with pytest.raises(NotFound):
        policies.list_all("nothing")


def test_every_default_rule_may_stand_in_a_file(tmp_path: Path) -> None:
    """What `cairn policy show` prints is a file that is right, and that changes nothing."""
    for service in services_without_cloud():
        lines = [f"{msgspec.json.encode(name).decode()}: {msgspec.json.encode(rule).decode()}"
                 for name, rule in service.policy.items()]  # fmt: skip
        found = overrides.read(write(tmp_path, "\n".join(lines), f"{service.name}.yaml"), service)
        assert found.wrong == []
        assert len(found.rules) == len(service.policy)


def test_command_checks_a_file_without_a_cloud(tmp_path: Path) -> None:
    good = write(tmp_path, '"get_image": "role:reader"\n', "glance.yaml")
    assert CliRunner().invoke(check_command, [str(good)]).exit_code == 0
    bad = write(tmp_path, '"get_imago": "role:reader"\n', "x.yaml")
    assert CliRunner().invoke(check_command, [str(bad)]).exit_code == 1
    found = CliRunner().invoke(check_command, [str(bad), "--service", "image"])
    assert found.exit_code == 1
    assert "x.yaml:1" in found.output
    assert "get_image" in found.output
