"""Key pairs: public keys by user and name; private ones are made, handed out and forgotten.

A server keeps a copy of its public key, so that a key pair may go without touching anyone.
"""

import base64
import binascii
import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509 import load_pem_x509_certificate
from sqlalchemy import Column, Index, Integer, String, Table, Text, func, select

from cairn.compute.records import KeyPair
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import UserId
from cairn.db.columns import Time, id_column, metadata
from cairn.db.engine import Tx

keypairs = Table(
    "keypairs",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    id_column("user_id", nullable=False),
    Column("name", String(255), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("public_key", Text, nullable=False),
    Column("fingerprint", String(255), nullable=False),
    Column("created_at", Time, nullable=False),
    Index("ix_keypairs_user_name", "user_id", "name", unique=True),
)


def get(tx: Tx, user_id: UserId, name: str) -> KeyPair:
    query = select(keypairs).where(keypairs.c.user_id == user_id, keypairs.c.name == name)
    row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"Keypair {name[:255]} not found for user {user_id}")
    return KeyPair(**row._mapping)


def list_keypairs(
    tx: Tx, user_id: UserId, *, limit: int = 1000, marker: str | None = None
) -> list[KeyPair]:
    """One page by name. Raises Invalid for a marker that does not exist."""
    query = select(keypairs).where(keypairs.c.user_id == user_id)
    if marker is not None:
        known = query.where(keypairs.c.name == marker)
        if tx.execute(known).first() is None:
            raise Invalid(f"marker [{marker[:255]}] not found")
        query = query.where(keypairs.c.name > marker)
    rows = tx.execute(query.order_by(keypairs.c.name).limit(limit))
    return [KeyPair(**row._mapping) for row in rows]


def count(tx: Tx, user_id: UserId) -> int:
    query = select(func.count()).select_from(keypairs).where(keypairs.c.user_id == user_id)
    return int(tx.execute(query).scalar_one())


def add(tx: Tx, user_id: UserId, name: str, kind: str, public_key: str) -> KeyPair:
    """Keep a public key. Raises Invalid: it is none. Conflict: the name is taken."""
    printed = fingerprint(kind, public_key)
    query = select(keypairs.c.number).where(keypairs.c.user_id == user_id, keypairs.c.name == name)
    if tx.execute(query).first() is not None:
        raise Conflict(f"Key pair '{name}' already exists.")
    tx.execute(
        keypairs.insert().values(
            user_id=user_id,
            name=name,
            kind=kind,
            public_key=public_key,
            fingerprint=printed,
            created_at=tx.now,
        )
    )
    return get(tx, user_id, name)


def delete(tx: Tx, user_id: UserId, name: str) -> None:
    done = tx.execute(
        keypairs.delete().where(keypairs.c.user_id == user_id, keypairs.c.name == name)
    )
    if done.rowcount == 0:
        raise NotFound(f"Keypair {name[:255]} not found for user {user_id}")


def generated(seed: bytes) -> tuple[str, str]:
    """A new Ed25519 pair of 32 random bytes: private key (OpenSSH's PEM) and public line."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return private.decode(), f"{public.decode()} Generated-by-Cairn"


def fingerprint(kind: str, public_key: str) -> str:
    """MD5 of an SSH key's bytes, SHA-1 of a certificate's, in pairs of hex digits, as Nova shows them."""
    digest = _certificate_digest(public_key) if kind == "x509" else _ssh_digest(public_key)
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


def _ssh_digest(public_key: str) -> str:
    try:
        serialization.load_ssh_public_key(public_key.strip().encode())
        data = base64.b64decode(public_key.split()[1])
    except UnsupportedAlgorithm:
        # Security keys ("sk-ssh-...") and what comes next are the guest's business, not ours.
        data = _blob(public_key)
    except (ValueError, IndexError, binascii.Error) as error:
        raise Invalid(
            "Keypair data is invalid: public_key is no SSH public key (like 'ssh-ed25519 AAAA…')."
        ) from error
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _blob(public_key: str) -> bytes:
    kind, _, rest = public_key.strip().partition(" ")
    try:
        data = base64.b64decode(rest.split()[0], validate=True)
    except (ValueError, IndexError, binascii.Error) as error:
        raise Invalid("Keypair data is invalid: public_key is no SSH public key.") from error
    if not data[4:].startswith(kind.encode()):
        raise Invalid(f"Keypair data is invalid: public_key is not of the type '{kind[:40]}'.")
    return data


def _certificate_digest(public_key: str) -> str:
    try:
        certificate = load_pem_x509_certificate(public_key.encode())
    except ValueError as error:
        raise Invalid(
            "Keypair data is invalid: public_key is no X.509 certificate in PEM."
        ) from error
    data = certificate.public_bytes(serialization.Encoding.DER)
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
