"""What QEMU's last words mean: from its standard error to an error that a user may read."""

import re
from collections.abc import Sequence

from cairn.core.errors import CloudError, Conflict, Invalid, NoCapacity, NotFound, Unavailable
from cairn.drivers.contracts import BlockNode
from cairn.wire.spec import DiskSpec, GuestSpec

LINES_KEPT = 4

# The first that matches decides, so the more telling ones come first.
_MEANINGS: tuple[tuple[str, type[CloudError], str], ...] = (
    (
        r"Cannot allocate memory|cannot set up guest memory",
        NoCapacity,
        "the host cannot give the guest {memory_mib} MiB of memory",
    ),
    (
        r"Address space limit|ram size too large|too much RAM|invalid RAM size",
        Invalid,
        "memory: {memory_mib} MiB is more than a guest on this host can have",
    ),
    (
        r"Invalid SMP CPUs|max CPUs|maximum CPU index|hotpluggable cpus|cpus.*exceeds",
        Invalid,
        "vcpus: {vcpus} is more than a guest on this host can have",
    ),
    (r"Failed to get .*lock", Conflict, "{disk} is in use by another process"),
    (r"No such file or directory", NotFound, "{disk} is missing"),
    (r"Permission denied", Unavailable, "the hypervisor may not open {disk}"),
    (
        r"[Ii]mage is (not in|corrupt)|[Ii]mage is not|not a valid|Could not (open|read)",
        Invalid,
        "{disk} is damaged or not of the format that it should have",
    ),
)


def explain(
    words: str, spec: GuestSpec, disks: Sequence[tuple[DiskSpec, BlockNode]], *, otherwise: str
) -> CloudError:
    """`words` is what QEMU wrote before it gave up, or answered; `otherwise` if they say nothing."""
    because = " / ".join(words.strip().splitlines()[-LINES_KEPT:]) or "QEMU said nothing"
    for pattern, kind, message in _MEANINGS:
        if re.search(pattern, words):
            text = message.format(
                memory_mib=spec.memory_mib, vcpus=spec.vcpus, disk=_disk(words, disks)
            )
            return kind(text, because=because)
    return Unavailable(otherwise, because=because)


def _disk(words: str, disks: Sequence[tuple[DiskSpec, BlockNode]]) -> str:
    """The disk that QEMU complains of, found by its files."""
    for disk, node in disks:
        if any(path in words for path in (*node.owned_paths, *node.read_paths)):
            return f"disk {disk.device} (volume {disk.volume_id})"
    return "a disk of the guest"
