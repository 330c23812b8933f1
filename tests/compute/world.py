"""A small cloud for compute's tests: real slices on a real database, and hosts that obey or misbehave."""

from functools import partial
from typing import Any

from msgspec import Struct, field

from cairn.compute import placing
from cairn.compute import service as compute
from cairn.compute.api import service as compute_api
from cairn.core.caller import Caller
from cairn.core.errors import NotFound
from cairn.core.ids import ImageId, NodeId, PortId, ServerId, VolumeId
from cairn.db.engine import Database, Tx
from cairn.fleet import service as fleet
from cairn.image import service as images
from cairn.image.records import Content, ImageWish, Visibility
from cairn.network import service as network
from cairn.network.service.networks import create_network
from cairn.network.service.subnets import create_subnet
from cairn.network.wishes import NetworkWish, SubnetWish
from cairn.volume import service as volumes
from cairn.wire.link import Asked, ConsoleLog
from cairn.wire.report import (
    GuestSeen,
    GuestState,
    HostFacts,
    NodeReport,
    PortSeen,
    Trouble,
    VolumeSeen,
)
from cairn.wire.spec import GuestSpec, Power
from tests.callers import CALLERS, Api

ALICE, BOB, ADMIN = CALLERS["alice"], CALLERS["bob"], CALLERS["admin"]


class Host(Struct, kw_only=True):
    """One host. `obey` does all that its spec wishes; `guests` overrides what it says of single ones."""

    database: Database
    id: NodeId
    facts: HostFacts
    base: int
    count: int = 0
    guests: dict[ServerId, GuestSeen] = field(default_factory=dict)

    def specs(self) -> dict[ServerId, GuestSpec]:
        found = self.database.read_now(lambda tx: compute.wanted_on(tx, self.id).guests)
        return {spec.id: spec for spec in found}

    def obey(self) -> None:
        """Make everything true and report it."""
        self.guests = {id: whole(spec) for id, spec in self.specs().items()}
        self.report()

    def say(self, server_id: str, state: GuestState, **more: Any) -> None:
        """Report something else of one guest."""
        spec = self.specs()[ServerId(server_id)]
        seen = {"incarnation": spec.incarnation, "boot_number": spec.boot_number, **more}
        self.guests[spec.id] = GuestSeen(id=spec.id, state=state, **seen)
        self.report()

    def report(self, *, number: int | None = None, spec_number: int | None = None) -> None:
        self.count += 1
        specs = self.specs()

        def take(tx: Tx) -> None:
            disks = (*compute.wanted_on(tx, self.id).disks, *volumes.volumes_of(tx, self.id))
            ports = network.ports_of(tx, self.id)
            report = NodeReport(
                node_id=self.id,
                number=self.base + self.count if number is None else number,
                spec_number=(
                    fleet.node(tx, self.id).spec_number if spec_number is None else spec_number
                ),
                facts=self.facts,
                guests=tuple(g for id, g in self.guests.items() if id in specs),
                volumes=tuple(
                    VolumeSeen(id=d.id, size_gib=d.size_gib, ready=True)
                    for d in disks
                    if not d.is_doomed
                ),
                ports=tuple(PortSeen(id=p.id, up=True) for p in ports),
            )
            for slice_ in (fleet, volumes, network, compute):
                slice_.take_report(tx, report)

        self.database.write_now(take)


def whole(spec: GuestSpec) -> GuestSeen:
    is_running = spec.power is Power.RUNNING
    return GuestSeen(
        id=spec.id,
        incarnation=spec.incarnation,
        boot_number=spec.boot_number,
        state=GuestState.RUNNING if is_running else GuestState.STOPPED,
        disks=tuple(d.volume_id for d in spec.disks) if is_running else (),
        nics=tuple(n.port_id for n in spec.nics) if is_running else (),
    )


class World:
    """`World(database)`: one host, one network of alice's, one image, two flavors."""

    def __init__(self, database: Database, *, hosts: int = 1) -> None:
        self.database = database
        self.console: dict[str, bytes] = {}
        self.hosts = [self.add_host(f"host{i}") for i in range(hosts)]
        self.image_id = self.add_image()
        self.network_id = self.add_network()
        self.api = Api(database, compute_api(self._ask))
        self.api.post(
            "/compute/v2.1/flavors",
            {"flavor": {"name": "small", "id": "1", "ram": 512, "vcpus": 1, "disk": 2}},
            who="admin",
        )
        self.api.post(
            "/compute/v2.1/flavors",
            {"flavor": {"name": "huge", "id": "9", "ram": 16384, "vcpus": 1, "disk": 2}},
            who="admin",
        )

    @property
    def host(self) -> Host:
        return self.hosts[0]

    async def _ask(self, node_id: NodeId, asked: Asked) -> bytes:
        assert isinstance(asked, ConsoleLog)
        if asked.server_id not in self.console:
            raise NotFound("no log")
        lines = self.console[asked.server_id].splitlines(keepends=True)
        return b"".join(lines[-asked.lines :] if asked.lines is not None else lines)

    def add_host(self, name: str, **facts: Any) -> Host:
        node_id = NodeId(f"{name}-id")
        roles = ("compute", "network", "storage")
        known = HostFacts(
            **{
                "hostname": name,
                "vcpus": 4,
                "memory_mib": 4608,
                "disk_gib": 100,
                "disk_free_gib": 90,
                "accelerator": "tcg",
                "address": "10.9.9.1",
                **facts,
            }
        )

        def enrol(tx: Tx) -> int:
            fleet.enrol(tx, node_id, hostname=name, zone="nova", roles=roles)
            return fleet.connected(tx, node_id)

        base = self.database.write_now(enrol)
        host = Host(database=self.database, id=node_id, facts=known, base=base)
        host.report()
        return host

    def add_image(self, *, virtual_gib: int = 1, **wish: Any) -> ImageId:
        def add(tx: Tx) -> ImageId:
            made = images.create(
                tx,
                ADMIN,
                ImageWish(
                    name="probe",
                    format="raw",
                    container="bare",
                    visibility=Visibility.PUBLIC,
                    **wish,
                ),
            )
            upload = images.begin_upload(tx, ADMIN, made.id)
            content = Content(
                path="/nowhere",
                size_bytes=1000,
                virtual_bytes=virtual_gib << 30,
                md5="0" * 32,
                sha256="0" * 64,
                sha512="0" * 128,
            )
            return images.finish_upload(tx, upload, content).id

        return self.database.write_now(add)

    def add_network(self, who: Caller = ALICE, cidr: str = "10.1.0.0/16") -> str:
        def add(tx: Tx) -> str:
            made = create_network(tx, who, NetworkWish(name="net"))
            create_subnet(tx, who, SubnetWish(network_id=made.id, ip_version=4, cidr=cidr))
            return made.id

        return self.database.write_now(add)

    def place(self) -> None:
        """One round of the placer."""
        from cairn.compute import store

        for server_id in self.database.read_now(lambda tx: store.unplaced_ids(tx, 1000)):
            self.database.write_now(partial(placing.place_one, server_id=server_id))

    def settle(self) -> None:
        """Place what waits and let every host obey, twice: what was plugged, what is gone."""
        self.place()
        for _ in range(2):
            for host in self.hosts:
                host.obey()

    # --- through the API -----------------------------------------------------------------------------

    def spec(self, server_id: str) -> GuestSpec:
        """What the first host should run of a server."""
        return self.host.specs()[ServerId(server_id)]

    def create(self, *, who: str = "alice", version: str = "2.1", **fields: Any) -> Any:
        """The answer to creating a server."""
        body = {"name": "s", "flavorRef": "1", "imageRef": self.image_id, **fields}
        return self.api.post(
            "/compute/v2.1/servers",
            {"server": {k: v for k, v in body.items() if v is not None}},
            who=who,
            headers=at(version),
        )

    def active(self, **fields: Any) -> str:
        """The id of a new server that runs."""
        answer = self.create(**fields)
        assert answer.status_code == 202, answer.text
        self.settle()
        id_: str = answer.json["server"]["id"]
        assert self.show(id_)["status"] == "ACTIVE"
        return id_

    def show(self, server_id: str, *, version: str = "2.1", who: str = "alice") -> Any:
        answer = self.api.get(f"/compute/v2.1/servers/{server_id}", who=who, headers=at(version))
        assert answer.status_code == 200, answer.text
        return answer.json["server"]

    def act(self, server_id: str, action: str, asked: Any = None, *, who: str = "alice") -> Any:
        path = f"/compute/v2.1/servers/{server_id}/action"
        return self.api.post(path, {action: asked}, who=who)

    def new_volume(self, size_gib: int = 1) -> VolumeId:
        from cairn.volume.control import place_one
        from cairn.volume.records import VolumeWish

        volume = self.database.write_now(
            lambda tx: volumes.create(tx, ALICE, VolumeWish(size_gib=size_gib))
        )
        self.database.write_now(lambda tx: place_one(tx, volume.id))
        for host in self.hosts:
            host.report()
        return volume.id

    def volume(self, volume_id: str) -> Any:
        return self.database.read_now(lambda tx: volumes.get(tx, ADMIN, VolumeId(volume_id)))

    def has_port(self, port_id: str) -> bool:
        try:
            self.database.read_now(lambda tx: network.get_port(tx, ADMIN, PortId(port_id)))
        except NotFound:
            return False
        return True


def at(version: str) -> dict[str, str]:
    return {"OpenStack-API-Version": f"compute {version}"}


def tired(message: str, tries: int) -> Trouble:
    return Trouble(message=message, because="the operator's half", tries=tries)
