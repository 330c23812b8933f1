"""What a pool of several hosts promises: one content, and doors that an old wish does not open."""

import pytest

from cairn.core.errors import Conflict, Unavailable
from cairn.core.ids import NodeId, VolumeId
from cairn.drivers.volumes.fake import FakeVolumes, SharedPool
from cairn.drivers.volumes.files import FilesOptions, FilesVolumes
from cairn.wire.spec import VolumeSpec

A, B = NodeId("a"), NodeId("b")
V1 = VolumeId("10000000-0000-4000-8000-000000000001")
SPEC = VolumeSpec(id=V1, size_gib=1)


@pytest.fixture
def doors() -> tuple[FakeVolumes, FakeVolumes]:
    """Two hosts' doors to one pool."""
    pool = SharedPool()
    return FakeVolumes(shared=pool, node_id=A), FakeVolumes(shared=pool, node_id=B)


async def test_what_one_host_writes_the_other_reads(
    doors: tuple[FakeVolumes, FakeVolumes],
) -> None:
    a, b = doors
    await a.create(SPEC)
    a.write(V1, 3, 42)
    assert a.facts().is_shared and (await a.open(V1)).is_shared
    assert b.read(V1, 3) == 42
    await b.create(SPEC)  # Repeated elsewhere it is no second volume.
    assert b.read(V1, 3) == 42


async def test_who_is_shut_out_writes_nothing(doors: tuple[FakeVolumes, FakeVolumes]) -> None:
    a, b = doors
    await a.create(SPEC)
    await b.shut_out(A, 1)
    await b.shut_out(A, 1)
    with pytest.raises(Unavailable):
        a.write(V1, 1, 1)
    for verb in (a.create(SPEC), a.open(V1), a.remove(V1), a.extend(V1, 2), a.let_in(A, 2)):
        with pytest.raises(Unavailable):
            await verb
    volumes, _ = await a.look()
    assert [v.id for v in volumes] == [V1]
    b.write(V1, 1, 7)
    await b.let_in(A, 2)
    assert a.read(V1, 1) == 7
    a.write(V1, 1, 8)


async def test_an_old_wish_opens_no_door(doors: tuple[FakeVolumes, FakeVolumes]) -> None:
    a, b = doors
    await b.shut_out(A, 1)
    await b.let_in(A, 2)
    await b.shut_out(A, 3)
    with pytest.raises(Conflict):
        await b.let_in(A, 2)
    with pytest.raises(Conflict):
        await b.shut_out(A, 1)
    with pytest.raises(Unavailable):
        await a.create(SPEC)


async def test_nobody_can_be_shut_out_of_a_pool_of_one_host(tmp_path: object) -> None:
    files = FilesVolumes(FilesOptions(pool_dir=tmp_path))  # type: ignore[arg-type]
    for own in (FakeVolumes(), files):
        for verb in (own.shut_out(A, 1), own.let_in(A, 2)):
            with pytest.raises(Unavailable, match="belongs to one host"):
                await verb
