"""What a measured cloud needs before it starts: a state directory, a database, certificates for every host.

All of it is made as `cairn up` makes it, in a folder of its own. Only the certificates of the simulated
hosts are cheaper than real ones: all share one key, so that ten thousand take seconds, and they are kept
from one run to the next.
"""

import datetime
import os
import random
import shutil
import socket
import uuid
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

import cairn.app  # noqa: F401 - knows every table
from cairn import settings as settings_file
from cairn.core.ids import NodeId
from cairn.db import migrate
from cairn.db.columns import metadata
from cairn.db.engine import Database, open_sqlite
from cairn.host import certs, private_files
from cairn.host.prepare import prepare
from cairn.settings import Settings
from cairn.wire.tls import NODE_URI

NODE_CERTIFICATE_DAYS = 397
_KEPT = ("ca.crt", "ca.key", "server.crt", "server.key")


class Stage(Struct, frozen=True, kw_only=True):
    """One prepared installation."""

    settings: Settings
    node_ids: tuple[NodeId, ...]
    node_certificates: Path  # one "<id>.pem" each: certificate and key
    key_digest: str  # of the key that all simulated hosts share

    @property
    def authority(self) -> Path:
        return self.settings.certs_dir / "ca.crt"

    def password(self) -> str:
        return (self.settings.credentials_dir / "admin-password").read_text().strip()

    def open_database(self) -> Database:
        if self.settings.database_url:
            return Database(self.settings.database_url)
        return open_sqlite(self.settings.control_dir / "cairn.db")


def prepare_stage(folder: Path, *, hosts: int, seed: int, database_url: str = "") -> Stage:
    """Make everything in `folder`, which is new; the database is empty but for its tables."""
    state = folder / "state"
    private_files.make_folder(state)
    port, node_port = _free_ports(2)
    lines = [
        f"api_port = {port}", f"node_port = {node_port}", 'api_host = "127.0.0.1"',
        'api_address = "127.0.0.1"', 'node_address = "127.0.0.1"', 'host_address = "127.0.0.1"',
        f'database_url = "{database_url}"',
    ]  # fmt: skip
    (state / settings_file.FILE_NAME).write_text("\n".join(lines) + "\n")
    settings = settings_file.load(state)
    kept = _cache()
    private_files.make_folder(settings.certs_dir)
    for name in _KEPT:
        if (kept / name).exists():
            shutil.copy2(kept / name, settings.certs_dir / name)
    prepare(settings)
    for name in _KEPT:
        shutil.copy2(settings.certs_dir / name, kept / name)
    for name in ("node.crt", "node.key"):  # This machine itself is no host of the measured cloud.
        (settings.certs_dir / name).unlink(missing_ok=True)
    node_ids = node_ids_of(seed, hosts)
    certificates, digest = _node_certificates(kept, node_ids)
    stage = Stage(
        settings=settings,
        node_ids=node_ids,
        node_certificates=certificates,
        key_digest=digest,
    )
    _make_tables(stage)
    return stage


def node_ids_of(seed: int, hosts: int) -> tuple[NodeId, ...]:
    """The same ids for the same seed: a longer list begins with the shorter one."""
    dice = random.Random(seed)  # noqa: S311 - reproducible on purpose
    return tuple(NodeId(str(uuid.UUID(bytes=dice.randbytes(16), version=4))) for _ in range(hosts))


def _make_tables(stage: Stage) -> None:
    """As the newest release's migrations leave them, but at once."""
    database = stage.open_database()
    try:
        if not database.is_sqlite:
            metadata.drop_all(database.engine)
        database.create_all()
        with database.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")
            connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
            connection.exec_driver_sql(
                f"INSERT INTO alembic_version VALUES ('{migrate.newest()}')"  # noqa: S608 - ours
            )
    finally:
        database.close()


def _cache() -> Path:
    """Where certificates are kept: the authority's key too, so for this user only."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "cairn" / "sim"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _node_certificates(kept: Path, node_ids: tuple[NodeId, ...]) -> tuple[Path, str]:
    """A folder with a certificate of each host by the kept authority, and the digest of their key."""
    authority = x509.load_pem_x509_certificate((kept / "ca.crt").read_bytes())
    folder = kept / f"nodes-{authority.serial_number:x}"
    for other in kept.glob("nodes-*"):
        if other != folder:
            shutil.rmtree(other)  # An authority that is no more.
    folder.mkdir(exist_ok=True)
    key = _shared_key(folder / "key")
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    signer = certs._load(kept / "ca.crt", kept / "ca.key")
    assert signer is not None, "the authority was made above"
    now = datetime.datetime.now(datetime.UTC)
    newest = now.timestamp() - (NODE_CERTIFICATE_DAYS - 30) * 86400
    for node_id in node_ids:
        file = folder / f"{node_id}.pem"
        if not file.exists() or file.stat().st_mtime < newest:
            file.write_bytes(_sign(signer, key, node_id, now) + secret)
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public)
    return folder, digest.finalize().hex()


def _shared_key(file: Path) -> ec.EllipticCurvePrivateKey:
    if file.exists():
        held = serialization.load_pem_private_key(file.read_bytes(), password=None)
        assert isinstance(held, ec.EllipticCurvePrivateKey)
        return held
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    private_files.write(file, secret)
    return key


def _sign(
    signer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    key: ec.EllipticCurvePrivateKey,
    node_id: NodeId,
    now: datetime.datetime,
) -> bytes:
    authority, authority_key = signer
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
    who = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"{NODE_URI}{node_id}")])
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=NODE_CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(who, critical=False)
        .add_extension(purpose, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)
