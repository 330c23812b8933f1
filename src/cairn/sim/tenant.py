"""A customer of the simulated cloud: wishes things over the API by dice, and remembers what was promised."""

import random
from typing import Any

from msgspec import Struct

from cairn.core.ids import ServerId, VolumeId
from cairn.sim.client import Answer
from cairn.sim.world import World


class Promised(Struct, kw_only=True):
    """A server that the API acknowledged, and what was asked of it last."""

    id: ServerId
    should_run: bool = True
    is_deleted: bool = False  # the deletion was acknowledged


class Tenant:
    def __init__(self, world: World, dice: random.Random) -> None:
        self._world = world
        self._dice = dice
        self.servers: dict[ServerId, Promised] = {}
        self.volumes: set[VolumeId] = set()
        self.answers: dict[int, int] = {}  # how often each status came
        self.moves = False  # whether it is an operator, too, who moves servers and empties hosts
        self._image = self._flavor = self._network = ""
        self._count = 0

    async def settle_in(self) -> None:
        """An image, a flavor and a network of one's own."""
        image = await self._must(
            "POST", "/image/v2/images",
            {"name": "tiny", "disk_format": "raw", "container_format": "bare"},
        )  # fmt: skip
        self._image = image.body["id"]
        answer = await self._world.call(
            "PUT", f"/image/v2/images/{self._image}/file", bytes(4096),
            content_type="application/octet-stream",
        )  # fmt: skip
        assert answer.status == 204, answer.data
        flavor = await self._must(
            "POST", "/compute/v2.1/flavors",
            {"flavor": {"name": "small", "vcpus": 1, "ram": 256, "disk": 1}},
        )  # fmt: skip
        self._flavor = flavor.body["flavor"]["id"]
        network = await self._must("POST", "/network/v2.0/networks", {"network": {"name": "n"}})
        self._network = network.body["network"]["id"]
        subnet = {"network_id": self._network, "ip_version": 4, "cidr": "10.9.0.0/16"}
        await self._must("POST", "/network/v2.0/subnets", {"subnet": subnet})

    async def do_something(self) -> None:
        """One wish; refusals (wrong state, nothing there, control down) are part of life."""
        doings = [
            (self._create, 4), (self._delete, 2), (self._stop, 2), (self._start, 2),
            (self._reboot, 2), (self._create_volume, 2), (self._attach, 3), (self._detach, 2),
            (self._snapshot, 1),
        ]  # fmt: skip
        if self.moves:
            doings += [(self._migrate, 12), (self._drain, 1), (self._undrain, 3), (self._abort, 2)]
        (doing,) = self._dice.choices([d for d, _ in doings], [w for _, w in doings])
        await doing()

    async def open_all_hosts(self) -> None:
        """No host is drained any more; what moves arrives."""
        for node in self._world.nodes:
            await self._call("DELETE", f"/cairn/v1/hosts/{node.id}/drain")

    async def state_of(self, server_id: ServerId) -> Answer:
        return await self._world.call("GET", f"/compute/v2.1/servers/{server_id}")

    async def _create(self) -> None:
        self._count += 1
        server = {
            "name": f"s{self._count}", "imageRef": self._image, "flavorRef": self._flavor,
            "networks": [{"uuid": self._network}],
        }  # fmt: skip
        answer = await self._call("POST", "/compute/v2.1/servers", {"server": server})
        if answer.status == 202:
            server_id = ServerId(answer.body["server"]["id"])
            self.servers[server_id] = Promised(id=server_id)

    async def _delete(self) -> None:
        if (server := self._any_server()) is not None:
            answer = await self._call("DELETE", f"/compute/v2.1/servers/{server.id}")
            if answer.status == 204:
                server.is_deleted = True

    async def _stop(self) -> None:
        if (server := self._any_server()) is not None and await self._act(
            server, {"os-stop": None}
        ):
            server.should_run = False

    async def _start(self) -> None:
        if (server := self._any_server()) is not None and await self._act(
            server, {"os-start": None}
        ):
            server.should_run = True

    async def _reboot(self) -> None:
        if (server := self._any_server()) is not None:
            kind = self._dice.choice(["SOFT", "HARD"])
            if await self._act(server, {"reboot": {"type": kind}}):
                server.should_run = True

    async def _create_volume(self) -> None:
        wish = {"size": 1, "imageRef": self._dice.choice([None, self._image])}
        answer = await self._call("POST", "/volume/v3/volumes", {"volume": wish})
        if answer.status == 202:
            self.volumes.add(VolumeId(answer.body["volume"]["id"]))

    async def _attach(self) -> None:
        server, volume_id = self._any_server(), self._any_volume()
        if server is not None and volume_id is not None:
            path = f"/compute/v2.1/servers/{server.id}/os-volume_attachments"
            await self._call("POST", path, {"volumeAttachment": {"volumeId": volume_id}})

    async def _detach(self) -> None:
        server, volume_id = self._any_server(), self._any_volume()
        if server is not None and volume_id is not None:
            path = f"/compute/v2.1/servers/{server.id}/os-volume_attachments/{volume_id}"
            await self._call("DELETE", path)

    async def _snapshot(self) -> None:
        if (volume_id := self._any_volume()) is not None:
            wish = {"volume_id": volume_id, "force": True, "name": "s"}
            await self._call("POST", "/volume/v3/snapshots", {"snapshot": wish})

    async def _migrate(self) -> None:
        if (server := self._any_server()) is not None:
            kind = self._dice.choice(["live", "cold", "confirm", "revert"])
            action: dict[str, Any] = {"migrate": None}
            if kind == "live":
                action = {"os-migrateLive": {"host": None, "block_migration": "auto"}}
            elif kind != "cold":
                action = {f"{kind}Resize": None}
            path = f"/compute/v2.1/servers/{server.id}/action"
            version = {"openstack-api-version": "compute 2.56"}
            answer = await self._world.call("POST", path, action, headers=version)
            self.answers[answer.status] = self.answers.get(answer.status, 0) + 1
            assert answer.status < 500 or answer.status == 503, (action, answer.data)

    async def _abort(self) -> None:
        if (server := self._any_server()) is not None:
            path = f"/compute/v2.1/servers/{server.id}/migrations"
            version = {"openstack-api-version": "compute 2.24"}
            answer = await self._world.call("GET", path, headers=version)
            if answer.status == 200:
                for one in answer.body["migrations"]:
                    await self._world.call("DELETE", f"{path}/{one['id']}", headers=version)

    async def _drain(self) -> None:
        node = self._dice.choice(self._world.nodes)
        await self._call("POST", f"/cairn/v1/hosts/{node.id}/drain")

    async def _undrain(self) -> None:
        node = self._dice.choice(self._world.nodes)
        running = self._dice.choice(["finish", "cancel"])
        await self._call("DELETE", f"/cairn/v1/hosts/{node.id}/drain?running={running}")

    async def _act(self, server: Promised, action: dict[str, Any]) -> bool:
        answer = await self._call("POST", f"/compute/v2.1/servers/{server.id}/action", action)
        return answer.status == 202

    def _any_server(self) -> Promised | None:
        living = [s for s in self.servers.values() if not s.is_deleted]
        return self._dice.choice(living) if living else None

    def _any_volume(self) -> VolumeId | None:
        return self._dice.choice(sorted(self.volumes)) if self.volumes else None

    async def _call(self, method: str, path: str, body: Any = None) -> Answer:
        answer = await self._world.call(method, path, body)
        self.answers[answer.status] = self.answers.get(answer.status, 0) + 1
        assert answer.status < 500 or answer.status == 503, (method, path, body, answer.data)
        return answer

    async def _must(self, method: str, path: str, body: Any) -> Answer:
        answer = await self._call(method, path, body)
        assert answer.status in (200, 201, 202), (path, answer.status, answer.data)
        return answer
