"""The two TLS contexts of the agents' connections: each side proves itself by our own CA's certificate."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509

from cairn.core.errors import Invalid
from cairn.core.ids import NodeId

NODE_URI = "cairn:node:"
CONTROL_URI = "cairn:control:"


def server_context(*, authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """For the node port: agents must show a certificate of our CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    # An agent stays connected for weeks, and a new control process could not read an old one's tickets:
    # making two of them would be two fifths of what a handshake costs us.
    context.num_tickets = 0
    return context


def client_context(*, authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """For the agent: only our CA's control plane is believed, under the name that was asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(authority)
    context.load_cert_chain(certificate, key)
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
