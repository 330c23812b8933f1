"""The installation's own certificate authority, and the certificates it has given out.

`ca.crt` is what clients trust; `server.crt` speaks for the API and the node port under every name and
address of this machine; `node.crt` says which node an agent is, by the URI `cairn:node:<id>`. All is
made again where it is missing, close to its end, or no longer fits the machine's addresses; the
authority's own key stays as long as it is good, because clients hold its certificate.
"""

import datetime
import ipaddress
import json
import socket
import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from cairn.host import private_files

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 397  # the longest that clients still accept of a server
RENEW_DAYS = 60  # before the end: a machine that is started every month never sees one expire


class Certificates(Struct, frozen=True, kw_only=True):
    """Where they are. Every file is of mode 0600, the authority's certificate alone is public."""

    authority: Path
    authority_key: Path
    server: Path
    server_key: Path
    node: Path
    node_key: Path


def paths(folder: Path) -> Certificates:
    """The places in the folder, whether the files are there or not."""
    return Certificates(
        authority=folder / "ca.crt",
        authority_key=folder / "ca.key",
        server=folder / "server.crt",
        server_key=folder / "server.key",
        node=folder / "node.crt",
        node_key=folder / "node.key",
    )


def ensure(
    folder: Path, *, node_id: str, also: tuple[str, ...] = (), now: datetime.datetime | None = None
) -> Certificates:
    """Make or renew what is missing or near its end; repeatable. `also`: further names of the server."""
    now = now or datetime.datetime.now(datetime.UTC)
    private_files.make_folder(folder, mode=0o711)  # clients read ca.crt
    where = paths(folder)
    authority, authority_key = _authority(where, now)
    _server(where, authority, authority_key, names=(*local_names(), *also), now=now)
    _node(where, authority, authority_key, node_id=node_id, now=now)
    return where


def local_names() -> tuple[str, ...]:
    """Every name and address under which a client may reach this machine."""
    host = socket.gethostname()
    names = {"localhost", "127.0.0.1", "::1", host, socket.getfqdn(host)}
    shown = subprocess.run(["ip", "-j", "address"], check=True, capture_output=True).stdout
    for link in json.loads(shown):
        names |= {a["local"] for a in link.get("addr_info", ()) if a.get("scope") == "global"}
    return tuple(sorted(name for name in names if name))


def _authority(
    where: Certificates, now: datetime.datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    held = _load(where.authority, where.authority_key)
    if held and _is_good(held[0], now):
        return held
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Cairn CA", organisation=socket.gethostname())
    certificate = (
        _builder(name, name, key, now=now, days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _store(where.authority, where.authority_key, certificate, key, public=True)
    return certificate, key


def _server(
    where: Certificates,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    *,
    names: tuple[str, ...],
    now: datetime.datetime,
) -> None:
    wanted = {_general(name) for name in names}
    held = _load(where.server, where.server_key)
    if held and _is_good(held[0], now) and _is_by(held[0], authority):
        spoken_for = held[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
        if wanted <= set(spoken_for.value):
            return
        wanted |= set(spoken_for.value)
    key = ec.generate_private_key(ec.SECP256R1())
    alternatives = x509.SubjectAlternativeName(sorted(wanted, key=repr))
    certificate = (
        _builder(_name("Cairn API"), authority.subject, key, now=now, days=CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(alternatives, critical=False)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_issued_by(authority), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _store(where.server, where.server_key, certificate, key)


def _node(
    where: Certificates,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    *,
    node_id: str,
    now: datetime.datetime,
) -> None:
    name = _name(node_id)
    held = _load(where.node, where.node_key)
    if held and _is_good(held[0], now) and _is_by(held[0], authority) and held[0].subject == name:
        return
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"cairn:node:{node_id}")])
    certificate = (
        _builder(name, authority.subject, key, now=now, days=CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(who, critical=False)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(_issued_by(authority), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _store(where.node, where.node_key, certificate, key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    now: datetime.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A client whose clock is a little behind must still accept it.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common: str, *, organisation: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organisation:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation[:64]))
    return x509.Name(parts)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _issued_by(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    held = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(held.value)


def _is_good(certificate: x509.Certificate, now: datetime.datetime) -> bool:
    return certificate.not_valid_after_utc - now > datetime.timedelta(days=RENEW_DAYS)


def _is_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:
        return False
    return True


def _load(
    certificate: Path, key: Path
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
    """Both, if both are there, whole and belong together."""
    try:
        held = x509.load_pem_x509_certificate(certificate.read_bytes())
        secret = serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(secret, ec.EllipticCurvePrivateKey):
        return None
    return (held, secret) if held.public_key() == secret.public_key() else None


def _store(
    certificate_path: Path,
    key_path: Path,
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    *,
    public: bool = False,
) -> None:
    """The key first: a certificate without its key would be taken for good by its readers."""
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    private_files.write(key_path, secret)
    shown = certificate.public_bytes(serialization.Encoding.PEM)
    private_files.write(certificate_path, shown, mode=0o644 if public else 0o600)
