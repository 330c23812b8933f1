"""The streams to the agents: whole specs out, whole reports in, and the leases.

An agent's connection proves who it is by its certificate. While it lasts and talks, its host is up; that
is known in memory only, and the database hears of changes of life alone. A control plane that starts
gives every host the full lease to come back.

A connection costs one task and a few hundred bytes of ours: what is composed, sent and believed goes by
the batch, for all hosts together (arrivals.py, outbox.py, inbox.py).
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from cairn.core import log
from cairn.core.errors import CloudError, Invalid, NotFound, Unavailable
from cairn.core.ids import NodeId, ServerId
from cairn.core.tasks import Batcher, TaskGroup
from cairn.db.engine import Database, Tx
from cairn.db.feed import EVERYTHING, Feed
from cairn.fleet import join, service
from cairn.fleet.arrivals import Arrivals
from cairn.fleet.ask import ANSWER_SECONDS_MAX
from cairn.fleet.inbox import Inbox, TakeReport
from cairn.fleet.outbox import CompileSpec, Door, Outbox
from cairn.fleet.records import Arrival, Coming
from cairn.wire.link import (
    OLDEST_WIRE_VERSION,
    PING_PERIOD_S,
    WIRE_VERSION,
    Answer,
    Asked,
    Confirmed,
    Go,
    Hello,
    Link,
    OpenScreen,
    Ping,
    Question,
    Refused,
    Renew,
    Renewed,
    Report,
    StreamLink,
    Welcome,
)

SendImage = Callable[[StreamLink, Hello], Awaitable[None]]
RenewCertificate = Callable[[NodeId, bytes], Awaitable[Renewed]]

LEASE_S = 15.0  # silence after which a host without a connection is suspect
ARRIVAL_S = 0.008  # that taking in one of many hosts may last, on a busy machine
HELLO_S = 10.0  # for a connection to say who it is
WATCH_PERIOD_S = 5.0  # between two looks at who has not been heard
PINGS_MISSED_MAX = 4  # after which a connection is taken for dead, though the kernel holds it
PINGS_A_SECOND = 300  # that are asked of all hosts together: each costs some 50 us
SCREEN_SECONDS_MAX = 10.0  # how long a host may take to bring a guest's screen
FLOOD_FRAMES = (
    2000  # within FLOOD_S, after which a host is cut off: a hundred times what a busy one says
)
FLOOD_S = 10.0
SILENT_MAX = 250  # hosts whose leases ran out that are written down in one transaction

_log = log.get("fleet.stream")


class _Stream(Door):
    """What is known of one connected agent."""

    __slots__ = (
        "arrival",
        "flood_count",
        "flood_since_s",
        "heard_s",
        "is_stale",
        "question_count",
        "questions",
    )

    def __init__(self, link: Link, node_id: NodeId, wire_version: int, now_s: float) -> None:
        super().__init__(link, node_id, wire_version)
        self.arrival: Arrival | None = None  # None: not welcomed yet
        self.is_stale = False  # its spec changed while it was taken in
        self.questions: dict[int, asyncio.Future[bytes]] | None = None
        self.question_count = 0
        self.heard_s = now_s
        self.flood_since_s = now_s
        self.flood_count = 0


class NodeStreams:
    """All connections of agents to this control process."""

    def __init__(
        self,
        *,
        database: Database,
        feed: Feed,
        compile_spec: CompileSpec,
        take_report: TakeReport,
        send_image: SendImage | None = None,
        renew: RenewCertificate | None = None,
        control_id: str | None = None,
    ) -> None:
        self._database = database
        self._send_image = send_image
        self._renew = renew
        self.control_id = control_id
        self.refusals: Counter[str] = Counter()  # of connections, by a short reason: for /metrics
        self.reports_total = 0  # that agents have sent
        self._tasks = TaskGroup()
        self._streams: dict[NodeId, _Stream] = {}
        self._screens: dict[str, asyncio.Future[StreamLink]] = {}
        self._leases: dict[NodeId, asyncio.TimerHandle] = {}
        self._expected = 0  # hosts that were up when we started
        self._unheard: set[NodeId] = set()  # those of them that have not connected since
        self._arrivals = Arrivals(database, self._tasks)
        self._inbox = Inbox(database, take_report, self._tasks)
        self._outbox = Outbox(database, compile_spec, self._tasks)
        self._silent: Batcher[NodeId] = Batcher(
            self._write_silent, tasks=self._tasks, name="silent hosts", most=SILENT_MAX
        )
        self._watch: asyncio.TimerHandle | None = None
        feed.listen(service.topic(NodeId("")), self._spec_changed)

    async def start(self, *, is_alone: bool = True) -> None:
        """Give every host that was up the full lease to come back. Where there are other control
        processes, only those are ours that nobody has (controls.py)."""
        if is_alone:
            await self.adopt(await self._database.read(service.living))
        self._look_who_is_silent()

    async def adopt(self, node_ids: Iterable[NodeId]) -> None:
        """Give these hosts, which nobody else watches over, the full lease to connect here: the longer
        the more of them come at once."""
        adopted = list(node_ids)
        lease_s = LEASE_S + len(adopted) * ARRIVAL_S
        for node_id in adopted:
            self._expected += 1
            self._unheard.add(node_id)
            if not self._is_here(node_id):
                self._start_lease(node_id, lease_s)

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        for lease in self._leases.values():
            lease.cancel()
        for stream in list(self._streams.values()):
            stream.link.close()
        await self._tasks.close()

    @property
    def connected(self) -> list[NodeId]:
        return sorted(n for n, stream in self._streams.items() if stream.arrival is not None)

    @property
    def connected_count(self) -> int:
        return sum(stream.arrival is not None for stream in self._streams.values())

    def is_connected(self, node_id: NodeId) -> bool:
        """Whether the host's agent is connected to this process."""
        return self._is_here(node_id)

    def close_all(self) -> None:
        """End every agent's connection: each comes again, here or elsewhere."""
        for stream in list(self._streams.values()):
            stream.link.close()

    def last_heard_s(self, node_id: NodeId) -> float | None:
        """For how many seconds the host has said nothing; None while it is not connected here."""
        stream = self._streams.get(node_id)
        return None if stream is None else asyncio.get_running_loop().time() - stream.heard_s

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one TLS connection, as `asyncio.start_server` hands it over."""
        link = StreamLink(reader, writer)
        try:
            await self.serve(link, link.peer_node_id())
        except CloudError as error:
            _log.info("connection ended", because=str(error))
        finally:
            link.close()

    async def serve(self, link: Link, proven: NodeId | None) -> None:
        """Serve one connection to its end. `proven` is the node that the certificate names."""
        hello = await link.receive(HELLO_S)
        if not isinstance(hello, Hello):
            self.refusals["no hello"] += 1
            raise Invalid("The first frame must be Hello.")
        refusal = _refusal(hello, proven)
        if refusal is not None:
            short, refused = refusal
            self.refusals[short] += 1
            _log.warning("agent refused", node=hello.node_id, proven=proven, reason=refused.reason)
            await link.send(refused)
            return
        if hello.kind == "node":
            await self._serve_node(link, hello)
        elif hello.kind == "image" and self._send_image and isinstance(link, StreamLink):
            await self._send_image(link, hello)
        elif hello.kind == "screen" and isinstance(link, StreamLink):
            await self._hand_over_screen(link, hello)
        elif hello.kind == "left":
            await self._database.write(lambda tx: join.left(tx, hello.node_id))
            await link.send(Go())
        else:
            self.refusals["unknown kind"] += 1
            await link.send(Refused(reason=f"Connections of kind '{hello.kind}' are not served."))

    async def ask(self, node_id: NodeId, asked: Asked) -> bytes:
        """See fleet/ask.py."""
        stream = self._streams.get(node_id)
        if stream is None or stream.arrival is None:
            raise Unavailable(f"The host {node_id} is not connected; try again later.")
        if stream.questions is None:
            stream.questions = {}
        stream.question_count += 1
        number = stream.question_count
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        stream.questions[number] = future
        try:
            await stream.link.send(Question(number=number, ask=asked))
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                return await future
        except TimeoutError as error:
            raise Unavailable(f"The host {node_id} did not answer in time.") from error
        finally:
            stream.questions.pop(number, None)

    @asynccontextmanager
    async def screen(self, node_id: NodeId, server_id: ServerId) -> AsyncIterator[StreamLink]:
        """A byte stream to the guest's screen (RFB), carried by a connection that the host opens."""
        key = secrets.token_urlsafe(24)
        future: asyncio.Future[StreamLink] = asyncio.get_running_loop().create_future()
        self._screens[key] = future
        try:
            await self.ask(node_id, OpenScreen(server_id=server_id, key=key))
            async with asyncio.timeout(SCREEN_SECONDS_MAX):
                link = await future
        except TimeoutError as error:
            raise Unavailable("The host did not open the guest's screen in time.") from error
        finally:
            self._screens.pop(key, None)
        try:
            yield link
        finally:
            link.close()

    def _is_here(self, node_id: NodeId) -> bool:
        stream = self._streams.get(node_id)
        return stream is not None and stream.arrival is not None

    async def _serve_node(self, link: Link, hello: Hello) -> None:
        node_id = hello.node_id
        now_s = asyncio.get_running_loop().time()
        stream = _Stream(link, node_id, min(hello.wire_version, WIRE_VERSION), now_s)
        if (older := self._streams.get(node_id)) is not None:
            older.link.close()
        # Known from here on: a spec that changes while the host is taken in is noticed.
        self._streams[node_id] = stream
        try:
            try:
                arrival = await self._arrivals.welcome(
                    Coming(
                        node_id=node_id,
                        control_id=self.control_id,
                        agent_version=hello.agent_version,
                        wire_version=hello.wire_version,
                    )
                )
            except NotFound as error:
                await link.send(await self._farewell(node_id, error))
                return
            if self._streams.get(node_id) is stream:
                self._begin(stream, hello, arrival)
                await self._receive(stream)
        finally:
            self._end(stream)

    async def _farewell(self, node_id: NodeId, error: NotFound) -> Refused:
        """To a host that is no member: only one that was removed is told to clean up."""
        removed = await self._database.read(lambda tx: join.farewell(tx, node_id))
        if removed is None:
            self.refusals["not enrolled"] += 1
            return Refused(reason=error.message)
        self.refusals["removed"] += 1
        reason = f"Host {removed.hostname} was removed on {removed.removed_at:%Y-%m-%d %H:%M} UTC."
        return Refused(reason=reason, is_removed=True)

    def _begin(self, stream: _Stream, hello: Hello, arrival: Arrival) -> None:
        stream.arrival = arrival
        self._unheard.discard(stream.node_id)
        if (lease := self._leases.pop(stream.node_id, None)) is not None:
            lease.cancel()
        _log.info("node connected", node=stream.node_id, agent_version=hello.agent_version)
        is_known = bool(hello.report_digest) and hello.report_digest == arrival.report_digest
        stream.link.post(
            Welcome(
                report_base=arrival.report_base,
                wire_version=stream.wire_version,
                ping_period_s=self._ping_period_s(),
                wants_report=not is_known,
                now_s=arrival.now_s,
            )
        )
        knows_spec = hello.spec_number == arrival.spec_number and not stream.is_stale
        if knows_spec and stream.wire_version >= 2:
            stream.link.post(Confirmed(number=arrival.spec_number))
            stream.sent = arrival.spec_number
        else:
            self._outbox.due(stream)

    def _end(self, stream: _Stream) -> None:
        stream.link.close()
        self._outbox.drop(stream)
        for future in (stream.questions or {}).values():
            if not future.done():
                future.set_exception(Unavailable("The connection to the host was lost."))
        if self._streams.get(stream.node_id) is stream:
            del self._streams[stream.node_id]
            self._start_lease(stream.node_id)

    def _ping_period_s(self) -> float:
        """The more hosts, the rarer they speak: the kernel's own questions find the dead meanwhile."""
        return max(PING_PERIOD_S, max(len(self._streams), self._expected) / PINGS_A_SECOND)

    async def _compare_all(self) -> None:
        """Hints were lost: whose spec has changed is asked for all hosts at once."""
        numbers = await self._database.read(service.spec_numbers)
        for stream in list(self._streams.values()):
            if stream.arrival is not None and numbers.get(stream.node_id, 0) > stream.sent:
                self._outbox.due(stream)

    def _spec_changed(self, topic: str) -> None:
        if topic == EVERYTHING:
            for each in self._streams.values():
                each.is_stale = each.arrival is None
            self._tasks.start(self._compare_all(), name="compare all specs")
            return
        stream = self._streams.get(NodeId(topic.partition(":")[2]))
        if stream is None:
            return
        if stream.arrival is None:
            stream.is_stale = True  # What was read of it for its welcome may be old already.
        else:
            self._outbox.due(stream)

    async def _receive(self, stream: _Stream) -> None:
        loop = asyncio.get_running_loop()
        link = stream.link
        while True:
            frame = await link.receive(None)
            stream.heard_s = loop.time()
            self._count_frame(stream)
            match frame:
                case Ping():
                    link.post(frame)
                case Report():
                    self._take_report(stream, frame)
                case Answer():
                    _settle((stream.questions or {}).get(frame.number), frame)
                case Renew() if self._renew is not None:
                    link.post(await self._renew(stream.node_id, frame.request))
                case _:
                    self.refusals["unexpected frame"] += 1
                    raise Invalid(f"An agent must not send {type(frame).__name__}.")

    def _take_report(self, stream: _Stream, frame: Report) -> None:
        report, arrival = frame.report, stream.arrival
        assert arrival is not None, "only who was welcomed is listened to"
        if report.node_id != stream.node_id:
            self.refusals["foreign report"] += 1
            reason = f"Node {stream.node_id} reported for node {report.node_id}."
            stream.link.post(Refused(reason=reason))
            raise Invalid(reason)
        if report.number <= arrival.report_base:
            self.refusals["report of an older connection"] += 1
            return
        self.reports_total += 1
        self._inbox.put(report)

    def _count_frame(self, stream: _Stream) -> None:
        """A host that floods us is cut off, with the reason."""
        stream.flood_count += 1
        if stream.flood_count < FLOOD_FRAMES:
            return
        if stream.heard_s - stream.flood_since_s < FLOOD_S:
            self.refusals["flood"] += 1
            reason = f"More than {FLOOD_FRAMES} frames within {FLOOD_S:.0f} s."
            stream.link.post(Refused(reason=reason))
            raise Invalid(f"Node {stream.node_id} was cut off: {reason}")
        stream.flood_count, stream.flood_since_s = 0, stream.heard_s

    async def _hand_over_screen(self, link: StreamLink, hello: Hello) -> None:
        future = self._screens.get(hello.subject)
        if future is None or future.done():
            await link.send(Refused(reason="Nobody waits for this screen."))
            return
        await link.send(Go())
        future.set_result(link)
        await link.writer.wait_closed()

    def _start_lease(self, node_id: NodeId, lease_s: float = LEASE_S) -> None:
        if (older := self._leases.pop(node_id, None)) is not None:
            older.cancel()
        loop = asyncio.get_running_loop()
        self._leases[node_id] = loop.call_later(lease_s, self._lease_ran_out, node_id)

    def _lease_ran_out(self, node_id: NodeId) -> None:
        self._leases.pop(node_id, None)
        if node_id not in self._streams:
            _log.warning("node is silent", node=node_id)
            self._silent.add(node_id)

    async def _write_silent(self, node_ids: Sequence[NodeId]) -> None:
        control_id = self.control_id

        def write(tx: Tx) -> None:
            for node_id in node_ids:
                # One that is just being taken in may be written as up already: it is not silent.
                if node_id not in self._streams:
                    was_heard = node_id not in self._unheard
                    service.silent(tx, node_id, heard_by=control_id, was_heard=was_heard)

        await self._database.write(write)

    def _look_who_is_silent(self) -> None:
        """In memory only: who holds a connection and has said nothing for long is cut off."""
        loop = asyncio.get_running_loop()
        silence_s = PINGS_MISSED_MAX * self._ping_period_s()
        for stream in list(self._streams.values()):
            if loop.time() - stream.heard_s > silence_s:
                _log.warning("node says nothing", node=stream.node_id, silence_s=silence_s)
                stream.link.close()
        self._watch = loop.call_later(WATCH_PERIOD_S, self._look_who_is_silent)


def _refusal(hello: Hello, proven: NodeId | None) -> tuple[str, Refused] | None:
    """Why a connection is not served: in short for counting, and as it is told."""
    if proven is None:
        return "no certificate", Refused(reason="The connection carries no node certificate.")
    if proven != hello.node_id:
        reason = f"The certificate is node {proven}'s, not {hello.node_id}'s."
        return "foreign certificate", Refused(reason=reason)
    if not OLDEST_WIRE_VERSION <= hello.wire_version <= WIRE_VERSION:
        reason = (
            f"The agent speaks wire version {hello.wire_version}, this control plane "
            f"{OLDEST_WIRE_VERSION} to {WIRE_VERSION}: bring both to releases that are at most one "
            "version apart."
        )
        refused = Refused(
            reason=reason,
            oldest_wire_version=OLDEST_WIRE_VERSION,
            newest_wire_version=WIRE_VERSION,
        )
        return "wire version", refused
    return None


def _settle(future: "asyncio.Future[bytes] | None", answer: Answer) -> None:
    if future is None or future.done():
        return
    if answer.refused:
        future.set_exception(NotFound(answer.refused))
    else:
        future.set_result(answer.data)
