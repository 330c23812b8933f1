"""Several control processes over one PostgreSQL: who lives, and who takes care of a dead one's hosts.

Each says every ten seconds that it lives. Whoever is silent for thirty is taken for dead by the others:
it may have died between a commit and the hints that should have followed it, so everybody is woken; and
one of the others watches the leases of its hosts, until they connect or are suspect.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from cairn.core import log
from cairn.core.errors import CloudError
from cairn.core.ids import NodeId
from cairn.db.engine import Database, Tx
from cairn.db.feed import EVERYTHING
from cairn.fleet import control_store
from cairn.fleet.control_store import Control

TOPIC = "fleet.controls"
BEAT_S = 10.0
SILENCE_S = 30.0  # three beats: a process that is merely slow is not robbed of its hosts
BEATS_TO_JUDGE = 3
ADOPTED_AT_ONCE = 500

Adopt = Callable[[Sequence[NodeId]], Awaitable[None]]

_log = log.get("fleet.controls")


class Controls:
    """This control process among its peers."""

    def __init__(
        self,
        database: Database,
        me: Control,
        *,
        adopt: Adopt,
        lose_all: Callable[[], None],
    ) -> None:
        """`adopt` watches the leases of these hosts; `lose_all` ends every agent's connection."""
        self._database = database
        self.me = me
        self._adopt = adopt
        self._lose_all = lose_all
        self._living: frozenset[str] = frozenset()
        self._beats = 0  # without a failure
        self._has_left = False
        self._at_work = asyncio.Lock()
        self._news = asyncio.Event()
        database.on_wake(self._hint)

    async def join(self) -> None:
        """Be one of them."""
        await self._database.write(lambda tx: control_store.add(tx, self.me))

    async def leave(self) -> None:
        """Be none of them any more; the others take the hosts over at once."""

        def remove(tx: Tx) -> None:
            control_store.remove(tx, self.me.id)
            tx.wake(TOPIC)

        async with self._at_work:  # A beat would bring us back.
            self._has_left = True
            await self._database.write(remove)

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            try:
                self._news.clear()
                await self._beat()
            except CloudError as error:
                self._beats = 0
                _log.warning("beat failed", because=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._news.wait()

    async def _beat(self) -> None:
        async with self._at_work:
            if not self._has_left:
                await self._renew()

    async def _renew(self) -> None:
        # Whoever was away itself (a pause, a database that did not answer) cannot tell who is dead.
        may_judge = self._beats >= BEATS_TO_JUDGE
        was_known, found = await self._database.write(
            lambda tx: _renew_and_bury(tx, self.me, may_judge=may_judge)
        )
        self._beats += 1
        if not was_known:
            _log.warning("this process was taken for dead", silent_s_at_least=SILENCE_S)
            self._database.wake(EVERYTHING)
            self._lose_all()  # They come again, here or there, and are known by whoever has them.
        living = frozenset(control.id for control in found)
        if gone := self._living - living:
            _log.warning("control process is gone", controls=sorted(gone))
            # It may have committed what nobody was told of.
            self._database.wake(EVERYTHING)
        if living != self._living:
            self._living = living
            await self._adopt_all()

    async def _adopt_all(self) -> None:
        while found := await self._database.write(
            lambda tx: control_store.adopt(tx, self.me.id, ADOPTED_AT_ONCE)
        ):
            _log.info("hosts adopted", hosts=len(found))
            await self._adopt(found)

    def _hint(self, topic: str) -> None:
        if topic == TOPIC:
            self._news.set()


def _renew_and_bury(tx: Tx, me: Control, *, may_judge: bool) -> tuple[bool, list[Control]]:
    """Say that we live. Whether that was known, and who else lives; the rows of the dead are removed."""
    was_known = control_store.renew(tx, me.id)
    if not was_known:
        control_store.add(tx, me)
    living = []
    for control in control_store.all_controls(tx):
        if control.silent_s > SILENCE_S and may_judge:
            control_store.remove(tx, control.id)
            tx.wake(TOPIC)
        else:
            living.append(control)
    return was_known, living
