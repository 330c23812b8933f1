"""The two TLS contexts of the agents' connections: each side proves itself by our own CA's certificate."""

import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509

from cairn.core.errors import Invalid
from cairn.core.ids import NodeId

REPLACING_S = 0.05  # between the writing of a key and of its certificate, at most
NODE_URI = "cairn:node:"
CONTROL_URI = "cairn:control:"


def server_context(
    *,
    authority: Path,
    certificate: Path,
    key: Path,
    refused: Callable[[str], None] | None = None,
) -> ssl.SSLContext:
    """For the node port: agents must show a certificate of our CA. `refused` is told why one could not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    load_pair(context, certificate, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    # An agent stays connected for weeks, and a new control process could not read an old one's tickets:
    # making two of them would be two fifths of what a handshake costs us.
    context.num_tickets = 0
    if refused is not None:
        context.sslobject_class = _watched(refused)
    return context


def _watched(refused: Callable[[str], None]) -> type[ssl.SSLObject]:
    """Event loops keep a failed handshake to themselves, and drop the alert that would tell the other
    side why. Only the TLS object itself sees both."""

    class Watched(ssl.SSLObject):
        _failure: ssl.SSLError | None = None

        def do_handshake(self) -> None:
            if self._failure is not None:
                raise self._failure
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLSyscallError):
                raise
            except ssl.SSLError as error:
                refused(_short(error))
                self._failure = error
                # "Not yet" has the loop send what is there to send: the alert. It comes back when the
                # other side has heard it and ends, or after the time that a handshake may take.
                raise ssl.SSLWantReadError from error

    return Watched


def _short(error: ssl.SSLError) -> str:
    """Few words for many failures: they are labels of a counter."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"untrusted certificate: {error.verify_message}"
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "no certificate"
    return "no TLS that we speak"


def load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """A certificate and its key, which lie in two files: read again if they are just being replaced."""
    for is_last in (False, False, False, False, True):
        try:
            context.load_cert_chain(certificate, key)
            return
        except ssl.SSLError as error:
            if is_last or error.reason != "KEY_VALUES_MISMATCH":
                raise
            time.sleep(REPLACING_S)


def client_context(*, authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """For the agent: only our CA's control plane is believed, under the name that was asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(authority)
    load_pair(context, certificate, key)
    return context


def node_id_of(certificate: Path) -> NodeId:
    """Whom a node's certificate was made out to. Raises Invalid naming the file."""
    parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    for uri in names.get_values_for_type(x509.UniformResourceIdentifier):
        if uri.startswith(NODE_URI):
            return NodeId(uri.removeprefix(NODE_URI))
    raise Invalid(f"{certificate} is not the certificate of a node.")


def names_control(peer_certificate: Mapping[str, Any] | None) -> bool:
    """Whether a certificate, as `ssl` shows a peer's, is a control process's."""
    names = (peer_certificate or {}).get("subjectAltName", ())
    return any(kind == "URI" and value.startswith(CONTROL_URI) for kind, value in names)


_ALERTS = {
    "TLSV1_ALERT_UNKNOWN_CA": "it is of another authority",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it was revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it is damaged",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "there is none",
}


def why_failed(error: BaseException) -> str | None:
    """In words, if it is about certificates; None: the connection broke for another reason."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the control plane cannot prove itself to this host: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason in _ALERTS:
        return f"the control plane refuses this host's certificate: {_ALERTS[error.reason]}"
    return None
