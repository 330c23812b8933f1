"""Who may sign in to a fresh installation, and the files that clients take it from.

The administrator's password is made once and kept in a file of mode 0600; `clouds.yaml` and `openrc`
are written from it at every start, so that they follow the API's address.
"""

import secrets
import shlex
from pathlib import Path

import yaml
from msgspec import Struct

from cairn.host import private_files

ADMIN_USER = "admin"
ADMIN_PROJECT = "admin"
DEMO_PROJECT = "demo"


class Credentials(Struct, frozen=True, kw_only=True):
    """Where the credentials are."""

    password_file: Path
    clouds_yaml: Path
    openrc: Path


def paths(folder: Path) -> Credentials:
    return Credentials(
        password_file=folder / "admin-password",
        clouds_yaml=folder / "clouds.yaml",
        openrc=folder / "openrc",
    )


def ensure(folder: Path, *, api_url: str, region: str, authority: Path) -> Credentials:
    """Make the password if there is none and write the clients' files; repeatable."""
    private_files.make_folder(folder)
    where = paths(folder)
    password = _password(where.password_file)
    auth_url = f"{api_url}/identity/v3"
    clouds = {
        f"cairn-{project}": _cloud(auth_url, password, project, region, authority)
        for project in (ADMIN_PROJECT, DEMO_PROJECT)
    }
    text = yaml.safe_dump({"clouds": clouds}, sort_keys=False)
    private_files.write(where.clouds_yaml, text)
    variables = {
        "OS_AUTH_URL": auth_url,
        "OS_USERNAME": ADMIN_USER,
        "OS_PASSWORD": password,
        "OS_PROJECT_NAME": ADMIN_PROJECT,
        "OS_USER_DOMAIN_NAME": "Default",
        "OS_PROJECT_DOMAIN_NAME": "Default",
        "OS_REGION_NAME": region,
        "OS_IDENTITY_API_VERSION": "3",
        "OS_CACERT": str(authority),
    }
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    private_files.write(where.openrc, "".join(lines))
    return where


def _password(file: Path) -> str:
    try:
        held = file.read_text().strip()
    except FileNotFoundError:
        held = ""
    if not held:
        held = secrets.token_urlsafe(24)
        private_files.write(file, held + "\n")
    return held


def _cloud(
    auth_url: str, password: str, project: str, region: str, authority: Path
) -> dict[str, object]:
    return {
        "auth": {
            "auth_url": auth_url,
            "username": ADMIN_USER,
            "password": password,
            "project_name": project,
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        },
        "region_name": region,
        "identity_api_version": 3,
        "cacert": str(authority),
    }
