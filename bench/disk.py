"""4 KiB I/O of a volume against a raw file on the same file system.

The volume is what the agent's driver makes and opens, with the very options that a guest's QEMU gets; both
sides go through QEMU's block layer by `qemu-img bench`, without a guest. It strides through the disk in
steps of a prime number of blocks, so that no request follows its predecessor: random to the disk, and the
same for both sides. Once on this machine's own file system, once on XFS, where disks are raw reflinks.
"""

import asyncio
import json
import re
import secrets
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.table import Result, ratio
from cairn.core.ids import VolumeId
from cairn.drivers.volumes.files import FilesOptions, FilesVolumes
from cairn.wire.spec import VolumeSpec

SIZE_GIB = 1
BLOCK = 4096
COUNT = 10_000
FIRST_COUNT = 10_000  # each allocates: dear, and there are no second first writes
DEPTH = 16
STRIDE_BLOCKS = 10_007  # prime to the number of blocks: each is met once before any is met twice
ROUNDS = 5
XFS_MIB = 3072

Node = dict[str, object]  # a disk as QEMU's block layer is told to open it


def run() -> list[Result]:
    home = Path(f"/tmp/cvb-{secrets.token_hex(3)}")
    home.mkdir()
    try:
        results = [asyncio.run(_compare(home, "this machine's file system"))]
        with _xfs(home) as folder:
            results.append(asyncio.run(_compare(folder, "XFS")))
    finally:
        shutil.rmtree(home)
    return results


@contextmanager
def _xfs(home: Path) -> Iterator[Path]:
    image, folder = home / "xfs", home / "m"
    folder.mkdir()
    subprocess.run(["truncate", "-s", f"{XFS_MIB}M", str(image)], check=True)
    subprocess.run(["mkfs.xfs", "-q", str(image)], check=True)
    mount = ["mount", "-o", "loop", str(image), str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def _compare(folder: Path, kind: str) -> Result:
    volumes = FilesVolumes(FilesOptions(pool_dir=folder / "pool"))
    await volumes.start()
    try:
        volume_id = VolumeId("00000000-0000-4000-8000-00000000d15c")
        await volumes.create(VolumeSpec(id=volume_id, size_gib=SIZE_GIB))
        volume = (await volumes.open(volume_id)).options
        engine = volumes.facts().engine
        raw: Node = {"driver": "raw", "file": {**_file(volume), "filename": str(folder / "raw")}}
        with (folder / "raw").open("wb") as file:
            file.truncate(SIZE_GIB << 30)
        rows = [
            _row(
                "first writes, nothing there yet",
                volume,
                raw,
                write=True,
                rounds=1,
                count=FIRST_COUNT,
            )
        ]
        for node in (volume, raw):
            _fill(node)
        rows.append(_row("random writes", volume, raw, write=True))
        rows.append(_row("random reads", volume, raw, write=False))
        await volumes.remove(volume_id)
    finally:
        await volumes.close()
        (folder / "raw").unlink(missing_ok=True)
    opened = _file(volume)
    options = f"aio={opened['aio']}, cache={opened['cache']}"
    return Result(
        title=f"4 KiB I/O of a volume (engine: {engine}) against a raw file, on {kind}",
        columns=("I/O", "volume", "raw file", "volume / raw"),
        rows=tuple(rows),
        notes=(f"{DEPTH} requests under way, median of {ROUNDS}; both with {options}.",),
    )


def _file(volume: Node) -> Node:
    file = volume["file"]
    assert isinstance(file, dict)
    return file


def _row(
    name: str, volume: Node, raw: Node, *, write: bool, rounds: int = ROUNDS, count: int = COUNT
) -> tuple[str, ...]:
    """Turn about, so that a neighbour's load meets both."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds):
        for is_volume in (True, False) if number % 2 else (False, True):
            rates[is_volume].append(_rate(volume if is_volume else raw, write=write, count=count))
    ours, theirs = statistics.median(rates[True]), statistics.median(rates[False])
    return name, f"{ours:,.0f}/s", f"{theirs:,.0f}/s", ratio(ours, theirs)


def _rate(node: Node, *, write: bool, count: int) -> float:
    step = ["-S", str(STRIDE_BLOCKS * BLOCK), "-s", str(BLOCK), "-d", str(DEPTH), "-c", str(count)]
    return count / _bench(node, *step, *(["-w"] if write else []))


def _fill(node: Node) -> None:
    """Write every block once, in order."""
    _bench(node, "-w", "-s", str(1 << 20), "-d", "4", "-c", str(SIZE_GIB << 10))


def _bench(node: Node, *words: str) -> float:
    """Seconds that `qemu-img bench` says it took."""
    # Without a host cache and with the asynchronous interface the options say so themselves; the
    # command's own flags must agree with them.
    file = _file(node)
    cache = "none" if file["cache"] == {"direct": True} else "writeback"
    command = ["qemu-img", "bench", "-t", cache, "-i", str(file["aio"]), *words]
    done = subprocess.run(
        [*command, "json:" + json.dumps(node)], capture_output=True, text=True, timeout=300
    )
    found = re.search(r"Run completed in ([\d.]+) seconds", done.stdout)
    if found is None:
        raise SystemExit(f"bench: {' '.join(command)}: {done.stdout}{done.stderr}")
    return float(found[1])
