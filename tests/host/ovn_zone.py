"""A zone of two hosts for the OVN tests: two namespaces as machines, an Ethernet between them.

host 1 und0 172.30.0.1 ─┐
host 2 und0 172.30.0.2 ─┴─ bridge        host 1 has the network role and the card to the outside.

Each machine has a thread that stands in its namespace and runs its driver's event loop, so that two drivers
of one process live on two machines. The zone is that of ovn_world.py.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cairn.core.clock import SystemClock
from cairn.core.ids import NodeId
from cairn.drivers.networks.layout import TlsFiles
from cairn.drivers.networks.ovn import OvnNetworks
from cairn.host import certs
from tests.host import ovn_rig
from tests.host.ovn_rig import NODE, Lab, ip
from tests.host.ovn_world import World

T = TypeVar("T")

NODE_2 = NodeId("node-2")
ADDRESS = {NODE: "172.30.0.1", NODE_2: "172.30.0.2"}


class Machine:
    """A thread inside a namespace, with an event loop in which a driver lives."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()

        def body() -> None:
            ovn_rig.enter(namespace)
            asyncio.set_event_loop(self._loop)
            self._loop.call_soon(ready.set)
            self._loop.run_forever()

        self._thread = threading.Thread(target=body, name=f"machine {namespace}")
        self._thread.start()
        ready.wait()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=120)

    def call(self, work: Callable[[], T]) -> T:
        async def inside() -> T:
            return work()

        return self.do(inside())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class Zone:
    """Both machines, with a driver and a share of the guests on each."""

    def __init__(self, *, underlay_mtu: int = 1500, second_has_role: bool = False) -> None:
        self.lab = Lab()
        self.lab.wire_outside()
        self.authority = certs.new_authority(SystemClock())
        hosts = {NODE: self.lab.host, NODE_2: self.lab.add_namespace("h2")}
        core = self.lab.add_namespace("c")
        ip("-n", core, "link", "add", "sw", "mtu", str(underlay_mtu), "type", "bridge")
        ip("-n", core, "link", "set", "sw", "up")
        for node_id, namespace in hosts.items():
            ip("link", "add", "und0", "netns", namespace, "mtu", str(underlay_mtu), "type", "veth",
               "peer", "name", node_id, "netns", core)  # fmt: skip
            ip("-n", core, "link", "set", node_id, "mtu", str(underlay_mtu), "master", "sw", "up")
            ip("-n", namespace, "addr", "add", f"{ADDRESS[node_id]}/24", "dev", "und0")
            ip("-n", namespace, "link", "set", "und0", "up")
        self.machines = {node_id: Machine(namespace) for node_id, namespace in hosts.items()}
        first = World(
            self.lab,
            self.lab.options(tls=self.tls(NODE), underlay_address=ADDRESS[NODE]),
        )
        second = World(
            self.lab,
            self.lab.options(
                node_id=NODE_2,
                state_dir=self.lab.home / "s2",
                has_network_role=second_has_role,
                physical_networks=(),
                tls=self.tls(NODE_2),
                underlay_address=ADDRESS[NODE_2],
            ),
        )
        second.be_part_of(first)
        self.worlds = {NODE: first, NODE_2: second}

    def tls(self, node_id: NodeId, authority: certs.Authority | None = None) -> TlsFiles:
        """Certificate and key of a host, by the zone's authority or a stranger."""
        authority = authority or self.authority
        key = ec.generate_private_key(ec.SECP256R1())
        made = authority.issue(
            certs.request_for(key), node_id, address=ADDRESS.get(node_id, "172.30.0.9")
        )
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        start = self.lab.home / f"{node_id}-{authority.fingerprint.hex()[:8]}"
        files = TlsFiles(
            authority=Path(f"{start}-ca.crt"),
            certificate=Path(f"{start}.crt"),
            key=Path(f"{start}.key"),
        )
        files.authority.write_bytes(authority.pem)
        files.certificate.write_bytes(made)
        files.key.write_bytes(secret)
        return files

    def do(self, node_id: NodeId, work: Callable[[World], Awaitable[T]]) -> T:
        """Work with the host's driver, in the host's thread."""

        async def inside() -> T:
            return await work(self.worlds[node_id])

        return self.machines[node_id].do(inside())

    def start(self) -> None:
        self.do(NODE, lambda w: w.start())
        self.do(NODE_2, lambda w: w.engine.start(w.changed.set))

    def boot(self, node_id: NodeId, *names: str) -> None:
        """Plug the ports on the host, put guests behind them, and have them take their leases."""
        world = self.worlds[node_id]
        self.do(node_id, lambda w: w.boot(*names))
        for name in names:
            assert world.guests[name].dhcp(), f"{name} got no lease on {node_id}"

    def start_driver_again(self, node_id: NodeId) -> None:
        """A new agent on the same host."""
        world = self.worlds[node_id]
        self.do(node_id, lambda w: w.engine.close())
        world.engine = OvnNetworks(world.options)
        self.do(node_id, lambda w: w.engine.start(w.changed.set))

    def close(self) -> None:
        for node_id in (NODE_2, NODE):
            self.do(node_id, lambda w: w.end())
        for machine in self.machines.values():
            machine.close()
        self.lab.close()
