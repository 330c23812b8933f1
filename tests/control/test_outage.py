"""The database goes away and comes back: what was accepted stays, the rest was said to be refused."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.control.rig import Rig, fresh_database, running, settle_in, until
from tests.control.test_loss import Load


@pytest.fixture
def rig(tmp_path: Path, postgres_url: str) -> Rig:
    return Rig(tmp_path, fresh_database(postgres_url, "outage"), controls=2)


async def test_connections_to_the_database_are_cut_again_and_again(rig: Rig) -> None:
    async with running(rig):
        load = Load(rig, await settle_in(rig.client), pause_s=0.02)
        work = [asyncio.create_task(load.run(f"w{n}", 15)) for n in range(3)]
        for _ in range(4):
            await asyncio.sleep(0.5)
            with rig.database.engine.connect() as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid != pg_backend_pid()"
                    )
                )
        await asyncio.gather(*work)
        assert load.unanswered == 0
        assert {status for status, _ in load.refused} <= {503}, load.refused
        assert len(load.accepted) + len(load.refused) == 45
        await until(load.all_active, within_s=60)
        assert all(n.link is not None and n.link.is_connected for n in rig.nodes)
        assert [node.hypervisor.violations for node in rig.nodes] == [[], []]
