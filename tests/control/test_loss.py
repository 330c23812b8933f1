"""A control process that ends, well or badly, takes no accepted request and no guest with it."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.control.rig import Rig, fresh_database, running, servers, settle_in, until

SERVERS = 60


@pytest.fixture
def rig(tmp_path: Path, postgres_url: str) -> Rig:
    return Rig(tmp_path, fresh_database(postgres_url, "loss"), controls=2)


class Load:
    """Clients that ask for servers, one after the other, and remember what was accepted.

    One that hears nothing goes on with the next: what became of its request it does not know.
    """

    def __init__(self, rig: Rig, wish: dict[str, Any], *, pause_s: float = 0.0) -> None:
        self._rig = rig
        self._wish = wish
        self._pause_s = pause_s
        self.accepted: set[str] = set()
        self.refused: list[tuple[int, bytes]] = []
        self.unanswered = 0

    async def run(self, name: str, count: int) -> None:
        for number in range(count):
            body = {"server": {"name": f"{name}-{number}", **self._wish}}
            try:
                answer = await self._rig.client.call("POST", "/compute/v2.1/servers", body)
            except aiohttp.ClientError:
                self.unanswered += 1
                continue
            if answer.status == 202:
                self.accepted.add(answer.body["server"]["id"])
            else:
                self.refused.append((answer.status, answer.data))
            await asyncio.sleep(self._pause_s)

    async def all_active(self) -> bool:
        found = await servers(self._rig.client)
        assert self.accepted <= found.keys(), "an accepted server is not there"
        assert "ERROR" not in found.values(), found
        return all(status == "ACTIVE" for status in found.values())


async def test_killed_in_the_middle_of_many_requests(rig: Rig) -> None:
    async with running(rig):
        one, _ = rig.controls
        load = Load(rig, await settle_in(rig.client))
        work = [asyncio.create_task(load.run(f"w{n}", SERVERS // 6)) for n in range(6)]
        await until(lambda: len(load.accepted) >= SERVERS // 4)
        one.kill()
        await asyncio.gather(*work)
        assert not load.refused
        assert len(load.accepted) >= SERVERS - 6, "only what was under way may be unanswered"
        # At the longest: until the other process takes it for dead and wakes everybody.
        await until(load.all_active, within_s=60)
        await until(lambda: all(n.link is not None and n.link.is_connected for n in rig.nodes))
        assert not [v for node in rig.nodes for v in node.hypervisor.violations]
        guests = [guest for node in rig.nodes for guest in node.hypervisor.guests]
        found = await servers(rig.client)
        assert sorted(guests) == sorted(found), "each server has one guest"
        one.start()
        await rig.answers(one)
        assert (await servers(rig.client, at=one)).keys() == found.keys()


async def test_rolling_restart_under_load(rig: Rig) -> None:
    async with running(rig):
        load = Load(rig, await settle_in(rig.client), pause_s=0.05)
        work = [asyncio.create_task(load.run(f"w{n}", 60)) for n in range(4)]
        await until(lambda: len(load.accepted) >= 10)
        ran_before = {guest for node in rig.nodes for guest in node.hypervisor.guests}
        for control in rig.controls:
            control.terminate()
            assert await control.ended() == 0, control.log
            control.start()
            await rig.answers(control)
        await asyncio.gather(*work)
        assert not load.refused
        assert load.unanswered == 0, "nobody's connection was cut under a request"
        assert len(load.accepted) == 240
        await until(load.all_active, within_s=60)
        boots = [node.hypervisor.violations for node in rig.nodes]
        assert boots == [[], []]
        guests = {guest for node in rig.nodes for guest in node.hypervisor.guests}
        assert ran_before <= guests
        assert guests == load.accepted


async def test_hosts_that_died_with_their_process_are_missed(rig: Rig) -> None:
    async with running(rig):
        one, _ = rig.controls
        (lost,) = [node for node in rig.nodes if node.id == "host-0"]
        one.kill()
        await lost.kill_agent()

        async def is_suspect() -> bool:
            path = "/cairn/v1/status"
            for node in (await rig.client.must("GET", path))["nodes"]:
                if node["id"] == lost.id:
                    return bool(node["state"] == "suspect")
            return False

        # The dead process is missed after 30 s, and its hosts have 15 s from then on.
        await until(is_suspect, within_s=90)
