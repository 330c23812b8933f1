"""The installation's authority and what it gives out."""

import datetime
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509

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
