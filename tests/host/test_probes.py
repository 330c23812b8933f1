"""Each probe finds the lack that it is for, and names a cure; nothing is left of the attempt."""

import errno
import os
import socket
from pathlib import Path

import pytest

from cairn.host import probes, processes
from cairn.host.processes import Part
from cairn.settings import Settings


def test_missing_program_is_fatal_and_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    found = {f.found: f for f in probes.probe_programs()}
    assert len(found) == len(probes.PROGRAMS)
    assert all(f.is_fatal for f in found.values())
    assert "qemu-system-x86" in found["there is no `qemu-system-x86_64`"].cure


@pytest.mark.parametrize("probe", [probes.probe_namespaces, probes.probe_nft])
def test_refusal_of_a_namespace_is_told_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, probe: object
) -> None:
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert callable(probe)
    finding = probe()
    assert finding.is_fatal
    assert finding.found == "unshare failed: Operation not permitted"
    assert finding.cure


def test_absent_tun_device_is_fatal(tmp_path: Path) -> None:
    finding = probes.probe_tun(tmp_path / "tun")
    assert finding.is_fatal
    assert finding.cure == "modprobe tun"


def test_kvm_without_the_processors_instructions_is_not_believed(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu sse2 hypervisor\n")
    finding = probes.probe_kvm(Path("/dev/null"), cpuinfo)
    assert not finding.is_good
    assert not finding.is_fatal
    assert "neither vmx nor svm" in finding.found


@pytest.mark.parametrize("device", ["absent", "/dev/null"])
def test_kvm_that_opens_but_makes_no_machine_is_not_believed(tmp_path: Path, device: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu vmx\n")
    finding = probes.probe_kvm(tmp_path / device, cpuinfo)
    assert not finding.is_good
    assert not finding.is_fatal
    assert finding.cure


def test_file_system_that_cannot_clone_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(probes.fcntl, "ioctl", refuse)
    finding = probes.probe_reflink(tmp_path / "not" / "yet" / "made")
    assert not finding.is_good
    assert not finding.is_fatal
    assert "mkfs.xfs -m reflink=1" in finding.cure
    assert not list(tmp_path.iterdir())


def test_missing_kernel_datapath_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    finding = probes.probe_datapath(tmp_path)
    assert not finding.is_good
    assert not finding.is_fatal


def test_busy_port_is_fatal_and_names_setting_and_command() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        port = holder.getsockname()[1]
        finding = probes.probe_port("API port", "127.0.0.1", port, "api_port")
    assert finding.is_fatal
    assert finding.found == f"port {port} on 127.0.0.1: Address already in use"
    assert "api_port" in finding.cure
    assert probes.probe_port("API port", "127.0.0.1", port, "api_port").is_good


def test_full_disk_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1 << 20

    monkeypatch.setattr(probes.shutil, "disk_usage", lambda _: Usage)
    assert probes.probe_disk(tmp_path).is_fatal


@pytest.mark.parametrize(
    ("kib", "is_good", "is_fatal"),
    [(8 << 20, True, False), (1 << 20, False, False), (1 << 18, False, True)],
)
def test_memory_is_weighed(tmp_path: Path, kib: int, is_good: bool, is_fatal: bool) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 999 kB\nMemAvailable: {kib} kB\n")
    finding = probes.probe_memory(meminfo)
    assert (finding.is_good, finding.is_fatal) == (is_good, is_fatal)


def test_other_installation_in_this_network_is_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Part(pid=os.getpid(), name="agent", state=Path("/srv/other"))
    monkeypatch.setattr(processes, "parts", lambda: iter([other]))
    finding = probes.probe_others(Path("/var/lib/cairn"))
    assert finding.is_fatal
    assert finding.cure == "cairn down --state /srv/other"
    assert probes.probe_others(other.state).is_good


def test_everything_has_a_cure_or_needs_none(tmp_path: Path) -> None:
    for finding in probes.probe(Settings(state=tmp_path)):
        assert finding.is_good != bool(finding.cure), finding


def test_disk_health_is_optional_and_names_its_package() -> None:
    missing = probes.probe_smart("no-such-program")
    assert not missing.is_good
    assert not missing.is_fatal
    assert "smartmontools" in missing.cure
    assert probes.probe_smart("sh").is_good
