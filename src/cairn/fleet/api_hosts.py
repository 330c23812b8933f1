"""Hosts in the operator's API: list, show with every why, and change.

What fleet cannot know (guests, aggregates, when an agent spoke last) is handed in by the application.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from cairn.core.errors import Invalid
from cairn.core.ids import NodeId
from cairn.db.engine import Tx
from cairn.fleet import explain, hosts, loss, service, store
from cairn.fleet.records import NO_LOAD, HostLoad, Node, NodeState, PowerAddress
from cairn.http import pages
from cairn.http.call import Call
from cairn.http.routes import Route

POLICY: Mapping[str, str] = {
    "cairn:hosts:list": "rule:admin",
    "cairn:hosts:show": "rule:admin",
    "cairn:hosts:update": "rule:admin",
}

Loads = Callable[[Tx, Sequence[Node]], Mapping[NodeId, HostLoad]]
LastHeard = Callable[[NodeId], float | None]
"""Seconds since the agent spoke to this process; None when it is not connected here."""

Text = Annotated[str, Meta(max_length=255)]


class Power(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The password goes in only."""

    driver: Text
    address: Text
    user: Text = ""
    password: Text = ""


class ChangedHost(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    zone: Text | UnsetType = UNSET
    rack: Text | UnsetType = UNSET
    roles: tuple[Text, ...] | UnsetType = UNSET
    labels: dict[str, str | None] | UnsetType = UNSET
    power: Power | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    disabled_reason: Text | UnsetType | None = UNSET


class ChangeHost(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: ChangedHost


def routes(*, loads: Loads, last_heard: LastHeard) -> tuple[Route, ...]:
    def list_hosts(tx: Tx, call: Call[None]) -> Any:
        page = pages.page_of(call)
        found = _matching(tx, call, page)
        known = loads(tx, found)
        shown = [_brief(n, known.get(n.id, NO_LOAD), last_heard(n.id)) for n in found]
        body: dict[str, Any] = {"hosts": shown}
        if page.limit and len(found) == page.limit:
            body["next"] = pages.next_link(call, found[-1].id)
        return body

    def show_host(tx: Tx, call: Call[None]) -> Any:
        node = hosts.find(tx, call.path["host"])
        whole = _whole(node, loads(tx, [node]).get(node.id, NO_LOAD), last_heard(node.id))
        return {"host": {**whole, "loss": loss.explain(tx, node)}}

    def update_host(tx: Tx, call: Call[ChangeHost]) -> Any:
        node, asked = hosts.find(tx, call.path["host"]), call.body.host
        load = loads(tx, [node]).get(node.id, NO_LOAD)
        hosts.arrange(tx, node, _wish(asked), load)
        _switch(tx, node, asked)
        whole = _whole(service.node(tx, node.id), load, last_heard(node.id))
        return {"host": {**whole, "loss": loss.explain(tx, node)}}

    path = "/cairn/v1/hosts"
    return (
        Route(method="GET", path=path, rule="cairn:hosts:list", do=list_hosts),
        Route(method="GET", path=path + "/{host}", rule="cairn:hosts:show", do=show_host),
        Route(
            method="PATCH",
            path=path + "/{host}",
            rule="cairn:hosts:update",
            do=update_host,
            body=ChangeHost,
        ),
    )


def _matching(tx: Tx, call: Call[None], page: pages.Page) -> list[Node]:
    """A page of the hosts that the query asks for. Labels, racks and roles are sieved from the rows,
    page by page, so that a rare one is found however far down it is."""
    query = call.query
    state = query.get("state")
    if state is not None and state not in tuple(NodeState):
        raise Invalid(f"state: '{state[:40]}' is none of {', '.join(NodeState)}.")
    labels = [_label(text) for text in query.all("label")]
    is_sieved = bool(labels) or "rack" in query or "role" in query
    step = pages.LIMIT_MAX if is_sieved else page.limit
    after = hosts.find(tx, page.marker) if page.marker else None
    found: list[Node] = []
    while len(found) < page.limit:
        rows = store.list_nodes(tx, zone=query.get("zone"), state=state, after=after, limit=step)
        found += [
            node
            for node in rows
            if query.get("rack") in (None, node.rack)
            and set(query.all("role")) <= set(node.roles)
            and all(node.labels.get(key) == value for key, value in labels)
        ]
        if len(rows) < step:
            break
        after = rows[-1]
    return found[: page.limit]


def _label(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise Invalid(f"label: '{text[:80]}' must be written KEY=VALUE.")
    return key, value


def _wish(asked: ChangedHost) -> hosts.Wish:
    power = asked.power
    return hosts.Wish(
        zone=asked.zone,
        rack=asked.rack,
        roles=asked.roles,
        labels=asked.labels,
        power=(
            PowerAddress(
                driver=power.driver,
                address=power.address,
                user=power.user,
                password=power.password,
            )
            if isinstance(power, Power)
            else power
        ),
    )


def _switch(tx: Tx, node: Node, asked: ChangedHost) -> None:
    enabled = node.enabled if asked.enabled is UNSET else asked.enabled
    reason = node.disabled_reason if asked.disabled_reason is UNSET else asked.disabled_reason
    if enabled and isinstance(asked.disabled_reason, str):
        raise Invalid("disabled_reason: only a disabled host has one; set enabled to false too.")
    if (enabled, reason) != (node.enabled, node.disabled_reason):
        service.set_enabled(tx, node.id, enabled=enabled, reason=reason)


def _brief(node: Node, load: HostLoad, heard_s: float | None) -> dict[str, Any]:
    return {
        "id": node.id,
        "name": node.hostname,
        "zone": node.zone,
        "rack": node.rack,
        "labels": node.labels,
        "roles": node.roles,
        "state": node.state,
        "state_since": node.state_since,
        "heard_s": None if heard_s is None else round(heard_s, 1),
        "enabled": node.enabled,
        "disabled_reason": node.disabled_reason,
        "draining": node.is_draining,
        "health": explain.level(explain.health(node, heard_s)),
        "agent_version": node.agent_version,
        "wire_version": node.wire_version,
        "load": load,
    }


def _whole(node: Node, load: HostLoad, heard_s: float | None) -> dict[str, Any]:
    found = explain.health(node, heard_s)
    power = node.power
    return {
        **_brief(node, load, heard_s),
        "control_id": node.control_id,
        "spec_number": node.spec_number,
        "reported_spec_number": node.reported_spec_number,
        "facts": node.facts,
        "engines": node.engines,
        "power": power and {"driver": power.driver, "address": power.address, "user": power.user},
        "origin": node.origin,
        "set_by_hand": node.set_by_hand,
        "health_found": found,
        "explained": {
            "state": explain.meaning(node),
            "roles": explain.roles(node),
            "obstacles": explain.obstacles(node, load),
            "advice": explain.advice(node, found),
        },
    }
