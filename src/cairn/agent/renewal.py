"""The agent's certificate, replaced over its own connection before it ends.

When a third of its life is left (a little earlier or later, so that hosts that joined together do not ask
together) the agent makes a new key and sends a request for it. What comes back is kept as a pair: first
both beside the old ones, then key and certificate renamed in this order, and an agent that starts in
between finishes it.
"""

import os
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cairn.core import log
from cairn.core.clock import Clock
from cairn.core.errors import Invalid
from cairn.wire.link import Renewed

AGAIN_S = 600.0  # between two requests, whatever came of the first
SLEEP_S_MAX = 6 * 3600.0  # the clock may be set meanwhile

_log = log.get("agent.renewal")


class Renewal:
    """The files of one host's certificate. `owns_authorities`: ca.crt is the agent's to change."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        *,
        owns_authorities: bool,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._key, self._certificate = folder / "node.key", folder / "node.crt"
        self._next_key, self._next = folder / "node.key.next", folder / "node.crt.next"
        self._authorities = folder / "ca.crt"
        self._owns_authorities = owns_authorities
        self._clock = clock
        self._share = 1 / 3 + (jitter() - 0.5) / 15  # of its life that is left when it is due
        self._asked_at: datetime | None = None
        self.settle()

    def settle(self) -> None:
        """Finish a replacement that was cut off; one that had not begun is forgotten."""
        try:
            public = _public(self._next.read_bytes())
        except (FileNotFoundError, ValueError):
            self._next.unlink(missing_ok=True)
            self._next_key.unlink(missing_ok=True)
            return
        if self._next_key.exists() and _load_key(self._next_key).public_key() == public:
            self._next_key.rename(self._key)
        if _load_key(self._key).public_key() == public:
            self._next.rename(self._certificate)
        self._next.unlink(missing_ok=True)
        self._next_key.unlink(missing_ok=True)

    def wait_s(self) -> float:
        """Until the next request is due; 0: now."""
        held = x509.load_pem_x509_certificate(self._certificate.read_bytes())
        life = held.not_valid_after_utc - held.not_valid_before_utc
        due = held.not_valid_after_utc - life * self._share
        if self._asked_at is not None:
            due = max(due, self._asked_at + timedelta(seconds=AGAIN_S))
        wait_s = (due - self._clock.now()).total_seconds()
        return min(max(wait_s, 0.0), SLEEP_S_MAX)

    def request(self) -> bytes:
        """A request for the next certificate, for a key that is kept until the answer comes."""
        self._asked_at = self._clock.now()
        key = ec.generate_private_key(ec.SECP256R1())
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _write(self._next_key, secret)
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def accept(self, renewed: Renewed) -> None:
        """Take the next certificate into use. Raises Invalid: it is not for our key, or not ours."""
        held = x509.load_pem_x509_certificate(self._certificate.read_bytes())
        try:
            fresh = x509.load_pem_x509_certificate(renewed.certificate)
            is_ours = _load_key(self._next_key).public_key() == fresh.public_key()
            by = x509.load_pem_x509_certificates(renewed.authorities)
        except (ValueError, FileNotFoundError) as error:
            raise Invalid("The next certificate cannot be read.", because=repr(error)) from error
        if not is_ours or fresh.subject != held.subject or not any(_is_by(fresh, a) for a in by):
            raise Invalid("The next certificate is not this host's: the old one stays.")
        if self._owns_authorities and self._authorities.read_bytes() != renewed.authorities:
            _write(self._authorities, renewed.authorities, mode=0o644)
        _write(self._next, renewed.certificate)
        self.settle()
        _log.info("certificate renewed", good_until=fresh.not_valid_after_utc.isoformat())


def _public(certificate: bytes) -> object:
    return x509.load_pem_x509_certificate(certificate).public_key()


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "all our keys are on P-256"
    return key


def _is_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # The library has many, and some are not documented.
        return False
    return True


def _write(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Whole or not at all, and on the disk when this returns."""
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.fchmod(descriptor, mode)
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.rename(path)
