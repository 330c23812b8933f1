"""The key of one migration, where QEMU finds it: a directory that only this guest's user may pass through.

Both hosts' QEMU speak TLS with a pre-shared key (RFC 4279, RFC 8446) that the control plane made for this
one migration. So a guest's process never holds its host's certificate, a key opens nothing but the one
guest that it was made for, and it is worth nothing once the guest has come.
"""

import os
import re
import shutil
from pathlib import Path

from cairn.core.errors import Unavailable
from cairn.core.ids import ServerId
from cairn.drivers.hypervisor import uids

FILE = "keys.psk"  # the name that tls-creds-psk looks for
_SECRET = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def lay(
    keys_dir: Path, guest_id: ServerId, uid: int, range_: uids.UidRange, name: str, secret: str
) -> Path:
    """Put the key there, for one user to read. Unavailable: it is none."""
    if not _SECRET.fullmatch(secret) or not _NAME.fullmatch(name):
        raise Unavailable(
            "the migration has no key, and guests do not travel in the clear",
            because="the spec has no secret of 64 hexadecimal digits",
        )
    keys_dir.mkdir(mode=0o700, exist_ok=True)
    uids.let_through(keys_dir, range_)
    own = keys_dir / guest_id
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(mode=0o700)
    path = own / FILE
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(fd, "w") as file:
        file.write(f"{name}:{secret}\n")
    for one, mode in ((path, 0o440), (own, 0o710)):
        os.chown(one, 0, uid)
        one.chmod(mode)
    return own


def remove(keys_dir: Path, guest_id: ServerId) -> None:
    shutil.rmtree(keys_dir / guest_id, ignore_errors=True)
