"""qcow2 layers through qemu-img, always told the format of every layer, never asked to guess it.

`extended_l2=on` with 128 KiB clusters removes most of the first-write cost of overlays (a write copies
4 KiB, not a cluster). qemu-img runs with limits on memory, time and file size, because parsing an image
made by a stranger is the risky part, and dies with its parent.
"""

import json
import os
import struct
import subprocess
from pathlib import Path

from cairn.core.errors import Invalid, NoCapacity, Unavailable

_MEMORY_BYTES_MAX = 2 << 30
_QUICK_S = 10
_NO_SPACE = "No space left on device"
_LAYOUT = "extended_l2=on,cluster_size=128k"


def create(path: Path, *, size_bytes: int, parent: tuple[str, str] | None) -> None:
    """Make an empty layer; `parent` is (file name in the same directory, format) of the one below."""
    backing = ("-b", parent[0], "-F", parent[1]) if parent else ()
    # -u: the parent is known, and opening it here would only invite trouble.
    words = ("create", "-q", "-u", "-f", "qcow2", "-o", _LAYOUT, *backing, str(path))
    _qemu_img(*words, str(size_bytes), timeout_s=_QUICK_S)


def resize(options: dict[str, object], *, size_bytes: int) -> None:
    """Grow the layer that `options` (as for QMP, with its chain) describes."""
    _qemu_img("resize", "-q", "json:" + json.dumps(options), str(size_bytes), timeout_s=_QUICK_S)


def convert_to_raw(source: Path, target: Path, *, size_bytes: int, timeout_s: int) -> None:
    """Unpack a qcow2 without backing file into a sparse raw file of `size_bytes`."""
    origin = {
        "driver": "qcow2",
        "backing": None,
        "file": {"driver": "file", "filename": str(source)},
    }
    _qemu_img(
        *("convert", "-q", "-O", "raw", "json:" + json.dumps(origin), str(target)),
        timeout_s=timeout_s,
        file_bytes_max=-(-size_bytes // 65536) * 65536,
    )


def virtual_bytes(path: Path) -> int:
    """The size of the disk inside, from the header (docs/interop/qcow2.txt: bytes 24-31)."""
    with path.open("rb") as file:
        header = file.read(32)
    assert header[:4] == b"QFI\xfb", f"{path} is not qcow2"
    (size,) = struct.unpack(">Q", header[24:32])
    return int(size)


def _qemu_img(*words: str, timeout_s: int, file_bytes_max: int | None = None) -> None:
    limits = [f"--as={_MEMORY_BYTES_MAX}", f"--cpu={timeout_s}", "--core=0"]
    if file_bytes_max is not None:
        limits.append(f"--fsize={file_bytes_max}")
    command = ["setpriv", "--pdeathsig", "KILL", "prlimit", *limits, "--", "qemu-img", *words]
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        what = f"qemu-img {words[0]} took longer than {timeout_s} s"
        raise Unavailable("the storage is too slow", because=what) from error
    if done.returncode == 0:
        return
    because = f"qemu-img {' '.join(words)}: exit {done.returncode}: {done.stderr.strip()}"
    if _NO_SPACE in done.stderr:
        raise NoCapacity("the storage pool is full", because=because)
    if words[0] == "convert":
        raise Invalid("the qcow2 image is damaged and cannot be unpacked", because=because)
    raise Unavailable("the storage failed", because=because)
