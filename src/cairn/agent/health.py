"""How the host's own hardware is: disks, room, memory, NICs, clock, pressure, and what that means.

Judging is pure: each function takes what was read and gives a finding with its level and meaning.
`HealthWatch` reads through a `Machine`, so that tests need no hardware; it blocks and belongs in a
thread. A level rises at once and falls only after some calm looks, so that what hovers about a threshold
is no stream of news.
"""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from cairn.wire.report import HealthSeen

OK, WARNING, CRITICAL = "ok", "warning", "critical"
LEVELS = (OK, WARNING, CRITICAL)
PERIOD_S = 60.0  # between two looks
SMART_PERIOD_S = 600.0  # asking a disk costs it time
SMART_SECONDS_MAX = 30.0
CALM_LOOKS = 3  # at a lower level before a finding's level falls

FREE_PERCENT_WARNING = 15.0
FREE_PERCENT_CRITICAL = 5.0
CORRECTED_WARNING = 100  # corrected memory errors since boot; single ones are cosmic rays
NIC_ERRORS_A_MINUTE = 10.0
NIC_DROPS_A_MINUTE = 600.0  # frames for nobody are dropped too, so some are always there
NIC_DROPS_SHARE = 0.01
OFFSET_WARNING_S = 1.0
OFFSET_CRITICAL_S = 30.0  # certificates and tokens begin to be refused
STALLED_WARNING = 10.0  # percent of the last five minutes in which some task waited for memory
STALLED_CRITICAL = 20.0  # in which all did

STA_UNSYNC = 0x0040  # linux/timex.h
TIME_ERROR = 5


class KernelClock(Struct, frozen=True, kw_only=True):
    is_synchronised: bool
    error_s: float  # the kernel's own estimate of the largest


class Offset(Struct, frozen=True, kw_only=True):
    """The control plane's clock less ours, and how uncertain that is (half the round trip)."""

    seconds: float
    uncertain_s: float


class Room(Struct, frozen=True, kw_only=True):
    """Of a file system. No inodes: it makes them as it needs."""

    bytes_total: int
    bytes_free: int
    inodes_total: int
    inodes_free: int


class Machine(Protocol):
    """What is read of the machine. Nothing raises: what cannot be read is None or empty."""

    def text(self, path: str) -> str | None: ...

    def names(self, folder: str) -> list[str]: ...

    def smartctl(self, *words: str) -> Any:
        """What `smartctl --json` says; None when it is not installed or says nothing."""
        ...

    def room(self, folder: Path) -> Room | None: ...

    def clock(self) -> KernelClock | None: ...

    def monotonic_s(self) -> float: ...


# --- judging -----------------------------------------------------------------------------------------


def _finding(name: str, level: str, found: str, meaning: str = "") -> HealthSeen:
    return HealthSeen(name=name, level=level, found=found, meaning="" if level == OK else meaning)


def disk(device: str, told: Mapping[str, Any]) -> HealthSeen:
    """From `smartctl --json -H -A -i`. Sources: smartmontools' JSON; ATA attributes 5, 197, 198; NVMe
    base specification, "SMART / Health Information"."""
    name = f"disk {device}"
    model = str(told.get("model_name") or told.get("scsi_model_name") or "").strip()
    signs = [*_ata_signs(told), *_nvme_signs(told), *_scsi_signs(told)]
    if told.get("smart_status", {}).get("passed") is False:
        signs.insert(0, (CRITICAL, "it says itself that it fails"))
    if not signs:
        if "smart_status" not in told:
            return _finding(name, OK, f"{model or 'it'} tells nothing of its health")
        return _finding(name, OK, f"{model or 'it'} says that it is well")
    level = max((sign[0] for sign in signs), key=LEVELS.index)
    meaning = (
        "It may stop at any time: move the guests away (`cairn host drain`) and replace it."
        if level == CRITICAL
        else "It wears out or has begun to fail: plan to replace it, and see that what is on it is "
        "backed up."
    )
    return _finding(name, level, ", ".join(text for _, text in signs), meaning)


def _ata_signs(told: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    rows = told.get("ata_smart_attributes", {}).get("table", ())
    counts = {row.get("id"): int(row.get("raw", {}).get("value", 0)) for row in rows}
    for number, level, words in (
        (5, WARNING, "reallocated sectors"),
        (197, WARNING, "sectors that could not be read"),
        (198, CRITICAL, "sectors that are lost"),
    ):
        if counts.get(number, 0) > 0:
            yield level, f"{counts[number]} {words}"


def _nvme_signs(told: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    log = told.get("nvme_smart_health_information_log", {})
    if log.get("critical_warning", 0):
        yield CRITICAL, f"critical warning {log['critical_warning']:#04x}"
    if log.get("available_spare", 100) < log.get("available_spare_threshold", 0):
        yield CRITICAL, f"{log['available_spare']} % of its spare blocks are left"
    if log.get("media_errors", 0):
        yield WARNING, f"{log['media_errors']} media errors"
    if log.get("percentage_used", 0) >= 90:
        yield WARNING, f"{log['percentage_used']} % of its life is used"


def _scsi_signs(told: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    if told.get("scsi_grown_defect_list", 0):
        yield WARNING, f"{told['scsi_grown_defect_list']} grown defects"


def pool(room: Room) -> HealthSeen:
    free = _percent(room.bytes_free, room.bytes_total)
    inodes = _percent(room.inodes_free, room.inodes_total)
    found = f"{room.bytes_free >> 30} of {room.bytes_total >> 30} GiB free"
    if inodes < free:
        found += f", {inodes:.0f} % of the inodes"
    level = _level_below(min(free, inodes), FREE_PERCENT_WARNING, FREE_PERCENT_CRITICAL)
    return _finding(
        "pool",
        level,
        found,
        "When it is full, guests on this host stand still at their next write to a new block. Move "
        "volumes away, delete images and snapshots, or make it larger.",
    )


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 100.0


def _level_below(value: float, warning: float, critical: float) -> str:
    if value < critical:
        return CRITICAL
    return WARNING if value < warning else OK


def memory_errors(corrected: int, uncorrected: int, worst: str = "") -> HealthSeen:
    """From the kernel's EDAC counters, since boot; `worst` names the module with the most."""
    if uncorrected:
        level, meaning = (
            CRITICAL,
            "Memory was damaged: guests may have wrong data. Drain the host and replace the module.",
        )
    else:
        level = WARNING if corrected >= CORRECTED_WARNING else OK
        meaning = "A module begins to fail, errors are corrected still: plan to replace it."
    found = f"{corrected} corrected and {uncorrected} uncorrected errors since boot"
    return _finding("memory", level, found + (f", most in {worst}" if worst else ""), meaning)


class NicCounts(Struct, frozen=True, kw_only=True):
    at_s: float
    packets: int
    errors: int
    drops: int
    carrier_changes: int
    has_carrier: bool


def nic(name: str, before: NicCounts | None, now: NicCounts) -> HealthSeen:
    """By what happened since the last look: counters of long ago say nothing of today."""
    title = f"nic {name}"
    if not now.has_carrier:
        meaning = "No signal: look at cable, transceiver and switch port."
        return _finding(title, CRITICAL, "no carrier", meaning)
    if before is None or now.at_s <= before.at_s:
        return _finding(title, OK, "carrier")
    minutes = (now.at_s - before.at_s) / 60
    errors = max(0, now.errors - before.errors) / minutes
    drops = max(0, now.drops - before.drops) / minutes
    packets = max(1, (now.packets - before.packets) / minutes)
    flaps = now.carrier_changes - before.carrier_changes
    found = f"carrier, {errors:.0f} errors and {drops:.0f} drops a minute"
    if flaps > 0:
        text = f"{found}, lost and found its carrier {flaps} times"
        return _finding(title, WARNING, text, "A loose cable or a tired transceiver.")
    if errors >= NIC_ERRORS_A_MINUTE:
        meaning = "Damaged frames: a bad cable, transceiver or switch port."
        return _finding(title, WARNING, found, meaning)
    if drops >= NIC_DROPS_A_MINUTE and drops / (packets + drops) > NIC_DROPS_SHARE:
        meaning = "Frames come faster than the host takes them: guests see lost packets."
        return _finding(title, WARNING, found, meaning)
    return _finding(title, OK, found)


def clock(kernel: KernelClock | None, offset: Offset | None) -> HealthSeen:
    """The kernel's word, and the distance to the control plane as far as it is beyond doubt."""
    meaning = (
        "Certificates and tokens are judged by time, and logs of several hosts cannot be compared. "
        "Run a time service: `apt install chrony`."
    )
    parts, level = [], OK
    if kernel is not None:
        if not kernel.is_synchronised:
            parts, level = ["not synchronised by any time service"], WARNING
        else:
            parts = [f"synchronised, wrong by at most {kernel.error_s:.1g} s"]
    if offset is not None:
        beyond_s = max(0.0, abs(offset.seconds) - offset.uncertain_s)
        where = "behind" if offset.seconds > 0 else "ahead of"
        near = "as the control plane's"
        parts.append(f"{beyond_s:.1f} s {where} the control plane's" if beyond_s >= 0.1 else near)
        if beyond_s >= OFFSET_CRITICAL_S:
            level = CRITICAL
        elif beyond_s >= OFFSET_WARNING_S:
            level = WARNING
    return _finding("clock", level, ", ".join(parts) or "unknown", meaning)


def pressure(memory: str | None, load: str | None, cpus: int) -> HealthSeen:
    """From /proc/pressure/memory (Documentation/accounting/psi.rst) and /proc/loadavg."""
    shares = _pressure_shares(memory or "")
    some, full = shares.get("some", 0.0), shares.get("full", 0.0)
    averages = " ".join((load or "- - -").split()[:3])
    found = f"load {averages} on {cpus} CPUs, {some:.0f} % of the time short of memory"
    level = OK
    if full >= STALLED_CRITICAL:
        level = CRITICAL
    elif some >= STALLED_WARNING:
        level = WARNING
    meaning = "Guests stand still while the host looks for memory: move some away."
    return _finding("pressure", level, found, meaning)


def _pressure_shares(text: str) -> dict[str, float]:
    """The five minutes' averages: "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        for word in words[1:]:
            key, _, value = word.partition("=")
            if key == "avg300":
                found[words[0]] = float(value)
    return found


def boot(stat: str | None, wants_restart: bool) -> HealthSeen | None:
    """When the machine was started last: /proc/stat's btime."""
    for line in (stat or "").splitlines():
        if line.startswith("btime "):
            since = datetime.fromtimestamp(int(line.split()[1]), UTC)
            found = f"up since {since:%Y-%m-%dT%H:%M:%SZ}"
            more = ", a restart is pending for updates to take effect" if wants_restart else ""
            return _finding("boot", OK, found + more)
    return None


# --- reading -----------------------------------------------------------------------------------------


class HealthWatch:
    """Looks at everything when called; blocks (disks may take seconds). Not for two threads at once."""

    def __init__(self, machine: Machine, *, pool_dir: Path) -> None:
        self._machine = machine
        self._pool_dir = pool_dir
        self._nics: dict[str, NicCounts] = {}
        self._disks: list[HealthSeen] = []
        self._disks_at_s: float | None = None
        self._levels: dict[str, tuple[str, str, int]] = {}  # level, its meaning, calm looks since
        self.offset: Offset | None = None

    def __call__(self) -> tuple[HealthSeen, ...]:
        found = [
            *self._look_at_disks(),
            *self._look_at_pool(),
            *self._look_at_memory(),
            *self._look_at_nics(),
            clock(self._machine.clock(), self.offset),
            pressure(
                self._machine.text("/proc/pressure/memory"),
                self._machine.text("/proc/loadavg"),
                os.cpu_count() or 1,
            ),
        ]
        wants_restart = self._machine.text("/run/reboot-required") is not None
        started = boot(self._machine.text("/proc/stat"), wants_restart)
        found += [started] if started is not None else []
        return tuple(self._steadied(one) for one in sorted(found, key=lambda h: h.name))

    def _steadied(self, seen: HealthSeen) -> HealthSeen:
        level, meaning, calm = self._levels.get(seen.name, (OK, "", 0))
        if LEVELS.index(seen.level) >= LEVELS.index(level) or calm + 1 >= CALM_LOOKS:
            self._levels[seen.name] = (seen.level, seen.meaning, 0)
            return seen
        self._levels[seen.name] = (level, meaning, calm + 1)
        return msgspec.structs.replace(seen, level=level, meaning=meaning)

    def _look_at_disks(self) -> list[HealthSeen]:
        now_s = self._machine.monotonic_s()
        if self._disks_at_s is None or now_s >= self._disks_at_s + SMART_PERIOD_S:
            self._disks_at_s = now_s
            self._disks = list(self._ask_disks())
        return self._disks

    def _ask_disks(self) -> Iterable[HealthSeen]:
        listed = self._machine.smartctl("--scan")
        if listed is None:
            yield _finding("disks", OK, "not looked at: smartctl is not installed")
            return
        for one in listed.get("devices", ()):
            device, kind = str(one.get("name", "")), str(one.get("type", "auto"))
            words = ("-H", "-A", "-i", "-n", "standby", "-d", kind, device)
            told = self._machine.smartctl(*words)
            if told:
                yield disk(device.removeprefix("/dev/"), told)

    def _look_at_pool(self) -> Iterable[HealthSeen]:
        room = self._machine.room(self._pool_dir)
        if room is not None:
            yield pool(room)

    def _look_at_memory(self) -> Iterable[HealthSeen]:
        top = "/sys/devices/system/edac/mc"
        counts: dict[str, int] = {}
        corrected = uncorrected = 0
        controllers = [name for name in self._machine.names(top) if name.startswith("mc")]
        for controller in controllers:
            folder = f"{top}/{controller}"
            corrected += self._number(f"{folder}/ce_count")
            uncorrected += self._number(f"{folder}/ue_count")
            for module in self._machine.names(folder):
                if module.startswith("dimm"):
                    label = (self._machine.text(f"{folder}/{module}/dimm_label") or module).strip()
                    errors = self._number(f"{folder}/{module}/dimm_ce_count")
                    counts[label] = errors + self._number(f"{folder}/{module}/dimm_ue_count")
        if controllers:
            worst = max(counts, key=lambda label: counts[label], default="")
            yield memory_errors(corrected, uncorrected, worst if counts.get(worst) else "")

    def _look_at_nics(self) -> Iterable[HealthSeen]:
        top = "/sys/class/net"
        routed = _default_route_nics(self._machine.text("/proc/net/route") or "")
        for name in self._machine.names(top):
            folder = f"{top}/{name}"
            is_real = "device" in self._machine.names(folder) or name in routed
            is_up = self._number(f"{folder}/flags", base=16) & 1
            if not is_real or not is_up:  # What an operator put down is no trouble.
                continue
            counts = self._nic_counts(folder)
            yield nic(name, self._nics.get(name), counts)
            self._nics[name] = counts

    def _nic_counts(self, folder: str) -> NicCounts:
        def total(word: str) -> int:
            return sum(self._number(f"{folder}/statistics/{way}_{word}") for way in ("rx", "tx"))

        return NicCounts(
            at_s=self._machine.monotonic_s(),
            packets=total("packets"),
            errors=total("errors"),
            drops=total("dropped"),
            carrier_changes=self._number(f"{folder}/carrier_changes"),
            has_carrier=self._number(f"{folder}/carrier") == 1,
        )

    def _number(self, path: str, *, base: int = 10) -> int:
        try:
            return int((self._machine.text(path) or "0").strip(), base)
        except ValueError:
            return 0


def _default_route_nics(routes: str) -> set[str]:
    rows = (line.split() for line in routes.splitlines()[1:])
    return {row[0] for row in rows if len(row) > 1 and row[1] == "00000000"}


class _Timex(ctypes.Structure):
    """struct timex of linux/timex.h, on 64-bit machines."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


class ThisMachine:
    """The `Machine` that we run on."""

    def text(self, path: str) -> str | None:
        try:
            return Path(path).read_text()
        except (OSError, UnicodeDecodeError):
            return None

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(path.name for path in Path(folder).iterdir())
        except OSError:
            return []

    def smartctl(self, *words: str) -> Any:
        program = shutil.which("smartctl", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if program is None:
            return None
        with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
            # It ends with a status made of bits, also when all it says is good to know.
            done = subprocess.run(
                [program, "--json", *words],
                check=False,
                capture_output=True,
                timeout=SMART_SECONDS_MAX,
            )
            return json.loads(done.stdout)
        return {}

    def room(self, folder: Path) -> Room | None:
        try:
            found = os.statvfs(folder)
        except OSError:
            return None
        return Room(
            bytes_total=found.f_blocks * found.f_frsize,
            bytes_free=found.f_bavail * found.f_frsize,
            inodes_total=found.f_files,
            inodes_free=found.f_favail,
        )

    def clock(self) -> KernelClock | None:
        asked = _Timex()  # `modes` 0: only look.
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(asked))
        if state < 0:
            return None
        is_off = state == TIME_ERROR or bool(asked.status & STA_UNSYNC)
        return KernelClock(is_synchronised=not is_off, error_s=asked.maxerror / 1e6)

    def monotonic_s(self) -> float:
        return time.monotonic()
