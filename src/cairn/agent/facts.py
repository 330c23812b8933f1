"""What this host is and has, from /proc and its engines."""

import os
import socket
from collections.abc import Callable

from cairn import __version__
from cairn.agent.look import Drivers
from cairn.core.errors import CloudError
from cairn.drivers.contracts import HypervisorFacts
from cairn.wire.report import HostFacts


def probe(
    drivers: Drivers,
    *,
    roles: tuple[str, ...],
    memory_reserved_mib: int,
    disk_reserved_gib: int,
    hostname: str = "",
) -> Callable[[], HostFacts]:
    """A function that gives the facts; what engines know is asked each time, for they start by and by."""
    hostname = hostname or socket.gethostname()
    memory_mib = max(_memory_mib() - memory_reserved_mib, 0)
    vcpus = os.cpu_count() or 1

    def facts() -> HostFacts:
        pool = drivers.volumes.facts()
        guests = drivers.hypervisor.facts()
        try:
            networks = drivers.networks.facts()
        except CloudError:
            networks = None
        return HostFacts(
            hostname=hostname,
            vcpus=vcpus,
            memory_mib=memory_mib,
            disk_gib=max(pool.total_gib - disk_reserved_gib, 0),
            disk_free_gib=max(pool.free_gib - disk_reserved_gib, 0),
            accelerator=guests.accelerator,
            hypervisor=guests.hypervisor,
            hypervisor_version=guests.version,
            cpu_model=guests.cpu_model,
            address=networks.address if networks else "",
            underlay_mtu=networks.underlay_mtu if networks else 1500,
            datapath=networks.datapath if networks else "",
            southbound=networks.southbound if networks else "",
            physical_networks=networks.physical_networks if networks else (),
            roles=roles,
            agent_version=__version__,
            features=_features(guests),
            has_shared_pool=pool.is_shared,
        )

    return facts


def _features(guests: HypervisorFacts) -> tuple[str, ...]:
    live = ("live-migration",) if guests.can_live_migrate else ()
    return (*live, f"cpu-{guests.cpu_digest}") if guests.cpu_digest else live


def _memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
