"""A bootable disk out of a kernel, an initrd and a root file system, without mounting anything.

Two partitions: a FAT one with the loader, kernel and initrd, written by mtools, and the root, which is
last so that it can grow with the disk.
"""

import os
import struct
from pathlib import Path

from msgspec import Struct

from cairn.host import packages

TOOL_PACKAGES = ("syslinux", "syslinux-common", "mtools", "dosfstools")
TOOL_NEEDED = r"syslinux|syslinux-common|mtools|dosfstools"
SECTOR = 512
BOOT_START = 2048  # sectors; the usual first MiB is left to the partition table


class BootFiles(Struct, frozen=True, kw_only=True):
    """What the loader loads."""

    kernel: bytes
    initrd: bytes
    line: str  # the kernel's command line


def boot_partition(work: Path, parts: Path, files: BootFiles, *, size_mib: int) -> Path:
    """A FAT file system that boots. `parts` holds the unpacked TOOL_PACKAGES."""
    image = work / "boot.img"
    with image.open("wb") as empty:
        empty.truncate(size_mib << 20)
    path = f"{parts}/usr/bin:{parts}/usr/sbin:{parts}/sbin:{parts}/bin"
    tools = ["env", f"PATH={path}:{os.environ.get('PATH', os.defpath)}", "MTOOLS_SKIP_CHECK=1"]
    # The loader finds its files by absolute sector, so the partition must know where it starts.
    packages.run([*tools, "mkfs.vfat", "-F16", f"-h{BOOT_START}", "-nBOOT", str(image)])
    config = "SERIAL 0 115200\nDEFAULT linux\nLABEL linux\nLINUX vmlinuz\nINITRD initrd\n"
    config += f"APPEND {files.line}\n"
    for name, content in (
        ("vmlinuz", files.kernel),
        ("initrd", files.initrd),
        ("syslinux.cfg", config.encode()),
    ):
        (work / name).write_bytes(content)
        packages.run([*tools, "mcopy", "-i", str(image), str(work / name), f"::{name}"])
    packages.run([*tools, "syslinux", "--install", str(image)])
    return image


def join(work: Path, parts: Path, *, boot: Path, root: Path) -> Path:
    """Both partitions behind a partition table of the old kind, as compressed qcow2."""
    boot_sectors = boot.stat().st_size // SECTOR
    root_sectors = root.stat().st_size // SECTOR
    entry = struct.Struct("<B3sB3sII")
    no_geometry = b"\xfe\xff\xff"
    table = entry.pack(0x80, no_geometry, 0x0E, no_geometry, BOOT_START, boot_sectors)
    table += entry.pack(0, no_geometry, 0x83, no_geometry, BOOT_START + boot_sectors, root_sectors)
    code = packages.file_in(parts, "mbr/mbr.bin").read_bytes()[:440]
    disk = work / "disk.raw"
    with disk.open("wb") as out:
        out.write(code.ljust(446, b"\0") + table.ljust(64, b"\0") + b"\x55\xaa")
        out.seek(BOOT_START * SECTOR)
        for part in (boot, root):
            with part.open("rb") as content:
                while piece := content.read(1 << 20):
                    # Holes stay holes: a root file system is mostly empty.
                    if any(piece):
                        out.write(piece)
                    else:
                        out.seek(len(piece), os.SEEK_CUR)
        out.truncate((BOOT_START + boot_sectors + root_sectors) * SECTOR)
    made = work / "disk.qcow2"
    packages.run(["qemu-img", "convert", "-c", "-fraw", "-Oqcow2", str(disk), str(made)])
    return made
