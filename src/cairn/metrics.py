"""What this process counts, as Prometheus reads it: in memory, so that a scrape asks the database for one
thing only, how many hosts are in which state.

Where something counts for itself (the database, the reconcilers, the streams), this only reads it.
"""

from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from cairn import __version__
from cairn.audit.service import Trail
from cairn.core.errors import Unauthenticated
from cairn.core.meter import Meter
from cairn.db.engine import Database
from cairn.fleet.records import NodeState
from cairn.fleet.stream import NodeStreams
from cairn.http.connections import Crowd
from cairn.http.rates import Limiter
from cairn.http.routes import Route, Service
from cairn.life.reconcile import RoundRecord

T = TypeVar("T")
Source = Callable[[], Iterable[Metric]]

_REFUSED = {
    "not a token of ours": "malformed",
    "the token was not signed by us": "unsigned",
    "a token of another version": "version",
    "the token has expired": "expired",
    "the token was revoked": "revoked",
}
"""Why a token is refused, in words that never grow in number."""


class Metrics(Collector):
    """Counts of this process, in a registry of its own so that two in one process do not clash."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._sources: list[Source] = []
        self._requests: dict[tuple[str, str, str, str], list[float]] = {}  # how many, and seconds
        self._seconds: dict[str, Meter] = {}
        self._tokens: Counts[str] = Counts()
        self.joins_refused = Counter(
            "cairn_join_refused",
            "Machines that could not join",
            ["reason"],
            registry=self.registry,
        )
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def add(self, source: Source) -> None:
        """Ask this one, too, whenever somebody looks."""
        self._sources.append(source)

    def join_refused(self, reason: str) -> None:
        self.joins_refused.labels(reason).inc()

    def observe(self, service: Service, route: Route, status: int, seconds: float) -> None:
        key = (service.name, route.method, service.root + route.path, str(status))
        told = self._requests.get(key)
        if told is None:
            told = self._requests[key] = [0.0, 0.0]
        told[0] += 1
        told[1] += seconds
        meter = self._seconds.get(service.name)
        if meter is None:
            meter = self._seconds[service.name] = Meter()
        meter.add(seconds)

    def counted(self, authenticate: Callable[[str], T]) -> Callable[[str], T]:
        """The same check of a token, counted."""
        tokens = self._tokens

        def check(token: str) -> T:
            try:
                found = authenticate(token)
            except Unauthenticated as error:
                tokens[_REFUSED.get(error.because or "", "other")] += 1
                raise
            tokens["ok"] += 1
            return found

        return check

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: what is there depends on what has happened."""
        return []

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("cairn_build", "The release, as a label", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        yield from self._of_requests()
        yield from self._of_tokens()
        for source in self._sources:
            yield from source()

    def _of_requests(self) -> Iterator[Metric]:
        labels = ["service", "method", "path", "status"]
        requests = CounterMetricFamily("cairn_http_requests", "Finished requests", labels=labels)
        seconds = CounterMetricFamily(
            "cairn_http_route_seconds", "Time that requests took, by route", labels=labels
        )
        for key, (count, total) in list(self._requests.items()):
            requests.add_metric(key, count)
            seconds.add_metric(key, total)
        yield requests
        yield seconds
        by_service = HistogramMetricFamily(
            "cairn_http_request_seconds", "From first byte to reply", labels=["service"]
        )
        for service, meter in self._seconds.items():
            by_service.add_metric([service], meter.buckets(), meter.total)
        yield by_service

    def _of_tokens(self) -> Iterator[Metric]:
        checked = CounterMetricFamily("cairn_tokens_checked", "Tokens that came with requests")
        checked.add_metric([], self._tokens.total())
        yield checked
        refused = CounterMetricFamily(
            "cairn_tokens_refused", "Tokens that were refused", labels=["reason"]
        )
        for reason in sorted({*_REFUSED.values(), "other"}):
            refused.add_metric([reason], self._tokens[reason])
        yield refused


def of_database(database: Database) -> Source:
    def collect() -> Iterator[Metric]:
        stats = database.stats
        yield CounterMetricFamily(
            "cairn_sql_statements", "SQL statements run", database.statements_total
        )
        ended = CounterMetricFamily(
            "cairn_transactions", "Transactions that ended", labels=["kind", "outcome"]
        )
        for kind in ("read", "write"):
            for outcome in ("ok", "failed"):
                ended.add_metric([kind, outcome], stats.ended[kind, outcome])
        yield ended
        seconds = HistogramMetricFamily(
            "cairn_transaction_seconds",
            "How long reads took, and groups of writes with their commit",
            labels=["kind"],
        )
        for kind, meter in (("read", stats.read_seconds), ("write", stats.group_seconds)):
            seconds.add_metric([kind], meter.buckets(), meter.total)
        yield seconds
        sizes = stats.group_sizes
        yield HistogramMetricFamily(
            "cairn_write_group_size",
            "Writes that shared one commit",
            buckets=sizes.buckets(),
            sum_value=sizes.total,
        )
        yield CounterMetricFamily(
            "cairn_transaction_retries", "Transactions that were made again", stats.retries
        )
        yield GaugeMetricFamily("cairn_writes_waiting", "Writes in the queue", database.waiting)
        if (replica := database.replica) is not None:
            reads = CounterMetricFamily(
                "cairn_replica_reads", "Reads that a replica might answer", labels=["by"]
            )
            reads.add_metric(["replica"], replica.reads_total)
            reads.add_metric(["primary"], replica.behind_total)
            yield reads

    return collect


def of_reconcilers(records: Callable[[], Mapping[str, RoundRecord]]) -> Source:
    def collect() -> Iterator[Metric]:
        name = ["name"]
        rounds = CounterMetricFamily("cairn_reconciler_rounds", "Rounds that ended", labels=name)
        seconds = CounterMetricFamily("cairn_reconciler_seconds", "Time in rounds", labels=name)
        found = CounterMetricFamily("cairn_reconciler_found", "Things to do", labels=name)
        done = CounterMetricFamily("cairn_reconciler_done", "Things done", labels=name)
        failures = CounterMetricFamily(
            "cairn_reconciler_failures", "Rounds and things that failed", labels=name
        )
        last = GaugeMetricFamily(
            "cairn_reconciler_last_success_timestamp_seconds",
            "When a round last ended well",
            labels=name,
        )
        failing = GaugeMetricFamily(
            "cairn_reconciler_failing", "Whether the last round ended with a bug", labels=name
        )
        for record in records().values():
            label = [record.name]
            rounds.add_metric(label, record.rounds)
            seconds.add_metric(label, record.seconds)
            found.add_metric(label, record.found)
            done.add_metric(label, record.done)
            failures.add_metric(label, record.failures)
            failing.add_metric(label, record.trouble is not None)
            if record.last_ok_at is not None:
                last.add_metric(label, record.last_ok_at.timestamp())
        yield from (rounds, seconds, found, done, failures, last, failing)

    return collect


def of_streams(streams: NodeStreams) -> Source:
    def collect() -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "cairn_agents_connected", "Agents connected to this process", streams.connected_count
        )
        yield CounterMetricFamily(
            "cairn_agent_reports", "Reports that agents have sent", streams.reports_total
        )
        refused = CounterMetricFamily(
            "cairn_agents_refused", "Agents' connections that were refused", labels=["reason"]
        )
        for reason, count in sorted(streams.refusals.items()):
            refused.add_metric([reason], count)
        yield refused

    return collect


def of_limits(limiter: Limiter) -> Source:
    def collect() -> Iterator[Metric]:
        family = CounterMetricFamily(
            "cairn_http_rate_limited", "Requests refused with 429", labels=["kind"]
        )
        for kind, count in sorted(limiter.refused.items()):
            family.add_metric([kind], count)
        yield family

    return collect


def of_connections(crowd: Crowd) -> Source:
    def collect() -> Iterator[Metric]:
        yield GaugeMetricFamily("cairn_http_connections", "Clients' connections", len(crowd))
        family = CounterMetricFamily(
            "cairn_http_connections_refused",
            "Connections and requests ended before a service saw them",
            labels=["reason"],
        )
        for reason, count in sorted(crowd.refused.items()):
            family.add_metric([reason], count)
        yield family

    return collect


def of_trail(trail: Trail) -> Source:
    def collect() -> Iterator[Metric]:
        for name, text, label, counts in (
            ("cairn_audit_events", "Entries written", "outcome", trail.written),
            ("cairn_audit_dropped", "Entries lost, by kind or because", "kind", trail.dropped),
            ("cairn_sign_ins", "Attempts to sign in", "outcome", trail.sign_ins),
        ):
            family = CounterMetricFamily(name, text, labels=[label])
            for value, count in sorted(counts.items()):
                family.add_metric([value], count)
            yield family
        yield GaugeMetricFamily("cairn_audit_waiting", "Entries in the queue", trail.waiting)

    return collect


def of_nodes(counts: Callable[[], Mapping[NodeState, int]]) -> Source:
    def collect() -> Iterator[Metric]:
        nodes = GaugeMetricFamily("cairn_nodes", "Hosts, by state", labels=["state"])
        for state, count in sorted(counts().items()):
            nodes.add_metric([str(state)], count)
        yield nodes

    return collect
