"""What voids a token at once, whose tokens live on, and how clients hear of it; on both databases."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from cairn.core.clock import FakeClock
from cairn.core.ids import UserId
from cairn.identity import signin
from cairn.identity.methods.method import DomainName, Named, Proof, ScopeWish
from cairn.identity.tokens import Federation
from tests.identity.conftest import Cloud


@pytest.fixture
def cloud(cloud_on_both: Cloud) -> Cloud:
    return cloud_on_both


class Place:
    """Domain d with project p over q, in which are ann, who is in the group g, and bo, a bystander; project
    e, elsewhere. Roles x, which implies y."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.d = cloud.make("domain", name="d")["id"]
        self.p = cloud.make("project", name="p", domain_id=self.d)["id"]
        self.q = cloud.make("project", name="q", parent_id=self.p)["id"]
        self.e = cloud.make("project", name="e")["id"]
        self.ann, self.bo = (cloud.make("user", name=n)["id"] for n in ("ann", "bo"))
        self.g = cloud.make("group", name="g")["id"]
        cloud.call("PUT", f"/groups/{self.g}/users/{self.ann}")
        self.x, self.y = (cloud.make("role", name=n)["id"] for n in ("x", "y"))
        cloud.call("PUT", f"/roles/{self.x}/implies/{self.y}")

    def do(self, method: str, path: str, body: Any = None) -> None:
        answer = self.cloud.call(method, path.format(**vars(self)), body)
        assert answer.status_code < 300, answer.text

    def token(self, user_id: str, wish: ScopeWish, federation: Federation | None = None) -> str:
        """As a sign-in would give it, without the dear password."""
        proof = Proof(user_id=UserId(user_id), federation=federation)
        session = self.cloud.database.read_now(
            lambda tx: signin.open_session(
                tx, [proof], wish, methods=("password",), lifetime_s=3600
            )
        )
        return self.cloud.issuer.issue(session.payload)


@pytest.fixture
def place(cloud: Cloud) -> Place:
    return Place(cloud)


def in_project(project_id: str) -> ScopeWish:
    return ScopeWish(project=Named(id=project_id))


GIVE = {
    "user on project": "/projects/{p}/users/{ann}/roles/{x}",
    "group on project": "/projects/{p}/groups/{g}/roles/{x}",
    "user on domain": "/domains/{d}/users/{ann}/roles/{x}",
    "user below domain": "/OS-INHERIT/domains/{d}/users/{ann}/roles/{x}/inherited_to_projects",
    "group below domain": "/OS-INHERIT/domains/{d}/groups/{g}/roles/{x}/inherited_to_projects",
    "user below project": "/OS-INHERIT/projects/{p}/users/{ann}/roles/{x}/inherited_to_projects",
    "group below project": "/OS-INHERIT/projects/{p}/groups/{g}/roles/{x}/inherited_to_projects",
}
"""Ways in which ann comes to a role."""


def reached(place: Place, way: str) -> ScopeWish:
    if way == "user on domain":
        return ScopeWish(domain=DomainName(id=place.d))
    return in_project(place.q if "below" in way else place.p)


ENDS: dict[str, Callable[[Place, str], tuple[str, str, Any]]] = {
    "the grant is taken": lambda place, way: ("DELETE", GIVE[way], None),
    "the role is deleted": lambda place, way: ("DELETE", "/roles/{x}", None),
    "the role is renamed": lambda place, way: ("PATCH", "/roles/{x}", {"role": {"name": "z"}}),
    "it implies less": lambda place, way: ("DELETE", "/roles/{x}/implies/{y}", None),
    "the user is disabled": lambda place, way: (
        "PATCH", "/users/{ann}", {"user": {"enabled": False}},
    ),
    "the user is deleted": lambda place, way: ("DELETE", "/users/{ann}", None),
    "the password is changed": lambda place, way: (
        "PATCH", "/users/{ann}", {"user": {"password": "other"}},
    ),
    "the domain is disabled": lambda place, way: (
        "PATCH", "/domains/{d}", {"domain": {"enabled": False}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", GIVE)
@pytest.mark.parametrize("end", ENDS)
def test_a_token_dies_at_once_and_a_bystanders_lives(place: Place, end: str, way: str) -> None:
    """The bystander has another role in the same place, and ann one elsewhere."""
    cloud = place.cloud
    place.do("PUT", GIVE[way])
    for project in ("p", "q"):
        place.do("PUT", f"/projects/{{{project}}}/users/{{bo}}/roles/{cloud.role_id('reader')}")
    place.do("PUT", f"/domains/{{d}}/users/{{bo}}/roles/{cloud.role_id('reader')}")
    place.do("PUT", f"/projects/{{e}}/users/{{ann}}/roles/{cloud.role_id('reader')}")
    wish = reached(place, way)
    token, elsewhere = place.token(place.ann, wish), place.token(place.ann, in_project(place.e))
    bystander = place.token(place.bo, wish)
    assert cloud.issuer.authenticate(token).roles == {"x", "y"}
    assert all(map(cloud.is_good, (token, elsewhere, bystander)))
    place.do(*ENDS[end](place, way))
    assert not cloud.is_good(token)
    assert cloud.is_good(bystander) == (end != "the domain is disabled")
    is_about_ann = "user" in end or "password" in end
    assert cloud.is_good(elsewhere) != is_about_ann


def test_a_group_that_changes_voids_what_came_of_it(place: Place) -> None:
    cloud = place.cloud
    place.do("PUT", GIVE["group on project"])
    place.do("PUT", "/projects/{p}/users/{bo}/roles/{x}")
    for method, path in (("DELETE", "/groups/{g}/users/{ann}"), ("DELETE", "/groups/{g}")):
        token, bystander = (place.token(u, in_project(place.p)) for u in (place.ann, place.bo))
        place.do(method, path)
        assert not cloud.is_good(token)
        assert cloud.is_good(bystander)
        if path == "/groups/{g}/users/{ann}":
            place.do("PUT", path)


@pytest.mark.parametrize("way", [way for way in GIVE if "group" in way])
def test_groups_of_an_identity_provider_count_and_end_like_others(place: Place, way: str) -> None:
    cloud = place.cloud
    place.do("PUT", GIVE[way])
    wish, vouched = reached(place, way), Federation("idp", "openid", (place.g,))
    token = place.token(place.bo, wish, vouched)
    bystander = place.token(place.ann, wish)
    mine = cloud.call("GET", "/auth/projects", token=token).json["projects"]
    assert {p["id"] for p in mine} >= {place.q if "below" in way else place.p}
    place.do("DELETE", GIVE[way])
    assert not cloud.is_good(token)
    assert not cloud.is_good(bystander)  # ann's is by the same group


def test_what_an_identity_provider_says_ends_with_the_session(place: Place) -> None:
    place.do("PUT", GIVE["group on project"])
    vouched = place.token(place.bo, ScopeWish(), Federation("idp", "openid", (place.g,)))
    own = place.token(place.bo, ScopeWish())

    def projects(token: str) -> list[str]:
        found = place.cloud.call("GET", "/auth/projects", token=token).json["projects"]
        return [p["id"] for p in found]

    assert (projects(vouched), projects(own)) == ([place.p], [])


def test_a_project_that_is_disabled_or_deleted_voids_its_tokens(place: Place) -> None:
    cloud = place.cloud
    for project in ("p", "q"):
        for user in ("ann", "bo"):
            place.do("PUT", f"/projects/{{{project}}}/users/{{{user}}}/roles/{{x}}")
    for change in (("PATCH", {"project": {"enabled": False}}), ("DELETE", None)):
        tokens = [place.token(u, in_project(place.q)) for u in (place.ann, place.bo)]
        bystander = place.token(place.ann, in_project(place.p))
        place.do(change[0], "/projects/{q}", change[1])
        assert not any(map(cloud.is_good, tokens))
        assert cloud.is_good(bystander)
        if change[0] == "PATCH":
            place.do("PATCH", "/projects/{q}", {"project": {"enabled": True}})
            assert not any(map(cloud.is_good, tokens)), "enabled again, the old ones stay void"


def test_a_domain_that_is_deleted_takes_guests_of_its_groups_along(place: Place) -> None:
    """A group of the domain gives a user of another domain a role in a third place."""
    cloud = place.cloud
    group = cloud.make("group", name="theirs", domain_id=place.d)["id"]
    place.do("PUT", f"/groups/{group}/users/{{bo}}")
    place.do("PUT", f"/projects/{{e}}/groups/{group}/roles/{{x}}")
    place.do("PUT", "/projects/{e}/users/{ann}/roles/{x}")
    guest, bystander = (place.token(u, in_project(place.e)) for u in (place.bo, place.ann))
    place.do("PATCH", "/domains/{d}", {"domain": {"enabled": False}})
    assert cloud.is_good(guest)
    place.do("DELETE", "/domains/{d}")
    assert not cloud.is_good(guest)
    assert cloud.is_good(bystander)


def test_a_role_of_a_domain_that_implies_less_voids_who_hold_it_only(place: Place) -> None:
    cloud = place.cloud
    own = cloud.make("role", name="own", domain_id=place.d)["id"]
    place.do("PUT", f"/roles/{own}/implies/{{x}}")
    path = f"/OS-INHERIT/domains/{{d}}/groups/{{g}}/roles/{own}/inherited_to_projects"
    place.do("PUT", path)
    place.do("PUT", "/projects/{p}/users/{bo}/roles/{x}")
    token, bystander = (place.token(u, in_project(place.p)) for u in (place.ann, place.bo))
    assert cloud.issuer.authenticate(token).roles == {"x", "y"}
    place.do("DELETE", f"/roles/{own}/implies/{{x}}")
    assert not cloud.is_good(token)
    assert cloud.is_good(bystander)
    place.do("PUT", f"/roles/{own}/implies/{{x}}")
    again = place.token(place.ann, in_project(place.p))
    place.do("DELETE", f"/roles/{own}")
    assert not cloud.is_good(again)
    assert cloud.is_good(bystander)


def test_a_grant_below_very_many_voids_whole_users(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cairn.identity.grants.SUBJECTS_MAX", 0)
    cloud = place.cloud
    place.do("PUT", GIVE["user below project"])
    place.do("PUT", "/projects/{q}/users/{bo}/roles/{x}")
    token, bystander = (place.token(u, in_project(place.q)) for u in (place.ann, place.bo))
    place.do("DELETE", GIVE["user below project"])
    assert not cloud.is_good(token)
    assert cloud.is_good(bystander)


# Events


def events(cloud: Cloud, query: str = "", **options: Any) -> list[dict[str, Any]]:
    answer = cloud.call("GET", f"/OS-REVOKE/events{query}", **options)
    assert answer.status_code == 200, answer.text
    assert set(answer.json["links"]) == {"self", "next", "previous"}
    found: list[dict[str, Any]] = answer.json["events"]
    return found


def about(event: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in event.items() if k not in ("issued_before", "revoked_at")}


def test_each_revocation_is_an_event(place: Place) -> None:
    cloud = place.cloud
    place.do("PUT", "/projects/{p}/users/{ann}/roles/{x}")
    place.do("PUT", "/domains/{d}/users/{ann}/roles/{x}")
    place.do("PUT", "/system/users/{ann}/roles/{x}")
    place.do("PUT", GIVE["user below domain"])
    token = place.token(place.ann, in_project(place.p))
    audit_id = cloud.issuer.payload(token).audit_ids[0]
    assert events(cloud) == []
    ended = cloud.call("DELETE", "/auth/tokens", headers={"X-Subject-Token": token})
    assert ended.status_code == 204
    place.do("DELETE", "/projects/{p}/users/{ann}/roles/{x}")
    place.do("DELETE", "/domains/{d}/users/{ann}/roles/{x}")
    place.do("DELETE", "/system/users/{ann}/roles/{x}")
    place.do("DELETE", GIVE["user below domain"])
    place.do("DELETE", "/users/{bo}")
    place.do("DELETE", "/roles/{y}")
    place.do("DELETE", "/projects/{e}")
    place.do("PATCH", "/domains/{d}", {"domain": {"enabled": False}})
    found = events(cloud)
    assert [about(event) for event in found] == [
        {"audit_id": audit_id},
        {"user_id": place.ann, "project_id": place.p},
        {"user_id": place.ann, "domain_scope_id": place.d},
        {"user_id": place.ann, "system_scope": "all"},
        {"user_id": place.ann, "domain_id": place.d},
        {"user_id": place.bo},
        {"role_id": place.y},
        {"project_id": place.e},
        {"domain_id": place.d},
    ]
    for event in found:
        assert event["revoked_at"] == event["issued_before"]
        assert event["revoked_at"].endswith("Z")


def test_events_since_a_moment(place: Place, clock: FakeClock) -> None:
    cloud = place.cloud
    place.do("DELETE", "/users/{bo}")
    clock.advance(10)
    between = clock.now() - timedelta(seconds=5)
    place.do("DELETE", "/roles/{y}")
    for text in (
        between.strftime("%Y-%m-%dT%H:%M:%SZ"),
        between.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        between.strftime("%Y-%m-%dT%H:%M:%S%%2B00:00"),
        between.strftime("%Y-%m-%dT%H:%M:%S+00:00"),
        between.strftime("%Y-%m-%dT%H:%M:%S"),
    ):
        assert [about(e) for e in events(cloud, f"?since={text}")] == [{"role_id": place.y}], text
    assert len(events(cloud, "?since=2001-01-01")) == 2
    later = (clock.now() + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert events(cloud, f"?since={later}") == []
    for wrong in (
        "yesterday",
        "2026-13-01T00:00:00Z",
        "9999999",
        "0001-01-01T00:00:00%2B14:00",
        "x" * 99,
    ):
        answer = cloud.call("GET", f"/OS-REVOKE/events?since={wrong}")
        assert answer.status_code == 400, wrong
        assert "since" in answer.json["error"]["message"]


def test_events_are_for_administrators_and_services(place: Place) -> None:
    cloud = place.cloud
    place.do("PUT", f"/projects/{{p}}/users/{{ann}}/roles/{cloud.role_id('manager')}")
    place.do("PUT", f"/projects/{{p}}/users/{{bo}}/roles/{cloud.role_id('service')}")
    manager, service = (place.token(u, in_project(place.p)) for u in (place.ann, place.bo))
    assert cloud.call("GET", "/OS-REVOKE/events", token=manager).status_code == 403
    assert events(cloud, token=service) == []
