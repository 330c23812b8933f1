"""Everything in one process, in real time, on fake hosts: for whoever works on an API or a client.

The control plane, its HTTP and the agents are the real ones; only the engines are fakes. Plain HTTP on
loopback, a database in a file that is new at each start, a password that everyone knows.
"""

import asyncio
import random
import tempfile
from pathlib import Path

import uvicorn

from cairn.app import Cloud, CloudOptions
from cairn.core.clock import SystemClock
from cairn.core.ids import NodeId
from cairn.core.tasks import TaskGroup
from cairn.db.engine import open_sqlite
from cairn.drivers.networks.fake import Fabric
from cairn.fleet import service as fleet
from cairn.fleet.records import DEFAULT_ZONE
from cairn.identity.accounts.security import Security
from cairn.sim.link import Wire
from cairn.sim.node import SimNode

PASSWORD = "cairn-dev"  # noqa: S105 - of a cloud that holds nothing


def serve(*, port: int, hosts: int, security: Security | None = None) -> None:
    """Run until SIGINT or SIGTERM."""
    with tempfile.TemporaryDirectory(prefix="cairn-dev-") as folder:
        asyncio.run(_serve(Path(folder), security or Security(), port=port, hosts=hosts))


async def _serve(folder: Path, security: Security, *, port: int, hosts: int) -> None:
    clock = SystemClock()
    database = open_sqlite(folder / "cairn.db", clock=clock)
    database.create_all()
    options = CloudOptions(
        control_dir=folder, clock=clock, admin_password=PASSWORD, security=security
    )
    cloud = Cloud(database, options)
    await cloud.start()
    tasks = TaskGroup()
    dice, fabric = random.Random(), Fabric()  # noqa: S311 - jitter

    def dial(node: SimNode) -> Wire:
        wire = Wire(dice, delay_s_max=0.0, repeats=0.0)
        tasks.start(cloud.streams.serve(wire.control_end, node.id), name=f"stream {node.id}")
        return wire

    for number in range(hosts):
        node = SimNode(
            NodeId(f"host-{number}"),
            clock=clock,
            dice=dice,
            dial=dial,
            network=number == 0,
            fabric=fabric,
        )
        name, roles = node.id, node.roles
        await database.write(
            lambda tx, name=name, roles=roles: fleet.enrol(  # type: ignore[misc]
                tx, name, hostname=name, zone=DEFAULT_ZONE, roles=roles
            )
        )
        node.start_agent()
    tasks.start(cloud.runner.run(), name="reconcilers")
    config = uvicorn.Config(
        cloud.shell.app, host="127.0.0.1", port=port, access_log=False, log_level="warning"
    )
    try:
        await uvicorn.Server(config).serve()
    finally:
        await tasks.close()
        await cloud.close()
        database.close()
