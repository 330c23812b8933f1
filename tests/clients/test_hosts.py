"""Hosts, zones and aggregates by the unmodified command line, and by our own."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.clients.conftest import Cli
from tests.clients.rooms import Room

pytestmark = pytest.mark.clients


@pytest.fixture
def host(admin: Any) -> str:
    """The one host there is."""
    (found,) = admin.compute.hypervisors()
    name: str = found.name
    return name


@pytest.fixture
def as_admin(room: Room, cli: Cli) -> Callable[..., Any]:
    return lambda *words, **how: cli("--os-cloud", "cairn-admin", *words, **how)


def test_hypervisors(as_admin: Callable[..., Any], host: str) -> None:
    (listed,) = as_admin("hypervisor", "list", "--long")
    assert listed["Hypervisor Hostname"] == host
    assert listed["State"] == "up"
    shown = as_admin("hypervisor", "show", host)
    assert shown["status"] == "enabled"
    assert "days" in shown["uptime"]


def test_services_are_disabled_and_enabled(as_admin: Callable[..., Any], host: str) -> None:
    (listed,) = as_admin("compute", "service", "list")
    assert (listed["Host"], listed["Status"], listed["State"]) == (host, "enabled", "up")
    change = ("compute", "service", "set")
    names = (host, "nova-compute")
    as_admin(*change, "--disable", "--disable-reason", "new memory", *names, is_silent=True)
    (listed,) = as_admin("compute", "service", "list", "--long")
    assert (listed["Status"], listed["Disabled Reason"]) == ("disabled", "new memory")
    as_admin(*change, "--enable", *names, is_silent=True)
    as_admin(*change, "--down", *names, fails=True)  # Its agent is heard of.
    assert {s["State"] for s in as_admin("volume", "service", "list")} == {"up"}
    assert {a["Alive"] for a in as_admin("network", "agent", "list")} == {True}


def test_zones(as_admin: Callable[..., Any], host: str) -> None:
    rows = as_admin("availability", "zone", "list", "--long", "--compute")
    assert [(row["Zone Name"], row["Host Name"]) for row in rows] == [("nova", host)]


def test_an_aggregate_from_its_creation_to_its_end(as_admin: Callable[..., Any], host: str) -> None:
    made = as_admin("aggregate", "create", "--property", "ssd=true", "fast")
    assert made["properties"] == {"ssd": "true"}
    assert as_admin("aggregate", "add", "host", "fast", host)["hosts"] == [host]
    as_admin("aggregate", "set", "--name", "faster", "--property", "a=b", "fast", is_silent=True)
    (listed,) = as_admin("aggregate", "list", "--long")
    assert (listed["Name"], listed["Properties"]) == ("faster", {"a": "b", "ssd": "true"})
    as_admin("aggregate", "unset", "--property", "a", "faster", is_silent=True)
    as_admin("aggregate", "delete", "faster", fails=True)  # It is not empty.
    assert as_admin("aggregate", "remove", "host", "faster", host)["hosts"] == []
    as_admin("aggregate", "delete", "faster", is_silent=True)
    assert as_admin("aggregate", "list") == []


def test_our_own_commands_show_the_same_host(room: Room, host: str) -> None:
    done = room.cairn("host", "list", "--json")
    assert done.returncode == 0, done.stderr
    (listed,) = json.loads(done.stdout)
    assert (listed["name"], listed["state"]) == (host, "up")
    explained = room.cairn("host", "explain", host)
    assert "the control plane was installed here" in explained.stdout
    assert "pool:" in explained.stdout
    refused = room.cairn("host", "set", host, "--zone", "east")
    assert refused.returncode == 1
    assert "cannot move from zone nova to east" in refused.stderr
    unknown = room.cairn("host", "show", "nobody")
    assert "No host has the name or id 'nobody'" in unknown.stderr
    plan = room.cairn("upgrade", "--plan")
    assert plan.returncode == 0, plan.stderr
    assert "Everything runs release" in plan.stdout
