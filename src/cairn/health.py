"""How the control plane itself is: `/healthz` for anyone, `/cairn/v1/health`, `/cairn/v1/status` and
`/metrics` for operators.

A check is of one dependency and says one of three things. ok; degraded: something is wrong, and requests
are served all the same; failing: this process cannot serve, so a balancer should ask another one. One
host that is down is no reason to take a control process away, so most can only degrade.
"""

import asyncio
import hmac
import inspect
import shutil
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from msgspec import Struct
from prometheus_client import generate_latest

from cairn import __version__
from cairn.core import log
from cairn.core.caller import Caller
from cairn.core.errors import CloudError, Denied, Unauthenticated
from cairn.core.ids import NodeId
from cairn.db.engine import Database, Tx
from cairn.fleet import loss
from cairn.fleet import service as fleet
from cairn.fleet.records import Node, NodeState
from cairn.http.call import Call
from cairn.http.routes import Reply, Route
from cairn.life.reconcile import RoundRecord
from cairn.metrics import Metrics

POLICY: Mapping[str, str] = {"cairn:status": "rule:admin", "cairn:metrics": "rule:admin"}
PROMETHEUS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DATABASE_S_MAX = 2.0  # for which the database may keep silent
DISK_LOW_BYTES = 2 << 30
DISK_FULL_BYTES = 64 << 20  # with less, the next write may be the last

_log = log.get("health")


class State(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    FAILING = "failing"


class Finding(Struct, frozen=True, kw_only=True):
    """What a check came to."""

    state: State = State.OK
    said: str = ""  # to anyone, so without names and reasons; empty: the state
    details: Mapping[str, Any] = {}  # to operators


Findings = Mapping[str, Finding]
Check = Callable[[], Findings | Awaitable[Findings]]
"""What there is to say, by the name of what it is about."""


class Health:
    """The checks, in the order in which they were added. The first is the database's: without it, the
    others are not asked."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._checks: list[Check] = []
        self.nodes: Mapping[NodeState, int] = {}  # by state, when the database was last asked

    def add(self, check: Check) -> None:
        self._checks.append(check)

    async def findings(self) -> dict[str, Finding]:
        found = await self._of_database()
        if found["database"].state is State.FAILING:
            return found
        for check in self._checks:
            try:
                told = check()
                found |= await told if inspect.isawaitable(told) else told
            except Exception as error:  # A check that breaks is a trouble, but none of the process.
                name = getattr(check, "__name__", "check")
                _log.exception("check failed", check=name)
                found[name] = Finding(state=State.DEGRADED, details={"trouble": repr(error)})
        return found

    async def ask_nodes(self) -> None:
        """Look at how many hosts are in which state; forget it when the database does not tell."""
        self.nodes = {}
        async with asyncio.timeout(DATABASE_S_MAX):
            self.nodes = await self._database.read(fleet.counts)

    async def _of_database(self) -> dict[str, Finding]:
        try:
            async with asyncio.timeout(DATABASE_S_MAX):
                counts, (losses, held) = await self._database.read(_look)
        except (CloudError, TimeoutError) as error:
            return {"database": Finding(state=State.FAILING, details={"trouble": repr(error)})}
        self.nodes = counts
        up, total = counts.get(NodeState.UP, 0), sum(counts.values())
        return {
            "database": Finding(),
            "nodes": Finding(
                state=State.OK if up == total else State.DEGRADED,
                said=f"{up} of {total} up",
                details={"by_state": dict(counts)},
            ),
            "losses": Finding(
                state=State.DEGRADED if losses or held else State.OK,
                said=_losses(losses, held),
                details={"hosts": losses, "held_zones": held},
            ),
        }


def _look(tx: Tx) -> Any:
    return fleet.counts(tx), loss.explain_all(tx)


def worst(found: Findings) -> State:
    states = {finding.state for finding in found.values()}
    return next((s for s in (State.FAILING, State.DEGRADED) if s in states), State.OK)


# --- checks ----------------------------------------------------------------------------------------------


def of_reconcilers(records: Callable[[], Mapping[str, RoundRecord]]) -> Check:
    def reconcilers() -> Findings:
        return {
            f"reconciler {record.name}": Finding(
                state=State.DEGRADED if record.trouble else State.OK,
                details={
                    "trouble": record.trouble,
                    "failed": record.last.failed if record.last else (),
                    "last_at": record.last_at,
                    "last_ok_at": record.last_ok_at,
                },
            )
            for record in records().values()
        }

    return reconcilers


def of_keys(age_s: Callable[[], float], *, rotated_every_s: float) -> Check:
    """Whether tokens can be signed, and somebody makes new keys in time."""

    def keys() -> Findings:
        try:
            age = age_s()
        except CloudError as error:
            return {"keys": Finding(state=State.FAILING, details={"trouble": str(error)})}
        is_late = age > rotated_every_s + 86400.0
        state = State.DEGRADED if is_late else State.OK
        return {"keys": Finding(state=state, details={"primary_age_s": round(age)})}

    return keys


def of_replica(database: Database) -> Check:
    def replica() -> Findings:
        if (one := database.replica) is None:
            return {}
        state = State.DEGRADED if one.is_avoided else State.OK
        details = {"reads": one.reads_total, "behind": one.behind_total}
        return {"replica": Finding(state=state, details=details)}

    return replica


def of_hints(is_listening: Callable[[], bool]) -> Check:
    """Whether the control processes hear each other."""

    def hints() -> Findings:
        return {"hints": Finding(state=State.OK if is_listening() else State.DEGRADED)}

    return hints


def of_trail(is_losing: Callable[[], bool], dropped: Callable[[], Mapping[str, int]]) -> Check:
    def audit() -> Findings:
        state = State.DEGRADED if is_losing() else State.OK
        return {"audit": Finding(state=state, details={"dropped": dict(dropped())})}

    return audit


def of_directories(troubles: Callable[[], Mapping[str, str]]) -> Check:
    """The directories that users come from: which are down is for operators."""

    def directories() -> Findings:
        found = troubles()
        if not found:
            return {"directories": Finding()}
        details = {"troubles": dict(found)}
        said = f"down: {len(found)}"
        return {"directories": Finding(state=State.DEGRADED, said=said, details=details)}

    return directories


def of_disk(name: str, folder: Path) -> Check:
    async def disk() -> Findings:
        try:
            usage = await asyncio.to_thread(shutil.disk_usage, folder)
        except OSError as error:
            return {name: Finding(state=State.DEGRADED, details={"trouble": str(error)})}
        state = State.OK
        if usage.free < DISK_LOW_BYTES:
            state = State.FAILING if usage.free < DISK_FULL_BYTES else State.DEGRADED
        details = {"folder": str(folder), "free_bytes": usage.free, "total_bytes": usage.total}
        return {name: Finding(state=state, details=details)}

    return disk


# --- routes ----------------------------------------------------------------------------------------------


class Scrapers(Struct, frozen=True, kw_only=True):
    """Who may read the metrics: whoever has the secret, or a token that the policy lets."""

    authenticate: Callable[[str], Caller]
    secret: str = ""  # empty: none will do

    def admit(self, call: Call[Any]) -> None:
        """Raises Unauthenticated or Denied."""
        kind, _, told = call.headers.get("authorization", "").partition(" ")
        if self.secret and kind.lower() == "bearer":
            if hmac.compare_digest(told.strip().encode(), self.secret.encode()):
                return
            raise Unauthenticated("The request you have made requires authentication.")
        token = call.headers.get("x-auth-token")
        if not token:
            raise Unauthenticated("The request you have made requires authentication.")
        caller = self.authenticate(token)
        if not call.policy.allows("cairn:metrics", caller, {"project_id": caller.project_id}):
            raise Denied("Policy does not allow this request: rule 'cairn:metrics'.")


def routes(
    *,
    health: Health,
    metrics: Metrics,
    scrapers: Scrapers,
    connected: Callable[[], list[NodeId]],
    rounds: Callable[[], Mapping[str, RoundRecord]],
    directories: Callable[[], Mapping[str, str]] = dict,  # what is wrong, by domain
) -> tuple[Route, ...]:
    """Over what the process knows of itself; part of the operator's API (operator.py)."""

    async def healthz(database: Database, call: Call[Any]) -> Reply:
        found = await health.findings()
        return _reply(found, {name: f.said or str(f.state) for name, f in found.items()})

    async def show_health(database: Database, call: Call[Any]) -> Reply:
        found = await health.findings()
        told = {
            name: {"state": f.state, "said": f.said or str(f.state), **f.details}
            for name, f in found.items()
        }
        return _reply(found, told)

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

    async def show_metrics(database: Database, call: Call[Any]) -> Reply:
        scrapers.admit(call)
        try:
            await health.ask_nodes()
        except (CloudError, TimeoutError) as error:
            _log.warning("hosts not counted", because=repr(error))
        return Reply(body=generate_latest(metrics.registry), content_type=PROMETHEUS_TYPE)

    return (
        Route(method="GET", path="/healthz", rule=None, run=healthz),
        Route(method="GET", path="/metrics", rule=None, run=show_metrics),
        Route(method="GET", path="/cairn/v1/health", rule="cairn:status", run=show_health),
        Route(method="GET", path="/cairn/v1/status", rule="cairn:status", do=status),
    )


def _reply(found: Findings, checks: Mapping[str, Any]) -> Reply:
    state = worst(found)
    body = {"status": state, "version": __version__, "checks": checks}
    is_failing = state is State.FAILING
    return Reply(
        body=body,
        status=503 if is_failing else 200,
        headers={"Retry-After": "1"} if is_failing else {},
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
