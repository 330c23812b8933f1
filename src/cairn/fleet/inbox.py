"""Reports that wait to be believed: the newest of each host, many in one transaction."""

from collections.abc import Callable, Sequence

from cairn.core import log
from cairn.core.errors import Unavailable
from cairn.core.ids import NodeId
from cairn.core.tasks import Batcher, TaskGroup
from cairn.db.engine import Database, Tx
from cairn.wire.report import NodeReport

BATCH_MAX = 50

TakeReport = Callable[[Tx, NodeReport], None]

_log = log.get("fleet.inbox")


class Inbox:
    """A report is whole, so one that was not taken yet gives way to the next of its host."""

    def __init__(self, database: Database, take_report: TakeReport, tasks: TaskGroup) -> None:
        self._database = database
        self._take_report = take_report
        self._newest: dict[NodeId, NodeReport] = {}
        self._batcher: Batcher[NodeId] = Batcher(
            self._take, tasks=tasks, name="reports", most=BATCH_MAX
        )

    def put(self, report: NodeReport) -> None:
        waiting = self._newest.get(report.node_id)
        # A repeated older one must not push out a newer one that is not taken yet.
        if waiting is None or report.number > waiting.number:
            self._newest[report.node_id] = report
            self._batcher.add(report.node_id)

    async def _take(self, node_ids: Sequence[NodeId]) -> None:
        reports = [self._newest.pop(node_id) for node_id in node_ids if node_id in self._newest]
        try:
            await self._database.write(lambda tx: self._take_all(tx, reports))
        except Exception:
            # One report that cannot be taken must not cost the others: each on its own.
            for report in reports:
                await self._take_one(report)

    def _take_all(self, tx: Tx, reports: Sequence[NodeReport]) -> None:
        for report in reports:
            self._take_report(tx, report)

    async def _take_one(self, report: NodeReport) -> None:
        try:
            await self._database.write(lambda tx: self._take_report(tx, report))
        except Unavailable as error:
            _log.warning("report not taken", node=report.node_id, because=str(error))
        except Exception:
            _log.exception("report not taken", node=report.node_id)
