"""`cairn host drain` in words: the plan, how far each guest is, and when it is over."""

from collections.abc import Iterator
from typing import Any

import pytest

from cairn.cli import host_drain
from cairn.cli.host_drain import end_lines, is_over, plan_lines, said


def guest(name: str, state: str, **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "state": state,
        "way": "live",
        "target": "h2",
        "reason": None,
        "memory_mib": 512,
        "disk_gib": 0,
        "total_bytes": 0,
        "left_bytes": 0,
        "pause_ms": 0,
        "tries": 0,
        **more,
    }


def drained(*guests: dict[str, Any], volumes: tuple[Any, ...] = ()) -> dict[str, Any]:
    return {"host": "h1", "is_draining": True, "servers": list(guests), "volumes": list(volumes)}


def test_plan_says_what_goes_where_and_what_stays_and_why() -> None:
    found = drained(
        guest("web", "waiting", disk_gib=2),
        guest("db", "waiting", way="cold", target="h3"),
        guest("old", "stays", target=None, reason="is in vm_state error"),
        guest("gone", "done"),
        volumes=({"id": "v", "name": None, "size_gib": 7, "reason": "no server has it"},),
    )
    assert list(plan_lines(found)) == [
        "2 of 3 guests of h1 can go:",
        "  web → h2 (live; 512 MiB of memory, 2 GiB of disk)",
        "  db → h3 (stopped meanwhile; 512 MiB of memory)",
        "1 cannot go:",
        "  old: is in vm_state error",
        "1 volumes stay:",
        "  v (7 GiB): no server has it",
    ]
    assert list(plan_lines(drained())) == ["h1 has no guests."]


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (guest("a", "waiting"), "waits to go to h2"),
        (guest("a", "waiting", target=None), "waits"),
        (guest("a", "preparing"), "preparing to h2"),
        (
            guest("a", "copying", total_bytes=2048 << 20, left_bytes=1748 << 20),
            "copying to h2: 300 of 2048 MiB",
        ),
        (guest("a", "stopping", reason="aborted"), "is called back (aborted)"),
        (guest("a", "done", pause_ms=38), "done, now on h2, stood still for 38 ms"),
        (guest("a", "done", way="cold"), "done, now on h2"),
        (guest("a", "failed", tries=2, reason="no room"), "failed (2 times): no room"),
        (guest("a", "stays", target=None, reason="no"), "stays: no"),
    ],
)
def test_each_guest_in_a_line(one: dict[str, Any], words: str) -> None:
    assert said(one) == words


def test_it_is_over_when_nothing_moves_and_nothing_will_soon() -> None:
    assert is_over(drained(guest("a", "done"), guest("b", "stays")))
    assert is_over(drained(guest("a", "failed", tries=3)))
    assert not is_over(drained(guest("a", "failed", tries=2)))
    for state in ("waiting", "preparing", "copying", "stopping"):
        assert not is_over(drained(guest("a", state)))


def test_without_a_terminal_each_change_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host_drain, "LOOK_PERIOD_S", 0.0)
    answers: Iterator[dict[str, Any]] = iter(
        [
            drained(guest("a", "copying"), guest("b", "waiting")),
            drained(guest("a", "copying"), guest("b", "waiting")),
            drained(guest("a", "done"), guest("b", "stays", reason="no room")),
        ]
    )
    end = host_drain._watch_plainly(lambda: next(answers), drained(guest("a", "waiting")))
    assert [g["state"] for g in end["servers"]] == ["done", "stays"]
    assert capsys.readouterr().out.splitlines() == [
        "a: waits to go to h2",
        "a: copying to h2",
        "b: waits to go to h2",
        "a: done, now on h2, stood still for 0 ms",
        "b: stays: no room",
    ]
    assert list(end_lines(end)) == [
        "1 guests moved, 1 are still on h1.",
        "  b: stays: no room",
        "The drain goes on trying; `cairn host undrain` ends it.",
    ]


def test_table_for_a_terminal_takes_names_as_they_are() -> None:
    table = host_drain._table(drained(guest("[bold]x", "copying")))
    (cell,) = table.columns[0].cells
    assert cell == r"\[bold]x"
