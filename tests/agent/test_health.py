"""The host's health: judged from what was read, steady, and no stream of news."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from tests.agent_specs import NODE

from cairn.agent import health
from cairn.agent.agent import Agent
from cairn.agent.health import (
    CALM_LOOKS,
    CRITICAL,
    OK,
    WARNING,
    HealthWatch,
    KernelClock,
    NicCounts,
    Offset,
    Room,
)
from cairn.agent.link import ControlLink
from cairn.core.clock import FakeClock
from cairn.core.errors import Unavailable
from cairn.core.ids import NodeId
from cairn.wire.link import (
    OLDEST_WIRE_VERSION,
    WIRE_VERSION,
    Frame,
    Hello,
    Refused,
    Report,
    Welcome,
)
from cairn.wire.report import HealthSeen, HostFacts

GIB = 1 << 30
FACTS = HostFacts(
    hostname="h", vcpus=1, memory_mib=1, disk_gib=1, disk_free_gib=1, accelerator="tcg"
)


# --- judging -----------------------------------------------------------------------------------------

ATA = {"model_name": "Disk 1000", "smart_status": {"passed": True}}
NVME = "nvme_smart_health_information_log"


def attributes(**counts: int) -> dict[str, Any]:
    rows = [{"id": int(key[1:]), "raw": {"value": value}} for key, value in counts.items()]
    return {**ATA, "ata_smart_attributes": {"table": rows}}


@pytest.mark.parametrize(
    ("told", "level", "word"),
    [
        (ATA, OK, "Disk 1000 says that it is well"),
        ({"model_name": "USB stick"}, OK, "tells nothing"),
        ({}, OK, "tells nothing"),
        ({**ATA, "smart_status": {"passed": False}}, CRITICAL, "it says itself that it fails"),
        (attributes(a5=0, a197=0, a198=0), OK, "well"),
        (attributes(a5=12), WARNING, "12 reallocated sectors"),
        (attributes(a197=1), WARNING, "1 sectors that could not be read"),
        (attributes(a5=1, a198=3), CRITICAL, "1 reallocated sectors, 3 sectors that are lost"),
        ({**ATA, NVME: {"critical_warning": 4}}, CRITICAL, "critical warning 0x04"),
        (
            {**ATA, NVME: {"available_spare": 3, "available_spare_threshold": 10}},
            CRITICAL,
            "3 % of its spare",
        ),
        ({**ATA, NVME: {"media_errors": 2}}, WARNING, "2 media errors"),
        ({**ATA, NVME: {"percentage_used": 96}}, WARNING, "96 % of its life"),
        ({**ATA, NVME: {"percentage_used": 3}}, OK, "well"),
        ({**ATA, "scsi_grown_defect_list": 7}, WARNING, "7 grown defects"),
    ],
)
def test_disks(told: dict[str, Any], level: str, word: str) -> None:
    seen = health.disk("sda", told)
    assert (seen.name, seen.level) == ("disk sda", level)
    assert word in seen.found
    assert bool(seen.meaning) == (level != OK)


@pytest.mark.parametrize(
    ("free", "inodes", "level"),
    [(50, 50, OK), (15, 50, OK), (14, 50, WARNING), (4, 50, CRITICAL), (50, 4, CRITICAL)],
)
def test_room(free: int, inodes: int, level: str) -> None:
    room = Room(bytes_total=100 * GIB, bytes_free=free * GIB, inodes_total=100, inodes_free=inodes)
    assert health.pool(room).level == level


def test_a_file_system_without_inodes_is_judged_by_its_bytes() -> None:
    room = Room(bytes_total=100 * GIB, bytes_free=50 * GIB, inodes_total=0, inodes_free=0)
    assert health.pool(room).level == OK


@pytest.mark.parametrize(
    ("corrected", "uncorrected", "level"),
    [(0, 0, OK), (99, 0, OK), (100, 0, WARNING), (0, 1, CRITICAL)],
)
def test_memory(corrected: int, uncorrected: int, level: str) -> None:
    assert health.memory_errors(corrected, uncorrected).level == level


def nic(at_s: float = 0.0, **counts: Any) -> NicCounts:
    none = {"packets": 0, "errors": 0, "drops": 0, "carrier_changes": 0, "has_carrier": True}
    return NicCounts(at_s=at_s, **{**none, **counts})


@pytest.mark.parametrize(
    ("before", "now", "level", "word"),
    [
        (None, nic(errors=10**6), OK, "carrier"),  # Of long ago: nobody knows when.
        (nic(), nic(60, packets=1000), OK, "0 errors"),
        (nic(errors=500), nic(60, errors=505), OK, "5 errors"),
        (nic(errors=500), nic(60, errors=520), WARNING, "20 errors"),
        (nic(), nic(120, errors=12), OK, "6 errors"),
        (nic(), nic(60, packets=1000, drops=900), WARNING, "900 drops"),
        (nic(), nic(60, packets=10**6, drops=900), OK, "900 drops"),
        (nic(carrier_changes=2), nic(60, carrier_changes=4), WARNING, "2 times"),
        (nic(), nic(60, has_carrier=False), CRITICAL, "no carrier"),
    ],
)
def test_nics(before: NicCounts | None, now: NicCounts, level: str, word: str) -> None:
    seen = health.nic("eth0", before, now)
    assert seen.level == level
    assert word in seen.found


SYNCHRONISED = KernelClock(is_synchronised=True, error_s=0.001)


@pytest.mark.parametrize(
    ("kernel", "offset", "level"),
    [
        (SYNCHRONISED, None, OK),
        (None, None, OK),
        (KernelClock(is_synchronised=False, error_s=16), None, WARNING),
        (SYNCHRONISED, Offset(seconds=0.4, uncertain_s=0.1), OK),
        (SYNCHRONISED, Offset(seconds=-2, uncertain_s=0.1), WARNING),
        (SYNCHRONISED, Offset(seconds=90, uncertain_s=0.1), CRITICAL),
        # A slow answer proves nothing.
        (SYNCHRONISED, Offset(seconds=5, uncertain_s=5), OK),
    ],
)
def test_clock(kernel: KernelClock | None, offset: Offset | None, level: str) -> None:
    assert health.clock(kernel, offset).level == level


def test_a_clock_says_on_which_side_it_is() -> None:
    assert "behind" in health.clock(None, Offset(seconds=9, uncertain_s=0)).found
    assert "ahead of" in health.clock(None, Offset(seconds=-9, uncertain_s=0)).found


@pytest.mark.parametrize(
    ("some", "full", "level"), [(0, 0, OK), (9, 0, OK), (12, 0, WARNING), (40, 25, CRITICAL)]
)
def test_pressure(some: float, full: float, level: str) -> None:
    text = (
        f"some avg10=99.00 avg60=99.00 avg300={some:.2f} total=1\n"
        f"full avg10=99.00 avg60=99.00 avg300={full:.2f} total=1\n"
    )
    seen = health.pressure(text, "1.00 2.00 3.00 1/100 4711\n", 8)
    assert seen.level == level
    assert "load 1.00 2.00 3.00 on 8 CPUs" in seen.found


def test_a_kernel_without_pressure_is_no_trouble() -> None:
    assert health.pressure(None, None, 2).level == OK


def test_the_boot_is_told_as_a_moment_so_that_it_does_not_move() -> None:
    seen = health.boot("cpu 1 2 3\nbtime 1700000000\n", wants_restart=False)
    assert seen is not None
    assert seen.found == "up since 2023-11-14T22:13:20Z"
    assert health.boot("cpu 1", wants_restart=False) is None


# --- reading -----------------------------------------------------------------------------------------


class Board:
    """A machine made of texts by path."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.asked = 0
        self.free = 50
        self.smart: dict[str, Any] | None = {}
        self.files = {
            "/proc/net/route": "Iface\tDestination\neth0\t00000000\n",
            "/proc/loadavg": "0.1 0.2 0.3 1/1 1",
            "/proc/stat": "btime 1700000000\n",
            "/sys/devices/system/edac/mc/mc0/ce_count": "150\n",
            "/sys/devices/system/edac/mc/mc0/ue_count": "0\n",
            "/sys/devices/system/edac/mc/mc0/dimm0/dimm_label": "DIMM_A1\n",
            "/sys/devices/system/edac/mc/mc0/dimm0/dimm_ce_count": "149\n",
            "/sys/devices/system/edac/mc/mc0/dimm1/dimm_label": "DIMM_B1\n",
            "/sys/devices/system/edac/mc/mc0/dimm1/dimm_ce_count": "1\n",
            "/sys/class/net/eth0/flags": "0x1003\n",
            "/sys/class/net/eth0/carrier": "1\n",
            "/sys/class/net/eth0/statistics/rx_errors": "0\n",
            "/sys/class/net/eno2/device/vendor": "0x8086\n",
            "/sys/class/net/eno2/flags": "0x1002\n",  # put down
            "/sys/class/net/tap0/flags": "0x1003\n",  # no hardware
        }

    def text(self, path: str) -> str | None:
        return self.files.get(path)

    def names(self, folder: str) -> list[str]:
        inside = (p.removeprefix(folder + "/") for p in self.files if p.startswith(folder + "/"))
        return sorted({path.partition("/")[0] for path in inside})

    def smartctl(self, *words: str) -> Any:
        if self.smart is None:
            return None
        if words == ("--scan",):
            self.asked += 1
            return {"devices": [{"name": "/dev/sda", "type": "sat"}]}
        assert words[-3:] == ("-d", "sat", "/dev/sda")
        return self.smart

    def room(self, folder: Path) -> Room | None:
        total, free = 100 * GIB, self.free * GIB
        return Room(bytes_total=total, bytes_free=free, inodes_total=0, inodes_free=0)

    def clock(self) -> KernelClock | None:
        return SYNCHRONISED

    def monotonic_s(self) -> float:
        return self.now_s


def levels(found: tuple[HealthSeen, ...]) -> dict[str, str]:
    return {seen.name: seen.level for seen in found}


@pytest.fixture
def board() -> Board:
    made = Board()
    made.smart = ATA
    return made


def test_everything_is_looked_at(board: Board) -> None:
    found = HealthWatch(board, pool_dir=Path("/pool"))()
    assert levels(found) == {
        "boot": OK,
        "clock": OK,
        "disk sda": OK,
        "memory": WARNING,
        "nic eth0": OK,
        "pool": OK,
        "pressure": OK,
    }
    assert "most in DIMM_A1" in {h.name: h.found for h in found}["memory"]


def test_a_machine_that_tells_nothing_is_looked_at_all_the_same(board: Board) -> None:
    board.files.clear()
    board.smart = None
    found = HealthWatch(board, pool_dir=Path("/pool"))()
    assert levels(found) == {"clock": OK, "disks": OK, "pool": OK, "pressure": OK}
    assert "smartctl is not installed" in {h.name: h.found for h in found}["disks"]


def test_disks_are_asked_more_rarely(board: Board) -> None:
    watch = HealthWatch(board, pool_dir=Path("/pool"))
    for minute in range(25):
        board.now_s = 60.0 * minute
        watch()
    assert board.asked == 3


def test_nics_are_judged_from_look_to_look(board: Board) -> None:
    watch = HealthWatch(board, pool_dir=Path("/pool"))
    watch()
    board.now_s = 60.0
    board.files["/sys/class/net/eth0/statistics/rx_errors"] = "50\n"
    assert levels(watch())["nic eth0"] == WARNING


def test_a_level_rises_at_once_and_falls_after_some_calm(board: Board) -> None:
    watch = HealthWatch(board, pool_dir=Path("/pool"))
    watch()
    board.free = 10
    assert levels(watch())["pool"] == WARNING
    board.free = 20
    for _ in range(CALM_LOOKS - 1):
        seen = {h.name: h for h in watch()}["pool"]
        assert seen.level == WARNING
        assert seen.meaning
        assert seen.found.startswith("20 of"), "the number is today's"
    assert levels(watch())["pool"] == OK


def test_what_hovers_about_a_threshold_does_not_flutter(board: Board) -> None:
    watch = HealthWatch(board, pool_dir=Path("/pool"))
    seen = []
    for look in range(20):
        board.free = 14 + look % 2
        seen.append(levels(watch())["pool"])
    assert seen == [WARNING] * 20


def test_this_machine_can_be_looked_at(tmp_path: Path) -> None:
    found = levels(HealthWatch(health.ThisMachine(), pool_dir=tmp_path)())
    assert {"boot", "clock", "pool", "pressure"} <= found.keys()


# --- telling -----------------------------------------------------------------------------------------


class FakeEngines:
    """What the agent's report asks of its engines: nothing runs here."""


class Ledger:
    def load(self) -> None: ...

    def save(self, spec: Any) -> None: ...

    def is_confirmed(self) -> bool:
        return False

    def confirm(self) -> None: ...


class NoSteps:
    applied_zone_number = 0


class Told:
    """A link that answers as it is told and keeps what was sent."""

    def __init__(self, *answers: Frame) -> None:
        self.sent: list[Any] = []
        self.answers = list(answers)

    async def send(self, frame: Any) -> None:
        self.sent.append(frame)

    async def receive(self, *_: Any) -> Frame:
        if not self.answers:
            await asyncio.Event().wait()
        return self.answers.pop(0)

    def close(self) -> None: ...


def agent_with(watch: HealthWatch, clock: FakeClock) -> Agent:
    return Agent(
        node_id=NodeId(NODE),
        drivers=FakeEngines(),  # type: ignore[arg-type]
        actor=NoSteps(),  # type: ignore[arg-type]
        served_metadata=frozenset,
        ledger=Ledger(),
        clock=clock,
        facts=lambda: FACTS,
        health=watch,
    )


def test_only_a_new_level_is_news(board: Board) -> None:
    watch = HealthWatch(board, pool_dir=Path("/pool"))
    agent = agent_with(watch, FakeClock())

    def digest() -> bytes:
        agent._health_seen = watch()  # As its task does once a minute.
        return agent.report(1).digest

    first = digest()
    board.free = 40
    board.files["/proc/loadavg"] = "9.1 9.2 9.3 1/1 1"
    assert digest() == first, "numbers move all the time"
    board.free = 3
    assert digest() != first


def test_the_clock_of_the_control_plane_is_compared(board: Board) -> None:
    async def meet() -> None:
        clock = FakeClock()
        watch = HealthWatch(board, pool_dir=Path("/pool"))
        agent = agent_with(watch, clock)
        told = Told(Welcome(report_base=0, now_s=clock.now().timestamp() + 90))
        link = ControlLink(agent=agent, connect=lambda: _soon(told))
        await link._introduce(told, None)  # type: ignore[arg-type]
        assert watch.offset == Offset(seconds=90.0, uncertain_s=0.0)
        assert levels(watch())["clock"] == CRITICAL

    asyncio.run(meet())


async def _soon(told: Told) -> Any:
    return told


def versions_tried(*answers: Refused | Welcome) -> list[int]:
    """The wire versions in which an agent introduces itself, answered so each time, then once more."""

    async def meet() -> list[int]:
        watch = HealthWatch(Board(), pool_dir=Path("/pool"))
        link = ControlLink(agent=agent_with(watch, FakeClock()), connect=lambda: _soon(Told()))
        tried: list[int] = []
        for answer in (*answers, Refused(reason="enough")):
            told = Told(answer)
            with contextlib.suppress(Unavailable):
                await link._introduce(told, None)  # type: ignore[arg-type]
            (hello,) = told.sent
            assert isinstance(hello, Hello)
            assert not any(isinstance(frame, Report) for frame in told.sent)
            tried.append(hello.wire_version)
        return tried

    return asyncio.run(meet())


def refusal(oldest: int, newest: int) -> Refused:
    return Refused(reason="r", oldest_wire_version=oldest, newest_wire_version=newest)


def test_an_agent_too_new_speaks_the_older_version_from_then_on() -> None:
    older = refusal(WIRE_VERSION - 2, WIRE_VERSION - 1)
    assert WIRE_VERSION - 1 == OLDEST_WIRE_VERSION
    assert versions_tried(older) == [WIRE_VERSION, WIRE_VERSION - 1]


def test_an_agent_that_shares_no_version_keeps_its_own() -> None:
    assert versions_tried(refusal(WIRE_VERSION + 1, WIRE_VERSION + 2)) == [WIRE_VERSION] * 2
    assert versions_tried(refusal(0, OLDEST_WIRE_VERSION - 1)) == [WIRE_VERSION] * 2


def test_an_agent_tries_its_own_version_again_after_it_was_welcomed_in_an_older_one() -> None:
    older = refusal(WIRE_VERSION - 2, WIRE_VERSION - 1)
    welcome = Welcome(report_base=0, wire_version=WIRE_VERSION - 1)
    tried = versions_tried(older, welcome)
    assert tried == [WIRE_VERSION, WIRE_VERSION - 1, WIRE_VERSION]
