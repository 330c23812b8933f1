"""The processes of a measured cloud: the control plane, and those that host the agents."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cairn.core.errors import CloudError, Unavailable
from cairn.core.ids import NodeId
from cairn.sim.load.agents import Company, Order, Told

START_S_MAX = 120.0
GOODBYE_S = 20.0
LINE_BYTES_MAX = 256 << 20  # an answer to "look" names every guest
FILES_A_HOST = 1
FILES_SPARE = 500


class ControlProcess:
    """`cairn control` of one state directory."""

    def __init__(self, state: Path, *, port: int) -> None:
        self._state = state
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def log(self) -> Path:
        return self._state / "log" / "control.log"

    async def start(self) -> None:
        """Return when the API's port is open."""
        command = [sys.executable, "-m", "cairn.sim.load.control", str(self._state)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it only forks
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline_s = asyncio.get_running_loop().time() + START_S_MAX
        while not self._listens():
            if self._process.poll() is not None:
                raise Unavailable("The control process ended.", because=self._last_words())
            if asyncio.get_running_loop().time() > deadline_s:
                raise Unavailable("The control process does not open its port.")
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    async def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, GOODBYE_S)
        self.kill()

    def require_alive(self) -> None:
        """Raises Unavailable with the log's end when it died by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise Unavailable("The control process ended.", because=self._last_words())

    def _listens(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._port), 0.2),
        ):
            return True
        return False

    def _last_words(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


class AgentsProcess:
    """Some thousand agents in one process of their own."""

    def __init__(self, company: Company, folder: Path, *, name: str) -> None:
        self.name = name
        self.node_ids = company.node_ids
        self.told = Told(running=0, connected=0, dials=0)
        self._company = company
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._answers: dict[int, asyncio.Future[Told]] = {}
        self._number = 0

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Return when its hosts exist; their agents are started by an order."""
        file = self._folder / f"{self.name.replace(' ', '-')}.msgpack"
        file.write_bytes(msgspec.msgpack.encode(self._company))
        command = [sys.executable, "-m", "cairn.sim.load.agents", str(file)]
        with (self._folder / f"{file.stem}.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                limit=LINE_BYTES_MAX,
            )
        first = asyncio.get_running_loop().create_future()
        self._answers[0] = first
        self._reading = asyncio.create_task(self._read(), name=f"{self.name} tells")
        async with asyncio.timeout(START_S_MAX * 3):
            await first

    async def order(self, do: str, nodes: Sequence[NodeId] = (), *, within_s: float = 0.0) -> Told:
        """Return when it was carried out."""
        process = self._process
        assert process is not None and process.stdin is not None
        self._number += 1
        answer: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._answers[self._number] = answer
        order = Order(do=do, nodes=tuple(nodes), within_s=within_s, number=self._number)
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        await process.stdin.drain()
        return await answer

    async def stop(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            async with asyncio.timeout(GOODBYE_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        decoder = msgspec.json.Decoder(Told)
        while line := await self._process.stdout.readline():
            self.told = decoder.decode(line)
            answer = self._answers.pop(self.told.answer_to, None)
            if answer is not None and not answer.done():
                answer.set_result(self.told)
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_exception(Unavailable(f"The process of {self.name} ended."))


def companies(
    node_ids: Sequence[NodeId], *, files_max: int, processes: int | None = None
) -> list[tuple[NodeId, ...]]:
    """Hosts shared out to as few processes as can hold their connections."""
    each_max = (files_max - FILES_SPARE) // FILES_A_HOST
    if len(node_ids) > each_max:
        raise CloudError(
            f"{len(node_ids)} hosts need as many open files in the control process; this system"
            f" allows {files_max}: raise the limit (ulimit -Hn)."
        )
    count = processes or -(-len(node_ids) // 5000)
    size = -(-len(node_ids) // count)
    return [tuple(node_ids[start : start + size]) for start in range(0, len(node_ids), size)]


def database_pids(pids: Sequence[int]) -> tuple[int, ...]:
    """PostgreSQL's processes on this machine, given those of some of its connections."""
    from cairn.sim.load import costs

    mothers = {costs.parent(pid) for pid in pids if costs.name(pid) == "postgres"}
    found = {m for m in mothers if m and costs.name(m) == "postgres"}
    for mother in list(found):
        found.update(costs.children(mother))
    return tuple(sorted(found))
