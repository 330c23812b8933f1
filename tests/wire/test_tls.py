"""Who cannot prove to be of our cloud is refused in the handshake; both sides can say why."""

import asyncio
import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from cairn.core.clock import FakeClock
from cairn.core.errors import Unavailable
from cairn.core.ids import NodeId
from cairn.host import certs
from cairn.wire import tls
from cairn.wire.link import Ping, StreamLink, connect

NODE = NodeId("0b4c8f0e-5a39-4f0e-9a77-3c1d0b8f7a11")


class Cloud:
    """A node port on loopback, and what it counted."""

    def __init__(self, folder: Path) -> None:
        self.where = certs.ensure(folder, node_id=NODE)
        self.refused: list[str] = []

    async def try_with(self, authority: Path, certificate: Path, key: Path) -> str:
        """What an agent with these files comes to: "served", or why not."""
        served = tls.server_context(
            authority=self.where.authority,
            certificate=self.where.server,
            key=self.where.server_key,
            refused=self.refused.append,
        )
        server = await asyncio.start_server(_echo, "127.0.0.1", 0, ssl=served)
        port = server.sockets[0].getsockname()[1]
        context = tls.client_context(authority=authority, certificate=certificate, key=key)
        try:
            link = await connect("127.0.0.1", port, context)
            await link.send(Ping())
            await link.receive()
            link.close()
        except Unavailable as error:
            return str(error)
        finally:
            server.close()
        return "served"


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    link = StreamLink(reader, writer)
    try:
        await link.send(await link.receive())
    except Unavailable:
        pass
    finally:
        link.close()


Runner = Callable[..., str]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    """The control plane runs on uvloop, agents and the simulator do not."""
    return uvloop.run if request.param == "uvloop" else asyncio.run  # type: ignore[return-value]


def test_own_agent_is_served(tmp_path: Path, run: Runner) -> None:
    cloud = Cloud(tmp_path)
    where = cloud.where
    assert run(cloud.try_with(where.authority, where.node, where.node_key)) == "served"
    assert cloud.refused == []


def test_certificate_of_another_authority_is_refused(tmp_path: Path, run: Runner) -> None:
    """The agent believes our control plane, as one would that copied our ca.crt."""
    cloud, other = Cloud(tmp_path / "a"), Cloud(tmp_path / "b")
    said = run(cloud.try_with(cloud.where.authority, other.where.node, other.where.node_key))
    assert "refuses this host's certificate: it is of another authority" in said
    (why,) = cloud.refused
    assert why.startswith("untrusted certificate")


def test_expired_certificate_is_refused(tmp_path: Path, run: Runner) -> None:
    cloud = Cloud(tmp_path)
    long_ago = FakeClock(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    authority = certs.open_authority(tmp_path, clock=long_ago, days=1)
    key = certs.ensure_key(tmp_path / "old.key")
    old = tmp_path / "old.crt"
    old.write_bytes(authority.issue(certs.request_for(key), NODE, address="192.0.2.7"))
    said = run(cloud.try_with(cloud.where.authority, old, tmp_path / "old.key"))
    assert "it has expired" in said
    assert cloud.refused == ["untrusted certificate: certificate has expired"]


def test_other_control_plane_is_not_believed(tmp_path: Path, run: Runner) -> None:
    cloud, other = Cloud(tmp_path / "a"), Cloud(tmp_path / "b")
    said = run(cloud.try_with(other.where.authority, cloud.where.node, cloud.where.node_key))
    assert "cannot prove itself to this host" in said
