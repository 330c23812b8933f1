"""Whether an untrusted disk image is what it claims to be, and harmless to open.

An image can name other files of the host (a backing file, an external data file, a VMDK extent), and
QEMU would follow. So nothing opens an image before it passed here, neither the image service while the
bytes arrive nor an agent before it imports the file. The formats themselves are known to
oslo.utils' format inspector, which OpenStack keeps for this purpose (OSSA-2024-001); this file adds what
it leaves out: that claim and truth agree, and that a qcow2 is all there.
"""

import io
import os
import struct
from array import array
from pathlib import Path

from msgspec import Struct
from oslo_utils.imageutils import format_inspector as inspector

from cairn.core.errors import Invalid

# What a claim allows the content to be. "gpt" is the inspector's word for any partition table. An ISO
# image is also a raw disk: opening it as raw leads nowhere else.
_ALLOWED: dict[str, frozenset[str]] = {
    "raw": frozenset({"raw", "gpt", "iso"}),
    "iso": frozenset({"iso", "gpt"}),
    "ami": frozenset({"raw", "gpt"}),
    "aki": frozenset({"raw", "gpt"}),
    "ari": frozenset({"raw", "gpt"}),
    "qcow2": frozenset({"qcow2"}),
    "vmdk": frozenset({"vmdk"}),
    "vhd": frozenset({"vhd"}),
    "vhdx": frozenset({"vhdx"}),
    "vdi": frozenset({"vdi"}),
}
FORMATS = tuple(_ALLOWED)

_CHUNK_BYTES = 1 << 20
_REASONS = {
    "backing_file": "it refers to a backing file",
    "data_file": "it refers to an external data file",
    "unknown_features": "it uses qcow2 features that are not supported",
    "descriptor": "its VMDK descriptor refers to data outside the file or is not understood",
    "footer": "its VMDK footer contradicts its header",
    "mbr": "its partition table is not valid",
    "banned": "its format is not supported",
}


class ImageFacts(Struct, frozen=True, kw_only=True):
    format: str  # as claimed, now proven
    virtual_bytes: int  # size of the disk inside


class FormatCheck:
    """Checks an image while its bytes pass by: `feed` each chunk in order, then `finish`."""

    def __init__(self, claimed: str) -> None:
        if claimed not in _ALLOWED:
            raise Invalid(f"disk format {claimed!r} is not one of {', '.join(FORMATS)}")
        self._claimed = claimed
        self._feed = _Feed()
        # An inspector that fails on the expected format ends the stream early; the plain formats
        # match anything, so they are judged at the end.
        expected = claimed if len(_ALLOWED[claimed]) == 1 else None
        self._wrapper = inspector.InspectWrapper(self._feed, expected_format=expected)
        self._bytes = 0
        self.is_decided = False  # what is still to come cannot change the verdict

    def feed(self, chunk: bytes) -> None:
        """Raises Invalid as soon as the content cannot be what was claimed."""
        self._bytes += len(chunk)
        if self.is_decided:
            return
        self._feed.chunk = chunk
        try:
            self._wrapper.read(len(chunk))
            self.is_decided = self._wrapper.formats is not None
        except Exception as error:  # the inspector raises whatever its parsing meets
            raise self._not_as_claimed() from error

    def finish(self, *, size_bytes: int | None = None) -> ImageFacts:
        """What the image is. Raises Invalid naming the reason when it is not safe to open.

        `size_bytes` is the whole file's where feeding ended with the decision."""
        size_bytes = self._bytes if size_bytes is None else size_bytes
        if size_bytes == 0:
            raise Invalid("the image is empty")
        self._wrapper.close()
        found = {str(match): match for match in self._wrapper.formats or ()}
        if not found or not found.keys() <= _ALLOWED[self._claimed]:
            raise self._not_as_claimed(found)
        if self._claimed == "iso" and "iso" not in found:
            raise self._not_as_claimed(found)
        for match in found.values():
            self._require_safe(match)
        if len(_ALLOWED[self._claimed]) > 1:
            return ImageFacts(format=self._claimed, virtual_bytes=size_bytes)
        (match,) = found.values()
        return ImageFacts(format=self._claimed, virtual_bytes=_virtual_bytes(match))

    def _not_as_claimed(self, found: dict[str, inspector.FileInspector] | None = None) -> Invalid:
        if found:
            truth = " and ".join(sorted("raw" if name == "gpt" else name for name in found))
            return Invalid(f"the image is not {self._claimed}: its content is {truth}")
        return Invalid(f"the image is not a whole {self._claimed} image")

    def _require_safe(self, match: inspector.FileInspector) -> None:
        try:
            match.safety_check()
        except inspector.SafetyCheckFailed as error:
            if set(error.failures) == {"mbr"}:
                return  # boot code without partitions (a boot floppy, GRUB's image): nothing to follow
            reasons = [_REASONS.get(name, str(why)) for name, why in sorted(error.failures.items())]
            raise Invalid(f"the {match} image is refused: {'; '.join(reasons)}") from error
        except inspector.ImageFormatError as error:
            raise self._not_as_claimed() from error


class _Feed(io.BytesIO):
    """A "file" whose next read is the chunk that was just put in."""

    chunk: bytes = b""

    def read(self, _size: int | None = -1, /) -> bytes:
        return self.chunk


def check_file(path: Path, claimed: str) -> ImageFacts:
    """Check a whole file; for qcow2 also that no cluster lies beyond its end."""
    check = FormatCheck(claimed)
    with path.open("rb") as file:
        while not check.is_decided and (chunk := file.read(_CHUNK_BYTES)):
            check.feed(chunk)
        facts = check.finish(size_bytes=os.fstat(file.fileno()).st_size)
    if facts.format == "qcow2":
        require_whole_qcow2(path)
    return facts


def _virtual_bytes(match: inspector.FileInspector) -> int:
    try:
        size = int(match.virtual_size)
    except Exception as error:  # the inspector raises whatever its parsing meets
        raise Invalid(f"the {match} image does not tell its size") from error
    if size <= 0:
        raise Invalid(f"the {match} image is empty or does not tell its size")
    return size


# --- a qcow2 that ends early -------------------------------------------------------------------------
# QEMU reads zeros beyond the end of a file, so a cut-off image would boot into silent damage. The layout
# is in QEMU's docs/interop/qcow2.txt: an L1 table points to L2 tables, whose entries point to clusters.

_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_L1_ENTRIES_MAX = 4 << 20  # QEMU's own limit, 32 MiB
_SECTOR = 512


def require_whole_qcow2(path: Path) -> None:
    """Raises Invalid when a table or a cluster lies beyond the end of the file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        end = _last_byte_needed(fd, os.fstat(fd).st_size)
        size = -(-os.fstat(fd).st_size // _SECTOR) * _SECTOR
    finally:
        os.close(fd)
    if end > size:
        raise Invalid(f"the qcow2 image is cut off: it needs {end} bytes and has {size}")


def _last_byte_needed(fd: int, size: int) -> int:
    header = os.pread(fd, 72, 0)
    if len(header) < 72:
        raise Invalid("the qcow2 image is cut off in its header")
    cluster_bits, virtual, _crypt, l1_entries, l1_at = struct.unpack(">IQIIQ", header[20:48])
    if not 9 <= cluster_bits <= 21 or l1_entries > _L1_ENTRIES_MAX:
        raise Invalid("the qcow2 image has a cluster size or table size out of range")
    cluster = 1 << cluster_bits
    end: int = l1_at + 8 * l1_entries
    if end > size:
        return end
    covered = cluster * (cluster // 8)  # bytes of the disk that one L2 table describes
    seen: set[int] = set()
    for index, entry in enumerate(_table(fd, l1_at, l1_entries)):
        l2_at = entry & _OFFSET_MASK
        if l2_at == 0 or l2_at in seen:
            continue
        seen.add(l2_at)
        end = max(end, l2_at + cluster)
        # Tables beyond the end or off the grid are not read: the file is refused, and reading stays
        # bounded by its size.
        if l2_at % cluster or l2_at + cluster > size:
            return max(end, size + _SECTOR + 1)
        end = max(end, _clusters_end(fd, l2_at, cluster_bits, index * covered, virtual))
    return end


def _clusters_end(fd: int, l2_at: int, cluster_bits: int, disk_at: int, virtual: int) -> int:
    """The end of the furthest cluster that one L2 table points to."""
    cluster = 1 << cluster_bits
    shift = 62 - (cluster_bits - 8)
    end = 0
    for number, entry in enumerate(_table(fd, l2_at, cluster // 8)):
        if entry & _COMPRESSED:
            start = entry & ((1 << shift) - 1)
            sectors = ((entry & ~(3 << 62)) >> shift) + 1
            end = max(end, start - start % _SECTOR + sectors * _SECTOR)
        elif offset := entry & _OFFSET_MASK:
            # The disk's last cluster may be stored only as far as the disk goes.
            rest = -(-(virtual - disk_at - number * cluster) // _SECTOR) * _SECTOR
            end = max(end, offset + min(cluster, max(rest, 0)))
    return end


def _table(fd: int, offset: int, entries: int) -> "array[int]":
    data = os.pread(fd, 8 * entries, offset)
    table = array("Q", data[: len(data) // 8 * 8])
    table.byteswap()  # the file is big-endian
    return table
