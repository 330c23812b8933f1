"""`python -m cairn.sim.load.agents FILE`: one process with many agents, each on its own connection.

The agents are the real ones over fake engines; the connections are real TCP with mutual TLS. The process
is told what to do by lines of JSON on its standard input and says every second how it is; it ends when
its input does.
"""

import asyncio
import contextlib
import gc
import logging
import os
import random
import ssl
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec
import structlog
import uvloop
from msgspec import Struct

from cairn.core.clock import SystemClock
from cairn.core.errors import CloudError, Unavailable
from cairn.core.ids import NodeId, ServerId
from cairn.core.tasks import TaskGroup
from cairn.drivers.contracts import BlockNode
from cairn.drivers.volumes.fake import GIB, Disk, FakeVolume
from cairn.sim.node import SimNode
from cairn.wire import tls
from cairn.wire.link import Link, connect
from cairn.wire.spec import NodeSpec

TELL_PERIOD_S = 1.0
# Real hosts make their handshakes on processors of their own. These share one: were thousands begun at
# once, none would end before its time is up. So they take turns, in the order in which they ask.
HANDSHAKES_MAX = 250

_voice: BinaryIO = sys.stdout.buffer


class Company(Struct, frozen=True, kw_only=True):
    """Which hosts a process plays, and where they find the control plane."""

    host: str
    ports: tuple[int, ...]  # of the control processes, tried by turns
    authority: str
    certificates: str
    node_ids: tuple[NodeId, ...]
    network_nodes: tuple[NodeId, ...]  # those of them with the network role
    seed: int
    latency_s: float  # of each verb of the engines
    specs: tuple[NodeSpec, ...] = ()  # what hosts held before: in their ledgers, and running


class Order(Struct, frozen=True, kw_only=True):
    """`do`: "start" and "cut power" (of `nodes`, evenly within `within_s`), "look"."""

    do: str
    nodes: tuple[NodeId, ...] = ()
    within_s: float = 0.0
    number: int = 0  # comes back with the answer


class GuestHere(Struct, frozen=True, kw_only=True, array_like=True):
    id: ServerId
    node_id: NodeId
    incarnation: int
    runs: bool


class Told(Struct, frozen=True, kw_only=True):
    """How the company is: each second, and with `answer_to` after an order was carried out."""

    running: int  # agents whose process runs
    connected: int
    dials: int  # connections tried so far
    trouble: str = ""  # why the last connection that failed did
    answer_to: int = 0
    guests: tuple[GuestHere, ...] = ()  # after "look" only
    violations: tuple[str, ...] = ()


class _Players:
    def __init__(self, company: Company) -> None:
        self._company = company
        self._dice = random.Random(company.seed)  # noqa: S311 - jitter
        self._tasks = TaskGroup()
        self._dials = 0
        self._trouble = ""
        self._turns = asyncio.Semaphore(HANDSHAKES_MAX)
        self._contexts: dict[NodeId, ssl.SSLContext] = {}
        clock = SystemClock()
        self._nodes = {
            node_id: SimNode(
                node_id,
                clock=clock,
                dice=self._dice,
                connect=self._connect,
                network=node_id in company.network_nodes,
                latency_s=company.latency_s,
            )
            for node_id in company.node_ids
        }

    async def take_up(self) -> None:
        """Give hosts what they held before."""
        for spec in self._company.specs:
            node = self._nodes[spec.node_id]
            node.ledger.save(spec)
            for image in spec.images:
                node.volumes.images[image.id] = Disk(size_bytes=image.virtual_bytes)
            for volume in spec.volumes:
                disk = Disk(size_bytes=volume.size_gib * GIB)
                node.volumes.volumes[volume.id] = FakeVolume(disk=disk)
            for guest in spec.guests:
                disks = tuple(BlockNode(options={}) for _ in guest.disks)
                node.hypervisor.latency_s, latency_s = 0.0, node.hypervisor.latency_s
                await node.hypervisor.boot(guest, disks, (), None)
                node.hypervisor.latency_s = latency_s

    async def follow(self, order: Order) -> Told:
        pause_s = order.within_s / len(order.nodes) if order.nodes else 0.0
        began_s = asyncio.get_running_loop().time()
        for number, node_id in enumerate(order.nodes):
            late_s = began_s + number * pause_s - asyncio.get_running_loop().time()
            if late_s > 0:
                await asyncio.sleep(late_s)
            node = self._nodes[node_id]
            if order.do == "start" and not node.is_running:
                node.start_agent()
            elif order.do == "cut power":
                await node.cut_power()
        told = self.told(answer_to=order.number)
        return self._looked(told) if order.do == "look" else told

    def told(self, *, answer_to: int = 0) -> Told:
        nodes = self._nodes.values()
        links = [n.link for n in nodes if n.is_running and n.link is not None]
        return Told(
            running=len(links),
            connected=sum(link.is_connected for link in links),
            dials=self._dials,
            trouble=next((link.refusal for link in links if link.refusal), self._trouble),
            answer_to=answer_to,
        )

    def _looked(self, told: Told) -> Told:
        guests = tuple(
            GuestHere(id=g.id, node_id=n.id, incarnation=g.incarnation, runs=g.running)
            for n in self._nodes.values()
            for g in n.hypervisor.guests.values()
        )
        wrong = tuple(f"{n.id}: {v}" for n in self._nodes.values() for v in n.hypervisor.violations)
        return msgspec.structs.replace(told, guests=guests, violations=wrong)

    async def close(self) -> None:
        await self._tasks.close()
        await asyncio.gather(*(node.close() for node in self._nodes.values()))

    async def _connect(self, node: SimNode) -> Link:
        ports = self._company.ports
        async with self._turns:
            self._dials += 1
            port = ports[self._dials % len(ports)]
            try:
                return await connect(self._company.host, port, self._context(node.id))
            except CloudError as error:
                self._trouble = f"{error.message} {error.because}"
                raise
            except Exception as error:
                self._trouble = repr(error)
                raise Unavailable("The control plane hung up.", because=repr(error)) from error

    def _context(self, node_id: NodeId) -> ssl.SSLContext:
        """A host's own, made once: no certificate is renewed while a run lasts."""
        context = self._contexts.get(node_id)
        if context is None:
            pem = Path(self._company.certificates) / f"{node_id}.pem"
            context = self._contexts[node_id] = tls.client_context(
                authority=Path(self._company.authority), certificate=pem, key=pem
            )
        return context


async def _play(company: Company) -> None:
    players = _Players(company)
    await players.take_up()
    gc.collect()
    gc.freeze()
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader(limit=64 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    decoder = msgspec.json.Decoder(Order)
    work = TaskGroup()

    async def carry_out(order: Order) -> None:
        _say(await players.follow(order))

    async def keep_telling() -> None:
        while True:
            _say(players.told())
            await asyncio.sleep(TELL_PERIOD_S)

    work.start(keep_telling(), name="telling")
    while line := await orders.readline():
        work.start(carry_out(decoder.decode(line)), name="order")
    await work.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            await players.close()


def _say(told: Told) -> None:
    _voice.write(msgspec.json.encode(told) + b"\n")
    _voice.flush()


def main() -> None:
    global _voice
    # Whatever else prints must not be taken for what we tell.
    _voice = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    company = msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=Company)
    uvloop.run(_play(company))
    os._exit(0)  # Ten thousand TLS sessions need not be taken apart one by one.


if __name__ == "__main__":
    main()
