"""What a guest is told about itself, by 169.254.169.254 and by its config drive."""

import base64
import re

from cairn.compute.records import Server
from cairn.fleet.records import DEFAULT_ZONE
from cairn.wire.spec import GuestMetadata

_NOT_IN_HOSTNAME = re.compile(r"[^a-z0-9.-]+")


def guest_metadata(server: Server) -> GuestMetadata:
    return GuestMetadata(
        hostname=server.hostname,
        project_id=server.project_id,
        availability_zone=server.zone or DEFAULT_ZONE,
        launch_index=server.launch_index,
        key_name=server.key_name,
        public_key=server.public_key,
        admin_password=server.admin_password,
        user_data=base64.b64decode(server.user_data) if server.user_data else b"",
        meta=server.metadata,
    )


def hostname_of(name: str, server_id: str) -> str:
    """A server's name as a host name: RFC 1123's letters, at most 63 of them."""
    text = _NOT_IN_HOSTNAME.sub("", name.lower().replace(" ", "-").replace("_", "-"))
    text = text.replace(".", "-").strip("-")[:63].rstrip("-")
    # A name of digits only would read as an address.
    return text if text and not text.isdigit() else f"server-{server_id}"
