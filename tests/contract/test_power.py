"""One suite for whatever switches other hosts' power: what `contracts.Power` promises. So far the fake."""

import pytest
from msgspec.structs import replace

from cairn.core.errors import CloudError, Invalid, Unavailable
from cairn.core.ids import NodeId
from cairn.drivers.power import PowerKinds
from cairn.drivers.power.fake import FakePower, Rack
from cairn.wire.spec import MachineSpec

MACHINE = MachineSpec(
    node_id=NodeId("n1"), driver="fake", address="bmc-1", user="root", password="s3cret", number=1
)


class Bench:
    """A driver, a machine that it reaches, and what happened to that machine."""

    def __init__(self) -> None:
        self.turned: list[bool] = []
        self.rack = Rack()
        self.switch = self.rack.add("bmc-1", self._turn, password="s3cret")
        self.fake = FakePower(self.rack)
        self.driver = PowerKinds({"fake": self.fake})

    async def _turn(self, on: bool) -> None:
        self.turned.append(on)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_power_is_cut_and_given_again(bench: Bench) -> None:
    assert await bench.driver.is_on(MACHINE)
    await bench.driver.turn(MACHINE, on=False)
    assert not await bench.driver.is_on(MACHINE)
    await bench.driver.turn(MACHINE, on=True)
    assert await bench.driver.is_on(MACHINE)
    assert bench.turned == [False, True]


async def test_turning_may_be_repeated(bench: Bench) -> None:
    for _ in range(3):
        await bench.driver.turn(MACHINE, on=False)
    assert bench.turned == [False]


async def test_it_says_what_is_and_not_what_was_asked(bench: Bench) -> None:
    await bench.driver.turn(MACHINE, on=False)
    bench.switch.is_on = True  # Somebody pressed the button.
    assert await bench.driver.is_on(MACHINE)


async def test_a_failure_leaves_the_power_as_it_was(bench: Bench) -> None:
    bench.fake.fail_next("turn", Unavailable("The controller is busy."))
    with pytest.raises(Unavailable, match="busy"):
        await bench.driver.turn(MACHINE, on=False)
    assert await bench.driver.is_on(MACHINE)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"address": "nowhere"}, Unavailable, "n1"),
        ({"password": "wrong"}, Invalid, "password"),
        ({"driver": "redfish"}, Unavailable, "'redfish'.*it has: fake"),
    ],
)
async def test_what_cannot_be_reached_is_told(
    bench: Bench, changes: dict[str, str], error: type[CloudError], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        await bench.driver.turn(replace(MACHINE, **changes), on=False)
    assert "s3cret" not in str(caught.value) and "wrong" not in str(caught.value)
    assert bench.turned == []
