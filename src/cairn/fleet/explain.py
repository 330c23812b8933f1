"""Why a host is as it is, in words: its roles, whether it gets new guests, its state, its health. Pure."""

from typing import Any

from cairn.fleet.records import HostLoad, Node, NodeState
from cairn.wire.report import HealthSeen

LEVELS = ("ok", "warning", "critical")

_ROLE_DOES = {
    "compute": "runs guests",
    "network": "writes the logical network of its zone",
    "storage": "keeps volumes in its pool",
    "power": "switches the power of other hosts",
}

_MEANING = {
    NodeState.JOINING: "It is enrolled, but its agent has never connected.",
    NodeState.UP: "Its agent is connected and talks.",
    NodeState.SUSPECT: (
        "Its agent is silent for longer than its lease. Its guests may well run, so nothing is "
        "started elsewhere."
    ),
    NodeState.LOST: (
        "It is silent for so long that it is given up. Its guests may still run: before they start "
        "elsewhere, it must be fenced."
    ),
    NodeState.FENCED: (
        "It is proven to run and write nothing. Servers that may restart elsewhere are being started "
        "there."
    ),
    NodeState.RECOVERED: "Nothing that may start elsewhere is left on it.",
}


def health(node: Node, heard_s: float | None) -> list[HealthSeen]:
    """What the host said of itself, and first what the control plane hears of it.

    `heard_s`: seconds since its agent spoke last; None when it is not connected here."""
    return [_heartbeat(node, heard_s), *node.health]


def level(found: list[HealthSeen]) -> str:
    """The worst of them."""
    return max((h.level for h in found), key=_rank, default="ok")


def _rank(name: str) -> int:
    return LEVELS.index(name) if name in LEVELS else len(LEVELS)


def _heartbeat(node: Node, heard_s: float | None) -> HealthSeen:
    heard = "not connected" if heard_s is None else f"heard {heard_s:.0f} s ago"
    if node.state is NodeState.UP:
        # A host that is up and not connected here talks to another control process.
        found = heard if heard_s is not None else "connected to another control process"
        return HealthSeen(name="heartbeat", level="ok", found=found)
    is_gone = node.state in (NodeState.LOST, NodeState.FENCED, NodeState.RECOVERED)
    return HealthSeen(
        name="heartbeat",
        level="critical" if is_gone else "warning",
        found=f"{heard}, {node.state} since {node.state_since:%Y-%m-%d %H:%M:%S} UTC",
        meaning=_MEANING[node.state],
    )


def roles(node: Node) -> list[dict[str, Any]]:
    """Each role with what it means, where it comes from, and what was found for it on the host."""
    return [
        {
            "role": role,
            "does": _ROLE_DOES.get(role, "is unknown to this release"),
            "why": _role_why(node),
            "found": _role_found(node, role),
        }
        for role in node.roles
    ]


def _role_why(node: Node) -> str:
    if "roles" in node.set_by_hand:
        return "an operator set it (`cairn host set --role`)"
    if node.origin == "first host":
        return "the control plane was installed here (`roles` in its cairn.toml)"
    if node.origin:
        return f"it joined so, by {node.origin}"
    return "it was enrolled so"


def _role_found(node: Node, role: str) -> str:
    facts = node.facts
    if facts is None:
        return "nothing yet: its agent has not reported"
    if facts.roles and role not in facts.roles:
        return f"its agent does not serve it: it was started with {', '.join(facts.roles)}"
    features = f"; features: {', '.join(facts.features)}" if facts.features else ""
    match role:
        case "compute":
            version = _dotted(facts.hypervisor_version)
            return f"{facts.hypervisor} {version} with {facts.accelerator}, {facts.vcpus} CPUs{features}"
        case "network":
            where = facts.southbound or "its own database"
            return f"datapath {facts.datapath or 'not up'} on {facts.address or '?'}, at {where}"
        case "storage":
            kind = "shared pool" if facts.has_shared_pool else "pool of its own"
            return f"{kind}, {facts.disk_free_gib} of {facts.disk_gib} GiB free"
        case _:
            return "its agent serves it"


def _dotted(number: int) -> str:
    return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"


def obstacles(node: Node, load: HostLoad) -> list[str]:
    """Why new guests are not placed on it; [] when they are."""
    found = []
    if "compute" not in node.roles:
        found.append("it does not have the role compute")
    if node.state is not NodeState.UP:
        found.append(f"it is {node.state}")
    if not node.enabled:
        found.append(f"it is disabled ({node.disabled_reason or 'no reason given'})")
    if node.is_draining:
        found.append("it is being drained")
    if node.facts is None:
        found.append("it has not reported what it has")
        return found
    for what, total, taken in (
        ("virtual CPUs", load.vcpus, load.vcpus_taken),
        ("memory", load.memory_mib, load.memory_mib_taken),
        ("disk", load.disk_gib, load.disk_gib_taken),
    ):
        if taken >= total:
            found.append(f"all of its {what} is promised")
    return found


def _fence(node: Node) -> str:
    word = f"cairn host fence {node.hostname}"
    if node.power is not None or (node.facts is not None and node.facts.has_shared_pool):
        return f"`{word}`."
    return (
        f"`{word} --by-hand`, after you made sure that it is off: nobody can switch it off, since it "
        "has no power address and no shared pool."
    )


def meaning(node: Node) -> str:
    return _MEANING[node.state]


def advice(node: Node, found: list[HealthSeen]) -> list[str]:
    """What to do next, the most pressing first; [] when nothing is to be done."""
    name = node.hostname
    steps = {
        NodeState.JOINING: [
            "Start its agent (`systemctl start cairn-agent` there) and read its log.",
            f"If it is not to come: `cairn host remove {name}`.",
        ],
        NodeState.UP: [],
        NodeState.SUSPECT: [
            "Look at the machine, its network and its agent's log; it returns by itself.",
            f"If it is surely dead: {_fence(node)}",
        ],
        NodeState.LOST: [
            f"Fence it: {_fence(node)}",
        ],
        NodeState.FENCED: [f"To start what is left elsewhere now: `cairn host recover {name}`."],
        NodeState.RECOVERED: [
            "Repair it and switch it on: it comes back empty, and takes new guests after "
            f"`cairn host set {name} --enable`.",
            f"If it is not to come back: `cairn host remove {name}`.",
        ],
    }[node.state]
    if node.state is NodeState.UP and not node.enabled:
        word = f"`openstack compute service set --enable {name} nova-compute`"
        steps.append(f"To let new guests in again: {word}.")
    if node.is_draining:
        steps.append(f"Let the drain end, or take it back: `cairn host undrain {name}`.")
    for seen in sorted(found, key=lambda h: -_rank(h.level)):
        if seen.level != "ok" and seen.name != "heartbeat":
            steps.append(f"{seen.name}: {seen.meaning or seen.found}")
    return steps
