"""Hosts for the tests of volumes: enrolled, with facts, and reporting what they were told to."""

from msgspec import Struct

from cairn.core.ids import NodeId, SnapshotId, VolumeId
from cairn.db.engine import Database
from cairn.fleet import service as fleet
from cairn.volume import service
from cairn.wire.report import HostFacts, NodeReport, Trouble, VolumeSeen
from cairn.wire.spec import VolumeSpec


class Host(Struct, kw_only=True):
    """One host; `obey` makes everything that its spec wishes, `report` says what the test wants."""

    database: Database
    id: NodeId
    base: int
    count: int = 0

    def wishes(self) -> tuple[VolumeSpec, ...]:
        return self.database.read_now(lambda tx: service.volumes_of(tx, self.id))

    def spec_number(self) -> int:
        return self.database.read_now(lambda tx: fleet.node(tx, self.id)).spec_number

    def obey(self) -> None:
        self.report(*(whole(spec) for spec in self.wishes() if not spec.is_doomed))

    def report(
        self, *volumes: VolumeSeen, spec_number: int | None = None, number: int | None = None
    ) -> None:
        self.count += 1
        report = NodeReport(
            node_id=self.id,
            number=self.base + self.count if number is None else number,
            spec_number=self.spec_number() if spec_number is None else spec_number,
            facts=facts(self.id),
            volumes=volumes,
        )
        self.database.write_now(lambda tx: service.take_report(tx, report))


def facts(hostname: str, disk_gib: int = 100) -> HostFacts:
    return HostFacts(
        hostname=hostname,
        vcpus=8,
        memory_mib=16384,
        disk_gib=disk_gib,
        disk_free_gib=disk_gib,
        accelerator="tcg",
    )


def whole(spec: VolumeSpec) -> VolumeSeen:
    return VolumeSeen(
        id=spec.id,
        size_gib=spec.size_gib,
        ready=True,
        snapshots=tuple(s.id for s in spec.snapshots),
    )


def broken(volume_id: str, message: str, *, tries: int, size_gib: int = 0) -> VolumeSeen:
    return VolumeSeen(
        id=VolumeId(volume_id),
        size_gib=size_gib,
        ready=size_gib > 0,
        trouble=Trouble(message=message, tries=tries),
    )


def seen(volume_id: str, size_gib: int, *snapshots: str) -> VolumeSeen:
    return VolumeSeen(
        id=VolumeId(volume_id),
        size_gib=size_gib,
        ready=True,
        snapshots=tuple(SnapshotId(s) for s in snapshots),
    )


def host(database: Database, name: str = "h1", *, zone: str = "nova", disk_gib: int = 100) -> Host:
    """A host that is up and has said what it has."""
    node_id = NodeId(name)
    roles = ("compute", "network", "storage")

    def join(tx):  # type: ignore[no-untyped-def]
        fleet.enrol(tx, node_id, hostname=name, zone=zone, roles=roles)
        base = fleet.connected(tx, node_id)
        report = NodeReport(
            node_id=node_id, number=base, spec_number=0, facts=facts(name, disk_gib)
        )
        assert fleet.take_report(tx, report)
        return base

    return Host(database=database, id=node_id, base=database.write_now(join))
