"""What must lie in the state directory before control plane and agent can start; repeatable."""

import uuid

from msgspec import Struct

from cairn.host import certs, credentials, private_files
from cairn.host.certs import Certificates
from cairn.host.credentials import Credentials
from cairn.settings import Settings


class Prepared(Struct, frozen=True, kw_only=True):
    node_id: str
    certificates: Certificates
    credentials: Credentials


def prepare(settings: Settings) -> Prepared:
    """Make the folders, this host's identity, certificates and credentials that are missing."""
    # Others may pass through to the authority's certificate, and guests to their own folder.
    private_files.make_folder(settings.state, mode=0o711)
    private_files.make_folder(settings.run_dir, mode=0o755)
    private_files.make_folder(settings.log_dir)
    private_files.make_folder(settings.control_dir)
    private_files.make_folder(settings.agent_dir, mode=0o711)
    node_id = _node_id(settings)
    made = certs.ensure(settings.certs_dir, node_id=node_id, also=_names(settings))
    given = credentials.ensure(
        settings.credentials_dir,
        api_url=settings.api_url,
        region=settings.region,
        authority=made.authority,
    )
    return Prepared(node_id=node_id, certificates=made, credentials=given)


def _node_id(settings: Settings) -> str:
    file = settings.node_id_file
    if not file.exists():
        private_files.write(file, f"{uuid.uuid4()}\n", mode=0o644)
    return file.read_text().strip()


def _names(settings: Settings) -> tuple[str, ...]:
    names = {settings.effective_api_host, settings.effective_host_address, settings.control_host}
    return tuple(sorted(names))
