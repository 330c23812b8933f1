"""What lies between fake hosts: the way that a guest takes from one to the other.

One for all hosts of a world. A journey copies for `copy_s`, then the guest stands still for `pause_s`
and runs there; the sender hears of it another `pause_s` later. In between neither side can tell what
became of the other, as in life. Timers of the loop, no tasks.
"""

import asyncio
import itertools
from typing import TYPE_CHECKING

from msgspec import Struct

from cairn.core.errors import Unavailable
from cairn.core.ids import ServerId, VolumeId
from cairn.drivers.contracts import Sending
from cairn.wire.spec import Outgoing

if TYPE_CHECKING:
    from cairn.drivers.hypervisor.fake import FakeHypervisor

FIRST_PORT = 49152


class Door(Struct, kw_only=True):
    """Where somebody waits for a guest."""

    host: "FakeHypervisor"
    guest_id: ServerId
    is_running: bool  # what is to come: a running guest, or disks alone


class Journey(Struct, kw_only=True):
    """One guest on its way."""

    sender: "FakeHypervisor"
    guest_id: ServerId
    migration_id: str
    port: int
    total_bytes: int
    began_s: float
    copy_s: float
    has_left: bool = False  # it runs here no more: all bytes are out
    is_sender_gone: bool = False
    content: dict[VolumeId, object] = {}
    timer: asyncio.TimerHandle | None = None

    def left_bytes(self) -> int:
        """By the clock: it goes evenly."""
        if self.has_left:
            return 0
        gone = (asyncio.get_running_loop().time() - self.began_s) / max(self.copy_s, 1e-9)
        return int(self.total_bytes * max(0.0, 1.0 - gone))


class Ether:
    """`copy_s` and `pause_s` may be changed for the journeys to come."""

    def __init__(self, *, copy_s: float = 0.2, pause_s: float = 0.03) -> None:
        self.copy_s = copy_s
        self.pause_s = pause_s
        self._ports = itertools.count(FIRST_PORT)
        self._doors: dict[int, Door] = {}
        self._journeys: dict[tuple[int, ServerId], Journey] = {}  # by sender

    # --- the receiver's side -------------------------------------------------------------------------

    def open_door(self, host: "FakeHypervisor", guest_id: ServerId, *, is_running: bool) -> int:
        """Wait for a guest; the port."""
        self._forget_doors(host, guest_id)
        port = next(self._ports)
        self._doors[port] = Door(host=host, guest_id=guest_id, is_running=is_running)
        return port

    def shut(self, host: "FakeHypervisor", guest_id: ServerId, why: str) -> None:
        """Nobody waits any more; who is on the way turns back."""
        for port in self._forget_doors(host, guest_id):
            for journey in list(self._journeys.values()):
                if journey.port == port:
                    self._turn_back(journey, why)
        host.show_trouble(guest_id, why)

    def _forget_doors(self, host: "FakeHypervisor", guest_id: ServerId) -> list[int]:
        ports = [p for p, d in self._doors.items() if d.host is host and d.guest_id == guest_id]
        for port in ports:
            del self._doors[port]
        return ports

    # --- the sender's side ---------------------------------------------------------------------------

    def begin(
        self, sender: "FakeHypervisor", guest_id: ServerId, way: Outgoing, *, total_bytes: int
    ) -> None:
        if way.memory_port not in self._doors:
            raise Unavailable(f"nobody waits for server {guest_id} at {way.address}")
        loop = asyncio.get_running_loop()
        journey = Journey(
            sender=sender,
            guest_id=guest_id,
            migration_id=way.migration_id,
            port=way.memory_port,
            total_bytes=total_bytes,
            began_s=loop.time(),
            copy_s=self.copy_s,
        )
        self._journeys[(id(sender), guest_id)] = journey
        journey.timer = loop.call_later(self.copy_s, self._leave, journey)
        self._show(journey, left_bytes=total_bytes)

    def cancel(self, sender: "FakeHypervisor", guest_id: ServerId, why: str) -> None:
        """Turn back, unless all bytes are out."""
        journey = self.journey_of(sender, guest_id)
        if journey is not None and not journey.has_left:
            self._turn_back(journey, why)

    def lose_sender(self, sender: "FakeHypervisor", guest_id: ServerId) -> None:
        """The sending host died: what was not out by then is lost, and nobody there knows which."""
        journey = self.journey_of(sender, guest_id)
        if journey is None:
            return
        journey.is_sender_gone = True
        door = self._doors.get(journey.port)
        is_running = door is not None and door.is_running
        if not (journey.has_left and is_running):
            self._end(journey)
            self._doors.pop(journey.port, None)
            if door is not None:
                door.host.show_trouble(door.guest_id, "the connection to the sender broke")
            if door is not None and not door.is_running:
                self._show(journey, trouble="the host restarted")  # Disks alone start nothing.

    def journey_of(self, sender: "FakeHypervisor", guest_id: ServerId) -> Journey | None:
        return self._journeys.get((id(sender), guest_id))

    # --- on the way ----------------------------------------------------------------------------------

    def _leave(self, journey: Journey) -> None:
        """The guest stands still; its last bytes go out."""
        door = self._doors.get(journey.port)
        if door is None:
            self._turn_back(journey, "nobody waits there any more")
            return
        journey.has_left = True
        moved = door.host.guests[door.guest_id].reception
        assert moved is not None
        journey.content = journey.sender.read(tuple(d.volume_id for d in moved.disks))
        self._show(journey, running=False)
        loop = asyncio.get_running_loop()
        journey.timer = loop.call_later(self.pause_s, self._arrive, journey)

    def _arrive(self, journey: Journey) -> None:
        door = self._doors.pop(journey.port, None)
        assert door is not None, "who shuts a door turns the journey back"
        door.host.arrive(journey.guest_id, running=door.is_running, content=journey.content)
        if journey.is_sender_gone:
            self._end(journey)
        else:
            loop = asyncio.get_running_loop()
            journey.timer = loop.call_later(self.pause_s, self._tell_sender, journey)

    def _tell_sender(self, journey: Journey) -> None:
        self._end(journey)
        if not journey.is_sender_gone:
            pause_ms = int(self.pause_s * 1000)
            self._show(journey, done=True, running=False, pause_ms=pause_ms)
            journey.sender.leave(journey.guest_id)

    def _turn_back(self, journey: Journey, why: str) -> None:
        """It goes on where it came from, if that is still there."""
        self._end(journey)
        door = self._doors.pop(journey.port, None)
        if door is not None:
            door.host.show_trouble(door.guest_id, f"the sender turned back: {why}")
        if journey.is_sender_gone:
            return
        was_running = journey.sender.guests[journey.guest_id].running
        runs = (journey.has_left and bool(journey.sender.guests[journey.guest_id].disks)) or None
        self._show(journey, trouble=why, running=None if was_running else runs)

    def _end(self, journey: Journey) -> None:
        if journey.timer is not None:
            journey.timer.cancel()
        self._journeys.pop((id(journey.sender), journey.guest_id), None)

    def _show(
        self,
        journey: Journey,
        *,
        left_bytes: int = 0,
        done: bool = False,
        trouble: str = "",
        pause_ms: int = 0,
        running: bool | None = None,
    ) -> None:
        journey.sender.show_sending(
            journey.guest_id,
            Sending(
                migration_id=journey.migration_id,
                total_bytes=journey.total_bytes,
                left_bytes=left_bytes,
                pause_ms=pause_ms,
                done=done,
                trouble=trouble,
            ),
            running=running,
        )
