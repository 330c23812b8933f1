"""The streams to the agents: whole specs out, whole reports in, and the leases.

An agent's connection proves who it is by its certificate. While it lasts and talks, its host is up; that
is known in memory only, and the database hears of changes of life alone. A control plane that starts
gives every host the full lease to come back.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from cairn.core import log
from cairn.core.errors import CloudError, Invalid, NotFound, Unavailable
from cairn.core.ids import NodeId, ServerId
from cairn.core.tasks import TaskGroup
from cairn.db.engine import Database, Tx
from cairn.db.feed import Feed
from cairn.fleet import service
from cairn.fleet.ask import ANSWER_SECONDS_MAX
from cairn.fleet.records import NodeState
from cairn.wire.link import (
    WIRE_VERSION,
    Answer,
    Asked,
    Go,
    Hello,
    Link,
    OpenScreen,
    Ping,
    Question,
    Refused,
    Report,
    Spec,
    StreamLink,
    Welcome,
)
from cairn.wire.report import NodeReport
from cairn.wire.spec import NodeSpec

CompileSpec = Callable[[Tx, NodeId], NodeSpec]
TakeReport = Callable[[Tx, NodeReport], None]
SendImage = Callable[[StreamLink, Hello], Awaitable[None]]

LEASE_S = 15.0  # silence after which a host is suspect; agents speak every 5 s
# Between two big specs to one host: some times what composing and reading one takes, so that a burst of
# changes in a big zone is not answered by composing the whole of it for each.
BIG = 50
PAUSE_S_A_THING = 0.0004
PAUSE_S_MAX = 2.0
SCREEN_SECONDS_MAX = 10.0  # how long a host may take to bring a guest's screen

_log = log.get("fleet.stream")


class _Stream:
    """What is known of one connected agent."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.questions: dict[int, asyncio.Future[bytes]] = {}
        self.question_count = 0
        self.latest: NodeReport | None = None
        self.report_came = asyncio.Event()


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
    ) -> None:
        self._database = database
        self._feed = feed
        self._compile = compile_spec
        self._take_report = take_report
        self._send_image = send_image
        self._streams: dict[NodeId, _Stream] = {}
        self._screens: dict[str, asyncio.Future[StreamLink]] = {}
        self._leases: dict[NodeId, asyncio.TimerHandle] = {}
        self._tasks = TaskGroup()

    async def start(self) -> None:
        """Give every host that was up the full lease to come back."""
        for node in await self._database.read(service.nodes):
            if node.state is NodeState.UP:
                self._start_lease(node.id)

    async def close(self) -> None:
        for lease in self._leases.values():
            lease.cancel()
        for stream in list(self._streams.values()):
            stream.link.close()
        await self._tasks.close()

    @property
    def connected(self) -> list[NodeId]:
        return sorted(self._streams)

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
        hello = await link.receive()
        if not isinstance(hello, Hello):
            raise Invalid("The first frame must be Hello.")
        refusal = self._refusal(hello, proven)
        if refusal is not None:
            _log.warning("agent refused", node=hello.node_id, proven=proven, reason=refusal)
            await link.send(Refused(reason=refusal))
            return
        if hello.kind == "node":
            await self._serve_node(link, hello)
        elif hello.kind == "image" and self._send_image and isinstance(link, StreamLink):
            await self._send_image(link, hello)
        elif hello.kind == "screen" and isinstance(link, StreamLink):
            await self._hand_over_screen(link, hello)
        else:
            await link.send(Refused(reason=f"Connections of kind '{hello.kind}' are not served."))

    async def ask(self, node_id: NodeId, asked: Asked) -> bytes:
        """See fleet/ask.py."""
        stream = self._streams.get(node_id)
        if stream is None:
            raise Unavailable(f"The host {node_id} is not connected; try again later.")
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

    def _refusal(self, hello: Hello, proven: NodeId | None) -> str | None:
        if proven is None:
            return "The connection carries no node certificate."
        if proven != hello.node_id:
            return f"The certificate is node {proven}'s, not {hello.node_id}'s."
        if hello.wire_version != WIRE_VERSION:
            return (
                f"The agent speaks wire version {hello.wire_version}, this control plane "
                f"{WIRE_VERSION}: bring both to releases that are at most one version apart."
            )
        return None

    async def _serve_node(self, link: Link, hello: Hello) -> None:
        node_id = hello.node_id
        try:
            base = await self._database.write(lambda tx: service.connected(tx, node_id))
        except NotFound as error:
            await link.send(Refused(reason=error.message))
            return
        if (older := self._streams.get(node_id)) is not None:
            older.link.close()
        stream = self._streams[node_id] = _Stream(link)
        if (lease := self._leases.pop(node_id, None)) is not None:
            lease.cancel()
        _log.info("node connected", node=node_id, agent_version=hello.agent_version)
        try:
            await link.send(Welcome(report_base=base))
            await self._converse(stream, node_id)
        finally:
            if self._streams.get(node_id) is stream:
                del self._streams[node_id]
                self._start_lease(node_id)
            link.close()

    async def _converse(self, stream: _Stream, node_id: NodeId) -> None:
        """Until one of the three fails: then the connection is over."""
        work = [
            asyncio.create_task(self._send_specs(stream, node_id), name=f"specs {node_id}"),
            asyncio.create_task(self._take_reports(stream), name=f"reports {node_id}"),
            asyncio.create_task(self._receive(stream, node_id), name=f"receive {node_id}"),
        ]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        for task in done:
            if (error := task.exception()) is not None and not isinstance(error, Unavailable):
                _log.error("node's stream failed", node=node_id, exc_info=error)

    async def _send_specs(self, stream: _Stream, node_id: NodeId) -> None:
        flag = self._feed.subscribe(service.topic(node_id))
        sent = 0
        try:
            while True:
                flag.clear()
                spec = await self._database.read(lambda tx: self._compile(tx, node_id))
                if spec.number > sent:
                    await stream.link.send(Spec(spec=spec))
                    sent = spec.number
                # A spec is whole, so what changes meanwhile goes out in one; the first change after a
                # rest goes out at once.
                if (size := _size(spec)) > BIG:
                    await asyncio.sleep(min(PAUSE_S_MAX, size * PAUSE_S_A_THING))
                await flag.wait()
        finally:
            self._feed.unsubscribe(flag)

    async def _receive(self, stream: _Stream, node_id: NodeId) -> None:
        while True:
            frame = await stream.link.receive()
            if isinstance(frame, Report):
                if frame.report.node_id != node_id:
                    raise Invalid(f"Node {node_id} reported for node {frame.report.node_id}.")
                # A repeated older one must not push out a newer one that is not taken yet.
                if stream.latest is None or frame.report.number > stream.latest.number:
                    stream.latest = frame.report
                    stream.report_came.set()
            elif isinstance(frame, Answer):
                _settle(stream.questions.get(frame.number), frame)
            elif isinstance(frame, Ping):
                await stream.link.send(Ping())
            else:
                raise Invalid(f"An agent must not send {type(frame).__name__}.")

    async def _take_reports(self, stream: _Stream) -> None:
        """Only the latest counts: a report is whole, so what came in between is no loss."""
        while True:
            await stream.report_came.wait()
            stream.report_came.clear()
            report, stream.latest = stream.latest, None
            if report is not None:
                await self._take(report)

    async def _take(self, report: NodeReport) -> None:
        try:
            await self._database.write(lambda tx: self._take_report(tx, report))
        except Unavailable as error:
            _log.warning("report not taken", node=report.node_id, because=str(error))
        except Exception:
            # One report that a slice cannot take must not cut the host off.
            _log.exception("report not taken", node=report.node_id)

    async def _hand_over_screen(self, link: StreamLink, hello: Hello) -> None:
        future = self._screens.get(hello.subject)
        if future is None or future.done():
            await link.send(Refused(reason="Nobody waits for this screen."))
            return
        await link.send(Go())
        future.set_result(link)
        await link.writer.wait_closed()

    def _start_lease(self, node_id: NodeId) -> None:
        if (older := self._leases.pop(node_id, None)) is not None:
            older.cancel()
        loop = asyncio.get_running_loop()
        self._leases[node_id] = loop.call_later(LEASE_S, self._lease_ran_out, node_id)

    def _lease_ran_out(self, node_id: NodeId) -> None:
        self._leases.pop(node_id, None)
        if node_id in self._streams:
            return
        _log.warning("node is silent", node=node_id, lease_s=LEASE_S)
        self._tasks.start(
            self._database.write(lambda tx: service.silent(tx, node_id)), name=f"silent {node_id}"
        )


def _size(spec: NodeSpec) -> int:
    """How many things must be read and written for it."""
    in_zone = len(spec.zone.ports) if spec.zone is not None else 0
    return len(spec.guests) + len(spec.volumes) + len(spec.ports) + in_zone


def _settle(future: "asyncio.Future[bytes] | None", answer: Answer) -> None:
    if future is None or future.done():
        return
    if answer.refused:
        future.set_exception(NotFound(answer.refused))
    else:
        future.set_result(answer.data)
