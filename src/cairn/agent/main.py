"""The agent's process: real engines, real ledger, real connection."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

from cairn import __version__
from cairn.agent import facts
from cairn.agent.act import Actor
from cairn.agent.agent import Agent
from cairn.agent.doors import Doors
from cairn.agent.health import HealthWatch, ThisMachine
from cairn.agent.images import ImageFetcher
from cairn.agent.ledger import Ledger
from cairn.agent.link import ControlLink
from cairn.agent.look import Drivers
from cairn.agent.membership import HostMembership
from cairn.agent.metadata_server import SocketMetadataServer
from cairn.agent.renewal import Renewal
from cairn.agent.screen import Screens
from cairn.core import log
from cairn.core.clock import SystemClock
from cairn.core.ids import NetworkId
from cairn.drivers.hypervisor.qemu import QemuHypervisor, QemuOptions
from cairn.drivers.networks.layout import OvnOptions, PhysicalNetwork, TlsFiles
from cairn.drivers.networks.ovn import OvnNetworks
from cairn.drivers.volumes.files import FilesOptions, FilesVolumes
from cairn.settings import Settings
from cairn.wire import tls
from cairn.wire.link import StreamLink, connect
from cairn.wire.spec import GuestSpec, NodeSpec, PortSpec

_log = log.get("agent")


def run_agent(settings: Settings, *, engine_dir: Path | None = None) -> None:
    """Run until SIGTERM or SIGINT. Guests and network daemons live on when it ends."""
    log.configure(debug=settings.debug)
    asyncio.run(_run(settings, engine_dir))


async def _run(settings: Settings, engine_dir: Path | None) -> None:
    work = asyncio.current_task()
    assert work is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    agent, link, screens = _assemble(settings, engine_dir)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(agent.run(), name="agent")
            group.create_task(link.run(), name="link")
    except asyncio.CancelledError:
        _log.info("stopped")
    finally:
        await screens.close()


def _assemble(settings: Settings, engine_dir: Path | None) -> tuple[Agent, ControlLink, Screens]:
    certificate = settings.certs_dir / "node.crt"
    node_id = tls.node_id_of(certificate)
    drivers = _drivers(settings, engine_dir)
    doors = _doors(settings)
    server = SocketMetadataServer(lambda n, ip: guest_at(agent.want, n, ip))
    fetcher = ImageFetcher(
        node_id=node_id, folder=settings.agent_dir / "incoming", connect=doors.connect_here
    )
    agent = Agent(
        node_id=node_id,
        drivers=drivers,
        actor=Actor(drivers, fetch_image=fetcher.fetch, metadata_server=server),
        served_metadata=lambda: server.served,
        ledger=Ledger(settings.agent_dir / "ledger" / "spec.msgpack"),
        clock=SystemClock(),
        facts=facts.probe(
            drivers,
            roles=settings.roles,
            memory_reserved_mib=settings.memory_reserved_mib,
            disk_reserved_gib=settings.disk_reserved_gib,
            hostname=settings.effective_host_name,
        ),
        health=HealthWatch(ThisMachine(), pool_dir=settings.agent_dir / "volumes"),
    )
    screens = Screens(node_id=node_id, hypervisor=drivers.hypervisor, connect=doors.connect_here)
    link = ControlLink(
        agent=agent,
        connect=doors.connect,
        open_screen=screens.open,
        agent_version=__version__,
        membership=HostMembership(
            settings,
            Renewal(settings.certs_dir, SystemClock(), owns_authorities=not settings.control),
        ),
    )
    return agent, link, screens


def _drivers(settings: Settings, engine_dir: Path | None) -> Drivers:
    hypervisor = QemuOptions(
        state_dir=settings.agent_dir,
        accelerator=settings.accelerator,
        address=settings.effective_host_address,
    )
    return Drivers(
        hypervisor=QemuHypervisor(hypervisor),
        volumes=FilesVolumes(
            FilesOptions(
                pool_dir=settings.agent_dir / "volumes", reader_gid=hypervisor.uids.readers_gid
            )
        ),
        networks=OvnNetworks(ovn_options(settings, engine_dir)),
    )


def ovn_options(settings: Settings, engine_dir: Path | None) -> OvnOptions:
    """How this host's network engine is laid out; `cairn down` needs the same to take it apart."""
    return OvnOptions(
        state_dir=settings.agent_dir,
        node_id=tls.node_id_of(settings.certs_dir / "node.crt"),
        engine_dir=engine_dir,
        has_network_role="network" in settings.roles,
        tls=TlsFiles(
            authority=settings.certs_dir / "ca.crt",
            certificate=settings.certs_dir / "node.crt",
            key=settings.certs_dir / "node.key",
        ),
        underlay_address=settings.effective_host_address,
        physical_networks=tuple(
            PhysicalNetwork(
                name=name,
                interface=interface or None,
                host_address=None if interface else settings.external_gateway,
            )
            for name, interface in sorted(settings.effective_physical_networks.items())
        ),
    )


def _doors(settings: Settings) -> Doors:
    async def dial(host: str, port: int) -> StreamLink:
        # Read anew each time: certificates are renewed while the agent runs.
        context = tls.client_context(
            authority=settings.certs_dir / "ca.crt",
            certificate=settings.certs_dir / "node.crt",
            key=settings.certs_dir / "node.key",
        )
        return await connect(host, port, context)

    return Doors(settings.control_addresses, dial, port=settings.node_port)


def guest_at(
    want: NodeSpec | None, network_id: NetworkId, ip: str
) -> tuple[GuestSpec, Sequence[PortSpec]] | None:
    """Which guest has an address in a network, with its ports in the order of its NICs."""
    if want is None:
        return None
    described = {p.id: p for p in want.ports}
    for port in want.ports:
        if port.network_id == network_id and any(a.ip == ip for a in port.addresses):
            for guest in want.guests:
                if guest.id == port.server_id:
                    return guest, [
                        described[n.port_id] for n in guest.nics if n.port_id in described
                    ]
    return None
