"""The installation's authority and what it gives out."""

import asyncio
import datetime
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from cairn import serving
from cairn.host import certs
from cairn.wire import tls

NODE = "0b4c8f0e-5a39-4f0e-9a77-3c1d0b8f7a11"
DAY = datetime.timedelta(days=1)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_second_run_changes_nothing(tmp_path: Path) -> None:
    certs.ensure(tmp_path, node_id=NODE)
    before = _files(tmp_path)
    certs.ensure(tmp_path, node_id=NODE)
    assert _files(tmp_path) == before


def test_only_the_authoritys_certificate_is_public(tmp_path: Path) -> None:
    where = certs.ensure(tmp_path, node_id=NODE)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes.pop(where.authority) == 0o644
    assert set(modes.values()) == {0o600}


def test_server_speaks_for_every_local_name(tmp_path: Path) -> None:
    where = certs.ensure(tmp_path, node_id=NODE, also=("cloud.example.org",))
    held = x509.load_pem_x509_certificate(where.server.read_bytes())
    names = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = names.get_values_for_type(x509.DNSName)
    addresses = {str(a) for a in names.get_values_for_type(x509.IPAddress)}
    assert {"localhost", socket.gethostname(), "cloud.example.org"} <= set(hosts)
    assert "127.0.0.1" in addresses


def test_server_certificate_follows_new_names_and_keeps_the_authority(tmp_path: Path) -> None:
    where = certs.ensure(tmp_path, node_id=NODE)
    authority, server = where.authority.read_bytes(), where.server.read_bytes()
    certs.ensure(tmp_path, node_id=NODE, also=("new.example.org",))
    assert where.authority.read_bytes() == authority
    assert where.server.read_bytes() != server


def test_certificates_are_renewed_before_they_end(tmp_path: Path) -> None:
    where = certs.ensure(tmp_path, node_id=NODE)
    authority, server, node = (
        path.read_bytes() for path in (where.authority, where.server, where.node)
    )
    soon = datetime.datetime.now(datetime.UTC) + DAY * (
        certs.CERTIFICATE_DAYS - certs.RENEW_DAYS + 1
    )
    certs.ensure(tmp_path, node_id=NODE, now=soon)
    assert where.authority.read_bytes() == authority
    assert where.server.read_bytes() != server
    assert where.node.read_bytes() != node


@pytest.mark.parametrize("name", ["ca.key", "server.crt", "node.key"])
def test_truncated_file_is_made_again(tmp_path: Path, name: str) -> None:
    certs.ensure(tmp_path, node_id=NODE)
    (tmp_path / name).write_bytes(b"-----BEGIN")
    where = certs.ensure(tmp_path, node_id=NODE)
    assert tls.node_id_of(where.node) == NODE
    for made in (where.server, where.node):
        certificate = x509.load_pem_x509_certificate(made.read_bytes())
        authority = x509.load_pem_x509_certificate(where.authority.read_bytes())
        certificate.verify_directly_issued_by(authority)


def test_agent_and_control_plane_believe_each_other(tmp_path: Path) -> None:
    """A real TLS 1.3 handshake, both sides with a certificate, over a pair of sockets."""
    where = certs.ensure(tmp_path, node_id=NODE)
    server = tls.server_context(
        authority=where.authority, certificate=where.server, key=where.server_key
    )
    client = tls.client_context(
        authority=where.authority, certificate=where.node, key=where.node_key
    )
    ours, theirs = socket.socketpair()
    peers: list[object] = []

    def serve() -> None:
        with server.wrap_socket(theirs, server_side=True) as accepted:
            peers.append(accepted.getpeercert())
            accepted.send(b"!")

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(ours, server_hostname="127.0.0.1") as connected:
        assert connected.recv(1) == b"!"
    thread.join(timeout=10)
    peer = peers[0]
    assert isinstance(peer, dict)
    assert ("URI", f"cairn:node:{NODE}") in peer["subjectAltName"]


def test_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    where = certs.ensure(tmp_path / "a", node_id=NODE)
    other = certs.ensure(tmp_path / "b", node_id=NODE)
    context = ssl.create_default_context(cafile=other.authority)
    ours, theirs = socket.socketpair()
    server = tls.server_context(
        authority=where.authority, certificate=where.server, key=where.server_key
    )

    def serve() -> None:
        with pytest.raises(OSError):
            server.wrap_socket(theirs, server_side=True)

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(ssl.SSLCertVerificationError):
        context.wrap_socket(ours, server_hostname="127.0.0.1")
    thread.join(timeout=10)


def test_certificate_of_a_node_is_made_again_without_its_second_use_or_its_address(
    tmp_path: Path,
) -> None:
    """Releases before made certificates for clients only; hosts speak to each other by now."""
    where = certs.ensure(tmp_path, node_id=NODE, address="192.0.2.7")
    first = x509.load_pem_x509_certificate(where.node.read_bytes())
    uses = first.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(uses) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    certs.ensure(tmp_path, node_id=NODE, address="192.0.2.8")
    second = x509.load_pem_x509_certificate(where.node.read_bytes())
    names = second.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.8"]
    assert second.public_key() == first.public_key()


def test_certificate_of_the_api_is_renewed_while_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The context of a running server hands out the new one from the next connection on."""
    long_ago = datetime.datetime.now(datetime.UTC) - DAY * (certs.CERTIFICATE_DAYS - 10)
    where = certs.ensure(tmp_path, node_id=NODE, now=long_ago)
    context = tls.server_context(
        authority=where.authority, certificate=where.server, key=where.server_key
    )
    monkeypatch.setattr(serving, "CERTIFICATE_PERIOD_S", 0)

    async def renewed() -> tuple[int, int]:
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        before = await asyncio.to_thread(_serial_at, port, where)
        keeper = asyncio.create_task(serving.keep_certificate(tmp_path, (), lambda: [context]))
        async with asyncio.timeout(30):
            after = before
            while after == before:
                after = await asyncio.to_thread(_serial_at, port, where)
        keeper.cancel()
        server.close()
        return before, after

    before, after = asyncio.run(renewed())
    assert before != after
    assert not certs.renew_server(tmp_path), "it is fresh"


def _serial_at(port: int, where: certs.Certificates) -> int:
    client = tls.client_context(
        authority=where.authority, certificate=where.server, key=where.server_key
    )
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        client.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number
