"""How the control plane itself is: `/healthz` for anyone, `/metrics` and `/cairn/v1/status` for operators.

The status is what `cairn status` shows: every host with its engines, every reconciler with its last
round, what is wrong and since when.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from cairn import __version__
from cairn.core.ids import NodeId
from cairn.db.engine import Tx
from cairn.fleet import loss
from cairn.fleet import service as fleet
from cairn.fleet.records import Node, NodeState
from cairn.http.call import Call
from cairn.http.routes import Reply, Route, Service
from cairn.life.reconcile import RoundRecord

POLICY: Mapping[str, str] = {"cairn:status": "rule:admin", "cairn:metrics": "rule:admin"}
PROMETHEUS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts of this process, in a registry of its own so that two in one process do not clash."""

    def __init__(
        self,
        *,
        statements: Callable[[], int],
        agents_refused: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Statements(statements))
        self.registry.register(_AgentsRefused(agents_refused))
        self.joins_refused = Counter(
            "cairn_join_refused",
            "Machines that could not join",
            ["reason"],
            registry=self.registry,
        )
        labels = ["service", "method", "path", "status"]
        self.requests = Counter(
            "cairn_http_requests", "Finished requests", labels, registry=self.registry
        )
        self.seconds = Histogram(
            "cairn_http_request_seconds", "From first byte to reply", ["service"],
            registry=self.registry, buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 60),
        )  # fmt: skip

    def join_refused(self, reason: str) -> None:
        self.joins_refused.labels(reason).inc()

    def observe(self, service: Service, route: Route, status: int, seconds: float) -> None:
        self.requests.labels(service.name, route.method, service.root + route.path, status).inc()
        self.seconds.labels(service.name).observe(seconds)


class _Statements(Collector):
    """The database counts its statements itself; this only reads the count when it is asked for."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily("cairn_sql_statements", "SQL statements run", self._count())


class _AgentsRefused(Collector):
    """The streams count whom they refuse themselves."""

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "cairn_agents_refused", "Agents' connections that were refused", labels=["reason"]
        )
        for reason, count in sorted(self._counts().items()):
            family.add_metric([reason], count)
        yield family


def routes(
    *,
    metrics: Metrics,
    connected: Callable[[], list[NodeId]],
    rounds: Callable[[], Mapping[str, RoundRecord]],
    directories: Callable[[], Mapping[str, str]] = dict,  # what is wrong, by domain
) -> tuple[Route, ...]:
    """Over what the process knows of itself; part of the operator's API (operator.py)."""

    def healthz(tx: Tx, call: Call[Any]) -> Any:
        counts = fleet.counts(tx)  # Answers only if the database does.
        losses, held = loss.explain_all(tx)
        up, total = counts.get(NodeState.UP, 0), sum(counts.values())
        broken = sorted(r.name for r in rounds().values() if r.trouble)
        is_well = up == total and not broken and not directories()
        return {
            "status": "ok" if is_well else "degraded",
            "version": __version__,
            "checks": {
                "database": "ok",
                "nodes": f"{up} of {total} up",
                "losses": _losses(losses, held),
                "reconcilers": f"failing: {', '.join(broken)}" if broken else "ok",
                "directories": f"down: {len(directories())}" if directories() else "ok",
            },
        }

    def status(tx: Tx, call: Call[Any]) -> Any:
        online = set(connected())
        losses, held = loss.explain_all(tx)
        return {
            "version": __version__,
            "nodes": [_node(n, n.id in online, losses.get(n.id, "")) for n in fleet.nodes(tx)],
            "held_zones": held,
            "reconcilers": [_rounds(r) for r in rounds().values()],
            "directories": directories(),
        }

    def show_metrics(tx: Tx, call: Call[Any]) -> Any:
        return Reply(body=generate_latest(metrics.registry), content_type=PROMETHEUS_TYPE)

    return (
        Route(method="GET", path="/healthz", rule=None, do=healthz),
        Route(method="GET", path="/metrics", rule="cairn:metrics", do=show_metrics),
        Route(method="GET", path="/cairn/v1/status", rule="cairn:status", do=status),
    )


def _losses(losses: Mapping[NodeId, str], held: Mapping[str, str]) -> str:
    """In short, for anyone: no names."""
    if not losses and not held:
        return "ok"
    zones = f"; zones held until a person says so: {len(held)}" if held else ""
    return f"hosts seen to: {len(losses)}{zones}"


def _node(node: Node, is_connected: bool, loss: str) -> dict[str, Any]:
    return {
        "id": node.id,
        "hostname": node.hostname,
        "zone": node.zone,
        "roles": node.roles,
        "state": node.state,
        "since": node.state_since,
        "connected": is_connected,
        "loss": loss,
        "enabled": node.enabled,
        "disabled_reason": node.disabled_reason,
        "spec_number": node.spec_number,
        "reported_spec_number": node.reported_spec_number,
        "facts": node.facts,
        "engines": node.engines,
    }


def _rounds(record: RoundRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "rounds": record.rounds,
        "last_at": record.last_at,
        "last": record.last,
        "trouble": record.trouble,
    }
