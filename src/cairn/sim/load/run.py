"""A whole run: prepare, start, play the profiles, check, report, take down."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cairn.compute import flavors
from cairn.core.caller import system_caller
from cairn.core.errors import CloudError
from cairn.core.ids import FlavorId, ImageId, NodeId
from cairn.host.processes import raise_file_limit
from cairn.sim.load import prefill
from cairn.sim.load.agents import Company
from cairn.sim.load.client import Client
from cairn.sim.load.parts import AgentsProcess, ControlProcess, companies
from cairn.sim.load.profiles import PROFILES, Template
from cairn.sim.load.report import Report
from cairn.sim.load.show import Load, Show, Tell, machine
from cairn.sim.load.stage import Stage, prepare_stage
from cairn.sim.load.verify import CHECKS, verify

IMAGE_BYTES = 1 << 20
_UNLIMITED = ("instances", "cores", "ram", "key_pairs")


async def play(load: Load, *, tell: Tell) -> Report:
    """Raises CloudError when something cannot be done; what was not kept is in the report."""
    for name in load.profiles:
        if name not in PROFILES:
            raise CloudError(f"There is no profile '{name}': {', '.join(PROFILES)}.")
    where = machine()
    folder = Path(tempfile.mkdtemp(prefix="cairn-load-"))
    try:
        async with _started(load, folder, tell) as (show, template):
            for name in load.profiles:
                await PROFILES[name](show, template)
            tell("checking what was promised")
            wrong = await verify(show)
            return Report(
                machine=where,
                hosts=load.hosts,
                servers=load.servers,
                seed=load.seed,
                database="PostgreSQL" if load.database_url else "SQLite",
                phases=tuple(show.phases),
                checks=CHECKS,
                wrong=tuple(wrong[:100]),
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def _started(load: Load, folder: Path, tell: Tell) -> AsyncIterator[tuple[Show, Template]]:
    """Control plane, agents and client, all connected."""
    files_max = raise_file_limit()
    tell("making certificates, settings and tables")
    hosts = load.hosts + load.joining
    stage = await asyncio.to_thread(
        prepare_stage, folder, hosts=hosts, seed=load.seed, database_url=load.database_url
    )
    shares = companies(stage.node_ids, files_max=files_max, processes=load.agent_processes or None)
    settings = stage.settings
    control = ControlProcess(settings.state, port=settings.api_port)
    client = Client(settings.api_url, authority=stage.authority, connections=load.connections + 4)
    await client.open()
    agents: list[AgentsProcess] = []
    try:
        tell("starting the control plane")
        await control.start()
        template = await _template(load, stage, client)
        if load.servers or load.hosts:
            await control.stop()  # What is filled in past it, it must find when it starts.
            await client.close()
            await asyncio.to_thread(_fill, load, stage, template, tell)
            await control.start()
            await client.open()
        agents += _agents(load, stage, shares, folder, tell)
        show = Show(load, stage, control=control, agents=agents, client=client, tell=tell)
        try:
            tell("starting the agents' processes")
            await asyncio.gather(*(a.start() for a in agents))
            await _connect(show)
            yield show, template
        finally:
            show.close()
    finally:
        await client.close()
        await asyncio.gather(*(a.stop() for a in agents))
        await control.stop()


async def _connect(show: Show) -> None:
    """The first start of all agents, as after a power cut of the whole house: all within seconds."""
    async with show.phase("start", "all hosts connect for the first time") as figures:
        within_s = show.load.hosts / 1000
        cpu_s = show.control_cpu_s()
        orders = asyncio.create_task(
            show.order("start", show.first_hosts(), within_s=within_s), name="starting"
        )
        took_s = await show.until_connected(show.load.hosts)
        await orders
        figures |= {
            "hosts": show.load.hosts,
            "s until every host was connected": took_s,
            "hosts connected per second": show.load.hosts / max(took_s, 1e-6),
            "control CPU ms per host": (show.control_cpu_s() - cpu_s) / show.load.hosts * 1000,
        }


async def _template(load: Load, stage: Stage, client: Client) -> Template:
    """Image, flavor and network of the servers to come; made through the API."""
    await client.sign_in(stage.password())
    projects = await client.must("GET", "/identity/v3/auth/projects", kind="prepare")
    (project_id,) = (p["id"] for p in projects.body["projects"] if p["name"] == "admin")
    quota = {"quota_set": dict.fromkeys(_UNLIMITED, -1)}
    await client.must("PUT", f"/compute/v2.1/os-quota-sets/{project_id}", quota, kind="prepare")
    flavor = {"flavor": {"name": "load", "vcpus": 1, "ram": 128, "disk": 1}}
    made = await client.must("POST", "/compute/v2.1/flavors", flavor, kind="prepare")
    wish = {"name": "load", "disk_format": "raw", "container_format": "bare"}
    image = await client.must("POST", "/image/v2/images", wish, kind="prepare")
    image_id = image.body["id"]
    path = f"/image/v2/images/{image_id}/file"
    await client.must("PUT", path, bytes(IMAGE_BYTES), kind="prepare")
    network_id = await _network(client, project_id) if load.with_port else None
    return Template(flavor_id=made.body["flavor"]["id"], image_id=image_id, network_id=network_id)


async def _network(client: Client, project_id: str) -> str:
    quota = {"quota": {"port": -1}}
    await client.must("PUT", f"/network/v2.0/quotas/{project_id}", quota, kind="prepare")
    wish = {"network": {"name": "load"}}
    made = await client.must("POST", "/network/v2.0/networks", wish, kind="prepare")
    network_id = str(made.body["network"]["id"])
    subnet = {"network_id": network_id, "ip_version": 4, "cidr": "10.0.0.0/8"}
    await client.must("POST", "/network/v2.0/subnets", {"subnet": subnet}, kind="prepare")
    return network_id


def _fill(load: Load, stage: Stage, template: Template, tell: Tell) -> None:
    database = stage.open_database()
    try:
        hosts = stage.node_ids[: load.hosts]
        prefill.enrol_hosts(
            database, hosts, network_nodes=_network_nodes(stage), key_digest=stage.key_digest,
            tell=tell,
        )  # fmt: skip
        if load.servers:
            flavor_id = FlavorId(template.flavor_id)
            flavor = database.read_now(lambda tx: flavors.get(tx, system_caller(), flavor_id))
            prefill.add_servers(
                database, hosts, load.servers, seed=load.seed, flavor=flavor,
                image_id=ImageId(template.image_id), tell=tell,
            )  # fmt: skip
    finally:
        database.close()


def _network_nodes(stage: Stage) -> tuple[NodeId, ...]:
    return stage.node_ids[:1]


def _agents(
    load: Load, stage: Stage, shares: Sequence[tuple[NodeId, ...]], folder: Path, tell: Tell
) -> list[AgentsProcess]:
    specs = {}
    if load.servers:
        database = stage.open_database()
        try:
            hosts = stage.node_ids[: load.hosts]
            specs = {s.node_id: s for s in prefill.specs(database, hosts, tell=tell)}
        finally:
            database.close()
    return [
        AgentsProcess(
            Company(
                host="127.0.0.1",
                ports=(stage.settings.node_port,),
                authority=str(stage.authority),
                certificates=str(stage.node_certificates),
                node_ids=share,
                network_nodes=_network_nodes(stage),
                seed=load.seed + number,
                latency_s=load.latency_s,
                specs=tuple(specs[n] for n in share if n in specs),
            ),
            folder,
            name="agents" if len(shares) == 1 else f"agents {number + 1}",
        )
        for number, share in enumerate(shares)
    ]
