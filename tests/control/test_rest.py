"""At rest, a cloud of several control processes asks its database nothing on behalf of hosts."""

import asyncio
from pathlib import Path

from sqlalchemy import create_engine, text

from cairn.fleet.controls import BEAT_S
from tests.control.rig import Rig, fresh_database, running

HOSTS = 6
BEATS = 2


async def test_idle_hosts_cost_no_statement(tmp_path: Path, postgres_url: str) -> None:
    url = fresh_database(postgres_url, "rest")
    async with running(Rig(tmp_path, url, controls=2), hosts=HOSTS):
        watcher = create_engine(postgres_url, isolation_level="AUTOCOMMIT")

        def transactions() -> int:
            query = text(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'rest'"
            )
            with watcher.connect() as connection:
                return int(connection.execute(query).scalar_one())

        await asyncio.sleep(BEAT_S)  # First reports, leases that run out.
        # A beat and a hint each time and process, and one more that may fall into the time.
        most = 2 * 2 * (BEATS + 1)
        for _ in range(3):  # PostgreSQL counts what came before up to a minute late.
            before = transactions()
            await asyncio.sleep(BEATS * BEAT_S)
            spent = transactions() - before
            if spent <= most:
                break
        assert spent <= most, f"{spent} transactions while nothing happened"
        watcher.dispose()
