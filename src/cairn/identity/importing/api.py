"""`POST /cairn/v1/import/keystone`: the operator's way to take over a Keystone.

The body is a stream of lines (importing_shape.py). All is done in one transaction; with `dry_run=true` that
is undone at its end, so that what is told is what would be. Other writes wait meanwhile: some seconds with
100,000 users.
"""

from collections.abc import Mapping
from typing import Any

from cairn.core.errors import Invalid
from cairn.db.engine import Database, Tx
from cairn.db.secrets import Sealer
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.identity.importing.importing import Import
from cairn.identity.importing.report import Report
from cairn.identity.importing.rows import Rows

POLICY: Mapping[str, str] = {"cairn:import:keystone": "rule:admin"}
BYTES_MAX = 1 << 30


class _Undone(Exception):
    def __init__(self, report: Report) -> None:
        super().__init__()
        self.report = report


def routes(sealer: Sealer) -> tuple[Route, ...]:
    async def run(database: Database, call: Call[None]) -> dict[str, Any]:
        is_dry = bool(call.query.boolean("dry_run"))
        rows = await _received(call)

        def act(tx: Tx) -> Report:
            report = Import(tx, sealer, rows).run()
            if is_dry:
                raise _Undone(report)
            return report

        try:
            report = await database.write(act)
        except _Undone as undone:
            report = undone.report
        return {"import": report.shown(dry_run=is_dry)}

    path = "/cairn/v1/import/keystone"
    return (Route(method="POST", path=path, rule="cairn:import:keystone", run=run, streams=True),)


async def _received(call: Call[None]) -> Rows:
    rows = Rows()
    size = 0
    assert call.stream is not None, "the route streams"
    async for chunk in call.stream:
        size += len(chunk)
        if size > BYTES_MAX:
            raise Invalid(f"More than {BYTES_MAX} bytes cannot be imported at once.")
        rows.feed(chunk)
    rows.end()
    return rows
