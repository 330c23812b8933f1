"""What control machines of one cloud have in common, and how a further one gets it.

The authority's certificate and key lie in the shared database, sealed (db/secrets.py). So a machine needs
the database's address, the sealing key and the administrator's password; `cairn control export` writes
the three into one file, `cairn control import` reads it on the new machine, and the first start of its
control plane fetches the rest.
"""

from pathlib import Path

import msgspec
from msgspec import Struct

from cairn.core import log
from cairn.core.errors import Conflict, Invalid
from cairn.db import secrets
from cairn.db.engine import Database, Tx
from cairn.db.secrets import Sealer
from cairn.host import certs, private_files
from cairn.host.prepare import prepare
from cairn.settings import Settings

_CERTIFICATE, _KEY = "authority.crt", "authority.key"
_log = log.get("handover")


class Handover(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a further control machine must be given. Whoever has it is the cloud's administrator."""

    database_url: str
    database_replica_url: str = ""
    sealing_key: str  # hexadecimal
    admin_password: str
    region: str
    api_host: str = ""
    images_dir: str = ""


def export(settings: Settings) -> Handover:
    """What this control machine can hand over. Raises Conflict: its database is a file."""
    if not settings.database_url:
        raise Conflict(
            "This cloud's database is a file on this machine, which no other can use:"
            " `cairn control migrate --to postgresql://…` moves it to PostgreSQL."
        )
    return Handover(
        database_url=settings.database_url,
        database_replica_url=settings.database_replica_url,
        sealing_key=secrets.key_in(settings.control_key_file).hex(),
        admin_password=(settings.credentials_dir / "admin-password").read_text().strip(),
        region=settings.region,
        api_host=settings.api_host,
        images_dir=settings.images_dir,
    )


def take(settings: Settings, data: bytes) -> dict[str, str]:
    """Put what was handed over in its places; the settings that must be written. Raises Invalid, Conflict."""
    try:
        given = msgspec.json.decode(data, type=Handover)
        key = bytes.fromhex(given.sealing_key)
    except (msgspec.DecodeError, ValueError) as error:
        raise Invalid(f"This is no file of `cairn control export`: {error}") from error
    Sealer(key)  # Raises Invalid: it has a wrong length.
    if (settings.control_dir / "cairn.db").exists():
        raise Conflict(
            f"{settings.state} holds a cloud of its own: `cairn wipe` it first, or use another --state."
        )
    private_files.make_folder(settings.state, mode=0o711)
    private_files.make_folder(settings.certs_dir, mode=0o711)
    private_files.make_folder(settings.credentials_dir)
    private_files.write(settings.control_key_file, key.hex() + "\n")
    private_files.write(settings.credentials_dir / "admin-password", given.admin_password + "\n")
    wanted = ("database_url", "database_replica_url", "region", "api_host", "images_dir")
    return {name: value for name in wanted if (value := getattr(given, name))}


def share_authority(settings: Settings, database: Database) -> None:
    """Make the cloud's authority this machine's, or this machine's the cloud's if it has none yet."""
    sealer = Sealer(secrets.key_in(settings.control_key_file))
    where = certs.paths(settings.certs_dir)

    def shared(tx: Tx) -> tuple[bytes, bytes]:
        held = (secrets.get(tx, sealer, _CERTIFICATE), secrets.get(tx, sealer, _KEY))
        if held[0] is not None and held[1] is not None:
            return held[0], held[1]
        ours = where.authority.read_bytes(), where.authority_key.read_bytes()
        secrets.put(tx, sealer, _CERTIFICATE, ours[0])
        secrets.put(tx, sealer, _KEY, ours[1])
        return ours

    try:
        certificate, key = database.write_now(shared)
    except Conflict:  # Another control machine was first, at the same moment.
        certificate, key = database.write_now(shared)
    if _is_same(where.authority, certificate) and _is_same(where.authority_key, key):
        return
    _log.warning("this machine takes over the cloud's authority", file=str(where.authority))
    private_files.write(where.authority_key, key)
    private_files.write(where.authority, certificate, mode=0o644)
    prepare(settings)  # Whatever the old one had signed is made anew.


def _is_same(file: Path, content: bytes) -> bool:
    try:
        return file.read_bytes() == content
    except FileNotFoundError:
        return False
