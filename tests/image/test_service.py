"""Verbs and store on both databases: who sees what, how lists page, what an upload may do."""

import itertools
from datetime import timedelta
from typing import Any

import pytest

from cairn.core.clock import FakeClock
from cairn.core.errors import Conflict, Denied, Invalid, NotFound, OverQuota
from cairn.core.ids import ImageId, ProjectId
from cairn.db.engine import Database
from cairn.identity import service as identity
from cairn.image import service
from cairn.image.attributes import read_patch, read_wish
from cairn.image.records import (
    IMAGE_LIFE,
    Content,
    Image,
    ImageStatus,
    MemberStatus,
    Upload,
    Visibility,
)
from cairn.image.store import Filter, Order
from tests.callers import CALLERS, P1

ALICE, BOB, ADMIN = CALLERS["alice"], CALLERS["bob"], CALLERS["admin"]
P2 = ProjectId(str(BOB.project_id))


def made(db: Database, who: Any = ALICE, **attributes: Any) -> Image:
    body = {"disk_format": "raw", "container_format": "bare", **attributes}
    return db.write_now(lambda tx: service.create(tx, who, read_wish(body)))


def content(size_bytes: int = 1024, path: str = "/images/x") -> Content:
    return Content(
        path=path, size_bytes=size_bytes, virtual_bytes=size_bytes, md5="m", sha256="s", sha512="h"
    )


def uploaded(db: Database, image: Image, who: Any = ALICE, size_bytes: int = 1024) -> Image:
    upload = db.write_now(lambda tx: service.begin_upload(tx, who, image.id))
    return db.write_now(lambda tx: service.finish_upload(tx, upload, content(size_bytes)))


def listed(db: Database, who: Any, order: Order | None = None, **options: Any) -> list[str]:
    limit, marker = options.pop("limit", 100), options.pop("marker", None)
    found = db.read_now(
        lambda tx: service.listed(
            tx, who, Filter(**options), order or Order(), limit=limit, marker=marker
        )
    )
    return [image.id for image in found]


def seen(db: Database, who: Any, image: Image) -> bool:
    try:
        db.read_now(lambda tx: service.get(tx, who, image.id))
    except NotFound:
        return False
    return True


def test_image_comes_back_as_it_was_made(database: Database) -> None:
    image = made(database, name="a", tags=["y", "x"], os_distro="debian", min_disk=2)
    again = database.read_now(lambda tx: service.get(tx, ALICE, image.id))
    assert again == image
    assert again.tags == ("x", "y")
    assert again.properties == {"os_distro": "debian"}


def test_taken_id_is_a_conflict(database: Database) -> None:
    image = made(database)
    with pytest.raises(Conflict, match="already exists"):
        made(database, id=image.id)


@pytest.mark.parametrize(
    ("visibility", "shown", "in_list"),
    [
        ("private", False, False),
        ("shared", False, False),
        ("community", True, False),
        ("public", True, True),
    ],
)
def test_what_another_project_sees(
    database: Database, visibility: str, shown: bool, in_list: bool
) -> None:
    image = made(database, visibility=visibility)
    assert seen(database, BOB, image) is shown
    assert (listed(database, BOB) == [image.id]) is in_list
    assert listed(database, ALICE) == listed(database, ADMIN) == [image.id]


def test_community_is_listed_when_asked_for(database: Database) -> None:
    image = made(database, visibility="community")
    assert listed(database, BOB, visibility="community") == [image.id]
    assert listed(database, BOB, visibility="all") == [image.id]


def test_shared_image_is_listed_after_the_member_accepted(database: Database) -> None:
    image = made(database)
    database.write_now(lambda tx: service.add_member(tx, ALICE, image.id, P2))
    assert seen(database, BOB, image)
    assert listed(database, BOB) == []
    assert listed(database, BOB, visibility="shared", member_status="pending") == [image.id]
    with pytest.raises(Denied):
        database.write_now(
            lambda tx: service.set_member_status(tx, ALICE, image.id, P2, MemberStatus.ACCEPTED)
        )
    database.write_now(
        lambda tx: service.set_member_status(tx, BOB, image.id, P2, MemberStatus.ACCEPTED)
    )
    assert listed(database, BOB) == [image.id]
    database.write_now(lambda tx: service.remove_member(tx, ALICE, image.id, P2))
    assert not seen(database, BOB, image)


def test_member_may_use_but_not_change(database: Database) -> None:
    image = made(database)
    database.write_now(lambda tx: service.add_member(tx, ALICE, image.id, P2))
    with pytest.raises(Denied):
        database.write_now(lambda tx: service.delete(tx, BOB, image.id))
    with pytest.raises(Denied):
        database.write_now(lambda tx: service.deactivate(tx, BOB, image.id))
    with pytest.raises(NotFound):
        other = made(database)
        database.write_now(lambda tx: service.delete(tx, BOB, other.id))


def test_upload_makes_the_image_active_and_bootable(database: Database) -> None:
    image = uploaded(database, made(database), size_bytes=5)
    assert image.status is ImageStatus.ACTIVE
    found = database.read_now(lambda tx: service.image_for_boot(tx, ALICE, image.id))
    spec = database.read_now(lambda tx: service.spec_of(tx, image.id))
    assert found.virtual_bytes == 5
    assert spec is not None
    assert (spec.format, spec.size_bytes, spec.path_hint) == ("raw", 5, "/images/x")


def test_only_active_visible_disks_boot(database: Database) -> None:
    image = made(database)
    with pytest.raises(Invalid, match="not active"):
        database.read_now(lambda tx: service.image_for_boot(tx, ALICE, image.id))
    with pytest.raises(NotFound):
        database.read_now(lambda tx: service.image_for_boot(tx, BOB, image.id))
    archive = uploaded(database, made(database, container_format="ova"))
    assert database.read_now(lambda tx: service.spec_of(tx, archive.id)) is None
    with pytest.raises(Invalid, match="container ova"):
        database.read_now(lambda tx: service.image_for_boot(tx, ALICE, archive.id))
    assert database.read_now(lambda tx: service.spec_of(tx, image.id)) is None
    assert database.read_now(lambda tx: service.spec_of(tx, ImageId("none"))) is None


def test_second_upload_is_refused_while_the_first_runs(database: Database) -> None:
    image = made(database)
    database.write_now(lambda tx: service.begin_upload(tx, ALICE, image.id))
    with pytest.raises(Conflict):
        database.write_now(lambda tx: service.begin_upload(tx, ALICE, image.id))


def test_upload_that_lost_its_right_cannot_finish(database: Database) -> None:
    image = made(database)
    upload = database.write_now(lambda tx: service.begin_upload(tx, ALICE, image.id))
    assert database.write_now(lambda tx: service.fail_upload(tx, upload)) is True
    with pytest.raises(NotFound):
        database.write_now(lambda tx: service.renew_upload(tx, upload))
    with pytest.raises(NotFound):
        database.write_now(lambda tx: service.finish_upload(tx, upload, content()))
    assert uploaded(database, image).status is ImageStatus.ACTIVE


def test_file_of_an_upload_given_up_as_it_finished_stays(database: Database) -> None:
    image = made(database)
    upload = database.write_now(lambda tx: service.begin_upload(tx, ALICE, image.id))
    path = f"/images/{upload.file_name}"
    database.write_now(lambda tx: service.finish_upload(tx, upload, content(path=path)))
    assert database.write_now(lambda tx: service.fail_upload(tx, upload)) is False


def test_upload_needs_formats(database: Database) -> None:
    image = made(database, disk_format=None)
    with pytest.raises(Invalid, match="disk_format"):
        database.write_now(lambda tx: service.begin_upload(tx, ALICE, image.id))


def test_limits_of_a_project_hold(database: Database) -> None:
    database.write_now(lambda tx: identity.set_limit(tx, ProjectId(P1), "image_count_total", 2))
    database.write_now(lambda tx: identity.set_limit(tx, ProjectId(P1), "image_size_total", 1))
    uploaded(database, made(database), size_bytes=1 << 20)
    second = made(database)
    with pytest.raises(OverQuota, match="image_count_total"):
        made(database)
    upload: Upload = database.write_now(lambda tx: service.begin_upload(tx, ALICE, second.id))
    assert upload.bytes_max == 0
    with pytest.raises(OverQuota, match="image_size_total"):
        database.write_now(lambda tx: service.finish_upload(tx, upload, content(1)))


def test_pages_hold_every_image_once_in_any_order(database: Database, clock: FakeClock) -> None:
    names = ["b", None, "a", "b", "c"]
    for number, name in enumerate(names):
        image = made(database, name=name)
        clock.advance(number % 2)
        if name == "b":
            uploaded(database, image, size_bytes=number + 1)
    everything = set(listed(database, ALICE))
    for keys in (["name"], ["size", "name"], ["created_at"], ["status", "size"]):
        for directions in itertools.product((True, False), repeat=len(keys)):
            order = Order(keys=(*zip(keys, directions, strict=True), ("id", True)))
            whole = listed(database, ALICE, order)
            paged: list[str] = []
            while page := listed(
                database, ALICE, order, limit=2, marker=ImageId(paged[-1]) if paged else None
            ):
                paged += page
            assert paged == whole
            assert set(paged) == everything


def test_foreign_marker_is_invalid(database: Database) -> None:
    image = made(database)
    with pytest.raises(Invalid, match="marker"):
        listed(database, BOB, marker=image.id)


def test_filters(database: Database, clock: FakeClock) -> None:
    clock.advance(10)
    one = made(database, name="one", tags=["t", "u"], os_distro="debian", min_ram=5)
    clock.advance(10)
    two = made(database, name="two", tags=["t"], protected=True)
    hidden = made(database, name="three", os_hidden=True)
    uploaded(database, two, size_bytes=100)
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({}, [two.id, one.id]),
        ({"names": ("one", "three")}, [one.id]),
        ({"tags": ("t",)}, [two.id, one.id]),
        ({"tags": ("t", "u")}, [one.id]),
        ({"properties": (("os_distro", "debian"),)}, [one.id]),
        ({"properties": (("os_distro", "arch"),)}, []),
        ({"is_hidden": True}, [hidden.id]),
        ({"is_protected": True}, [two.id]),
        ({"statuses": ("active",)}, [two.id]),
        ({"size_bytes_min": 100}, [two.id]),
        ({"size_bytes_max": 99}, []),
        ({"min_ram_mib": 5}, [one.id]),
        ({"ids": (one.id,)}, [one.id]),
        ({"times": (("created_at", "gt", one.created_at),)}, [two.id]),
        ({"times": (("created_at", "lte", one.created_at),)}, [one.id]),
        ({"visibility": "public"}, []),
        ({"visibility": Visibility.SHARED}, [two.id, one.id]),
    ]
    for filters, expected in cases:
        assert listed(database, ALICE, **filters) == expected, filters


def test_patch_is_applied_whole_or_not_at_all(database: Database) -> None:
    image = made(database, name="a", colour="red")
    patch = read_patch([
        {"op": "replace", "path": "/name", "value": "b"},
        {"op": "replace", "path": "/size", "value": 3},
    ])  # fmt: skip
    with pytest.raises(Denied):
        database.write_now(lambda tx: service.update(tx, ALICE, image.id, patch))
    assert database.read_now(lambda tx: service.get(tx, ALICE, image.id)) == image
    patch = read_patch([{"remove": "/colour"}, {"add": "/shape", "value": "round"}])
    after = database.write_now(lambda tx: service.update(tx, ALICE, image.id, patch))
    assert database.read_now(lambda tx: service.get(tx, ALICE, image.id)) == after
    assert after.properties == {"shape": "round"}


def test_deleting_takes_tags_properties_and_members_along(database: Database) -> None:
    image = made(database, tags=["t"], colour="red")
    database.write_now(lambda tx: service.add_member(tx, ALICE, image.id, P2))
    database.write_now(lambda tx: service.delete(tx, ALICE, image.id))
    again = made(database, id=image.id)
    assert (again.tags, again.properties) == ((), {})
    assert database.read_now(lambda tx: service.members(tx, ALICE, image.id)) == []


def test_protected_image_stays(database: Database) -> None:
    image = made(database, protected=True)
    with pytest.raises(Denied, match="protected"):
        database.write_now(lambda tx: service.delete(tx, ALICE, image.id))


@pytest.mark.parametrize("state", list(ImageStatus))
@pytest.mark.parametrize(
    "event",
    ["upload", "saved", "failed", "stage", "imported", "deactivate", "reactivate"],
)
def test_life_of_an_image(state: ImageStatus, event: str) -> None:
    if (state, event) in IMAGE_LIFE.table:
        assert IMAGE_LIFE.move(state, event) in ImageStatus
    else:
        with pytest.raises(Conflict):
            IMAGE_LIFE.move(state, event)


def test_lease_of_an_upload_is_renewed(database: Database, clock: FakeClock) -> None:
    image = made(database)
    upload = database.write_now(lambda tx: service.begin_upload(tx, ALICE, image.id))
    clock.advance(50)
    database.write_now(lambda tx: service.renew_upload(tx, upload))
    found = database.read_now(lambda tx: service.get(tx, ALICE, image.id))
    assert found.upload_until == clock.now() + timedelta(seconds=60)
