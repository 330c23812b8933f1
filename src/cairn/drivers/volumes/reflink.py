"""Copies of a file that share its blocks until one of them is written (FICLONE).

On XFS this takes 0.1 ms for 10 GB and is a point in time even while a guest writes, so a clone, a
snapshot and a snapshot of a running disk are the same call. The cost grows with the number of extents
(about 11 microseconds each), not with bytes.
"""

import errno
import fcntl
import os
from pathlib import Path

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_REFUSALS = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS}


def is_supported(directory: Path) -> bool:
    """Whether files in `directory` can share blocks: found out by doing it."""
    source, copy = directory / ".probe-source", directory / ".probe-copy"
    copy.unlink(missing_ok=True)
    try:
        source.write_bytes(bytes(4096))
        return clone(source, copy)
    finally:
        source.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)


def clone(source: Path, target: Path) -> bool:
    """Make `target` share all blocks of `source`; False where the file system cannot.

    Other errors (no room, no such file) are raised as OSError, and no target is left.
    """
    with source.open("rb") as origin:
        fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.ioctl(fd, _FICLONE, origin.fileno())
            os.fsync(fd)
        except OSError as error:
            target.unlink()
            if error.errno in _REFUSALS:
                return False
            raise
        finally:
            os.close(fd)
    return True
