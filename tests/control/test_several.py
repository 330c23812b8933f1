"""Two control processes over one PostgreSQL are one cloud, and stay one when either ends."""

from pathlib import Path

import pytest
from sqlalchemy import select

from cairn.fleet.control_store import control_processes
from cairn.fleet.store import nodes
from tests.control.rig import Rig, fresh_database, running, servers, settle_in, until


@pytest.fixture
def rig(tmp_path: Path, postgres_url: str) -> Rig:
    return Rig(tmp_path, fresh_database(postgres_url, "several"), controls=2)


async def test_what_one_is_told_the_others_hosts_do(rig: Rig) -> None:
    async with running(rig):
        one, other = rig.controls
        wish = await settle_in(rig.client)
        made = [
            await rig.client.must(
                "POST", "/compute/v2.1/servers", {"server": {"name": f"s{n}", **wish}}, at=at
            )
            for n, at in enumerate([one, other] * 4)
        ]
        wanted = {server["server"]["id"] for server in made}

        async def all_active() -> bool:
            found = await servers(rig.client, at=other)
            assert "ERROR" not in found.values()
            return {i for i, status in found.items() if status == "ACTIVE"} == wanted

        await until(all_active)
        holders = dict(
            await rig.database.read(
                lambda tx: [
                    tuple(row) for row in tx.execute(select(nodes.c.id, nodes.c.control_id))
                ]
            )
        )
        assert len(set(holders.values())) == 2, "each process has one of the hosts"
        # The console is asked of a process that the host is not connected to.
        for node in rig.nodes:
            for server_id in node.hypervisor.guests:
                node.hypervisor.write_console(server_id, f"I am {server_id}\n".encode())
        for server_id in wanted:
            for at in (one, other):
                path = f"/compute/v2.1/servers/{server_id}/action"
                body = {"os-getConsoleOutput": {"length": 1}}
                told = await rig.client.must("POST", path, body, at=at)
                assert told["output"].strip() == f"I am {server_id}"


async def test_a_token_of_one_is_good_and_void_at_the_other(rig: Rig) -> None:
    async with running(rig, hosts=0):
        one, other = rig.controls
        assert (await rig.client.call("GET", "/compute/v2.1/servers", at=other)).status == 200
        spare, rig.client.token = rig.client.token, ""
        await rig.client.sign_in()
        rig.client.token, mine = spare, rig.client.token
        session = rig.client._session
        headers = {"x-auth-token": mine, "x-subject-token": spare}
        async with session.delete(one.url + "/identity/v3/auth/tokens", headers=headers) as gone:
            assert gone.status == 204

        async def is_void() -> bool:
            return (await rig.client.call("GET", "/compute/v2.1/servers", at=other)).status == 401

        await until(is_void)


async def test_the_bytes_of_an_image_are_had_at_each(rig: Rig) -> None:
    async with running(rig, hosts=0):
        one, other = rig.controls
        body = {"name": "i", "disk_format": "raw", "container_format": "bare"}
        image = await rig.client.must("POST", "/image/v2/images", body, at=one)
        path = f"/image/v2/images/{image['id']}/file"
        content = bytes(range(256)) * 8192
        kind = "application/octet-stream"
        await rig.client.must("PUT", path, content, at=one, content_type=kind)
        assert (await rig.client.call("GET", path, at=other)).data == content
        assert len(list(other.settings.images_folder.iterdir())) == 1
        await rig.client.must("DELETE", f"/image/v2/images/{image['id']}", at=one)
        assert (await rig.client.call("GET", path, at=other)).status == 404


async def test_a_process_that_goes_is_forgotten(rig: Rig) -> None:
    async with running(rig):
        one, other = rig.controls
        one.terminate()
        assert await one.ended() == 0
        await until(lambda: all(n.link is not None and n.link.is_connected for n in rig.nodes))
        left = await rig.database.read(
            lambda tx: list(tx.execute(select(control_processes.c.address)).scalars())
        )
        assert left == [f"127.0.0.1:{other.node_port}"]

        async def all_here() -> bool:
            found = await rig.client.must("GET", "/cairn/v1/status", at=other)
            return all(node["connected"] and node["state"] == "up" for node in found["nodes"])

        await until(all_here)
