"""A host whose lease runs out in the moment in which it is taken in again is not called silent."""

from cairn.core.clock import SystemClock
from cairn.core.ids import NodeId
from cairn.db.engine import Database
from cairn.db.feed import Feed
from cairn.fleet import service
from cairn.fleet.records import NodeState
from cairn.fleet.stream import NodeStreams, _Stream
from cairn.sim.link import Wire

HOST = NodeId("h")


async def test_lease_that_ends_while_the_host_is_taken_in_changes_nothing() -> None:
    database = Database("sqlite://", clock=SystemClock(), inline=True)
    database.create_all()
    database.write_now(
        lambda tx: service.enrol(tx, HOST, hostname="h", zone="nova", roles=("compute",))
    )
    streams = NodeStreams(database=database, feed=Feed(), compile_spec=_never, take_report=_never)
    # Its row says "up" already, its welcome is on the way.
    database.write_now(lambda tx: service.connected(tx, HOST))
    wire = Wire(None, delay_s_max=0.0, repeats=0.0)  # type: ignore[arg-type]
    streams._streams[HOST] = _Stream(wire.control_end, HOST, 2, 0.0)
    await streams._write_silent([HOST])
    assert database.read_now(lambda tx: service.node(tx, HOST)).state is NodeState.UP

    del streams._streams[HOST]
    await streams._write_silent([HOST])
    assert database.read_now(lambda tx: service.node(tx, HOST)).state is NodeState.SUSPECT
    await streams.close()


def _never(*_: object) -> None:
    raise AssertionError("nothing is sent or believed here")
