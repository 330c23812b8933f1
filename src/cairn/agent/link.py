"""Keeping the control plane told: one connection, opened again for ever, with the latest report on it."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

from cairn.agent.agent import Agent, same_news
from cairn.core import log
from cairn.core.errors import CloudError, Unavailable
from cairn.core.ids import NodeId
from cairn.core.tasks import TaskGroup
from cairn.wire.link import (
    PING_PERIOD_S,
    WIRE_VERSION,
    Answer,
    ConsoleLog,
    Hello,
    Link,
    OpenScreen,
    Ping,
    Question,
    Refused,
    Report,
    Spec,
    Welcome,
)

RECONNECT_S = (0.2, 0.5, 1.0, 2.0, 5.0)
REPORT_PERIOD_S = 60.0  # a report goes out this often even without news: free space, mainly
REPORT_PAUSE_S = 0.02  # what changes within this time goes out as one report

Connect = Callable[[], Awaitable[Link]]
OpenTheScreen = Callable[[OpenScreen], Awaitable[None]]

_log = log.get("agent.link")


class ControlLink:
    def __init__(
        self,
        *,
        agent: Agent,
        connect: Connect,
        open_screen: OpenTheScreen | None = None,
        agent_version: str = "",
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._agent = agent
        self._connect = connect
        self._open_screen = open_screen
        self._version = agent_version
        self._jitter = jitter
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
            base = await self._introduce(link)
            self.is_connected = True
            _log.info("connected to the control plane")
            work = [
                asyncio.create_task(self._receive(link), name="link receive"),
                asyncio.create_task(self._report(link, base), name="link report"),
                asyncio.create_task(self._ping(link), name="link ping"),
            ]
            try:
                done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in work:
                    task.cancel()
                await asyncio.gather(*work, return_exceptions=True)
            for task in done:
                task.result()
        finally:
            link.close()

    async def _introduce(self, link: Link) -> int:
        node_id: NodeId = self._agent.node_id
        await link.send(
            Hello(wire_version=WIRE_VERSION, node_id=node_id, agent_version=self._version)
        )
        answer = await link.receive()
        if isinstance(answer, Refused):
            self.refusal = answer.reason
            raise Unavailable(f"The control plane refuses this host: {answer.reason}")
        if not isinstance(answer, Welcome):
            raise Unavailable("The control plane did not welcome this host.")
        self.refusal = None
        return answer.report_base

    async def _receive(self, link: Link) -> None:
        while True:
            frame = await link.receive()
            if isinstance(frame, Spec):
                self._agent.accept(frame.spec)
            elif isinstance(frame, Question):
                self._tasks.start(self._answer(link, frame), name=f"question {frame.number}")

    async def _report(self, link: Link, base: int) -> None:
        """The first as soon as the host has looked; then one a change, and one a period."""
        loop = asyncio.get_running_loop()
        number, last, sent_s = base, None, 0.0
        while True:
            await self._something_to_tell(is_first=last is None, sent_s=sent_s)
            is_due = last is None or loop.time() >= sent_s + REPORT_PERIOD_S
            report = self._agent.report(number + 1)
            if is_due or not same_news(last, report):
                number += 1
                await link.send(Report(report=report))
                last, sent_s = report, loop.time()

    async def _something_to_tell(self, *, is_first: bool, sent_s: float) -> None:
        """Return at news, or when the period since the last report is over."""
        while is_first and not self._agent.has_looked:
            self._news.clear()
            await self._news.wait()
        if not is_first:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(sent_s + REPORT_PERIOD_S):
                    await self._news.wait()
                    await asyncio.sleep(REPORT_PAUSE_S)
        self._news.clear()

    async def _ping(self, link: Link) -> None:
        while True:
            await asyncio.sleep(PING_PERIOD_S)
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
