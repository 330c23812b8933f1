"""Builds the probe image: a whole bootable disk of about 20 MB out of Debian packages.

Two partitions: a FAT one with the loader, kernel and initrd, and an ext4 root which is last, so that
it can grow with the disk. Both are filled as plain files (mtools, `mke2fs -d`): nothing is ever
mounted, so a builder that is killed leaves a folder behind and no more. The guest's own scripts are
in `images/probe`.
"""

import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cairn.host import disk_image, packages
from cairn.host.disk_image import BootFiles

SOURCES = Path(__file__).parents[3] / "images" / "probe"
GUEST_PACKAGES = ("linux-image-cloud-amd64", "busybox-static", "dropbear-bin", "jq", "e2fsprogs")
NEEDED = (
    rf"{disk_image.TOOL_NEEDED}|linux-image-.*|busybox-static|dropbear-bin|jq|e2fsprogs"
    r"|libc6|libgcc-s1|libcrypt1|libext2fs2.*|libcom-err2|libblkid1|libuuid1|libjq1|libonig5"
    r"|libtomcrypt1|libtommath1|libgmp10|zlib1g"
)
PROGRAMS = ("dropbear", "dropbearkey", "jq", "resize2fs")
# In the order of loading; what a module depends on is put before it.
MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "sr_mod", "ata_piix", "ahci"),
    *("virtio_net", "virtio_rng", "virtio_console", "virtio_balloon", "evdev", "button"),
    *("isofs", "vfat", "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"),
)
INITRD_APPLETS = (
    *("sh", "mount", "umount", "insmod", "findfs", "readlink", "cat", "sleep", "dd"),
    *("printf", "blockdev", "switch_root"),
)
FOLDER, PROGRAM, LINK = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFLNK | 0o777
BOOT_MIB = 22
ROOT_MIB = 26
# How far the file system can grow in use: 2^28 blocks of 4 KiB are 1 TiB, which costs 1 MiB here.
ROOT_BLOCKS_MAX = 1 << 28
KERNEL_LINE = (
    "console=tty0 console=ttyS0,115200 loglevel=4 mitigations=off"
    " random.trust_cpu=on no_timer_check 8250.nr_uarts=1 net.ifnames=0"
)


def sources_hash() -> str:
    """Changes when the image would: over this builder and every file of the guest."""
    digest = hashlib.sha256()
    for path in sorted([Path(__file__), Path(disk_image.__file__), *SOURCES.iterdir()]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def build(out: Path) -> None:
    """Write the image as qcow2 to `out`, which appears whole or not at all. Raises Unavailable."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=out.parent) as folder:
        work = Path(folder)
        parts = work / "parts"
        parts.mkdir()
        packages.fetch((*GUEST_PACKAGES, *disk_image.TOOL_PACKAGES), NEEDED, parts)
        files = BootFiles(kernel=_kernel(parts), initrd=_initrd(parts), line=KERNEL_LINE)
        boot = disk_image.boot_partition(work, parts, files, size_mib=BOOT_MIB)
        root = _root_partition(work, parts)
        made = disk_image.join(work, parts, boot=boot, root=root)
        made.rename(out)


def _kernel(parts: Path) -> bytes:
    return packages.file_in(parts, "boot/vmlinuz-*").read_bytes()


def _initrd(parts: Path) -> bytes:
    entries = [(name, FOLDER, b"") for name in ("bin", "dev", "modules", "proc", "root", "sys")]
    entries.append(("init", PROGRAM, (SOURCES / "initrd-init").read_bytes()))
    entries.append(("bin/busybox", PROGRAM, packages.file_in(parts, "bin/busybox").read_bytes()))
    entries += [(f"bin/{applet}", LINK, b"busybox") for applet in INITRD_APPLETS]
    for number, (name, content) in enumerate(_modules(parts)):
        entries.append((f"modules/{number:02}-{name}.ko", PROGRAM, content))
    # Compressed lightly: a guest without hardware support unpacks it instruction by instruction.
    return gzip.compress(_cpio(entries), compresslevel=6, mtime=0)


def _modules(parts: Path) -> Iterator[tuple[str, bytes]]:
    """Every driver after what it depends on, each once, unpacked; built-in ones are left out."""
    files = {
        path.name.partition(".")[0].replace("-", "_"): path
        for path in parts.glob("**/lib/modules/**/*.ko*")
    }
    given: set[str] = set()

    def with_needs(name: str) -> Iterator[tuple[str, bytes]]:
        if name in given or name not in files:
            return
        given.add(name)
        content = files[name].read_bytes()
        if files[name].suffix == ".xz":
            content = lzma.decompress(content)
        needs = re.search(rb"\0depends=([^\0]*)\0", content)
        for need in needs[1].decode().split(",") if needs else ():
            yield from with_needs(need.replace("-", "_"))
        yield name, content

    for name in MODULES:
        yield from with_needs(name)


def _cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """An archive as the kernel reads it: `newc`, see Documentation/driver-api/early-userspace."""
    archive = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        archive += bytes(-len(archive) % 4) + content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def _root_partition(work: Path, parts: Path) -> Path:
    tree = work / "root"
    _fill_root(tree, parts)
    image = work / "root.img"
    make = ["mke2fs", "-q", "-F", "-text4", "-Lprobe-root", "-b4096", "-m0", "-Jsize=4"]
    extended = f"resize={ROOT_BLOCKS_MAX},root_owner=0:0,lazy_itable_init=1"
    make += ["-E", extended, "-O^64bit,^metadata_csum,resize_inode", "-N2048"]
    if os.geteuid() != 0:  # Files in the guest belong to its root, whoever builds.
        make = ["unshare", "--map-root-user", *make]
    packages.run([*make, "-d", str(tree), str(image), f"{ROOT_MIB}M"])
    return image


def _fill_root(tree: Path, parts: Path) -> None:
    for folder in ("bin", "sbin", "dev", "proc", "sys", "run", "tmp", "mnt", "usr/bin", "usr/sbin"):
        (tree / folder).mkdir(parents=True)
    for folder in ("root/.ssh", "etc/acpi/PWRF", "etc/dropbear", "var/lib", "var/log"):
        (tree / folder).mkdir(parents=True)
    (tree / "root").chmod(0o700)
    (tree / "root/.ssh").chmod(0o700)
    (tree / "var/run").symlink_to("../run")
    busybox = packages.file_in(parts, "bin/busybox")
    shutil.copy(busybox, tree / "bin/busybox")
    for applet in packages.run([str(busybox), "--list"]).split():
        if applet not in ("busybox", "dpkg", "dpkg-deb", "rpm", "rpm2cpio", "init"):
            (tree / "bin" / applet).symlink_to("busybox")
    (tree / "sbin/init").symlink_to("../bin/busybox")
    for program in PROGRAMS:
        _add_program(tree, parts, program)
    for name in ("boot", "shell", "plugged", "inittab"):
        shutil.copy(SOURCES / name, tree / "etc" / name)
    for name in ("setup", "lease"):
        shutil.copy(SOURCES / name, tree / "usr/sbin" / name)
    # busybox's acpid runs the file that is named like the event: a press of the power button.
    _script(tree / "etc/acpi/PWRF/00000080", "exec /bin/poweroff")
    for name, text in {
        "passwd": "root:*:0:0:root:/root:/bin/sh",
        "group": "root:x:0:\ntty:x:5:",
        "shells": "/bin/sh",
        "hostname": "probe",
        "hosts": "127.0.0.1 localhost\n::1 localhost",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns",
        "profile": "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\nexport PS1='\\u@\\h:\\w\\$ '",
        "os-release": 'NAME=probe\nID=probe\nPRETTY_NAME="Cairn probe guest (Debian parts)"',
    }.items():
        (tree / "etc" / name).write_text(text + "\n")


def _script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def _add_program(tree: Path, parts: Path, name: str) -> None:
    """Copy the program and the libraries it links to, to the paths where it looks for them."""
    program = packages.file_in(
        parts, f"bin/{name}" if (parts / "usr/bin" / name).exists() else f"sbin/{name}"
    )
    shutil.copy(program, tree / "usr/sbin" / name)
    loader = packages.loader_in(parts)
    ask = [str(loader), "--inhibit-cache", "--library-path", _library_path(parts), "--list"]
    for asked, found in re.findall(r"(\S+) => (/\S+)", packages.run([*ask, str(program)])):
        folder = Path("usr/lib") / loader.parent.name
        target = tree / (asked.lstrip("/") if asked.startswith("/") else folder / asked)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(Path(found).resolve(), target)
    for place in ("lib64", f"lib/{loader.parent.name}"):
        (tree / place).mkdir(parents=True, exist_ok=True)
    loader_name = re.search(rb"/lib64/(ld-linux[^\0]*)\0", program.read_bytes())
    assert loader_name is not None, f"{name} is linked statically"
    target = tree / "lib64" / loader_name[1].decode()
    if not target.exists():
        shutil.copy(loader, target)


def _library_path(parts: Path) -> str:
    folders = {path.parent for path in parts.glob("**/*.so*") if "modules" not in path.parts}
    return ":".join(sorted(str(folder) for folder in folders))
