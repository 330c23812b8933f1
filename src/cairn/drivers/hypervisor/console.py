"""A guest's serial console on disk: QEMU appends for ever, so we cut it short from the front.

The blocks before the part worth keeping are punched out of the file. Unlike a truncation or a
rotation that races with no writer: no byte is lost, and the file that QEMU has open stays the same.
"""

import ctypes
import os
from pathlib import Path

KEPT_BYTES_MAX = 1 << 20
_PAGE = 4096
_PUNCH_HOLE_KEEP_SIZE = 0x03  # linux/falloc.h

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]


def trim(path: Path) -> None:
    """Give the disk back all but the last MiB, once the file holds two. No file is no error."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return
    if status.st_blocks * 512 <= 2 * KEPT_BYTES_MAX:
        return
    end = (status.st_size - KEPT_BYTES_MAX) // _PAGE * _PAGE
    fd = os.open(path, os.O_WRONLY)
    try:
        if end <= 0 or _libc.fallocate(fd, _PUNCH_HOLE_KEEP_SIZE, 0, end) != 0:
            os.ftruncate(fd, 0)  # A file system without holes: the log starts anew.
    finally:
        os.close(fd)


def tail(path: Path, lines: int | None) -> bytes:
    """The last `lines` lines of what is kept; None: all of it."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - KEPT_BYTES_MAX))
            text = file.read(KEPT_BYTES_MAX).lstrip(b"\0")
    except FileNotFoundError:
        return b""
    return text if lines is None else last_lines(text, lines)


def last_lines(text: bytes, lines: int) -> bytes:
    return b"".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else b""
