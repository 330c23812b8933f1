"""Builds a full Debian with cloud-init, of the machine's own release, by mmdebstrap.

Laid out as the probe image is: a FAT partition with the loader, kernel and initrd, and the root last.
mmdebstrap, like everything else here, is unpacked and not installed; nothing is mounted but by
mmdebstrap in a namespace of its own, which ends with it.
"""

import os
import tempfile
from pathlib import Path

from cairn.host import disk_image, packages
from cairn.host.disk_image import BootFiles

PACKAGES = (
    *("linux-image-cloud-amd64", "cloud-init", "cloud-guest-utils", "openssh-server"),
    *("systemd-sysv", "dbus", "ifupdown", "isc-dhcp-client", "iproute2", "udev", "sudo"),
    *("acpid", "e2fsprogs", "fdisk", "python3-minimal", "ca-certificates"),
)
TOOLS = ("mmdebstrap", "perl", *disk_image.TOOL_PACKAGES)
NEEDED = rf"mmdebstrap|perl|perl-(base|modules-.*)|libperl.*|{disk_image.TOOL_NEEDED}"
FILES = {
    "etc/hostname": "debian\n",
    "etc/fstab": "LABEL=debian-root / ext4 errors=remount-ro 0 1\n",
    "etc/cloud/cloud.cfg.d/90_cairn.cfg": (
        "datasource_list: [ConfigDrive, OpenStack, Ec2, None]\n"
        "datasource:\n  Ec2:\n    strict_id: false\n"
    ),
    # A login on the serial console besides the screen, before anybody asks for one.
    "etc/systemd/system/serial-getty@ttyS0.service.d/always.conf": "[Service]\nRestart=always\n",
}
BOOTSTRAP_S_MAX = 3600.0
ROOT_MIB = 1400
BOOT_MIB = 96
KERNEL_LINE = (
    "root=LABEL=debian-root rw console=tty0 console=ttyS0,115200 random.trust_cpu=on net.ifnames=0"
)


def build(out: Path) -> None:
    """Write the image as qcow2 to `out`, which appears whole or not at all. Raises Unavailable."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".debian-", dir=out.parent) as folder:
        work = Path(folder)
        parts = work / "parts"
        parts.mkdir()
        packages.fetch(TOOLS, NEEDED, parts)
        tree = _bootstrap(work, parts)
        files = BootFiles(
            kernel=packages.file_in(tree, "boot/vmlinuz-*").read_bytes(),
            initrd=packages.file_in(tree, "boot/initrd.img-*").read_bytes(),
            line=KERNEL_LINE,
        )
        boot = disk_image.boot_partition(work, parts, files, size_mib=BOOT_MIB)
        root = work / "root.img"
        make = ["mke2fs", "-q", "-F", "-text4", "-Ldebian-root", "-m0", "-O^metadata_csum"]
        packages.run([*make, "-d", str(tree), str(root), f"{ROOT_MIB}M"])
        disk_image.join(work, parts, boot=boot, root=root).rename(out)


def _bootstrap(work: Path, parts: Path) -> Path:
    """The installed system, as a folder."""
    tree = work / "tree"
    libraries = [*parts.glob("usr/share/perl/*"), *parts.glob("usr/lib/*/perl/*")]
    libraries += [*parts.glob("usr/share/perl5"), *parts.glob("usr/lib/*/perl-base")]
    found = ":".join(str(folder) for folder in libraries if folder.is_dir())
    # Mounts that mmdebstrap makes are in a namespace of its own; killed or not, they end with it.
    path = f"{os.environ.get('PATH', os.defpath)}:{parts}/usr/bin"
    command = ["unshare", "--mount", "env", f"PATH={path}", f"PERL5LIB={found}", "perl"]
    command += [str(parts / "usr/bin/mmdebstrap"), "--mode=root", "--variant=minbase", "--quiet"]
    command += [f"--include={','.join(PACKAGES)}", '--aptopt=APT::Install-Recommends "false"']
    for unread in ("doc", "man", "locale", "info"):
        command.append(f"--dpkgopt=path-exclude=/usr/share/{unread}/*")
    for name, content in FILES.items():
        staged = work / name.replace("/", "_")
        staged.write_text(content)
        command.append(f'--customize-hook=install -D -m 644 {staged} "$1/{name}"')
    suite = packages.own_suite()
    sources = [
        f"deb {packages.debian_archive()} {name} main" for name in (suite, f"{suite}-updates")
    ]
    packages.run([*command, suite, str(tree), *sources], within_s=BOOTSTRAP_S_MAX)
    return tree
