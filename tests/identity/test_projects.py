"""Trees of projects, projects that act as domains, tags, and how lists are filtered, on both databases."""

from typing import Any

import pytest

from tests.identity.conftest import Cloud, scope_of


@pytest.fixture
def cloud(cloud_on_both: Cloud) -> Cloud:
    return cloud_on_both


def line(cloud: Cloud, *names: str, domain_id: str = "default") -> list[str]:
    """Projects one below the other."""
    ids: list[str] = []
    for name in names:
        parent = {"parent_id": ids[-1]} if ids else {}
        ids.append(cloud.make("project", name=name, domain_id=domain_id, **parent)["id"])
    return ids


def shown(cloud: Cloud, project_id: str, query: str, **options: Any) -> Any:
    answer = cloud.call("GET", f"/projects/{project_id}?{query}", **options)
    assert answer.status_code == 200, answer.text
    return answer.json["project"]


# Trees


def test_a_tree_is_told_as_ids_for_everybody(cloud: Cloud) -> None:
    a, b, c = line(cloud, "a", "b", "c")
    d = cloud.make("project", name="d", parent_id=a)["id"]
    assert shown(cloud, c, "parents_as_ids")["parents"] == {b: {a: {"default": None}}}
    assert shown(cloud, a, "parents_as_ids")["parents"] == {"default": None}
    assert shown(cloud, a, "subtree_as_ids")["subtree"] == {b: {c: None}, d: None}
    assert shown(cloud, c, "subtree_as_ids")["subtree"] is None
    both = shown(cloud, b, "subtree_as_ids=1&parents_as_ids=True")
    assert (both["subtree"], both["parents"]) == ({c: None}, {a: {"default": None}})
    assert not {"parents", "subtree"} & shown(cloud, b, "subtree_as_ids=0").keys()


def test_a_tree_as_a_list_has_only_what_the_caller_has_a_role_in(cloud: Cloud) -> None:
    a, b, c, d = line(cloud, "a", "b", "c", "d")
    ann = cloud.make("user", name="ann", password="ann")
    for project in (b, d):
        cloud.grant(ann["id"], project, "member")
    token = cloud.token("ann", "ann", scope=scope_of("b"))
    listed = shown(cloud, b, "subtree_as_list&parents_as_list", token=token)
    assert [p["project"]["id"] for p in listed["subtree"]] == [d]
    assert listed["subtree"][0]["project"]["links"]["self"].endswith(f"/v3/projects/{d}")
    assert listed["parents"] == []
    # Keystone filters for administrators too.
    assert shown(cloud, a, "subtree_as_list")["subtree"] == []
    everywhere = f"/OS-INHERIT/domains/default/users/{cloud.admin.user_id}/roles"
    cloud.call("PUT", f"{everywhere}/{cloud.role_id('reader')}/inherited_to_projects")
    above = shown(cloud, d, "parents_as_list")["parents"]
    assert [p["project"]["id"] for p in above] == [c, b, a]


def test_a_list_and_ids_together_are_refused(cloud: Cloud) -> None:
    (a,) = line(cloud, "a")
    for what in ("parents", "subtree"):
        answer = cloud.call("GET", f"/projects/{a}?{what}_as_list&{what}_as_ids")
        assert answer.status_code == 400
        assert f"{what}_as_list" in answer.json["error"]["message"]


def test_five_projects_are_as_deep_as_it_goes(cloud: Cloud) -> None:
    ids = line(cloud, "1", "2", "3", "4", "5")
    sixth = cloud.call("POST", "/projects", {"project": {"name": "6", "parent_id": ids[-1]}})
    assert sixth.status_code == 403
    assert "depth" in sixth.json["error"]["message"]


def test_where_a_project_cannot_be(cloud: Cloud) -> None:
    (a,) = line(cloud, "a")
    other = cloud.make("domain", name="other")["id"]
    off = cloud.make("project", name="off", enabled=False)["id"]
    shut = cloud.make("domain", name="shut", enabled=False)["id"]
    for wrong in (
        {"parent_id": a, "domain_id": other},
        {"parent_id": "default", "domain_id": other},
        {"parent_id": off},
        {"domain_id": shut},
        {"parent_id": "nothing"},
        {"domain_id": "nothing"},
        {"parent_id": 3},
        {"is_domain": "yes"},
        {"is_domain": True, "domain_id": other},
        {"is_domain": True, "parent_id": a},
        {"tags": ["twice", "twice"]},
        {"options": {"unknown": True}},
    ):
        answer = cloud.call("POST", "/projects", {"project": {"name": "x", **wrong}})
        assert answer.status_code == 400, (wrong, answer.text)
    assert cloud.call("GET", "/projects?name=x").json["projects"] == []


def test_what_stays_as_it_is(cloud: Cloud) -> None:
    a, b = line(cloud, "a", "b")
    other = cloud.make("domain", name="other")["id"]
    for change, status in (
        ({"domain_id": other}, 400),
        ({"is_domain": True}, 400),
        ({"parent_id": "default"}, 403),
        ({"domain_id": "default", "parent_id": a, "is_domain": False}, 200),
    ):
        answer = cloud.call("PATCH", f"/projects/{b}", {"project": change})
        assert answer.status_code == status, (change, answer.text)
    assert shown(cloud, b, "")["parent_id"] == a


def test_a_branch_is_disabled_from_its_leaves_and_enabled_from_its_root(cloud: Cloud) -> None:
    a, b = line(cloud, "a", "b")

    def turn(project_id: str, enabled: bool) -> int:
        body = {"project": {"enabled": enabled}}
        return int(cloud.call("PATCH", f"/projects/{project_id}", body).status_code)

    assert turn(a, False) == 403
    assert (turn(b, False), turn(a, False)) == (200, 200)
    assert turn(b, True) == 403
    assert (turn(a, True), turn(b, True)) == (200, 200)
    assert cloud.call("DELETE", f"/projects/{a}").status_code == 403
    assert cloud.call("DELETE", f"/projects/{b}").status_code == 204
    assert cloud.call("DELETE", f"/projects/{a}").status_code == 204


def test_names_lose_the_space_around_them(cloud: Cloud) -> None:
    made = cloud.make("project", name="  a b ")
    assert made["name"] == "a b"
    assert cloud.call("POST", "/projects", {"project": {"name": "a b"}}).status_code == 409


# Projects that act as domains


def test_a_project_that_acts_as_a_domain_is_one(cloud: Cloud) -> None:
    made = cloud.make("project", name="d", is_domain=True, description="x", tags=["t"])
    assert made["is_domain"] is True
    assert made["domain_id"] is None and made["parent_id"] is None
    path = f"/projects/{made['id']}"
    assert cloud.call("GET", path).json["project"] == made
    domain = cloud.call("GET", f"/domains/{made['id']}").json["domain"]
    assert (domain["name"], domain["description"], domain["tags"]) == ("d", "x", ["t"])
    assert not {"is_domain", "parent_id", "domain_id"} & domain.keys()
    listed = cloud.call("GET", "/projects?is_domain=True").json["projects"]
    assert {p["id"] for p in listed} == {"default", made["id"]}
    assert [
        p["id"] for p in cloud.call("GET", "/projects?is_domain=1&name=d").json["projects"]
    ] == [made["id"]]
    assert cloud.call("GET", "/projects?is_domain=1&domain_id=default").json["projects"] == []
    without = cloud.call("GET", "/projects?is_domain=false").json["projects"]
    assert made["id"] not in {p["id"] for p in without}
    child = cloud.make("project", name="c", domain_id=made["id"])
    assert child["parent_id"] == made["id"]
    assert shown(cloud, made["id"], "subtree_as_ids")["subtree"] == {child["id"]: None}
    assert cloud.call("DELETE", path).status_code == 403
    off = cloud.call("PATCH", path, {"project": {"enabled": False, "is_domain": True}})
    assert off.json["project"]["enabled"] is False
    assert cloud.call("PATCH", path, {"project": {"is_domain": False}}).status_code == 400
    assert cloud.call("DELETE", path).status_code == 204
    assert cloud.call("GET", f"/projects/{child['id']}").status_code == 404
    assert cloud.call("GET", f"/domains/{made['id']}").status_code == 404


def test_a_domain_may_be_given_its_id(cloud: Cloud) -> None:
    wanted = "0123456789abcdef" * 2
    made = cloud.make("domain", name="d", explicit_domain_id=wanted)
    assert made["id"] == wanted and "explicit_domain_id" not in made
    again = {"domain": {"name": "e", "explicit_domain_id": wanted}}
    assert cloud.call("POST", "/domains", again).status_code == 409
    for wrong in ("short", wanted.upper(), 3, ""):
        body = {"domain": {"name": "e", "explicit_domain_id": wrong}}
        assert cloud.call("POST", "/domains", body).status_code == 400


def test_a_domain_goes_with_all_that_is_in_it(cloud: Cloud) -> None:
    domain = cloud.make("domain", name="d")["id"]
    ids = line(cloud, "a", "b", "c", domain_id=domain)
    user = cloud.make("user", name="u", domain_id=domain)["id"]
    path = f"/OS-INHERIT/domains/{domain}/users/{cloud.admin.user_id}/roles"
    role = cloud.role_id("reader")
    assert cloud.call("PUT", f"{path}/{role}/inherited_to_projects").status_code == 204
    cloud.call("PATCH", f"/domains/{domain}", {"domain": {"enabled": False}})
    assert cloud.call("DELETE", f"/domains/{domain}").status_code == 204
    for gone in (*(f"/projects/{i}" for i in ids), f"/users/{user}"):
        assert cloud.call("GET", gone).status_code == 404
    given = cloud.call("GET", f"/role_assignments?user.id={cloud.admin.user_id}").json
    scopes = [a["scope"] for a in given["role_assignments"]]
    assert all(s.get("domain", {}).get("id") != domain for s in scopes)


# Tags and options


def test_tags_of_an_immutable_project_stay(cloud: Cloud) -> None:
    made = cloud.make("project", name="p", tags=["t"], options={"immutable": True})
    path = f"/projects/{made['id']}"
    for method, ending, body in (
        ("PUT", "/tags", {"tags": ["u"]}),
        ("PUT", "/tags/u", None),
        ("DELETE", "/tags/t", None),
        ("DELETE", "/tags", None),
    ):
        assert cloud.call(method, path + ending, body).status_code == 403
    # Released alone, not together with another change.
    both = {"name": "q", "options": {"immutable": False}}
    assert cloud.call("PATCH", path, {"project": both}).status_code == 403
    assert shown(cloud, made["id"], "")["tags"] == ["t"]
    free = cloud.call("PATCH", path, {"project": {"options": {"immutable": None}}})
    assert free.json["project"]["options"] == {}
    assert cloud.call("PATCH", path, {"project": {"name": "q"}}).status_code == 200


def test_domains_have_tags(cloud: Cloud) -> None:
    made = cloud.make("domain", name="d", tags=["x", "y"])
    assert made["tags"] == ["x", "y"]
    changed = cloud.call("PATCH", f"/domains/{made['id']}", {"domain": {"tags": ["z"]}})
    assert changed.json["domain"]["tags"] == ["z"]
    found = cloud.call("GET", "/projects?is_domain=1&tags=z").json["projects"]
    assert [p["id"] for p in found] == [made["id"]]
    assert (
        cloud.call("PUT", f"/projects/{made['id']}/tags", {"tags": ["a", "a"]}).status_code == 400
    )
    path = f"/domains/{made['id']}/users/{cloud.admin.user_id}/roles/{cloud.role_id('reader')}"
    assert cloud.call("PUT", path).status_code == 204
    assert cloud.call("GET", "/auth/domains").json["domains"] == [changed.json["domain"]]


# Filters


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("name__contains=lph", {"Alpha"}),
        ("name__contains=LPH", set()),
        ("name__icontains=LPH", {"Alpha", "alphabet"}),
        ("name__icontains=lph", {"Alpha", "alphabet"}),
        ("name__startswith=al", {"alphabet"}),
        ("name__istartswith=al", {"Alpha", "alphabet"}),
        ("name__endswith=a", {"Alpha", "be_a"}),
        ("name__iendswith=A", {"Alpha", "be_a"}),
        ("name__iequals=ALPHA", {"Alpha"}),
        ("name__contains=%25", {"100%"}),
        ("name__contains=_", {"be_a"}),
        ("name__endswith=much-longer-than-any-name-that-there-is", set()),
        ("name__unknown=x&colour=red&sort_key=name", None),
        ("name__contains=", None),
        ("enabled=0", {"100%"}),
        ("enabled", {"Alpha", "alphabet", "be_a"}),
    ],
)
def test_filters_by_parts_of_a_name(cloud: Cloud, query: str, names: set[str] | None) -> None:
    domain = cloud.make("domain", name="d")["id"]
    everything = {"Alpha", "be_a", "100%"}
    for name in everything:
        cloud.make("project", name=name, domain_id=domain, enabled=name != "100%")
    # Another "alpha" whose letters tell SQLite's LIKE from an exact comparison.
    cloud.make("project", name="alphabet", domain_id=domain)
    if names is not None and query == "name__contains=lph":
        names = names | {"alphabet"}
    found = cloud.call("GET", f"/projects?domain_id={domain}&{query}").json["projects"]
    assert {p["name"] for p in found} == (everything | {"alphabet"} if names is None else names)


def test_other_lists_have_the_same_filters(cloud: Cloud) -> None:
    for kind in ("domain", "user", "group", "role"):
        cloud.make(kind, name=f"some-{kind}")
        found = cloud.call("GET", f"/{kind}s?name__istartswith=SOME").json[f"{kind}s"]
        assert [thing["name"] for thing in found] == [f"some-{kind}"]
    assert cloud.call("GET", "/domains?enabled=0").json["domains"] == []


def test_every_get_answers_head_without_a_body(cloud: Cloud) -> None:
    (a,) = line(cloud, "a")
    for path in ("/projects", f"/projects/{a}", f"/projects/{a}/tags", "/domains", "/role_assignments",
                 "/role_inferences", "/roles", "/auth/projects", "/auth/domains", "/auth/system",
                 "/OS-REVOKE/events", f"/users/{cloud.admin.user_id}/projects"):  # fmt: skip
        answer = cloud.call("HEAD", path)
        assert (answer.status_code, answer.content) == (200, b""), path
