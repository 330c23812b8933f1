"""Power without controllers: switches in memory that other hosts' addresses lead to.

One `Rack` stands for all controllers of a simulated cloud; what a switch does to its machine is a
function that the simulator gives. It can fail on order, as controllers do.
"""

import asyncio
from collections.abc import Awaitable, Callable

from msgspec import Struct, field

from cairn.core.errors import CloudError, Invalid, Unavailable
from cairn.wire.spec import MachineSpec

Turn = Callable[[bool], Awaitable[None]]
"""Give (True) or cut (False) the machine's power."""


class Switch(Struct, kw_only=True):
    """One machine's controller."""

    turn: Turn
    is_on: bool = True
    password: str = ""
    turned: list[bool] = field(default_factory=list)  # every order that was carried out


class Rack:
    """Controllers by address."""

    def __init__(self) -> None:
        self.switches: dict[str, Switch] = {}

    def add(self, address: str, turn: Turn, *, password: str = "") -> Switch:
        made = self.switches[address] = Switch(turn=turn, password=password)
        return made


class FakePower:
    """`latency_s` is how long each verb takes by the loop's clock."""

    def __init__(self, rack: Rack, *, latency_s: float = 0.0) -> None:
        self._rack = rack
        self._latency_s = latency_s
        self._failures: dict[str, list[CloudError]] = {}

    def fail_next(self, verb: str, error: CloudError) -> None:
        """Let the next call of `verb` fail before it does anything; several calls queue up."""
        self._failures.setdefault(verb, []).append(error)

    async def is_on(self, machine: MachineSpec) -> bool:
        return (await self._enter("is_on", machine)).is_on

    async def turn(self, machine: MachineSpec, *, on: bool) -> None:
        switch = await self._enter("turn", machine)
        if switch.is_on != on:
            await switch.turn(on)
            switch.is_on = on
            switch.turned.append(on)

    async def _enter(self, verb: str, machine: MachineSpec) -> Switch:
        await asyncio.sleep(self._latency_s)
        if waiting := self._failures.get(verb):
            raise waiting.pop(0)
        switch = self._rack.switches.get(machine.address)
        if switch is None:
            raise Unavailable(f"No power controller answers for host {machine.node_id}.")
        if switch.password != machine.password:
            raise Invalid(f"The power controller of host {machine.node_id} refuses the password.")
        return switch
