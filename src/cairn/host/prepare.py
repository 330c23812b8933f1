"""What must lie in the state directory before control plane and agent can start; repeatable."""

import uuid

from msgspec import Struct

from cairn.core.errors import Conflict
from cairn.host import certs, credentials, private_files
from cairn.host.certs import Certificates
from cairn.host.credentials import Credentials
from cairn.settings import Settings
from cairn.wire.addresses import split


class Prepared(Struct, frozen=True, kw_only=True):
    node_id: str
    certificates: Certificates
    credentials: Credentials


def prepare(settings: Settings) -> Prepared:
    """Make the folders, this host's identity, certificates and credentials that are missing."""
    make_folders(settings)
    private_files.make_folder(settings.control_dir)
    node_id = _node_id(settings)
    made = certs.ensure(
        settings.certs_dir,
        node_id=node_id,
        address=settings.effective_host_address,
        also=names_of(settings),
        days=settings.certificate_days,
    )
    given = credentials.ensure(
        settings.credentials_dir,
        api_url=settings.api_url,
        region=settings.region,
        authority=made.authority,
    )
    return Prepared(node_id=node_id, certificates=made, credentials=given)


def make_folders(settings: Settings) -> None:
    """What every host has, with a control plane or without. Repeatable."""
    # Others may pass through to the authority's certificate, and guests to their own folder.
    private_files.make_folder(settings.state, mode=0o711)
    private_files.make_folder(settings.run_dir, mode=0o755)
    private_files.make_folder(settings.log_dir)
    private_files.make_folder(settings.certs_dir, mode=0o711)
    private_files.make_folder(settings.agent_dir, mode=0o711)


def require_member(settings: Settings) -> None:
    """What a host without a control plane must have got by joining. Raises Conflict."""
    needed = ("ca.crt", "node.crt", "node.key")
    missing = [name for name in needed if not (settings.certs_dir / name).exists()]
    if missing:
        raise Conflict(
            f"this host has no control plane and has not joined one: {settings.certs_dir} lacks"
            f" {', '.join(missing)}; `cairn join TOKEN` brings it"
        )
    make_folders(settings)


def _node_id(settings: Settings) -> str:
    file = settings.node_id_file
    if not file.exists():
        private_files.write(file, f"{uuid.uuid4()}\n", mode=0o644)
    return file.read_text().strip()


def names_of(settings: Settings) -> tuple[str, ...]:
    """Names and addresses of the control plane besides those that its machine has."""
    names = {settings.effective_api_host, settings.effective_host_address}
    names |= {split(address, settings.node_port)[0] for address in settings.control_addresses}
    return tuple(sorted(names))
