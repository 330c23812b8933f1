"""Keeping the control plane told: one connection, opened again for ever, with the latest report on it."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

from cairn.agent.agent import Agent
from cairn.core import log
from cairn.core.errors import CloudError, Invalid, Unavailable
from cairn.core.tasks import TaskGroup, first_to_end
from cairn.wire.link import (
    OLDEST_WIRE_VERSION,
    PING_PERIOD_S,
    SILENCE_S,
    WIRE_VERSION,
    Answer,
    Confirmed,
    ConsoleLog,
    Hello,
    Link,
    OpenScreen,
    Ping,
    Question,
    Refused,
    Renew,
    Renewed,
    Report,
    Spec,
    Welcome,
)
from cairn.wire.report import NodeReport

RECONNECT_S = (0.2, 0.5, 1.0, 2.0, 5.0)
RENEWAL_WIRE_VERSION = 2  # the first that knows renewals
REPORT_PAUSE_S = 0.02  # what changes within this time goes out as one report

Connect = Callable[[], Awaitable[Link]]
OpenTheScreen = Callable[[OpenScreen], Awaitable[None]]

_log = log.get("agent.link")


class Membership(Protocol):
    """What being a member asks of the host besides its work (membership.py)."""

    def connected(self) -> None: ...

    def disconnected(self, why: str) -> None: ...

    def removed(self, reason: str) -> None:
        """The control plane says that the host is no member any more. May be said again."""
        ...

    def wait_s(self) -> float:
        """Until the certificate should be renewed; 0: now."""
        ...

    def request(self) -> bytes: ...

    def accept(self, renewed: Renewed) -> None:
        """Raises Invalid."""
        ...


class ControlLink:
    def __init__(
        self,
        *,
        agent: Agent,
        connect: Connect,
        open_screen: OpenTheScreen | None = None,
        agent_version: str = "",
        jitter: Callable[[], float] = random.random,
        membership: Membership | None = None,
    ) -> None:
        self._agent = agent
        self._connect = connect
        self._open_screen = open_screen
        self._version = agent_version
        self._ping_period_s = PING_PERIOD_S  # the control plane says how often
        self._wire_version = WIRE_VERSION  # of the next introduction
        self._jitter = jitter
        self._membership = membership
        self._news = asyncio.Event()
        self._tasks = TaskGroup()
        self.is_connected = False
        self.refusal: str | None = None
        agent.on_report = self._news.set

    async def run(self) -> None:
        """Connect and converse until cancelled; after each end, wait a little longer, never in step."""
        failures = 0
        try:
            while True:
                try:
                    await self._converse()
                    failures = 0
                except CloudError as error:
                    _log.warning("not connected", failures=failures, error=str(error))
                    failures += 1
                    if self._membership is not None:
                        self._membership.disconnected(str(error))
                finally:
                    if self.is_connected:
                        failures = 0
                    self.is_connected = False
                wait_s = RECONNECT_S[min(failures, len(RECONNECT_S) - 1)]
                await asyncio.sleep(wait_s * (0.5 + self._jitter()))
        finally:
            await self._tasks.close()

    async def _converse(self) -> None:
        link = await self._connect()
        try:
            known = self._agent.report(0) if self._agent.has_looked else None
            welcome = await self._introduce(link, known)
            self.is_connected = True
            _log.info("connected to the control plane")
            told = None if welcome.wants_report else known
            work = [
                ("link receive", self._receive(link)),
                ("link report", self._report(link, welcome.report_base, told)),
                ("link ping", self._ping(link)),
            ]
            if self._membership is not None:
                self._membership.connected()
                if welcome.wire_version >= RENEWAL_WIRE_VERSION:
                    work.append(("link renewal", _keep_renewed(link, self._membership)))
            errors = await first_to_end(*work)
            for error in errors:
                raise error
        finally:
            link.close()

    async def _introduce(self, link: Link, known: NodeReport | None) -> Welcome:
        agent = self._agent
        asked_s = agent.now_s
        await link.send(
            Hello(
                wire_version=self._wire_version,
                node_id=agent.node_id,
                agent_version=self._version,
                spec_number=agent.want.number if agent.want is not None else 0,
                report_digest=known.digest if known is not None else b"",
            )
        )
        answer = await link.receive()
        if isinstance(answer, Refused):
            self.refusal = answer.reason
            self._choose_version(answer)
            if answer.is_removed and self._membership is not None:
                self._membership.removed(answer.reason)
            raise Unavailable(f"The control plane refuses this host: {answer.reason}")
        if not isinstance(answer, Welcome):
            raise Unavailable("The control plane did not welcome this host.")
        self.refusal = None
        self._ping_period_s = answer.ping_period_s
        self._wire_version = WIRE_VERSION  # The next one may be upgraded meanwhile.
        if answer.now_s:
            agent.note_clock(answer.now_s, asked_s=asked_s)
        return answer

    def _choose_version(self, refused: Refused) -> None:
        """For the next try: the newest that both understand, else ours again."""
        newest = min(WIRE_VERSION, refused.newest_wire_version)
        is_common = max(OLDEST_WIRE_VERSION, refused.oldest_wire_version) <= newest
        self._wire_version = newest if is_common else WIRE_VERSION

    async def _receive(self, link: Link) -> None:
        silence_s = SILENCE_S + 2 * self._ping_period_s
        while True:
            frame = await link.receive(silence_s)
            if isinstance(frame, Spec):
                self._agent.accept(frame.spec)
                self._agent.confirm(frame.spec.number)
            elif isinstance(frame, Confirmed):
                self._agent.confirm(frame.number)
            elif isinstance(frame, Renewed) and self._membership is not None:
                self._take_certificate(self._membership, frame)
            elif isinstance(frame, Refused):
                self.refusal = frame.reason
                raise Unavailable(f"The control plane cut this host off: {frame.reason}")
            elif isinstance(frame, Question):
                self._tasks.start(self._answer(link, frame), name=f"question {frame.number}")

    def _take_certificate(self, membership: Membership, renewed: Renewed) -> None:
        try:
            membership.accept(renewed)
        except Invalid as error:
            _log.error("certificate not renewed", error=str(error))

    async def _report(self, link: Link, base: int, told: NodeReport | None) -> None:
        """As soon as the host has looked, unless it was told already; then whenever there is news."""
        number = base
        while not self._agent.has_looked:
            self._news.clear()
            await self._news.wait()
        while True:
            self._news.clear()
            report = self._agent.report(number + 1)
            if told is None or told.digest != report.digest:
                number += 1
                await link.send(Report(report=report))
                told = report
            await self._news.wait()
            await asyncio.sleep(REPORT_PAUSE_S)

    async def _ping(self, link: Link) -> None:
        while True:
            await asyncio.sleep(self._ping_period_s)
            await link.send(Ping())

    async def _answer(self, link: Link, question: Question) -> None:
        try:
            answer = Answer(number=question.number, data=await self._answer_to(question))
        except CloudError as error:
            answer = Answer(number=question.number, refused=error.message)
        with contextlib.suppress(Unavailable):
            await link.send(answer)

    async def _answer_to(self, question: Question) -> bytes:
        match question.ask:
            case ConsoleLog(server_id=server_id, lines=lines):
                return await self._agent.drivers.hypervisor.console_log(server_id, lines)
            case OpenScreen():
                if self._open_screen is None:
                    raise Unavailable("This host cannot show screens.")
                await self._open_screen(question.ask)
                return b""


async def _keep_renewed(link: Link, membership: Membership) -> None:
    while True:
        if (wait_s := membership.wait_s()) > 0:
            await asyncio.sleep(wait_s)
        else:
            await link.send(Renew(request=membership.request()))
