"""A running guest moved to another host and back, against bare QEMU without TLS.

Both go between the same two network namespaces, with a disk that has to be copied and a guest that talks on
its console without a break; how long it is silent is how long it stood still. Ours is the agent's driver:
keys, TLS, records on disk, and the agent's word before the guest runs there. The bare side is the same QEMU
with the same steps in the clear, told by the quickest possible hand.
"""

import asyncio
import contextlib
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct
from tests.host.migration_rig import TwoHosts, new_home
from tests.host.qemu_rig import GUEST_MEMORY_MIB, PROBE_IMAGE, shell

from bench.table import Result, ratio
from cairn.drivers.hypervisor import qmp

ROUNDS = 3  # each is there and back
TALK = "(while :; do echo .; usleep 1000; done) & echo"
DISK_MIB = 1024
BOOT_S_MAX = 240.0
MOVE_S_MAX = 120.0


class Move(Struct, frozen=True):
    took_s: float
    silent_s: float
    downtime_s: float  # as QEMU has it


def run() -> list[Result]:
    return [asyncio.run(_run())]


async def _run() -> Result:
    home = new_home()
    hosts = TwoHosts(home)
    await hosts.start()
    try:
        ours = await _ours(hosts)
        bare = await _bare(hosts)
    finally:
        await hosts.close()
        shutil.rmtree(home)
    return Result(
        title=f"A running guest of {GUEST_MEMORY_MIB} MiB moved with its disk, median of {2 * ROUNDS}",
        columns=("", "Cairn", "bare QEMU, no TLS", "ratio"),
        rows=(
            _row("silent", [m.silent_s for m in ours], [m.silent_s for m in bare]),
            _row(
                "pause by QEMU's count", [m.downtime_s for m in ours], [m.downtime_s for m in bare]
            ),
            _row(
                "from the order until it runs there",
                *([m.took_s for m in of] for of in (ours, bare)),
            ),
        ),
        notes=(
            f"Root disk of {DISK_MIB} MiB from the probe image, mirrored to the other host's pool; two"
            " network namespaces joined by a cable. The guest writes to its console about every ms; aim:"
            " silent < 100 ms.",
        ),
    )


def _row(name: str, ours: list[float], bare: list[float]) -> tuple[str, ...]:
    middle = statistics.median(ours), statistics.median(bare)
    return name, f"{middle[0] * 1000:.0f} ms", f"{middle[1] * 1000:.0f} ms", ratio(*middle)


async def _ours(hosts: TwoHosts) -> list[Move]:
    spec = await hosts.guest(disks=1, nics=1)
    await hosts.boot(spec)
    await hosts.a.shell(spec.id, TALK)
    moves = []
    for number in range(2 * ROUNDS):
        to = (hosts.b, hosts.a)[number % 2]
        there = await hosts.awaited(spec, to)
        logs = [site.options.guests_dir / spec.id / "console.log" for site in hosts.sites]
        with _listening(logs) as gaps:
            began = time.monotonic()
            await hosts.send(spec, to)
            await to.until(spec.id, lambda view: view.running)
            took_s = time.monotonic() - began
            at = hosts.a if to is hosts.b else hosts.b
            gone = await at.until(spec.id, lambda view: bool(view.sending and view.sending.done))
        assert gone.sending is not None
        moves.append(Move(took_s, max(gaps), gone.sending.pause_ms / 1000))
        spec = there
    return moves


async def _bare(hosts: TwoHosts) -> list[Move]:
    disks = [hosts.home / f"bare{n}.qcow2" for n in (0, 1)]
    base = hosts.home / "base.qcow2"
    shutil.copyfile(PROBE_IMAGE, base)
    _qemu_img("create", "-b", base, "-F", "qcow2", disks[0], f"{DISK_MIB}M")
    running = _Bare(hosts, 0, disks[0])
    moves = []
    try:
        async with asyncio.timeout(BOOT_S_MAX):
            while b"PROBE: done" not in running.log():  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.05)
        await shell(running.serial, TALK)
        for number in range(1, 2 * ROUNDS + 1):
            disk = disks[number % 2]
            disk.unlink(missing_ok=True)
            _qemu_img("create", disk, f"{DISK_MIB}M")
            waiting = _Bare(hosts, number, disk, "-incoming", "defer", "-S")
            moves.append(await _bare_move(hosts, running, waiting))
            running.end()
            running = waiting
    finally:
        running.end()
    return moves


class _Bare:
    """A QEMU that nobody looks after."""

    def __init__(self, hosts: TwoHosts, number: int, disk: Path, *more: str) -> None:
        site = hosts.sites[number % 2]
        self.address = site.address
        self.qmp = hosts.home / f"q{number}"
        self.serial = hosts.home / f"s{number}"
        self.console = hosts.home / f"c{number}"
        self._process = subprocess.Popen(
            [
                *("nsenter", f"--net=/run/netns/{site.name}", "qemu-system-x86_64"),
                *("-nodefaults", "-machine", "q35", "-accel", "tcg,tb-size=32", "-cpu", "max"),
                *("-m", f"{GUEST_MEMORY_MIB}M", "-display", "none"),
                *("-qmp", f"unix:{self.qmp},server=on,wait=off"),
                "-chardev",
                f"socket,id=s,path={self.serial},server=on,wait=off,logfile={self.console}",
                *("-serial", "chardev:s"),
                "-blockdev",
                f"driver=qcow2,node-name=d,file.driver=file,file.filename={disk}",
                *("-device", "virtio-blk-pci,drive=d,bootindex=1"),
                *more,
            ]
        )

    def log(self) -> bytes:
        return self.console.read_bytes() if self.console.exists() else b""

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


async def _bare_move(hosts: TwoHosts, old: _Bare, new: _Bare) -> Move:
    stirred = asyncio.Event()
    ready = asyncio.Event()

    def hear(event: str, data: object) -> None:
        stirred.set()
        if event == "BLOCK_JOB_READY":
            ready.set()

    sender = await qmp.connect(await _there(old.qmp), hear, timeout_s=MOVE_S_MAX)
    receiver = await qmp.connect(await _there(new.qmp), hear, timeout_s=MOVE_S_MAX)
    states = [
        {"capability": name, "state": True}
        for name in ("events", "pause-before-switchover", "return-path")
    ]
    for monitor in (sender, receiver):
        await monitor.execute("migrate-set-capabilities", {"capabilities": states})
    with contextlib.suppress(qmp.Refused):  # It is what is left of how the guest came.
        await sender.execute("blockdev-del", {"node-name": "t"})
    await receiver.execute("nbd-server-start", {"addr": _inet(new.address, "10809")})
    await receiver.execute(
        "block-export-add",
        {"type": "nbd", "id": "e", "node-name": "d", "name": "d", "writable": True},
    )
    await receiver.execute("migrate-incoming", {"uri": f"tcp:{new.address}:4444"})
    with _listening([old.console, new.console]) as gaps:
        began = time.monotonic()
        server = {"type": "inet", "host": new.address, "port": "10809"}
        await sender.execute(
            "blockdev-add", {"node-name": "t", "driver": "nbd", "server": server, "export": "d"}
        )
        mirror = {"job-id": "m", "device": "d", "target": "t", "sync": "full"}
        await sender.execute("blockdev-mirror", {**mirror, "copy-mode": "write-blocking"})
        await ready.wait()
        await sender.execute(
            "migrate-set-parameters", {"downtime-limit": 50, "max-bandwidth": 1 << 34}
        )
        await sender.execute("migrate", {"uri": f"tcp:{new.address}:4444"})
        await _until(sender, "pre-switchover", stirred)
        await sender.execute("block-job-cancel", {"device": "m"})
        while await sender.execute("query-jobs"):
            stirred.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.005):
                    await stirred.wait()
        await sender.execute("migrate-continue", {"state": "pre-switchover"})
        await _until(receiver, "completed", stirred)
        await receiver.execute("nbd-server-stop")
        await receiver.execute("cont")
        took_s = time.monotonic() - began
        told = await _until(sender, "completed", stirred)
    for monitor in (sender, receiver):
        await monitor.close()
    return Move(took_s, max(gaps), float(str(told["downtime"])) / 1000)


async def _until(monitor: qmp.Monitor, status: str, stirred: asyncio.Event) -> dict[str, object]:
    async with asyncio.timeout(MOVE_S_MAX):
        while True:
            stirred.clear()
            told: dict[str, object] = await monitor.execute("query-migrate")
            if told.get("status") == status:
                return told
            assert told.get("status") != "failed", told
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await stirred.wait()


async def _there(path: Path) -> Path:
    async with asyncio.timeout(MOVE_S_MAX):
        while not path.exists():  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.01)
    return path


def _inet(host: str, port: str) -> dict[str, object]:
    return {"type": "inet", "data": {"host": host, "port": port}}


@contextmanager
def _listening(consoles: list[Path]) -> Iterator[list[float]]:
    """The silences between words on any of the consoles; the list is filled in when it ends."""
    gaps: list[float] = []
    is_over = threading.Event()

    def listen() -> None:
        heard, since = _length(consoles), time.monotonic()
        while not is_over.wait(0.0005):
            if (said := _length(consoles)) != heard:
                now = time.monotonic()
                gaps.append(now - since)
                heard, since = said, now

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        yield gaps
        heard_before = len(gaps)
        deadline = time.monotonic() + MOVE_S_MAX
        while len(gaps) < heard_before + 3 and time.monotonic() < deadline:
            time.sleep(0.01)  # until its first words there
    finally:
        is_over.set()
        listener.join()


def _length(consoles: list[Path]) -> int:
    return sum(path.stat().st_size for path in consoles if path.exists())


def _qemu_img(verb: str, *words: object) -> None:
    subprocess.run(["qemu-img", verb, "-q", "-f", "qcow2", *map(str, words)], check=True)
