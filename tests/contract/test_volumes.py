"""One suite for every engine that keeps disks: what `contracts.Volumes` promises, held by each.

The engines: the fake in both its manners, files with qcow2 layers, and files with reflink on a small XFS
that the test makes in a loop device (needs root, marker `host`). Content is checked for real: written
and read through the very options that QEMU would get.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cairn.core.errors import Conflict, Invalid, NoCapacity, NotFound, Unavailable
from cairn.core.ids import ImageId, SnapshotId, VolumeId
from cairn.drivers.contracts import Volumes
from cairn.drivers.volumes.fake import FakeVolumes
from cairn.drivers.volumes.files import FilesOptions, FilesVolumes
from cairn.wire.spec import ImageSpec, VolumeSpec

T = TypeVar("T")
GIB = 1 << 30
IMAGE = ImageId("0d4bb0a4-3b9c-4d52-8b5c-000000000001")
V1, V2, V3 = (VolumeId(f"10000000-0000-4000-8000-00000000000{n}") for n in (1, 2, 3))
S1, S2 = (SnapshotId(f"20000000-0000-4000-8000-00000000000{n}") for n in (1, 2))


class Bench:
    """An engine with hands: writes and reads one byte value per 4 KiB block, as a guest would."""

    def __init__(self, driver: Volumes, directory: Path) -> None:
        self.driver = driver
        self.directory = directory

    def image(self, *, format: str = "raw", mib: int = 64) -> tuple[ImageSpec, Path]:
        """An image whose block 1 holds the value 77."""
        path = self.directory / f"source.{format}"
        qemu("qemu-img", "create", "-q", "-f", format, str(path), f"{mib}M")
        qemu("qemu-io", "-f", format, "-c", "write -P 77 4096 4096", str(path))
        spec = ImageSpec(
            id=IMAGE,
            format=format,
            size_bytes=path.stat().st_size,
            virtual_bytes=mib << 20,
            sha256="",
        )
        return spec, path

    async def import_image(self, *, format: str = "raw", mib: int = 64) -> None:
        spec, path = self.image(format=format, mib=mib)
        await self.driver.import_image(spec, path)
        if isinstance(self.driver, FakeVolumes):
            self.driver.images[IMAGE].blocks[1] = 77

    async def write(self, volume_id: VolumeId, block: int, value: int) -> None:
        if isinstance(self.driver, FakeVolumes):
            self.driver.write(volume_id, block, value)
        else:
            options = (await self.driver.open(volume_id)).options
            qemu_io(options, f"write -P {value} {block * 4096} 4096")

    async def read(self, volume_id: VolumeId, block: int) -> int:
        if isinstance(self.driver, FakeVolumes):
            return self.driver.read(volume_id, block)
        options = (await self.driver.open(volume_id)).options
        shown = qemu_io(options, f"read -v {block * 4096} 512")
        return int(shown.split()[1], 16)


def qemu_io(options: dict[str, object], command: str) -> str:
    shown = qemu("qemu-io", "-c", command, "json:" + json.dumps(options))
    assert "failed" not in shown.lower(), shown
    return shown


def spawn(*words: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def qemu(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    base = tmp_path_factory.mktemp("xfs")
    disk = base / "disk"
    with disk.open("wb") as file:
        file.truncate(320 << 20)  # mkfs.xfs wants 300 MiB
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", str(disk)], check=True)
    with mounted(base / "mount", "-o", "loop", str(disk)) as mount:
        yield mount


@contextmanager
def mounted(mount: Path, *words: str) -> Iterator[Path]:
    mount.mkdir()
    done = subprocess.run(["mount", *words, str(mount)], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount: {done.stderr.decode()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


ENGINES = [
    "fake-reflink",
    "fake-qcow2",
    "files-qcow2",
    pytest.param("files-reflink", marks=pytest.mark.host),
]


@pytest.fixture(params=ENGINES)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    kind, engine = request.param.split("-")
    if kind == "fake":
        made = Bench(FakeVolumes(engine=engine), tmp_path)
    else:
        made = Bench(files_driver(request, tmp_path, engine), tmp_path)
    await made.driver.start()
    assert made.driver.facts().engine == engine
    yield made
    await close(made)


def files_driver(request: pytest.FixtureRequest, tmp_path: Path, engine: str) -> FilesVolumes:
    pool = tmp_path / "pool"
    if engine == "reflink":
        pool = request.getfixturevalue("xfs") / tmp_path.name
    return FilesVolumes(FilesOptions(pool_dir=pool))


async def volumes_of(driver: Volumes) -> dict[VolumeId, tuple[int, tuple[SnapshotId, ...]]]:
    views, _images = await driver.look()
    return {view.id: (view.size_gib, view.snapshots) for view in views}


# --- the promises ------------------------------------------------------------------------------------


async def test_new_pool_shows_nothing(bench: Bench) -> None:
    assert await bench.driver.look() == ([], [])
    facts = bench.driver.facts()
    assert 0 <= facts.free_gib <= facts.total_gib


async def test_empty_volume_reads_zeros_and_keeps_what_is_written(bench: Bench) -> None:
    await bench.driver.create(VolumeSpec(id=V1, size_gib=2))
    assert await bench.read(V1, 5) == 0
    await bench.write(V1, 5, 9)
    assert await bench.read(V1, 5) == 9
    assert await volumes_of(bench.driver) == {V1: (2, ())}


@pytest.mark.parametrize("format", ["raw", "qcow2"])
async def test_clones_of_an_image_share_its_content_and_not_their_writes(
    bench: Bench, format: str
) -> None:
    await bench.import_image(format=format)
    for volume_id in (V1, V2):
        await bench.driver.create(VolumeSpec(id=volume_id, size_gib=1, from_image=IMAGE))
    await bench.write(V1, 1, 11)
    assert await bench.read(V1, 1) == 11
    assert await bench.read(V2, 1) == 77
    assert (await bench.driver.look())[1] == [IMAGE]


async def test_clone_grows_to_the_size_asked_for_and_the_rest_is_zeros(bench: Bench) -> None:
    await bench.import_image()
    await bench.driver.create(VolumeSpec(id=V1, size_gib=3, from_image=IMAGE))
    assert await bench.read(V1, 3 * GIB // 4096 - 1) == 0
    assert (await volumes_of(bench.driver))[V1] == (3, ())


async def test_a_volume_that_is_received_is_made_empty_whatever_it_once_came_from(
    bench: Bench,
) -> None:
    spec = VolumeSpec(id=V1, size_gib=2, from_image=IMAGE, is_received=True)
    for _ in range(2):
        await bench.driver.create(spec)
    assert (await volumes_of(bench.driver))[V1] == (2, ())
    assert await bench.read(V1, 1) == 0
    await bench.write(V1, 1, 5)
    await bench.driver.snapshot(V1, S1)  # It is an ordinary one from then on.
    assert await bench.read(V1, 1) == 5
    assert not bench.driver.facts().is_shared


async def test_clones_live_on_when_their_image_is_gone(bench: Bench) -> None:
    await bench.import_image()
    await bench.driver.create(VolumeSpec(id=V1, size_gib=1, from_image=IMAGE))
    await bench.driver.remove_image(IMAGE)
    assert (await bench.driver.look())[1] == []
    assert await bench.read(V1, 1) == 77
    with pytest.raises(NotFound):
        await bench.driver.create(VolumeSpec(id=V2, size_gib=1, from_image=IMAGE))


async def test_snapshot_keeps_the_moment_and_its_clones_outlive_volume_and_snapshot(
    bench: Bench,
) -> None:
    await bench.driver.create(VolumeSpec(id=V1, size_gib=1))
    await bench.write(V1, 0, 1)
    await bench.driver.snapshot(V1, S1)
    await bench.write(V1, 0, 2)
    assert await volumes_of(bench.driver) == {V1: (1, (S1,))}
    await bench.driver.create(VolumeSpec(id=V2, size_gib=2, from_snapshot=S1))
    assert [await bench.read(V1, 0), await bench.read(V2, 0)] == [2, 1]
    await bench.driver.remove_snapshot(V1, S1)
    await bench.driver.remove(V1)
    assert await bench.read(V2, 0) == 1
    assert await volumes_of(bench.driver) == {V2: (2, ())}


async def test_volume_made_from_a_volume_is_its_own(bench: Bench) -> None:
    await bench.driver.create(VolumeSpec(id=V1, size_gib=1))
    await bench.write(V1, 0, 1)
    await bench.driver.create(VolumeSpec(id=V2, size_gib=1, from_volume=V1))
    await bench.write(V1, 0, 2)
    await bench.write(V2, 1, 3)
    assert [await bench.read(V1, 0), await bench.read(V1, 1)] == [2, 0]
    assert [await bench.read(V2, 0), await bench.read(V2, 1)] == [1, 3]


async def test_extend_grows_and_never_shrinks(bench: Bench) -> None:
    await bench.driver.create(VolumeSpec(id=V1, size_gib=1))
    await bench.write(V1, 7, 7)
    await bench.driver.extend(V1, 4)
    await bench.driver.extend(V1, 2)
    assert await volumes_of(bench.driver) == {V1: (4, ())}
    assert await bench.read(V1, 7) == 7
    assert await bench.read(V1, 4 * GIB // 4096 - 1) == 0


async def test_live_snapshot_is_begun_and_finished_any_number_of_times(bench: Bench) -> None:
    await bench.driver.create(VolumeSpec(id=V1, size_gib=1))
    await bench.write(V1, 0, 1)
    first = await bench.driver.begin_live_snapshot(V1, S1)
    assert await bench.driver.begin_live_snapshot(V1, S1) == first
    await bench.driver.finish_live_snapshot(V1, S1)
    await bench.driver.finish_live_snapshot(V1, S1)
    assert await bench.driver.begin_live_snapshot(V1, S1) is None
    await bench.write(V1, 0, 2)
    await bench.driver.create(VolumeSpec(id=V2, size_gib=1, from_snapshot=S1))
    assert [await bench.read(V1, 0), await bench.read(V2, 0)] == [2, 1]


async def test_every_verb_may_be_repeated(bench: Bench) -> None:
    await bench.import_image()
    await bench.import_image()
    for _ in range(2):
        await bench.driver.create(VolumeSpec(id=V1, size_gib=1, from_image=IMAGE))
        await bench.driver.snapshot(V1, S1)
    for _ in range(2):
        await bench.driver.remove_snapshot(V1, S1)
    for _ in range(2):
        await bench.driver.remove(V1)
        await bench.driver.remove_snapshot(V1, S1)
        await bench.driver.remove_image(IMAGE)
    assert await bench.driver.look() == ([], [])


async def test_what_is_absent_is_not_found(bench: Bench) -> None:
    driver = bench.driver
    with pytest.raises(NotFound):
        await driver.open(V1)
    with pytest.raises(NotFound):
        await driver.extend(V1, 2)
    with pytest.raises(NotFound):
        await driver.snapshot(V1, S1)
    with pytest.raises(NotFound):
        await driver.begin_live_snapshot(V1, S1)
    with pytest.raises(NotFound):
        await driver.create(VolumeSpec(id=V2, size_gib=1, from_volume=V1))
    await driver.create(VolumeSpec(id=V1, size_gib=1))
    with pytest.raises(NotFound):
        await driver.finish_live_snapshot(V1, S1)


async def test_source_larger_than_the_volume_is_invalid_and_leaves_nothing(bench: Bench) -> None:
    await bench.import_image(mib=2048)
    with pytest.raises(Invalid, match="smaller than its source"):
        await bench.driver.create(VolumeSpec(id=V1, size_gib=1, from_image=IMAGE))
    assert await volumes_of(bench.driver) == {}


async def test_two_sources_are_invalid(bench: Bench) -> None:
    with pytest.raises(Invalid, match="more than one source"):
        await bench.driver.create(VolumeSpec(id=V1, size_gib=1, from_image=IMAGE, from_snapshot=S1))


# --- only the fake -----------------------------------------------------------------------------------


async def test_fake_fails_on_order_once_and_when_full() -> None:
    fake = FakeVolumes(capacity_gib=2)
    fake.fail_next("create", Unavailable("the disk sleeps"))
    with pytest.raises(Unavailable, match="sleeps"):
        await fake.create(VolumeSpec(id=V1, size_gib=2))
    await fake.create(VolumeSpec(id=V1, size_gib=2))
    with pytest.raises(NoCapacity):
        await fake.create(VolumeSpec(id=V2, size_gib=1))


# --- only files --------------------------------------------------------------------------------------


@pytest.fixture(params=["qcow2", pytest.param("reflink", marks=pytest.mark.host)])
async def files(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(files_driver(request, tmp_path, request.param), tmp_path)
    await made.driver.start()
    yield made
    await close(made)


def pool_of(bench: Bench) -> Path:
    assert isinstance(bench.driver, FilesVolumes)
    return bench.driver._options.pool_dir


async def close(bench: Bench) -> None:
    if isinstance(bench.driver, FilesVolumes):
        await bench.driver.close()


async def reopen(bench: Bench) -> None:
    """The same pool under a new driver, as after the agent's restart."""
    await close(bench)
    bench.driver = FilesVolumes(FilesOptions(pool_dir=pool_of(bench)))
    await bench.driver.start()


async def test_volumes_survive_a_restart_and_leftovers_do_not(files: Bench) -> None:
    await files.driver.create(VolumeSpec(id=V1, size_gib=1))
    await files.write(V1, 0, 5)
    stray = pool_of(files) / "layers" / f"volume-{V2}.99.raw"
    stray.write_bytes(b"half made")
    await reopen(files)
    assert not stray.exists()
    assert await files.read(V1, 0) == 5


async def test_pool_belongs_to_one_process(files: Bench) -> None:
    with pytest.raises(Conflict, match="another process"):
        await FilesVolumes(FilesOptions(pool_dir=pool_of(files))).start()


async def test_files_without_a_ledger_are_not_touched(files: Bench) -> None:
    await files.driver.create(VolumeSpec(id=V1, size_gib=1))
    (pool_of(files) / "ledger.json").unlink()
    with pytest.raises(Unavailable, match="lost its ledger"):
        await reopen(files)
    assert any((pool_of(files) / "layers").iterdir())


async def test_image_that_is_not_what_it_says_is_refused_and_leaves_nothing(files: Bench) -> None:
    spec, path = files.image(format="qcow2")
    with pytest.raises(Invalid, match="its content is qcow2"):
        raw = ImageSpec(
            id=IMAGE, format="raw", size_bytes=spec.size_bytes, virtual_bytes=0, sha256=""
        )
        await files.driver.import_image(raw, path)
    assert (await files.driver.look())[1] == []
    assert list((pool_of(files) / "layers").iterdir()) == []


async def test_layers_are_described_to_qemu_in_full(files: Bench) -> None:
    await files.import_image()
    await files.driver.create(VolumeSpec(id=V1, size_gib=1, from_image=IMAGE))
    await files.driver.snapshot(V1, S1)
    node = await files.driver.open(V1)
    assert len(node.owned_paths) == 1
    if files.driver.facts().engine == "reflink":
        assert node.options["driver"] == "raw"
        assert node.read_paths == ()
        return
    assert len(node.read_paths) == 2
    depth: object = node.options
    formats = []
    while isinstance(depth, dict):
        formats.append(depth["driver"])
        depth = depth.get("backing")
    assert formats == ["qcow2", "qcow2", "raw"]


async def test_files_go_when_their_last_user_goes(files: Bench) -> None:
    await files.import_image()
    await files.driver.create(VolumeSpec(id=V1, size_gib=1, from_image=IMAGE))
    await files.driver.snapshot(V1, S1)
    await files.driver.create(VolumeSpec(id=V2, size_gib=1, from_snapshot=S1))
    await files.driver.remove_image(IMAGE)
    await files.driver.remove(V1)
    await files.driver.remove(V2)
    assert list((pool_of(files) / "layers").iterdir()) == []


async def test_volume_under_a_guest_is_not_frozen_under_it(tmp_path: Path) -> None:
    driver = FilesVolumes(FilesOptions(pool_dir=tmp_path / "pool", engine="qcow2"))
    await driver.start()
    await driver.create(VolumeSpec(id=V1, size_gib=1))
    node = await driver.open(V1)
    guest = spawn("qemu-io", "json:" + json.dumps(node.options))
    try:
        assert guest.stdin and guest.stdout
        guest.stdin.write(b"length\n")
        guest.stdin.flush()
        guest.stdout.readline()  # it answers, so it has the file open
        with pytest.raises(Conflict, match="in use"):
            await driver.snapshot(V1, S1)
        with pytest.raises(Conflict, match="in use"):
            await driver.extend(V1, 2)
        assert await driver.begin_live_snapshot(V1, S1) is not None
    finally:
        guest.kill()
        guest.wait()
    await driver.finish_live_snapshot(V1, S1)
    await driver.snapshot(V1, S2)
    assert await volumes_of(driver) == {V1: (1, (S1, S2))}


async def test_guest_that_dies_in_the_middle_of_a_live_snapshot_loses_no_write(
    tmp_path: Path,
) -> None:
    driver = FilesVolumes(FilesOptions(pool_dir=tmp_path / "pool", engine="qcow2"))
    await driver.start()
    bench = Bench(driver, tmp_path)
    await driver.create(VolumeSpec(id=V1, size_gib=1))
    await bench.write(V1, 0, 1)
    top = await driver.open(V1)
    layer = await driver.begin_live_snapshot(V1, S1)
    assert layer is not None
    # What the guest writes once it switched: to the new layer, its old disk below.
    qemu_io({**layer.options, "backing": top.options}, "write -P 2 0 4096")
    await reopen(bench)
    assert await bench.read(V1, 0) == 2
    await bench.driver.create(VolumeSpec(id=V2, size_gib=1, from_snapshot=S1))
    assert await bench.read(V2, 0) == 1


class Qemu:
    """A real QEMU without a machine, spoken to over QMP on its standard streams."""

    def __init__(self) -> None:
        words = ["-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"]
        self.process = spawn("qemu-system-x86_64", *words)
        assert self.process.stdout
        self.process.stdout.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, arguments: dict[str, Any] | None = None) -> str:
        """What it printed besides its answer."""
        assert self.process.stdin and self.process.stdout
        line = json.dumps({"execute": command, "arguments": arguments or {}})
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        said = []
        while not (text := self.process.stdout.readline()).startswith((b'{"return', b'{"error')):
            assert text, "QEMU died"
            said.append(text.decode())
        assert not text.startswith(b'{"error'), text
        return "".join(said)

    def io(self, node: str, command: str) -> None:
        line = f'qemu-io {node} "{command}"'
        shown = self.ask("human-monitor-command", {"command-line": line})
        assert "ops" in shown or command == "flush", shown
        assert "failed" not in shown, shown


@pytest.mark.host
async def test_running_qemu_takes_our_options_and_switches_layers(files: Bench) -> None:
    await files.import_image()
    await files.driver.create(VolumeSpec(id=V1, size_gib=1, from_image=IMAGE))
    await files.driver.snapshot(V1, S2)
    guest = Qemu()
    try:
        node = await files.driver.open(V1)
        guest.ask("blockdev-add", {"node-name": "disk", **node.options})
        guest.io("disk", "write -P 1 0 4096")
        layer = await files.driver.begin_live_snapshot(V1, S1)
        writing_to = "disk"
        if layer is not None:
            guest.ask("blockdev-add", {"node-name": "layer", **layer.options})
            guest.ask("blockdev-snapshot", {"node": "disk", "overlay": "layer"})
            await files.driver.finish_live_snapshot(V1, S1)
            writing_to = "layer"
        guest.io(writing_to, "write -P 2 0 4096")
        guest.io(writing_to, "flush")
        await files.driver.create(VolumeSpec(id=V2, size_gib=1, from_snapshot=S1))
        # What began as the guest's disk is read by both now: the clone and the running guest.
        assert [await files.read(V2, 0), await files.read(V2, 1)] == [1, 77]
        await files.write(V2, 0, 3)
        guest.io(writing_to, "read -P 2 0 4096")
    finally:
        guest.process.kill()
        guest.process.wait()
    assert [await files.read(V1, 0), await files.read(V1, 1)] == [2, 77]


async def test_guests_group_reads_the_layers_below(tmp_path: Path) -> None:
    gid = 65533
    if os.geteuid() != 0:
        pytest.skip("changing groups needs root")
    options = FilesOptions(pool_dir=tmp_path / "pool", engine="qcow2", reader_gid=gid)
    driver = FilesVolumes(options)
    await driver.start()
    await driver.create(VolumeSpec(id=V1, size_gib=1))
    await driver.snapshot(V1, S1)
    node = await driver.open(V1)
    below, top = Path(node.read_paths[0]).stat(), Path(node.owned_paths[0]).stat()
    assert (below.st_gid, below.st_mode & 0o777) == (gid, 0o640)
    assert top.st_mode & 0o777 == 0o600


@pytest.mark.host
async def test_full_tmpfs_is_said_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=8m", "none") as place:
        await fill_and_check(place, tmp_path)


@pytest.mark.host
async def test_full_xfs_is_said_and_leaves_nothing_half_made(xfs: Path, tmp_path: Path) -> None:
    await fill_and_check(xfs, tmp_path)


async def fill_and_check(place: Path, tmp_path: Path) -> None:
    driver = FilesVolumes(FilesOptions(pool_dir=place / "pool"))
    await driver.start()
    bench = Bench(driver, tmp_path)
    await driver.create(VolumeSpec(id=V1, size_gib=1))
    await bench.write(V1, 0, 1)
    await driver.create(VolumeSpec(id=V2, size_gib=1))
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    names = sorted(path.name for path in (place / "pool" / "layers").iterdir())
    spec, source = bench.image(mib=64)
    qemu("qemu-io", "-f", "raw", "-c", "write -P 5 0 32M", str(source))
    with pytest.raises(NoCapacity, match="full"):
        await driver.import_image(spec, source)
    with pytest.raises(NoCapacity, match="full"):
        for n in range(20000):  # inodes of XFS come in chunks: one volume more may still fit
            await driver.create(VolumeSpec(id=VolumeId(f"filling-{n}"), size_gib=1))
    await driver.remove(V2)
    for view in (await driver.look())[0]:
        if view.id.startswith("filling-"):
            await driver.remove(view.id)
    left = sorted(path.name for path in (place / "pool" / "layers").iterdir())
    assert left == [name for name in names if V2 not in name]
    filler.unlink()
    source.unlink()
    assert await bench.read(V1, 0) == 1
    await driver.create(VolumeSpec(id=V3, size_gib=1))
    await driver.close()


CRASHER = """
import asyncio, random, sys
from pathlib import Path
from cairn.core.ids import ImageId, SnapshotId, VolumeId
from cairn.drivers.volumes.files import FilesOptions, FilesVolumes
from cairn.wire.spec import ImageSpec, VolumeSpec

async def main() -> None:
    driver = FilesVolumes(FilesOptions(pool_dir=Path(sys.argv[1])))
    await driver.start()
    chance = random.Random(int(sys.argv[2]))
    print("ready", flush=True)
    while True:
        n = chance.randrange(3)
        volume, snapshot = VolumeId(f"v{n}"), SnapshotId(f"s{n}")
        image = ImageId("crash")
        match chance.randrange(8):
            case 5:
                spec = ImageSpec(
                    id=image, format="qcow2", size_bytes=0, virtual_bytes=0, sha256=""
                )
                await driver.import_image(spec, Path(sys.argv[3]))
            case 6: await driver.remove_image(image)
            case 7:
                if image in (await driver.look())[1]:
                    await driver.create(VolumeSpec(id=volume, size_gib=1, from_image=image))
            case 0: await driver.create(VolumeSpec(id=volume, size_gib=1))
            case 1 | 2:
                known = [view.id for view in (await driver.look())[0]]
                if volume in known: await driver.snapshot(volume, snapshot)
            case 3: await driver.remove_snapshot(volume, snapshot)
            case 4: await driver.remove(volume)

asyncio.run(main())
"""


@pytest.mark.parametrize("seed", range(4))
async def test_killed_at_any_point_the_pool_is_whole(files: Bench, seed: int) -> None:
    assert isinstance(files.driver, FilesVolumes)
    keeper = VolumeId("keeper")
    await files.driver.create(VolumeSpec(id=keeper, size_gib=1))
    await files.driver.snapshot(keeper, S1)
    await files.write(keeper, 0, 9)
    _spec, source = files.image(format="qcow2")
    chance = random.Random(seed)
    for _ in range(2):
        await files.driver.close()
        pool = pool_of(files)
        child = spawn(sys.executable, "-c", CRASHER, str(pool), str(seed), str(source))
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, "it ended by itself before it was killed"
        await reopen(files)
        views, _ = await files.driver.look()
        assert isinstance(files.driver, FilesVolumes)
        present = {path.name for path in (pool / "layers").iterdir()}
        assert present == set(files.driver._ledger.layers)
        for view in views:
            assert view.size_gib == 1
            assert await files.read(view.id, 0) == (9 if view.id == keeper else 0)
            assert view.id == keeper or await files.read(view.id, 1) in (0, 77)
        assert await volumes_of(files.driver) | {keeper: (1, (S1,))} == await volumes_of(
            files.driver
        )


# --- chains in any order, against a model ------------------------------------------------------------


class Model(RuleBasedStateMachine):
    """Volumes, snapshots and clones made and removed in any order, compared with plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.bench = self.make_bench()
        self.run_(self.bench.driver.start())
        self.run_(self.bench.import_image())
        self.image: dict[int, int] | None = {1: 77}
        self.content: dict[VolumeId, dict[int, int]] = {}
        self.kept: dict[SnapshotId, tuple[VolumeId, dict[int, int]]] = {}
        self.count = 0

    def make_bench(self) -> Bench:
        raise NotImplementedError

    def run_(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        for volume_id in list(self.content):
            self.run_(self.bench.driver.remove(volume_id))
        self.run_(self.bench.driver.remove_image(IMAGE))
        assert self.run_(self.bench.driver.look()) == ([], [])
        if isinstance(self.bench.driver, FilesVolumes):
            assert list((pool_of(self.bench) / "layers").iterdir()) == []
            self.run_(self.bench.driver.close())
        self.loop.close()

    def fresh(self) -> str:
        self.count += 1
        return f"{self.count:08}-0000-4000-8000-000000000000"

    @rule()
    def create_empty(self) -> None:
        self.made(VolumeSpec(id=VolumeId(self.fresh()), size_gib=1), {})

    @precondition(lambda self: self.image is not None)
    @rule()
    def create_from_image(self) -> None:
        spec = VolumeSpec(id=VolumeId(self.fresh()), size_gib=1, from_image=IMAGE)
        assert self.image is not None
        self.made(spec, self.image)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def create_from_snapshot(self, data: st.DataObject) -> None:
        snapshot = data.draw(st.sampled_from(sorted(self.kept)))
        spec = VolumeSpec(id=VolumeId(self.fresh()), size_gib=1, from_snapshot=snapshot)
        self.made(spec, self.kept[snapshot][1])

    @precondition(lambda self: self.content)
    @rule(data=st.data())
    def create_from_volume(self, data: st.DataObject) -> None:
        source = data.draw(st.sampled_from(sorted(self.content)))
        spec = VolumeSpec(id=VolumeId(self.fresh()), size_gib=1, from_volume=source)
        self.made(spec, self.content[source])

    def made(self, spec: VolumeSpec, content: dict[int, int]) -> None:
        self.run_(self.bench.driver.create(spec))
        self.content[spec.id] = dict(content)

    @precondition(lambda self: self.content)
    @rule(data=st.data(), block=st.integers(0, 3), value=st.integers(1, 255))
    def write(self, data: st.DataObject, block: int, value: int) -> None:
        volume = data.draw(st.sampled_from(sorted(self.content)))
        self.run_(self.bench.write(volume, block, value))
        self.content[volume][block] = value

    @precondition(lambda self: self.content)
    @rule(data=st.data(), live=st.booleans())
    def snapshot(self, data: st.DataObject, live: bool) -> None:
        volume = data.draw(st.sampled_from(sorted(self.content)))
        snapshot = SnapshotId(self.fresh())
        if live:
            if self.run_(self.bench.driver.begin_live_snapshot(volume, snapshot)) is not None:
                self.run_(self.bench.driver.finish_live_snapshot(volume, snapshot))
        else:
            self.run_(self.bench.driver.snapshot(volume, snapshot))
        self.kept[snapshot] = (volume, dict(self.content[volume]))

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def remove_snapshot(self, data: st.DataObject) -> None:
        snapshot = data.draw(st.sampled_from(sorted(self.kept)))
        self.run_(self.bench.driver.remove_snapshot(self.kept.pop(snapshot)[0], snapshot))

    @precondition(lambda self: self.content)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        volume = data.draw(st.sampled_from(sorted(self.content)))
        self.run_(self.bench.driver.remove(volume))
        del self.content[volume]
        self.kept = {key: kept for key, kept in self.kept.items() if kept[0] != volume}

    @rule()
    def remove_image(self) -> None:
        self.run_(self.bench.driver.remove_image(IMAGE))
        self.image = None

    @rule()
    def restart(self) -> None:
        if isinstance(self.bench.driver, FilesVolumes):
            self.run_(reopen(self.bench))

    @rule()
    def compare_content(self) -> None:
        for volume, blocks in self.content.items():
            for block in range(4):
                assert self.run_(self.bench.read(volume, block)) == blocks.get(block, 0)

    @invariant()
    def same_things_exist(self) -> None:
        expected = {
            volume: (1, tuple(sorted(s for s, kept in self.kept.items() if kept[0] == volume)))
            for volume in self.content
        }
        assert self.run_(volumes_of(self.bench.driver)) == expected


def run_model(place: Path, kind: str, *, examples: int, steps: int) -> None:
    numbers = iter(range(1_000_000))

    class Placed(Model):
        def make_bench(self) -> Bench:
            directory = place / f"model-{next(numbers)}"
            directory.mkdir()
            if kind == "fake":
                return Bench(FakeVolumes(), directory)
            options = FilesOptions(pool_dir=directory / "pool")
            return Bench(FilesVolumes(options), directory)

    Placed.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    Placed.TestCase("runTest").runTest()


def test_chains_in_any_order_fake(tmp_path: Path) -> None:
    run_model(tmp_path, "fake", examples=40, steps=40)


def test_chains_in_any_order_qcow2(tmp_path: Path) -> None:
    run_model(tmp_path, "files", examples=4, steps=25)


@pytest.mark.host
def test_chains_in_any_order_reflink(xfs: Path) -> None:
    run_model(xfs, "files", examples=4, steps=25)


async def test_ten_snapshots_deep_each_clone_reads_its_moment(files: Bench) -> None:
    await files.driver.create(VolumeSpec(id=V1, size_gib=1))
    moments = [SnapshotId(f"moment-{n}") for n in range(10)]
    for n, moment in enumerate(moments):
        await files.write(V1, 0, n + 1)
        await files.driver.snapshot(V1, moment)
    order = list(enumerate(moments))
    random.Random(7).shuffle(order)
    for n, moment in order:
        clone = VolumeId(f"clone-{n}")
        await files.driver.create(VolumeSpec(id=clone, size_gib=1, from_snapshot=moment))
        await files.driver.remove_snapshot(V1, moment)
    await files.driver.remove(V1)
    for n, _ in order:
        assert await files.read(VolumeId(f"clone-{n}"), 0) == n + 1
        await files.driver.remove(VolumeId(f"clone-{n}"))
    assert list((pool_of(files) / "layers").iterdir()) == []
