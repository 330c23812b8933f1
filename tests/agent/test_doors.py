"""The agent's way to the control plane: whichever address answers, and then the same one."""

import random
from typing import Any

import pytest

from cairn.agent.doors import Doors
from cairn.core.errors import Unavailable


class Town:
    """Which addresses answer, and who was asked."""

    def __init__(self, *open_: tuple[str, int]) -> None:
        self.open = set(open_)
        self.asked: list[tuple[str, int]] = []

    async def dial(self, host: str, port: int) -> Any:
        self.asked.append((host, port))
        if (host, port) not in self.open:
            raise Unavailable("No.", because=f"{host} is shut")
        return (host, port)


async def test_next_address_is_tried_at_once_and_kept() -> None:
    town = Town(("b", 8444))
    doors = Doors(["a", "b", "c"], town.dial, port=8444, dice=random.Random(3))
    for _ in range(3):
        assert await doors.connect() == ("b", 8444)
    assert await doors.connect_here() == ("b", 8444)
    assert town.asked[-3:] == [("b", 8444)] * 3, "it stays where it was let in"
    town.open = {("c", 8444)}
    assert await doors.connect() == ("c", 8444)


async def test_refusal_names_every_address() -> None:
    doors = Doors(["a", "b:1", "[::1]:2", "a"], Town().dial, port=8444)
    with pytest.raises(Unavailable) as told:
        await doors.connect()
    for address in ("a:8444: a is shut", "b:1: b is shut", "::1:2: ::1 is shut"):
        assert address in (told.value.because or "")


async def test_hosts_spread_over_the_addresses() -> None:
    town = Town(("a", 1), ("b", 1))
    first = [await Doors(["a", "b"], town.dial, port=1).connect() for _ in range(64)]
    assert set(first) == {("a", 1), ("b", 1)}
