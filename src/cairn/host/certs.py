"""The installation's own certificate authority, and the certificates it has given out.

`ca.crt` is what clients trust; `server.crt` speaks for the API and the node port under every name and
address of this machine; `node.crt` says which node an agent is, by the URI `cairn:node:<id>`, and at
which address: hosts speak to each other with it, too. All is made again where it is missing, close to
its end, or no longer fits the machine's addresses; the authority's own key stays as long as it is good,
because clients hold its certificate.

Of a request for a certificate only the public key is taken. Whatever else it asks for is not its to say.
"""

import datetime
import hashlib
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

from cairn.core.clock import Clock
from cairn.core.errors import Invalid
from cairn.core.ids import NodeId
from cairn.host import private_files
from cairn.wire.tls import CONTROL_URI, NODE_URI

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 397  # the longest that clients still accept of a server
RENEW_DAYS = 60  # before the end: a machine that is started every month never sees one expire
# Agents call the control plane, and each other: disks and guests that move, and the network's database.
USES = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)


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


class Authority:
    """The installation's authority, with its key: gives out the certificates of nodes."""

    def __init__(
        self,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        *,
        clock: Clock,
        days: float = CERTIFICATE_DAYS,
        not_for: frozenset[str] = frozenset(),
    ) -> None:
        """`days`: how long what it gives out is good. `not_for`: addresses that are not for others."""
        self._certificate = certificate
        self._key = key
        self._clock = clock
        self._days = days
        self._not_for = not_for
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.fingerprint = certificate.fingerprint(hashes.SHA256())
        self.name = certificate.subject.rfc4514_string()

    def key_digest(self, request: bytes) -> str:
        """Who asks, by the key that signed the request. Raises Invalid if it is no signed request."""
        return digest_of_key(_request(request).public_key())

    def may_be_at(self, address: str) -> bool:
        """False for the control plane's own: who speaks for them could be taken for it."""
        return address not in self._not_for

    def issue(self, request: bytes, node_id: NodeId, *, address: str) -> bytes:
        """A certificate (PEM) for the request's key, made out to the node at its address. Raises Invalid."""
        public = _request(request).public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        made = _issue_node(
            (self._certificate, self._key),
            public,
            node_id,
            address=address,
            now=self._clock.now(),
            days=self._days,
        )
        return made.public_bytes(serialization.Encoding.PEM)


def open_authority(folder: Path, *, clock: Clock, days: float = CERTIFICATE_DAYS) -> Authority:
    """The authority that `ensure` has made, for the control plane. Raises Invalid if it is not there."""
    where = paths(folder)
    held = _load(where.authority, where.authority_key)
    if held is None:
        raise Invalid(f"{where.authority_key} is missing or damaged: no host can join.")
    server = _load(where.server, where.server_key)
    spoken_for: frozenset[str] = frozenset()
    if server is not None:
        names = server[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        spoken_for = frozenset(str(name.value) for name in names)
    return Authority(*held, clock=clock, days=days, not_for=spoken_for)


def new_authority(clock: Clock) -> Authority:
    """One that lives in memory only: for tests, and for clouds that have no certificates."""
    return Authority(*_new_authority(clock.now()), clock=clock)


def ensure(
    folder: Path,
    *,
    node_id: str,
    address: str = "127.0.0.1",
    also: tuple[str, ...] = (),
    days: float = CERTIFICATE_DAYS,
    now: datetime.datetime | None = None,
) -> Certificates:
    """Make or renew what is missing or near its end; repeatable.

    `address`: where other hosts reach this node. `also`: further names of the server.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    private_files.make_folder(folder, mode=0o711)  # clients read ca.crt
    where = paths(folder)
    authority, authority_key = _authority(where, now)
    _server(where, authority, authority_key, names=(*local_names(), *also), now=now)
    _node(where, (authority, authority_key), NodeId(node_id), address=address, now=now, days=days)
    return where


def renew_server(
    folder: Path, *, also: tuple[str, ...] = (), now: datetime.datetime | None = None
) -> bool:
    """Renew the API's certificate if it is near its end, or the machine has a new address. Whether it
    did. Raises Invalid: the authority is not there."""
    where = paths(folder)
    authority = _load(where.authority, where.authority_key)
    if authority is None:
        raise Invalid(f"{where.authority_key} is missing or damaged.")
    before = where.server.read_bytes()
    now = now or datetime.datetime.now(datetime.UTC)
    _server(where, *authority, names=(*local_names(), *also), now=now)
    return where.server.read_bytes() != before


def ensure_control(folder: Path, *, name: str) -> tuple[Path, Path]:
    """What a control process proves itself with to its peers: certificate and key, made or renewed."""
    now = datetime.datetime.now(datetime.UTC)
    certificate, key_file = folder / "control.crt", folder / "control-tls.key"
    where = paths(folder)
    authority = _load(where.authority, where.authority_key)
    if authority is None:
        raise Invalid(f"{where.authority_key} is missing or damaged.")
    held = _load(certificate, key_file)
    if held and _is_good(held[0], now) and _is_by(held[0], authority[0]):
        return certificate, key_file
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"{CONTROL_URI}{name}")])
    made = (
        _builder(
            _name(name), authority[0].subject, key.public_key(), now=now, days=CERTIFICATE_DAYS
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(who, critical=False)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(_issued_by(authority[0]), critical=False)
        .sign(authority[1], hashes.SHA256())
    )
    _store(certificate, key_file, made, key)
    return certificate, key_file


def request_for(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request (PEM) that proves the key and asks for nothing."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def ensure_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in the file, made and kept there if there is none."""
    try:
        held = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        held = None
    if isinstance(held, ec.EllipticCurvePrivateKey):
        return held
    key = ec.generate_private_key(ec.SECP256R1())
    private_files.write(path, _key_bytes(key))
    return key


def digest_of_key(public: object) -> str:
    """SHA-256 (hex) of a public key."""
    assert isinstance(public, ec.EllipticCurvePublicKey)
    told = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(told).hexdigest()


def has_expired(certificate: Path) -> bool:
    """Whether nobody believes it any more."""
    held = x509.load_pem_x509_certificate(certificate.read_bytes())
    return held.not_valid_after_utc <= datetime.datetime.now(datetime.UTC)


def fingerprint(authority: bytes) -> bytes:
    """SHA-256 of an authority's certificate (PEM). Raises Invalid if it is none."""
    try:
        return x509.load_pem_x509_certificate(authority).fingerprint(hashes.SHA256())
    except ValueError as error:
        raise Invalid("This is no certificate.", because=str(error)) from error


def is_for_key(certificate: bytes, key: ec.EllipticCurvePrivateKey, authority: bytes) -> bool:
    """Whether a certificate (PEM) was given by the authority to this key."""
    try:
        held = x509.load_pem_x509_certificate(certificate)
    except ValueError:
        return False
    by = x509.load_pem_x509_certificate(authority)
    return _is_by(held, by) and held.public_key() == key.public_key()


def _request(request: bytes) -> x509.CertificateSigningRequest:
    try:
        asked = x509.load_pem_x509_csr(request)
        is_proven = asked.is_signature_valid
        public = asked.public_key()
    except Exception as error:  # The library has many, and some are not documented.
        raise Invalid("'request' is no certificate request (PKCS #10, PEM).") from error
    if not is_proven:
        raise Invalid("'request' is not signed by the key that it names.")
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp256r1":
        raise Invalid("'request' must be for a key on the curve P-256.")
    return asked


def local_names() -> tuple[str, ...]:
    """Every name and address under which a client may reach this machine."""
    host = socket.gethostname()
    names = {"localhost", "127.0.0.1", "::1", host, socket.getfqdn(host), *local_addresses()}
    return tuple(sorted(name for name in names if name))


def local_addresses() -> tuple[str, ...]:
    """This machine's addresses that others may reach, in the order of its interfaces."""
    shown = subprocess.run(["ip", "-j", "address"], check=True, capture_output=True).stdout
    links = json.loads(shown)
    infos = [info for link in links for info in link.get("addr_info", ())]
    return tuple(info["local"] for info in infos if info.get("scope") == "global")


def _authority(
    where: Certificates, now: datetime.datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    held = _load(where.authority, where.authority_key)
    if held and _is_good(held[0], now):
        return held
    certificate, key = _new_authority(now)
    _store(where.authority, where.authority_key, certificate, key, public=True)
    return certificate, key


def _new_authority(now: datetime.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Cairn CA", organisation=socket.gethostname())
    certificate = (
        _builder(name, name, key.public_key(), now=now, days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
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
        _builder(
            _name("Cairn API"), authority.subject, key.public_key(), now=now, days=CERTIFICATE_DAYS
        )
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
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    node_id: NodeId,
    *,
    address: str,
    now: datetime.datetime,
    days: float,
) -> None:
    held = _load(where.node, where.node_key)
    if held and _is_node_good(held[0], authority[0], node_id, address=address, now=now):
        return
    key = held[1] if held else ec.generate_private_key(ec.SECP256R1())
    made = _issue_node(authority, key.public_key(), node_id, address=address, now=now, days=days)
    _store(where.node, where.node_key, made, key)


def _is_node_good(
    held: x509.Certificate,
    authority: x509.Certificate,
    node_id: NodeId,
    *,
    address: str,
    now: datetime.datetime,
) -> bool:
    """Whether it is the node's, at its address, for both uses, and has a third of its life left."""
    wanted = {x509.UniformResourceIdentifier(f"{NODE_URI}{node_id}"), _general(address)}
    try:
        names = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uses = held.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    left = held.not_valid_after_utc - now
    is_young = left > (held.not_valid_after_utc - held.not_valid_before_utc) / 3
    return is_young and _is_by(held, authority) and wanted <= set(names) and set(uses) == set(USES)


def _issue_node(
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    public: ec.EllipticCurvePublicKey,
    node_id: NodeId,
    *,
    address: str,
    now: datetime.datetime,
    days: float,
) -> x509.Certificate:
    by, key = authority
    who = [x509.UniformResourceIdentifier(f"{NODE_URI}{node_id}"), _general(address)]
    return (
        _builder(_name(node_id), by.subject, public, now=now, days=days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(who), critical=False)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage(USES), critical=False)
        .add_extension(_issued_by(by), critical=False)
        .sign(key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    *,
    now: datetime.datetime,
    days: float,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        # A client whose clock is a little behind must still accept it.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
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
    private_files.write(key_path, _key_bytes(key))
    shown = certificate.public_bytes(serialization.Encoding.PEM)
    private_files.write(certificate_path, shown, mode=0o644 if public else 0o600)


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
