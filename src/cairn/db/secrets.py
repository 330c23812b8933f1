"""Secrets that every control process must share: kept in the database, sealed by a key that is not.

Whoever reads the database, a copy or a backup of it learns nothing without the sealing key, a file that
lies on the control machines alone (`certs/control.key`). A secret is sealed with AES-256-GCM under its
own name, so that one cannot be put in another's place.
"""

import hmac
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct
from sqlalchemy import Column, LargeBinary, String, Table, select

from cairn.core.errors import Invalid
from cairn.db.columns import Time, metadata
from cairn.db.engine import Tx

KEY_BYTES = 32
_NONCE_BYTES = 12

secrets = Table(
    "secrets",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("made_at", Time, nullable=False),
)


class Secret(Struct, frozen=True, kw_only=True):
    name: str
    data: bytes
    age_s: float


class Sealer:
    """Seals and opens under one key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise Invalid(f"The sealing key has {len(key)} bytes; it must have {KEY_BYTES}.")
        self._cipher = AESGCM(key)
        self._key = key

    def seal(self, name: str, data: bytes, *, nonce: bytes) -> bytes:
        return nonce + self._cipher.encrypt(nonce, data, name.encode())

    def derive(self, purpose: str) -> bytes:
        """A key for another purpose, the same wherever this key is."""
        return hmac.digest(self._key, purpose.encode(), "sha256")

    def open(self, name: str, sealed: bytes) -> bytes:
        """Raises Invalid: it was sealed by another key."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
        except InvalidTag as error:
            raise Invalid(
                f"The database's secret '{name}' was sealed by another key: copy certs/control.key"
                " from a control machine of this cloud."
            ) from error


def key_in(file: Path) -> bytes:
    """The sealing key in a file, made if it is not there."""
    try:
        return bytes.fromhex(file.read_text().strip())
    except FileNotFoundError:
        pass
    except ValueError as error:
        raise Invalid(f"{file} is not a sealing key: 64 hexadecimal digits are one.") from error
    file.parent.mkdir(parents=True, exist_ok=True)
    key = os.urandom(KEY_BYTES)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(handle, "w") as text:
            text.write(key.hex() + "\n")
            text.flush()
            os.fsync(text.fileno())
        os.link(draft, file)  # Fails if another process was first: then its key is the one.
    except FileExistsError:
        return key_in(file)
    finally:
        draft.unlink(missing_ok=True)
    return key


def get(tx: Tx, sealer: Sealer, name: str) -> bytes | None:
    sealed = tx.execute(select(secrets.c.sealed).where(secrets.c.name == name)).scalar()
    return None if sealed is None else sealer.open(name, sealed)


def all_under(tx: Tx, sealer: Sealer, prefix: str) -> list[Secret]:
    """Every secret whose name begins so, by name."""
    query = select(secrets).where(secrets.c.name.startswith(prefix, autoescape=True))
    return [
        Secret(
            name=row.name,
            data=sealer.open(row.name, row.sealed),
            age_s=(tx.now - row.made_at).total_seconds(),
        )
        for row in tx.execute(query.order_by(secrets.c.name))
    ]


def put(tx: Tx, sealer: Sealer, name: str, data: bytes) -> None:
    """Keep a secret under a name, instead of what had the name before."""
    values = {
        "sealed": sealer.seal(name, data, nonce=tx.random_bytes(_NONCE_BYTES)),
        "made_at": tx.now,
    }
    done = tx.execute(secrets.update().where(secrets.c.name == name).values(**values))
    if done.rowcount == 0:
        tx.execute(secrets.insert().values(name=name, **values))


def rename(tx: Tx, sealer: Sealer, old: str, new: str) -> None:
    """Keep a secret under another name: it is sealed anew."""
    data = get(tx, sealer, old)
    assert data is not None, f"there is no secret {old}"
    put(tx, sealer, new, data)
    forget(tx, old)


def forget(tx: Tx, name: str) -> None:
    tx.execute(secrets.delete().where(secrets.c.name == name))
