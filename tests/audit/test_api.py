"""Asking for the trail: what an entry says, who sees which, pages, exports, CADF."""

from typing import Any

import pytest

from cairn.core.clock import FakeClock
from tests.audit.conftest import Audited
from tests.identity.conftest import ADMIN_PASSWORD, scope_of

PASSWORD = "ann's own password"


def person(cloud: Audited, name: str, project_id: str, role: str) -> str:
    """A token of somebody new with this role there."""
    user = cloud.make("user", name=name, password=PASSWORD)
    cloud.grant(user["id"], project_id, role)
    return cloud.token(name, PASSWORD, scope={"project": {"id": project_id}})


def test_an_entry_on_both_engines(cloud_on_both: Audited) -> None:
    cloud = cloud_on_both
    made = cloud.make("user", name="ann", password=PASSWORD)
    (event,) = cloud.events("target_type=identity/user&action=create")
    assert event["outcome"] == "success" and event["status"] == 201
    assert (event["target_id"], event["target_name"]) == (made["id"], "ann")
    assert event["user_id"] == cloud.admin.user_id
    assert event["scope"].startswith("project:") and "admin" in event["roles"].split(",")
    assert event["path"] == "/identity/v3/users" and event["method"] == "POST"
    assert event["source"] and event["token_id"] and event["request_id"].startswith("req-")
    assert PASSWORD not in str(event)


def test_grants_name_role_actor_and_scope(cloud: Audited) -> None:
    user, project = cloud.make("user", name="ann"), cloud.make("project", name="p")
    path = cloud.grant(user["id"], project["id"], "member")
    cloud.call("DELETE", path)
    gone, made = cloud.events("target_type=identity/role_assignment")
    assert (made["action"], gone["action"]) == ("create", "delete")
    assert made["target_id"] == cloud.role_id("member")
    assert made["details"]["user_id"] == user["id"]
    assert made["project_id"] == project["id"]


def test_disabling_is_told_as_that(cloud: Audited) -> None:
    user = cloud.make("user", name="ann")
    cloud.call("PATCH", f"/users/{user['id']}", {"user": {"enabled": False}})
    cloud.call("PATCH", f"/users/{user['id']}", {"user": {"enabled": True}})
    cloud.call("PATCH", f"/users/{user['id']}", {"user": {"email": "a@b.example"}})
    told = [event["action"] for event in cloud.events(f"target={user['id']}&sort=asc")]
    assert told == ["create", "disable", "enable", "update"]


def test_sign_ins_are_told_with_who_it_was_or_claimed_to_be(cloud: Audited) -> None:
    assert cloud.admin_token
    cloud.token("admin", ADMIN_PASSWORD, scope=scope_of("admin"))
    cloud.sign_in("admin", "hunter-2x")
    cloud.sign_in("nobody here", "hunter-2x")
    unknown, wrong, good = cloud.events("action=authenticate")[:3]
    assert good["outcome"] == "success" and good["user_id"] == cloud.admin.user_id
    assert good["scope"].startswith("project:") and good["details"]["methods"] == "password"
    assert good["token_id"] == good["target_id"]
    for event, name in ((wrong, "admin"), (unknown, "nobody here")):
        assert event["outcome"] == "denied" and event["status"] == 401
        assert event["details"]["user_name"] == name and event["reason"]
    assert "hunter-2x" not in str([unknown, wrong])


def test_refusals_are_told_with_their_reason(cloud: Audited) -> None:
    project = cloud.make("project", name="p")
    ann = person(cloud, "ann", project["id"], "member")
    assert cloud.call("POST", "/users", {"user": {"name": "x"}}, token=ann).status_code == 403
    assert cloud.call("POST", "/users", {"user": {"name": 3}}).status_code == 400
    assert cloud.call("DELETE", "/users/nobody").status_code == 404
    gone, bad, denied = cloud.events("target_type=identity/user&sort=desc")[:3]
    assert (denied["outcome"], denied["status"]) == ("denied", 403)
    assert "identity:create_user" in denied["reason"]
    assert (bad["outcome"], bad["status"], bad["reason"]) == ("failure", 400, "Invalid")
    assert (gone["outcome"], gone["status"], gone["target_id"]) == ("failure", 404, "nobody")


def test_who_sees_which(cloud: Audited) -> None:
    ours, theirs = cloud.make("project", name="ours"), cloud.make("project", name="theirs")
    manager = person(cloud, "mia", ours["id"], "manager")
    member = person(cloud, "ann", ours["id"], "member")
    cloud.call("DELETE", "/projects/no-such", token=member)
    cloud.call("PUT", f"/projects/{theirs['id']}/tags/t")
    assert cloud.ask(token=None).status_code == 401
    assert cloud.ask(token=member).status_code == 403
    seen = cloud.events("limit=1000", token=manager)
    assert seen and {event["project_id"] for event in seen} == {ours["id"]}
    assert any(event["outcome"] != "success" for event in seen)
    # What others may not see cannot be asked for either.
    assert cloud.events(f"project={theirs['id']}", token=manager) == []
    assert {event["project_id"] for event in cloud.lines(token=manager)} == {ours["id"]}
    everything = {event["project_id"] for event in cloud.events("limit=1000")}
    assert {ours["id"], theirs["id"]} <= everything


def test_a_domains_manager_sees_the_domains(cloud: Audited) -> None:
    domain = cloud.make("domain", name="d")
    user = cloud.make("user", name="mia", password=PASSWORD, domain_id=domain["id"])
    role = cloud.role_id("manager")
    path = f"/domains/{domain['id']}/users/{user['id']}/roles/{role}"
    assert cloud.call("PUT", path).status_code == 204
    who = {"id": user["id"], "password": PASSWORD}
    identity = {"methods": ["password"], "password": {"user": who}}
    scope = {"domain": {"id": domain["id"]}}
    body = {"auth": {"identity": identity, "scope": scope}}
    token = cloud.call("POST", "/auth/tokens", body, token=None).headers["x-subject-token"]
    cloud.make("user", name="of another domain")
    seen = cloud.events("limit=1000", token=token)
    assert {event["domain_id"] for event in seen} == {domain["id"]}
    assert {event["target_id"] for event in seen} >= {domain["id"], user["id"]}
    # What an administrator of elsewhere deletes here is told here.
    cloud.call("DELETE", f"/users/{user['id']}")
    assert cloud.events(f"target={user['id']}&action=delete")[0]["domain_id"] == domain["id"]


def test_a_reader_of_the_system_sees_everything(cloud: Audited) -> None:
    user = cloud.make("user", name="rae", password=PASSWORD)
    cloud.call("PUT", f"/system/users/{user['id']}/roles/{cloud.role_id('reader')}")
    token = cloud.token("rae", PASSWORD, scope={"system": {"all": True}})
    assert any(e["target_id"] == user["id"] for e in cloud.events(token=token))


def test_pages_follow_each_other_without_gap_or_repetition(cloud: Audited) -> None:
    for number in range(12):
        cloud.make("project", name=f"p{number}")
    whole = [event["id"] for event in cloud.events("service=identity&limit=1000")]
    assert len(whole) > 12 and whole == sorted(whole, reverse=True)
    found: list[str] = []
    query = "service=identity&limit=5"
    while True:
        told = cloud.ask(query).json
        found += [event["id"] for event in told["events"]]
        if told["next"] is None:
            break
        query = f"service=identity&limit=5&marker={told['next']}"
    assert found == whole


def test_what_no_index_finds_is_looked_for_a_piece_at_a_time(
    cloud_on_both: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = cloud_on_both
    monkeypatch.setattr("cairn.audit.store.EXAMINED_MAX", 5)
    for number in range(9):
        cloud.make("project", name=f"p{number}")
    cloud.make("group", name="g")
    for number in range(9):
        cloud.make("role", name=f"r{number}")
    assert cloud.admin.user_id
    for start in ("target_type=identity/project", f"user={cloud.admin.user_id}&action=create"):
        for order in ("asc", "desc"):
            query, names, pages = f"{start}&sort={order}&limit=3", [], 0
            marker: str | None = ""
            while marker is not None:
                more = f"&marker={marker}" if marker else ""
                told = cloud.ask(query + more).json
                assert len(told["events"]) <= 3
                names += [e["target_name"] for e in told["events"]]
                marker, pages = told["next"], pages + 1
            expected = [f"p{n}" for n in range(9)]
            if "create" in start:
                expected += ["g", *(f"r{n}" for n in range(9))]
            assert names == (expected if order == "asc" else expected[::-1])
            assert 4 <= pages <= 12
    lines = cloud.lines("until=2100-01-01T00:00:00Z&target_type=identity/group")
    assert [line["target_name"] for line in lines] == ["g"]


def test_filters_by_time(cloud: Audited, clock: FakeClock) -> None:
    cloud.make("project", name="before")
    clock.advance(60)
    since = clock.now().isoformat().replace("+00:00", "Z")
    clock.advance(60)
    cloud.make("project", name="between")
    until = clock.now().replace(microsecond=1).isoformat().replace("+00:00", "Z")
    clock.advance(60)
    cloud.make("project", name="after")

    def names(query: str) -> list[str]:
        return [e["target_name"] for e in cloud.events(f"{query}&target_type=identity/project")]

    assert names(f"since={since}") == ["after", "between"]
    assert names(f"since={since}&until={until}") == ["between"]
    assert names(f"until={since}") == ["before"]


def test_cadf(cloud: Audited) -> None:
    user = cloud.make("user", name="ann")
    (event,) = cloud.events(f"target={user['id']}&format=cadf")
    assert event["typeURI"] == "http://schemas.dmtf.org/cloud/audit/1.0/event"
    assert (event["eventType"], event["action"], event["outcome"]) == (
        "activity",
        "create",
        "success",
    )
    assert event["initiator"]["id"] == event["initiator"]["user_id"] == cloud.admin.user_id
    assert event["initiator"]["host"]["address"] and event["initiator"]["project_id"]
    assert event["initiator"]["typeURI"] == "service/security/account/user"
    assert event["target"] == {
        "id": user["id"],
        "typeURI": "data/security/account/user",
        "name": "ann",
        "domain_id": "default",
        "project_id": event["target"]["project_id"],
    }
    assert event["observer"] == {"id": "test", "typeURI": "service/security", "name": "identity"}
    assert event["reason"] == {"reasonType": "HTTP", "reasonCode": "201"}
    assert event["requestPath"] == "/identity/v3/users"
    assert event["eventTime"].endswith("+00:00") and event["id"]
    cloud.sign_in("admin", "wrong")
    failed = cloud.events("action=authenticate&outcome=denied&format=cadf")[0]
    assert failed["outcome"] == "failure" and failed["reason"]["reasonCode"] == "401"


def test_an_export_has_every_line_once(cloud: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairn.audit.api.EXPORT_PAGE", 4)
    for number in range(10):
        cloud.make("project", name=f"p{number}")
    ids = [line["id"] for line in cloud.lines("until=2100-01-01T00:00:00Z")]
    assert ids == [event.id for event in cloud.stored()]
    records = cloud.lines("until=2100-01-01T00:00:00Z&format=cadf&target_type=identity/project")
    assert [r["target"]["name"] for r in records] == [f"p{n}" for n in range(10)]


@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday", "until=12", "since=0001-01-01", "limit=0", "limit=x", "limit=1001",
        "limit=99999999999999999999", "outcome=maybe", "format=xml", "sort=up", "colour=red",
        f"user={'x' * 300}", "target=a%0Ab", "action=%F0%9F%98%80%00", "since=%E2%82%AC",
    ],
)  # fmt: skip
def test_bad_questions(cloud: Audited, query: str) -> None:
    answer = cloud.ask(query)
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.text or "NUL" in answer.text
    if not query.startswith(("limit", "sort")):
        assert cloud.ask(query, path="/export").status_code == 400


def test_two_at_once_in_a_microsecond_are_two(cloud: Audited) -> None:
    """The clock stands still; the order is that of the requests all the same."""
    projects = [cloud.make("project", name=f"p{n}")["id"] for n in range(5)]
    told: list[Any] = [e["target_id"] for e in cloud.events("action=create&sort=asc")]
    assert [id_ for id_ in told if id_ in projects] == projects
