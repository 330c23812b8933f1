"""Who a guest is on its host: a bare number that owns its disks and nothing else.

Each guest runs under a uid and gid of its own, which no account of the system has, so that a guest
that broke out of QEMU finds itself alone: it can read no other guest's disks, signal no other guest's
process and enter no directory of ours. Base images that several guests read belong to root and to one
group, the first number of the range, which every guest has beside its own.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from cairn.core.errors import NoCapacity, NotFound, Unavailable
from cairn.drivers.contracts import BlockNode


class UidRange(Struct, frozen=True, kw_only=True):
    first: int
    count: int

    @property
    def readers_gid(self) -> int:
        """The group that may read base images."""
        return self.first

    def free(self, taken: Iterable[int]) -> int:
        """The lowest uid that no guest has."""
        used = set(taken)
        for uid in range(self.first + 1, self.first + self.count):
            if uid not in used:
                return uid
        raise NoCapacity(
            "this host runs as many guests as it may", because=f"{self.count} uids are in use"
        )

    def __contains__(self, uid: int) -> bool:
        return self.first < uid < self.first + self.count


def grant(node: BlockNode, uid: int, uids: UidRange) -> None:
    """Let the guest write the node's own files and read those that it shares. Repeatable."""
    for path in map(Path, (*node.owned_paths, *node.read_paths)):
        if not path.exists():
            raise NotFound("a disk of the guest is missing", because=f"{path} does not exist")
        _open_way_to(path, uids)
    for path in map(Path, node.owned_paths):
        os.chown(path, uid, uid)
        path.chmod(0o600)
    for name in node.read_paths:
        share(name, uids)


def share(name: str, uids: UidRange) -> None:
    """Make a file readable for every guest and writable for none."""
    os.chown(name, 0, uids.readers_gid)
    Path(name).chmod(0o640)


def let_through(directory: Path, uids: UidRange) -> None:
    """Let guests pass through a directory of ours, and not list it."""
    if not _is_passable(directory, uids):
        os.chown(directory, 0, uids.readers_gid)
        directory.chmod(0o710)


def give_back(paths: Iterable[str]) -> None:
    """The files are root's again; a file that is gone is no error."""
    for name in paths:
        try:
            os.chown(name, 0, 0)
            Path(name).chmod(0o600)
        except FileNotFoundError:
            continue


def _open_way_to(path: Path, uids: UidRange) -> None:
    """The pool's own directory may be passed through, not listed; those above it are not ours."""
    pool, *above = path.resolve().parents
    let_through(pool, uids)
    for parent in above:
        if not _is_passable(parent, uids):
            raise Unavailable(
                "the hypervisor cannot reach the guest's disk",
                because=f"{parent} lets nobody through: chmod o+x {parent}",
            )


def _is_passable(directory: Path, uids: UidRange) -> bool:
    status = directory.stat()
    return bool(
        status.st_mode & stat.S_IXOTH
        or (status.st_mode & stat.S_IXGRP and status.st_gid == uids.readers_gid)
    )
