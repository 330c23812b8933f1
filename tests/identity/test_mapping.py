"""Mapping rules: Keystone's own examples, what they refuse, and what a provider cannot smuggle in."""

import json
from typing import Any

import pytest

from cairn.core.errors import Invalid
from cairn.identity.federation.claims import Unmapped, values_of
from cairn.identity.federation.mapping import DomainRef, LocalProject, Mapped, evaluate, rules_of

CLAIMS: dict[str, Any] = {
    "sub": "7f",
    "iss": "https://issuer",
    "preferred_username": "ann",
    "email": "ann@example.com",
    "email_verified": True,
    "groups": ["ops", "dev", "guests"],
    "realm_access": {"roles": ["r1", "r2"]},
    "https://example.com/team-name": "red",
    "employee_no": 42,
    "empty": [],
}


def mapped(
    local: Any, remote: Any, claims: dict[str, Any] = CLAIMS, version: str = "1.0"
) -> Mapped:
    document = [{"local": local, "remote": remote}]
    return evaluate(rules_of(document, version), claims, version=version)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("email", ["ann@example.com"]),
        ("OIDC-email", ["ann@example.com"]),
        ("OIDC_CLAIM_email", ["ann@example.com"]),
        ("HTTP_OIDC_EMAIL", ["ann@example.com"]),
        ("HTTP_OIDC_CLAIM_EMAIL", ["ann@example.com"]),
        ("HTTP_OIDC_PREFERRED_USERNAME", ["ann"]),
        ("HTTP_OIDC_ISS", ["https://issuer"]),
        ("OIDC-groups", ["ops", "dev", "guests"]),
        ("realm_access.roles", ["r1", "r2"]),
        ("OIDC-realm_access.roles", ["r1", "r2"]),
        ("https://example.com/team-name", ["red"]),
        ("employee_no", ["42"]),
        ("email_verified", ["1"]),
        ("REMOTE_USER", ["7f"]),
        ("empty", []),
        ("email.more", []),
        ("nothing", []),
    ],
)
def test_claims_have_the_names_that_rules_for_keystone_use(name: str, values: list[str]) -> None:
    assert values_of(CLAIMS, name) == values


def test_a_header_name_that_means_two_claims_means_none() -> None:
    claims = {"team-name": "red", "team_name": "blue"}
    assert values_of(claims, "HTTP_OIDC_TEAM_NAME") == []
    assert values_of(claims, "OIDC-team-name") == ["red"]


@pytest.mark.parametrize("bad", ["a\0b", "x" * 5000, "\ud800"])
def test_a_claim_that_no_database_takes_maps_to_nobody(bad: str) -> None:
    with pytest.raises(Unmapped):
        mapped([{"user": {"name": "{0}"}}], [{"type": "name"}], {"name": bad})


def test_values_are_numbered_without_the_conditions() -> None:
    found = mapped(
        [{"user": {"id": "{1}", "name": "{0}-{1}", "email": "{2}"}}],
        [
            {"type": "preferred_username"},
            {"type": "groups", "any_one_of": ["ops"]},
            {"type": "sub"},
            {"type": "groups", "not_any_of": ["banned"]},
            {"type": "email"},
        ],
    )
    assert (found.user.id, found.user.name) == ("7f", "ann-7f")
    assert found.user.email == "ann@example.com"


@pytest.mark.parametrize(
    ("condition", "applies"),
    [
        ({"any_one_of": ["ops", "x"]}, True),
        ({"any_one_of": ["x"]}, False),
        ({"not_any_of": ["x"]}, True),
        ({"not_any_of": ["ops"]}, False),
        ({"any_one_of": ["^o"], "regex": True}, True),
        ({"any_one_of": ["^x"], "regex": True}, False),
        ({"not_any_of": ["^gue"], "regex": True}, False),
        ({"not_any_of": ["^x"], "regex": True}, True),
    ],
)
def test_conditions(condition: dict[str, Any], applies: bool) -> None:
    remote = [{"type": "groups", **condition}]
    if applies:
        assert mapped([{"user": {"name": "n"}}], remote).user.name == "n"
    else:
        with pytest.raises(Unmapped):
            mapped([{"user": {"name": "n"}}], remote)


def test_a_condition_on_a_claim_that_is_not_there_does_not_hold() -> None:
    """Not even `not_any_of`: a provider that forgets a claim must not open what it would close."""
    with pytest.raises(Unmapped):
        mapped([{"user": {"name": "n"}}], [{"type": "nothing", "not_any_of": ["x"]}])


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ({}, ["ops", "dev", "guests"]),
        ({"whitelist": ["dev", "x"]}, ["dev"]),
        ({"blacklist": ["guests"]}, ["ops", "dev"]),
        ({"whitelist": ["^(ops|dev)$"], "regex": True}, ["ops", "dev"]),
        ({"blacklist": ["s$"], "regex": True}, ["dev"]),
        ({"whitelist": ["x"]}, []),
    ],
)
def test_groups_by_name_are_all_that_pass(filters: dict[str, Any], names: list[str]) -> None:
    found = mapped(
        [{"user": {"name": "{0}"}}, {"groups": "{1}", "domain": {"name": "d"}}],
        [{"type": "preferred_username"}, {"type": "groups", **filters}],
    )
    assert found.groups == tuple((name, DomainRef(name="d")) for name in names)


def test_a_rule_without_a_whitelisted_value_still_applies_and_gives_no_group() -> None:
    local = [{"user": {"name": "n"}}, {"group_ids": "{0}"}]
    assert mapped(local, [{"type": "groups", "whitelist": ["x"]}]).group_ids == ()


def test_groups_of_all_rules_that_apply_add_up_and_the_first_user_counts() -> None:
    rules = rules_of(
        [
            {"local": [{"user": {"name": "first"}}, {"group": {"id": "g1"}}],
             "remote": [{"type": "sub"}]},
            {"local": [{"user": {"name": "second"}}, {"group_ids": "{0}"}],
             "remote": [{"type": "groups", "whitelist": ["ops", "dev"]}]},
            {"local": [{"group": {"name": "g", "domain": {"id": "d"}}}, {"group": {"id": "g1"}}],
             "remote": [{"type": "sub"}]},
            {"local": [{"group": {"id": "never"}}], "remote": [{"type": "nothing"}]},
        ],
        "1.0",
    )  # fmt: skip
    found = evaluate(rules, CLAIMS, version="1.0")
    assert found.user.name == "first"
    assert found.group_ids == ("g1", "ops", "dev")
    assert found.groups == (("g", DomainRef(id="d")),)


def test_a_list_in_the_rule_itself_is_one_and_in_a_claim_is_not() -> None:
    """Keystone parses both; whoever may choose a name at the provider would choose groups."""
    local = [{"user": {"name": "n"}}, {"group_ids": "['a', 'b']"}]
    assert mapped(local, [{"type": "sub"}]).group_ids == ("a", "b")
    local = [{"user": {"name": "n"}}, {"group_ids": "{0}"}]
    claims = {"team": "['admins', 'ops']"}
    assert mapped(local, [{"type": "team"}], claims).group_ids == ("['admins', 'ops']",)


def test_what_a_claim_says_is_no_template() -> None:
    claims = {"a": "{1}", "b": "secret"}
    found = mapped([{"user": {"name": "{0}"}}], [{"type": "a"}, {"type": "b"}], claims)
    assert found.user.name == "{1}"


def test_several_values_where_one_is_meant_are_refused() -> None:
    with pytest.raises(Unmapped, match="needs one value"):
        mapped([{"user": {"name": "{0}"}}], [{"type": "groups"}])


def test_projects_with_roles_and_domains() -> None:
    local: Any = [
        {"user": {"name": "{0}"}},
        {"projects": [{"name": "of {0}", "roles": [{"name": "member"}]}], "domain": {"name": "d"}},
    ]
    (project,) = mapped(local, [{"type": "preferred_username"}]).projects
    assert isinstance(project, LocalProject)
    assert (project.name, project.roles[0].name, project.domain) == ("of ann", "member", None)
    two = mapped(local, [{"type": "preferred_username"}], version="2.0")
    assert two.projects[0].domain == DomainRef(name="d")
    assert two.user.domain == DomainRef(name="d")


LISTED = {"name": "web", "roles": [{"name": "member"}]}


@pytest.mark.parametrize(
    ("claim", "names"),
    [
        ([LISTED, {**LISTED, "name": "db", "domain": {"id": "x"}}], ["web", "db"]),
        (json.dumps([LISTED]), ["web"]),
        (json.dumps(LISTED), ["web"]),
        ([], []),
    ],
)
def test_a_claim_may_list_projects(claim: Any, names: list[str]) -> None:
    local = [{"user": {"name": "{0}"}}, {"projects_json": "{1}", "domain": {"id": "d"}}]
    remote = [{"type": "sub"}, {"type": "projects"}]
    if not names:
        with pytest.raises(Unmapped):
            mapped(local, remote, {"sub": "s", "projects": claim}, "3.0")
        return
    found = mapped(local, remote, {"sub": "s", "projects": claim}, "3.0")
    assert [one.name for one in found.projects] == names
    assert found.synchronises
    assert found.projects[0].domain == DomainRef(id="d")


@pytest.mark.parametrize("claim", ["web", "[", "5", [5], [{"name": "web"}], [LISTED] * 101])
def test_a_claim_that_lists_no_projects_is_refused(claim: Any) -> None:
    local = [{"user": {"name": "{0}"}}, {"projects_json": "{1}"}]
    with pytest.raises(Unmapped):
        mapped(local, [{"type": "sub"}, {"type": "p"}], {"sub": "s", "p": claim}, "3.0")


USER = {"user": {"name": "n"}}
SUB = {"type": "sub"}


@pytest.mark.parametrize(
    ("local", "remote", "where"),
    [
        ([{"user": {"nam": "n"}}], [SUB], "nam"),
        ([{"usr": {}}], [SUB], "usr"),
        ([{"user": {"name": 5}}], [SUB], "name"),
        ([{"user": {"name": "n", "type": "alien"}}], [SUB], "type"),
        ([{"group": {"name": "g"}}], [SUB], "group"),
        ([{"group": {"id": "g", "name": "g", "domain": {"id": "d"}}}], [SUB], "group"),
        ([{"groups": "{0}"}], [SUB], "domain"),
        ([{"user": {"name": "{1}"}}], [SUB], "{1}"),
        ([{"user": {"name": "{0}"}}], [{"type": "sub", "any_one_of": ["x"]}], "{0}"),
        ([{"user": {"name": "{0.__class__}"}}], [SUB], "brace"),
        ([{"user": {"name": "{name}"}}], [SUB], "brace"),
        ([USER], [], "remote"),
        ([USER], [{"typ": "sub"}], "typ"),
        ([USER], [{"type": "sub", "any_one_of": ["a"], "not_any_of": ["b"]}], "only one"),
        ([USER], [{"type": "sub", "regex": True}], "regex"),
        ([USER], [{"type": "sub", "any_one_of": ["("], "regex": True}], "regular expression"),
        ([USER], [{"type": "sub", "any_one_of": "x"}], "any_one_of"),
        ([{"projects": [{"name": "p"}]}], [SUB], "roles"),
        ([{"projects": [{"name": "p", "roles": [], "domain": {"id": "d"}}]}], [SUB], "2.0"),
        ([{"projects_json": "{0}"}], [SUB], "3.0"),
    ],
)  # fmt: skip
def test_rules_that_cannot_work_are_refused_with_their_place(
    local: Any, remote: Any, where: str
) -> None:
    with pytest.raises(Invalid) as refusal:
        rules_of([{"local": local, "remote": remote}], "1.0")
    assert where in refusal.value.message


@pytest.mark.parametrize("document", [[], {}, "x", None, [1], [{"local": []}]])
def test_what_is_no_list_of_rules_is_refused(document: Any) -> None:
    with pytest.raises(Invalid):
        rules_of(document, "1.0")


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(Invalid, match="schema_version"):
        rules_of([{"local": [USER], "remote": [SUB]}], "9.0")
