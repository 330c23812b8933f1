"""What this machine can do, found out by trying it, with the command that cures each lack.

Features are tried, not versions read: a device that opens may still not work, a file system may be
called right and refuse. Everything tried is undone, or was done in a namespace that is gone.
"""

import errno
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from cairn.host import processes, supervise
from cairn.settings import Settings

# linux/kvm.h and linux/fs.h
KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_CREATE_VCPU = 0xAE41
KVM_API_VERSION = 12
FICLONE = 0x40049409

DISK_GIB_MIN = 2
DISK_GIB_GOOD = 20
MEMORY_MIB_MIN = 768
MEMORY_MIB_GOOD = 3072
# What is called by name, and Debian's package that brings it.
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "ip": "iproute2",
    "nft": "nftables",
    "ethtool": "ethtool",
    "ssh-keygen": "openssh-client",
    "setpriv": "util-linux",
    "mke2fs": "e2fsprogs",
}


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that was tried. `is_fatal`: Cairn cannot run; not good and not fatal: it runs worse."""

    what: str
    is_good: bool
    found: str
    cure: str = ""
    is_fatal: bool = False


def probe(settings: Settings) -> list[Finding]:
    """Everything, in the order in which it should be put right; takes well under a second."""
    findings = list(probe_programs())
    findings.append(probe_namespaces())
    findings.append(probe_nft())
    findings.append(probe_tun())
    findings.append(probe_kvm())
    findings.append(probe_reflink(settings.state))
    findings.append(probe_datapath())
    if supervise.is_running(settings.state):
        findings.append(Finding(what="ports", is_good=True, found="Cairn itself is running"))
    else:
        if settings.control:
            api = ("API port", settings.api_address, settings.api_port, "api_port")
            node = ("node port", settings.node_address, settings.node_port, "node_port")
            findings += [probe_port(*api), probe_port(*node)]
        findings.append(probe_others(settings.state))
    findings.append(probe_disk(settings.state))
    findings.append(probe_memory())
    findings.append(probe_smart())
    return findings


def probe_programs() -> Iterator[Finding]:
    missing = {p: package for p, package in PROGRAMS.items() if shutil.which(p) is None}
    if not missing:
        yield Finding(what="programs", is_good=True, found=f"all {len(PROGRAMS)} are there")
    for program, package in missing.items():
        yield Finding(
            what="programs",
            is_good=False,
            is_fatal=True,
            found=f"there is no `{program}`",
            cure=f"apt-get install --no-install-recommends {package}",
        )


def probe_namespaces() -> Finding:
    """A network namespace of our own, as metadata servers live in."""
    said = _try(["unshare", "--net", "true"])
    return Finding(
        what="network namespaces",
        is_good=said is None,
        is_fatal=said is not None,
        found=said or "can be made",
        cure="" if said is None else "run as root, outside of a container that forbids namespaces",
    )


def probe_nft() -> Finding:
    """A table, in a namespace that ends with the attempt."""
    said = _try(["unshare", "--net", "nft", "add table inet cairn_probe"])
    return Finding(
        what="nft",
        is_good=said is None,
        is_fatal=said is not None,
        found=said or "takes tables",
        cure="" if said is None else "modprobe nf_tables",
    )


def probe_tun(device: Path = Path("/dev/net/tun")) -> Finding:
    """Guests' network cards are taps."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        said = f"{device}: {error.strerror}"
        cure = "modprobe tun"
        return Finding(what="TUN", is_good=False, is_fatal=True, found=said, cure=cure)
    return Finding(what="TUN", is_good=True, found="taps can be made")


def probe_kvm(device: Path = Path("/dev/kvm"), cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """KVM that works: the device may open where the processor lacks the instructions."""
    slow = "guests run without it, many times slower"
    flags = set(cpuinfo.read_text().split())
    if not flags & {"vmx", "svm"}:
        cure = (
            "switch on virtualization in the firmware, or nested virtualization on the outer host"
        )
        said = f"the processor shows neither vmx nor svm; {slow}"
        return Finding(what="KVM", is_good=False, found=said, cure=cure)
    try:
        _try_kvm(device)
    except OSError as error:
        is_absent = error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO)
        cure = "modprobe kvm-intel || modprobe kvm-amd" if is_absent else f"ls -l {device}"
        said = f"{device}: {error.strerror}; {slow}"
        return Finding(what="KVM", is_good=False, found=said, cure=cure)
    return Finding(what="KVM", is_good=True, found="a virtual machine with a processor can be made")


def _try_kvm(device: Path) -> None:
    opened: list[int] = []
    try:
        opened.append(os.open(device, os.O_RDWR | os.O_CLOEXEC))
        if fcntl.ioctl(opened[0], KVM_GET_API_VERSION, 0) != KVM_API_VERSION:
            raise OSError(errno.ENOTSUP, "speaks another version of the interface")
        opened.append(fcntl.ioctl(opened[0], KVM_CREATE_VM, 0))
        opened.append(fcntl.ioctl(opened[1], KVM_CREATE_VCPU, 0))
    finally:
        for descriptor in reversed(opened):
            os.close(descriptor)


def probe_reflink(state: Path) -> Finding:
    """Whether a file can be cloned where volumes will lie."""
    folder = _nearest(state)
    try:
        with (
            tempfile.TemporaryFile(dir=folder) as source,
            tempfile.TemporaryFile(dir=folder) as clone,
        ):
            source.write(bytes(4096))
            source.flush()
            fcntl.ioctl(clone.fileno(), FICLONE, source.fileno())
    except OSError as error:
        said = f"{folder} cannot clone files ({error.strerror}); disks become qcow2 overlays"
        cure = f"put {state} on XFS: mkfs.xfs -m reflink=1 DEVICE && mount DEVICE {state}"
        return Finding(what="reflink", is_good=False, found=said, cure=cure)
    return Finding(what="reflink", is_good=True, found=f"{folder} clones files")


def probe_datapath(modules: Path = Path("/sys/module")) -> Finding:
    """Open vSwitch in the kernel, or the one in userspace."""
    if (modules / "openvswitch").exists() or _try(["modprobe", "-qn", "openvswitch"]) is None:
        return Finding(what="datapath", is_good=True, found="the kernel has openvswitch")
    said = "the kernel has no openvswitch; packets take the slower way through userspace"
    cure = "apt-get install linux-image-amd64 && reboot"
    return Finding(what="datapath", is_good=False, found=said, cure=cure)


def probe_port(what: str, address: str, port: int, setting: str) -> Finding:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        # Connections of an earlier run that are still closing do not matter.
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((address, port))
            trial.listen(1)
        except OSError as error:
            return Finding(
                what=what,
                is_good=False,
                is_fatal=True,
                found=f"port {port} on {address}: {error.strerror}",
                cure=f"ss -Hltnp 'sport = :{port}' shows who has it; or set {setting} in cairn.toml",
            )
    return Finding(what=what, is_good=True, found=f"port {port} is free")


def probe_others(state: Path) -> Finding:
    """Two installations in one network namespace would make the same bridges and addresses."""
    for other in processes.agents():
        if other.state != state and processes.shares_network(other.pid):
            return Finding(
                what="other installations",
                is_good=False,
                is_fatal=True,
                found=f"another Cairn runs on this machine, from {other.state}",
                cure=f"cairn down --state {other.state}",
            )
    return Finding(what="other installations", is_good=True, found="none runs here")


def probe_disk(state: Path) -> Finding:
    folder = _nearest(state)
    free_gib = shutil.disk_usage(folder).free / (1 << 30)
    is_good = free_gib >= DISK_GIB_GOOD
    return Finding(
        what="disk",
        is_good=is_good,
        is_fatal=free_gib < DISK_GIB_MIN,
        found=f"{free_gib:.1f} GiB are free in {folder}",
        cure=""
        if is_good
        else f"free some room, or mount a disk of {DISK_GIB_GOOD} GiB on {state}",
    )


def probe_memory(meminfo: Path = Path("/proc/meminfo")) -> Finding:
    values = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free_mib = int(values["MemAvailable"].split()[0]) // 1024
    is_good = free_mib >= MEMORY_MIB_GOOD
    return Finding(
        what="memory",
        is_good=is_good,
        is_fatal=free_mib < MEMORY_MIB_MIN,
        found=f"{free_mib} MiB are available",
        cure="" if is_good else "end what is not needed: ps -eo rss,comm --sort=-rss | head",
    )


def probe_smart(program: str = "smartctl") -> Finding:
    """Optional: without it a host's health says nothing of its disks."""
    if shutil.which(program) is None:
        return Finding(
            what="disk health",
            is_good=False,
            found=f"there is no `{program}`: a disk that begins to fail is not noticed",
            cure="apt-get install --no-install-recommends smartmontools",
        )
    return Finding(what="disk health", is_good=True, found="disks are asked how they are")


def _nearest(path: Path) -> Path:
    """The folder itself or, before it is made, the one that it will be made in."""
    while not path.is_dir():
        path = path.parent
    return path


def _try(command: list[str]) -> str | None:
    """None if the command went well, else what it said."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    except FileNotFoundError:
        return f"there is no `{command[0]}`"
    except subprocess.TimeoutExpired:
        return f"`{' '.join(command)}` hangs"
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines()
    return said[0] if said else f"`{' '.join(command)}` ended with {done.returncode}"
