"""The power of other hosts: one driver for each kind of controller, and the way to the right one."""

from collections.abc import Mapping

from cairn.core.errors import Unavailable
from cairn.drivers.contracts import Power
from cairn.wire.spec import MachineSpec


class PowerKinds:
    """The drivers that this host has, by the name in `MachineSpec.driver`."""

    def __init__(self, kinds: Mapping[str, Power] | None = None) -> None:
        self._kinds = dict(kinds or {})

    async def is_on(self, machine: MachineSpec) -> bool:
        return await self._driver(machine).is_on(machine)

    async def turn(self, machine: MachineSpec, *, on: bool) -> None:
        await self._driver(machine).turn(machine, on=on)

    def _driver(self, machine: MachineSpec) -> Power:
        found = self._kinds.get(machine.driver)
        if found is None:
            known = ", ".join(sorted(self._kinds)) or "none"
            raise Unavailable(
                f"This host has no power driver '{machine.driver}' (it has: {known}).",
                because=f"asked for host {machine.node_id}",
            )
        return found
