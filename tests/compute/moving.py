"""Two or more hosts that can migrate live, and what they say while a server goes from one to another."""

import asyncio
from typing import Any

from cairn.compute import drain, mover
from cairn.compute import store_migrations as rows
from cairn.compute.api_drain import POLICY, ROUTES
from cairn.compute.migration_records import Migration
from cairn.core.ids import ServerId, VolumeId
from cairn.db.engine import Database
from cairn.fleet import service as fleet
from cairn.operator import service as operator_service
from cairn.placement import service as placement
from cairn.wire.report import GuestState, MigrationSeen, Trouble
from cairn.wire.spec import DiskDoor, Incoming, Outgoing, Power
from tests.callers import Api
from tests.compute.world import Host, World, at

LIVE = {"os-migrateLive": {"host": None, "block_migration": "auto"}}


class Moving(World):
    """World whose hosts can migrate live; `operator` is the operator's API."""

    def __init__(self, database: Database, *, hosts: int = 2) -> None:
        super().__init__(database, hosts=hosts)
        self.operator = Api(database, operator_service([(ROUTES, POLICY)]))

    def add_host(self, name: str, **facts: Any) -> Host:
        return super().add_host(name, **{"features": ("live-migration",), **facts})

    def home(self, server_id: str) -> Host:
        """Whose server it is."""
        return next(h for h in self.hosts if self.is_own(h, server_id))

    def is_own(self, host: Host, server_id: str) -> bool:
        spec = host.specs().get(ServerId(server_id))
        return spec is not None and spec.incoming is None

    def away(self, server_id: str) -> Host:
        """The other of two."""
        return next(h for h in self.hosts if not self.is_own(h, server_id))

    def go_on(self, *, at_once: int = 2) -> None:
        """One round of the mover."""
        asyncio.run(mover.Mover(self.database, at_once=at_once).run_once())

    def request(self, server_id: str, action: Any, *, version: str = "2.56") -> Any:
        path = f"/compute/v2.1/servers/{server_id}/action"
        return self.api.post(path, action, who="admin", headers=at(version))

    def move_of(self, server_id: str) -> Migration:
        """The newest."""
        return self.database.read_now(lambda tx: rows.of_server(tx, ServerId(server_id)))[0]

    def claims(self, host: Host) -> list[str]:
        return [
            c.consumer_id
            for c in self.database.read_now(lambda tx: placement.claims_on(tx, host.id))
        ]

    def outgoing(self, host: Host, server_id: str) -> Outgoing | None:
        return host.specs()[ServerId(server_id)].outgoing

    def incoming(self, host: Host, server_id: str) -> Incoming | None:
        spec = host.specs().get(ServerId(server_id))
        return spec.incoming if spec is not None else None

    # --- what hosts say ------------------------------------------------------------------------------

    def wait_for_it(self, host: Host, server_id: str) -> None:
        """The new host is ready."""
        move = self.move_of(server_id)
        door = DiskDoor(volume_id=VolumeId(server_id), port=49200, export="root")
        seen = MigrationSeen(migration_id=move.id, memory_port=49152, disks=(door,))
        host.say(server_id, GuestState.RECEIVING, migration=seen)

    def send(self, host: Host, server_id: str, *, left: int, trouble: str = "") -> None:
        """The old host is so far."""
        spec = host.specs()[ServerId(server_id)]
        is_up = spec.power is Power.RUNNING
        host.say(
            server_id,
            GuestState.RUNNING if is_up else GuestState.STOPPED,
            migration=MigrationSeen(
                migration_id=self.move_of(server_id).id,
                total_bytes=1000,
                left_bytes=left,
                trouble=Trouble(message=trouble) if trouble else None,
            ),
        )

    def say_sent(self, host: Host, server_id: str) -> None:
        seen = MigrationSeen(migration_id=self.move_of(server_id).id, total_bytes=1000, pause_ms=33)
        host.say(server_id, GuestState.SENT, migration=seen)

    def under_way(self, **fields: Any) -> str:
        """A server that is being copied."""
        server_id = self.active(**fields)
        assert self.request(server_id, LIVE).status_code == 202
        self.go_on()
        self.wait_for_it(self.away(server_id), server_id)
        return server_id

    def drained(self, host: Host) -> Any:
        answer = self.operator.get(f"/cairn/v1/hosts/{host.id}/drain", who="admin")
        assert answer.status_code == 200, answer.text
        return answer.json["drain"]

    def is_draining(self, host: Host) -> bool:
        return self.database.read_now(lambda tx: fleet.node(tx, host.id)).is_draining


__all__ = ["LIVE", "Moving", "drain"]
