"""The load profiles: what is done to the measured cloud, and which figures that gives."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select

from cairn.compute import store as compute
from cairn.core.errors import Unavailable
from cairn.core.ids import NodeId
from cairn.core.tasks import TaskGroup
from cairn.db.engine import Tx
from cairn.fleet import store as fleet
from cairn.sim.load import costs
from cairn.sim.load.prefill import enrol_hosts
from cairn.sim.load.report import quantile
from cairn.sim.load.show import Show

ACTIVE_S_MAX = 600.0
GONE_S_MAX = 600.0
LOOK_PERIOD_S = 0.25
LIST_SIZE = 1000
LISTS = 20
PROBES_A_SECOND = 10
READER_PERIOD_S = 0.5
SILENT_S = 40.0  # how long a host that failed stays dark: longer than its lease
_SERVERS = "/compute/v2.1/servers"


class Template:
    """What the servers of a run are made of."""

    def __init__(self, *, flavor_id: str, image_id: str, network_id: str | None) -> None:
        self.flavor_id = flavor_id
        self.image_id = image_id
        self.network_id = network_id

    def wish(self, name: str, count: int = 1) -> dict[str, Any]:
        server: dict[str, Any] = {
            "name": name,
            "flavorRef": self.flavor_id,
            "imageRef": self.image_id,
            "networks": [{"uuid": self.network_id}] if self.network_id else "none",
        }
        if count > 1:
            server |= {"min_count": count, "max_count": count}
        return {"server": server}


async def steady(show: Show, template: Template) -> None:
    """Idle; then reading; then servers come and go at a given rate while others read."""
    await _idle(show)
    await _read(show)
    await _churn(show, template)


async def boot_storm(show: Show, template: Template) -> None:
    """As many servers as the API takes, all to ACTIVE; then all deleted."""
    tag = f"storm-{uuid.uuid4().hex[:6]}"
    count = show.load.burst_size
    async with show.phase("boot-storm", "create") as figures:
        began_s, cpu_s = time.monotonic(), show.control_cpu_s()
        ids = await _create(show, template, tag, count)
        accepted_s = time.monotonic() - began_s
        active = await _until_built(show, tag, count)
        took_s = time.monotonic() - began_s
        create_ms = (show.control_cpu_s() - cpu_s) / count * 1000
        figures |= {
            "servers": count,
            "requests accepted per second": count / accepted_s,
            "servers to ACTIVE per second": active / took_s,
            "control CPU ms per server created": create_ms,
        }
        to_active_s = sorted(show.database.read_now(lambda tx: _times_to_active(tx, tag)))
        figures["p50 s from request to ACTIVE"] = quantile(to_active_s, 0.5)
        figures["p99 s from request to ACTIVE"] = quantile(to_active_s, 0.99)
    async with show.phase("boot-storm", "delete") as figures:
        began_s, cpu_s = time.monotonic(), show.control_cpu_s()
        await _delete(show, ids)
        await _until_gone(show, tag)
        took_s = time.monotonic() - began_s
        delete_ms = (show.control_cpu_s() - cpu_s) / count * 1000
        figures |= {
            "servers gone per second": count / took_s,
            "control CPU ms per server deleted": delete_ms,
            "control CPU ms per server created and deleted": create_ms + delete_ms,
        }


async def reconnect_storm(show: Show, template: Template) -> None:
    """kill -9 of the control plane and a new one, with clients that go on asking."""
    everyone = show.connected
    listed = await show.client.must("GET", f"{_SERVERS}?limit=1&all_tenants=1", kind="list")
    servers = [s["id"] for s in listed.body["servers"]]
    async with show.phase("reconnect-storm", "after the control plane's restart") as figures:
        killed_s = time.monotonic()
        show.control.kill()
        await show.until(lambda: show.connected <= everyone // 2, "agents notice", within_s=60)
        started_s = time.monotonic()
        await show.control.start()
        open_s = time.monotonic()
        tasks = TaskGroup()
        tasks.start(_probe(show, servers), name="probes")
        try:
            await show.until_connected(everyone)
        finally:
            connected_s = time.monotonic()
            await tasks.close()
        probes_ms = sorted(
            t.took_s * 1000
            for t in show.client.timed
            if t.kind.startswith("probe") and t.began_s >= open_s
        )
        figures |= {
            "hosts": everyone,
            "s until the API's port was open": open_s - started_s,
            "s until every host was connected": connected_s - started_s,
            "s without service": open_s - killed_s,
            "hosts connected per second": everyone / max(connected_s - open_s, 1e-6),
            "API p50 ms meanwhile": quantile(probes_ms, 0.5),
            "API p99 ms meanwhile": quantile(probes_ms, 0.99),
            "control CPU ms per host": show.control_cpu_s() / everyone * 1000,
        }
    await _settle(show)
    await _until_state(show, show.first_hosts()[:everyone], "up", within_s=120)


async def host_failures(show: Show, template: Template) -> None:
    """Hosts lose their power one after the other, stay dark longer than their lease, and come back."""
    hosts = show.first_hosts()
    failing = hosts[1 : 1 + max(1, min(100, show.load.hosts // 20))]
    async with show.phase("host-failures", "dark") as figures:
        began_s = time.monotonic()
        await show.order("cut power", failing, within_s=min(10.0, len(failing) * 0.2))
        await _until_state(show, failing, "suspect", within_s=SILENT_S + 60)
        figures |= {
            "hosts": len(failing),
            "s until all were suspect": time.monotonic() - began_s,
        }
    async with show.phase("host-failures", "back") as figures:
        began_s = time.monotonic()
        await show.order("start", failing)
        await show.until_connected(show.load.hosts)
        connected_s = time.monotonic() - began_s
        await _until_state(show, failing, "up", within_s=120)
        figures |= {"s until all were connected": connected_s}


async def joining(show: Show, template: Template) -> None:
    """New hosts are enrolled and connect, evenly over a time."""
    newcomers = show.stage.node_ids[show.load.hosts :]
    within_s = max(2.0, len(newcomers) / 20)
    offered = f"{len(newcomers) / within_s:.1f} hosts a second"
    async with show.phase("joining", "hosts join", offered=offered) as figures:
        before = show.connected
        began_s = time.monotonic()
        enrol_hosts(
            show.database,
            newcomers,
            network_nodes=(),
            key_digest=show.stage.key_digest,
            tell=show.tell,
        )
        await show.order("start", newcomers, within_s=within_s)
        await show.until_connected(before + len(newcomers))
        await _until_state(show, newcomers, "up", within_s=120)
        figures |= {
            "hosts": len(newcomers),
            "hosts joined per second": len(newcomers) / (time.monotonic() - began_s),
        }


Profile = Callable[[Show, Template], Awaitable[None]]
PROFILES: Mapping[str, Profile] = {
    "steady": steady,
    "boot-storm": boot_storm,
    "reconnect-storm": reconnect_storm,
    "host-failures": host_failures,
    "joining": joining,
}


# --- parts of profiles -------------------------------------------------------------------------------


async def _idle(show: Show) -> None:
    await _settle(show)
    offered = "nothing but the agents' signs of life"
    async with show.phase("steady", "idle", offered=offered) as figures:
        cpu_s, began_s = show.control_cpu_s(), time.monotonic()
        await asyncio.sleep(show.load.seconds)
        share = (show.control_cpu_s() - cpu_s) / (time.monotonic() - began_s)
        memory = costs.memory(show.control.pid)
        figures |= {
            "hosts connected": show.connected,
            "control % of a core": share * 100,
            "control PSS MiB": memory.pss_mib,
            "control PSS KiB per host, all of it": memory.pss_mib * 1024 / show.load.hosts,
        }


async def _read(show: Show) -> None:
    """The list that dashboards and scripts ask for, as large as one page may be."""
    path = f"{_SERVERS}/detail?limit={LIST_SIZE}&all_tenants=1"
    first = await show.client.must("GET", path, kind="warm up")
    size = len(first.body["servers"])
    async with show.phase("steady", "read") as figures:
        rss_mib, cpu_s = costs.memory(show.control.pid).rss_mib, show.control_cpu_s()
        marker = ""
        for _ in range(LISTS):
            answer = await show.client.must(
                "GET", path + marker, kind=f"list {size:,} with details"
            )
            listed = answer.body["servers"]
            marker = f"&marker={listed[-1]['id']}" if len(listed) == LIST_SIZE else ""
        figures |= {
            "servers in the cloud": show.load.servers + len(show.accepted) - len(show.doomed),
            "servers a page": size,
            "control CPU ms a page": (show.control_cpu_s() - cpu_s) / LISTS * 1000,
            "control RSS MiB more than before": costs.memory(show.control.pid).rss_mib - rss_mib,
        }


async def _churn(show: Show, template: Template) -> None:
    tag = f"churn-{uuid.uuid4().hex[:6]}"
    rate, seconds = show.load.rate, show.load.seconds
    offered = f"{rate:g} servers a second created, watched and deleted"
    to_active_s: list[float] = []
    late = 0
    async with show.phase("steady", "churn", offered=offered) as figures:
        tasks, readers = TaskGroup(), TaskGroup()
        readers.start(_browse(show), name="reader")
        began_s, cpu_s = time.monotonic(), show.control_cpu_s()
        count = max(1, int(rate * seconds))
        lives: list[asyncio.Task[Any]] = []
        for number in range(count):
            pause_s = began_s + number / rate - time.monotonic()
            late += pause_s < -1.0
            await asyncio.sleep(max(0.0, pause_s))
            lives.append(
                tasks.start(_live(show, template, f"{tag}-{number}", to_active_s), name="life")
            )
            show.tell(f"{number + 1} of {count} servers")
        await asyncio.gather(*lives)
        took_s = time.monotonic() - began_s
        await readers.close()
        await tasks.close()
        to_active_s.sort()
        figures |= {
            "servers": count,
            "offered servers per second": rate,
            "servers created and deleted per second": count / took_s,
            "requests sent more than a second late": late,
            "p50 s to ACTIVE, seen by clients": quantile(to_active_s, 0.5),
            "p99 s to ACTIVE, seen by clients": quantile(to_active_s, 0.99),
            "control CPU ms per server and all that was asked of it": (
                (show.control_cpu_s() - cpu_s) / count * 1000
            ),
        }


async def _live(show: Show, template: Template, name: str, to_active_s: list[float]) -> None:
    """One server's life as a careful client leads it."""
    began_s = time.monotonic()
    (server_id,) = await _post(show, template.wish(name))
    status = ""
    while status != "ACTIVE":
        await asyncio.sleep(LOOK_PERIOD_S)
        answer = await show.client.must("GET", f"{_SERVERS}/{server_id}", kind="show server")
        status = answer.body["server"]["status"]
        if status == "ERROR" or time.monotonic() - began_s > ACTIVE_S_MAX:
            raise Unavailable(f"Server {server_id} is {status}.", because=str(answer.body))
    to_active_s.append(time.monotonic() - began_s)
    await _delete(show, [server_id])
    deleted_s = time.monotonic()
    while True:
        await asyncio.sleep(LOOK_PERIOD_S)
        answer = await show.client.ask("GET", f"{_SERVERS}/{server_id}", kind="show server")
        if answer.status == 404:
            return
        if time.monotonic() - deleted_s > GONE_S_MAX:
            raise Unavailable(f"Server {server_id} does not go.", because=str(answer.body))


async def _browse(show: Show) -> None:
    """Somebody who looks at lists all the time."""
    while True:
        await show.client.must("GET", f"{_SERVERS}/detail?limit=100", kind="list 100 with details")
        await asyncio.sleep(READER_PERIOD_S)
        await show.client.must("GET", "/compute/v2.1/flavors/detail", kind="list flavors")
        await asyncio.sleep(READER_PERIOD_S)


async def _probe(show: Show, servers: Sequence[str]) -> None:
    while True:
        began_s = time.monotonic()
        path = f"{_SERVERS}/{servers[0]}" if servers else "/compute/v2.1/flavors"
        try:
            await show.client.ask("GET", path, kind="probe")
        except Unavailable:
            await asyncio.sleep(0.1)
        await asyncio.sleep(max(0.0, 1 / PROBES_A_SECOND - (time.monotonic() - began_s)))


async def _create(show: Show, template: Template, tag: str, count: int) -> list[str]:
    """POSTs over all connections; the ids of what was promised."""
    batch = show.load.batch
    wishes = [
        template.wish(f"{tag}-{start}", min(batch, count - start))
        for start in range(0, count, batch)
    ]
    ids: list[str] = []
    waiting = iter(wishes)

    async def work() -> None:
        for wish in waiting:
            ids.extend(await _post(show, wish))
            show.tell(f"{len(ids):,} of {len(wishes):,} requests accepted")

    await asyncio.gather(*(work() for _ in range(show.load.connections)))
    if batch > 1:
        ids = await _ids(show, tag)
        show.accepted.update(ids)
    return ids


async def _post(show: Show, wish: dict[str, Any]) -> list[str]:
    answer = await show.client.must("POST", _SERVERS, wish, kind="create server")
    server_id = str(answer.body["server"]["id"])
    show.accepted.add(server_id)
    return [server_id]


async def _ids(show: Show, tag: str) -> list[str]:
    found: list[str] = []
    while True:
        marker = f"&marker={found[-1]}" if found else ""
        path = f"{_SERVERS}?limit={LIST_SIZE}&name={tag}{marker}"
        page = (await show.client.must("GET", path, kind="list")).body["servers"]
        found += [s["id"] for s in page]
        if len(page) < LIST_SIZE:
            return found


async def _until_built(show: Show, tag: str, count: int) -> int:
    """Wait until none builds any more; how many of them are ACTIVE. Unavailable when it takes too long."""
    deadline_s = time.monotonic() + ACTIVE_S_MAX
    path = f"{_SERVERS}?limit=1&name={tag}&status=BUILD"
    while (await show.client.must("GET", path, kind="watch")).body["servers"]:
        if time.monotonic() > deadline_s:
            raise Unavailable(f"Not all servers were built within {ACTIVE_S_MAX:.0f} s.")
        show.tell("waiting for the last server to be ACTIVE")
        await asyncio.sleep(LOOK_PERIOD_S)
    return show.database.read_now(lambda tx: _count_active(tx, tag))


async def _delete(show: Show, ids: Sequence[str]) -> None:
    waiting = iter(ids)

    async def work() -> None:
        for server_id in waiting:
            await show.client.must("DELETE", f"{_SERVERS}/{server_id}", kind="delete server")
            show.doomed.add(server_id)
            show.tell(f"{len(show.doomed):,} deletions accepted")

    await asyncio.gather(*(work() for _ in range(min(len(ids), show.load.connections))))


async def _until_gone(show: Show, tag: str) -> None:
    deadline_s = time.monotonic() + GONE_S_MAX
    path = f"{_SERVERS}?limit=1&name={tag}"
    while (await show.client.must("GET", path, kind="watch")).body["servers"]:
        if time.monotonic() > deadline_s:
            raise Unavailable(f"Not all servers were gone within {GONE_S_MAX:.0f} s.")
        show.tell("waiting for the last server to be gone")
        await asyncio.sleep(LOOK_PERIOD_S)


async def _settle(show: Show) -> None:
    """Until the control plane has no more work of its own: its CPU no longer falls."""
    share = 1.0
    for _ in range(30):
        before_s = show.control_cpu_s()
        await asyncio.sleep(1.0)
        now = show.control_cpu_s() - before_s
        show.tell(f"settling: control plane at {now:.0%} of a core")
        if now < 0.02 or now > share * 0.9:
            return
        share = now


async def _until_state(show: Show, nodes: Sequence[NodeId], state: str, *, within_s: float) -> None:
    """Wait until the rows say so; looked at past the API, which should not pay for it."""
    wanted = set(nodes)
    deadline_s = time.monotonic() + within_s
    while True:
        have = show.database.read_now(lambda tx: _nodes_in(tx, state))
        missing = wanted - have
        if not missing:
            return
        if time.monotonic() > deadline_s:
            raise Unavailable(f"{len(missing)} hosts are not {state} after {within_s:.0f} s.")
        show.tell(f"{len(missing)} hosts are not {state} yet")
        await asyncio.sleep(0.5)


def _nodes_in(tx: Tx, state: str) -> set[NodeId]:
    query = select(fleet.nodes.c.id).where(fleet.nodes.c.state == state)
    return {NodeId(i) for i in tx.execute(query).scalars()}


def _times_to_active(tx: Tx, tag: str) -> list[float]:
    table = compute.servers
    query = select(table.c.created_at, table.c.launched_at).where(
        table.c.name.like(f"{tag}%"), table.c.launched_at.is_not(None)
    )
    return [(row.launched_at - row.created_at).total_seconds() for row in tx.execute(query)]


def _count_active(tx: Tx, tag: str) -> int:
    table = compute.servers
    query = select(func.count()).where(table.c.name.like(f"{tag}%"), table.c.state == "active")
    return int(tx.execute(query).scalar_one())
