"""From `POST /servers` until the virtual processor runs, against a bare start of the same QEMU.

Both sides are watched in the same way: the processor's thread in QEMU is found by its name and has begun
to run guest code when it has spent more than a moment on a core (`-S` and setting up take less). The bare
start has the very command line that the agent composed; only what the agent hands over as open descriptors
(channels, the tap) is opened by QEMU itself, the disk is an overlay of its own on the same image, and it
begins at once instead of stopped.
"""

import contextlib
import json
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import cloud
from bench.client import Client
from bench.cloud import Whole
from bench.table import Result, ratio

ROUNDS = 5
RUNNING_NS = 2_000_000  # on a core since it was made
LOOK_S = 0.001
RUN_S_MAX = 60.0


def run(whole: Whole) -> list[Result]:
    accepted, running, active, bare = [], [], [], []
    with whole.client(project="demo") as client:
        wish = _wish(client)
        for _ in range(ROUNDS):
            with _server(whole, client, wish) as times:
                accepted.append(times[0])
                running.append(times[1])
                active.append(times[2])
                bare.append(_bare_start(times[3]))
    middle = statistics.median(running), statistics.median(bare)
    difference_ms = (middle[0] - middle[1]) * 1000
    return [
        Result(
            title=f"POST /servers until the virtual CPU runs, median of {ROUNDS}, image already here",
            columns=("", "median", "least", "most"),
            rows=(
                _row("POST answered", accepted),
                _row("virtual CPU runs", running),
                _row("API says ACTIVE", active),
                _row("bare QEMU: start until virtual CPU runs", bare),
                ("difference", f"{difference_ms:.0f} ms", "", ""),
                ("ratio", ratio(*middle), "", ""),
            ),
            notes=(
                "One port on a private network, root disk from the image; aim: difference ≤ 150 ms."
                " ACTIVE is asked for every 10 ms once the virtual CPU runs.",
            ),
        )
    ]


def _row(name: str, took: list[float]) -> tuple[str, ...]:
    return name, *(f"{f(took) * 1000:.0f} ms" for f in (statistics.median, min, max))


def _wish(client: Client) -> dict[str, Any]:
    """The demonstration's server, once more."""
    (image,) = client.must("GET", "/image/v2/images?name=probe").body["images"]
    (network,) = client.must("GET", "/network/v2.0/networks?name=private").body["networks"]
    flavors = client.must("GET", "/compute/v2.1/flavors").body["flavors"]
    flavor = next(f["id"] for f in flavors if f["name"] == "probe")
    return {
        "name": "bench-boot",
        "flavorRef": flavor,
        "imageRef": image["id"],
        "networks": [{"uuid": network["id"]}],
    }


@contextmanager
def _server(
    whole: Whole, client: Client, wish: dict[str, Any]
) -> Iterator[tuple[float, float, float, int]]:
    """A server; seconds until accepted, running, ACTIVE; its QEMU. It is gone afterwards."""
    began = time.perf_counter()
    made = client.must("POST", "/compute/v2.1/servers", {"server": wish}).body["server"]
    accepted_s = time.perf_counter() - began
    path = f"/compute/v2.1/servers/{made['id']}"
    try:
        record = whole.settings.agent_dir / "guests" / made["id"]
        pid = cloud.until(
            lambda: _qemu_in(record), "the guest's process", within_s=RUN_S_MAX, every_s=LOOK_S
        )
        _wait_for_guest_code(pid)
        running_s = time.perf_counter() - began
        cloud.until(
            lambda: client.must("GET", path).body["server"]["status"] == "ACTIVE" or None,
            "ACTIVE",
            within_s=RUN_S_MAX,
            every_s=0.01,
        )
        yield accepted_s, running_s, time.perf_counter() - began, pid
    finally:
        client.must("DELETE", path)
        cloud.until(
            lambda: client.ask("GET", path).status == 404 or None, "its end", within_s=RUN_S_MAX
        )


def _qemu_in(home: Path) -> int | None:
    """The newest process that stands in the guest's directory."""
    if not home.exists():
        return None
    newest = int(Path("/proc/loadavg").read_text().split()[-1])
    for pid in range(newest, max(newest - 400, 1), -1):
        if cloud.cwd(pid) == str(home):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().startswith("qemu"):
                    return pid
    return None


def _wait_for_guest_code(pid: int) -> None:
    thread = cloud.until(
        lambda: _cpu_thread(pid), "a virtual CPU", within_s=RUN_S_MAX, every_s=LOOK_S
    )
    cloud.until(
        lambda: int((thread / "schedstat").read_text().split()[0]) > RUNNING_NS or None,
        "guest code",
        within_s=RUN_S_MAX,
        every_s=LOOK_S,
    )


def _cpu_thread(pid: int) -> Path | None:
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            if (thread / "comm").read_text().startswith("CPU 0"):
                return thread
    return None


def _bare_start(pid: int) -> float:
    """Seconds from starting the same QEMU by hand until its virtual CPU runs."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    folder = Path(tempfile.mkdtemp(prefix="cvb-", dir="/tmp"))
    try:
        command = _bare_command(words, folder, Path(cloud.cwd(pid)))
        with (folder / "log").open("wb") as log:
            began = time.perf_counter()
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            _wait_for_guest_code(process.pid)
            return time.perf_counter() - began
        except OSError:
            raise SystemExit(f"bench: bare QEMU: {(folder / 'log').read_text()}") from None
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(folder)


def _bare_command(words: list[str], folder: Path, home: Path) -> list[str]:
    found = []
    for word in words:
        if word == "-S":
            continue
        if named := re.fullmatch(r"socket,id=(\w+),fd=\d+,(.*)", word):
            word = f"socket,id={named[1]},path={named[1]}.sock,{named[2]}"
        elif named := re.fullmatch(r"tap,id=([\w-]+),fd=\d+(.*)", word):
            word = f"tap,id={named[1]},ifname=cvbenchtap,script=no,downscript=no{named[2]}"
        elif word.startswith("{") and '"backing"' in word:
            word = json.dumps(_own_overlay(json.loads(word), folder))
        found.append(word)
    if (home / "config.iso").exists():
        shutil.copy(home / "config.iso", folder)
    return found


def _own_overlay(node: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The disk's options with a fresh top layer: the running server has locked its own."""
    below, top = node["backing"], folder / "disk.qcow2"
    size = subprocess.run(
        ["qemu-img", "info", "-U", "--output=json", node["file"]["filename"]],
        check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", below["driver"],
         "-b", below["file"]["filename"], str(top), str(json.loads(size.stdout)["virtual-size"])],
        check=True,
    )  # fmt: skip
    return {**node, "file": {**node["file"], "filename": str(top)}}
