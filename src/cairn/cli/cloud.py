"""A small client of the public API, for the operator's commands.

The standard library's HTTP is enough for a handful of calls one after the other, and it imports in a
tenth of the time of an SDK. What the API refuses becomes a CloudError with the API's own words.
"""

import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import yaml

from cairn.core.errors import CloudError, NotFound, Unavailable
from cairn.host import credentials, private_files
from cairn.settings import Settings

T = TypeVar("T")
TIMEOUT_S = 60.0
LOOK_EVERY_S = 0.2
# These services' catalog entries name their root; the version is for the client to add.
VERSIONS = {"image": "/v2", "network": "/v2.0"}


def as_operator(settings: Settings, *, timeout_s: float = TIMEOUT_S) -> "Cloud":
    """The API as this installation's administrator, for the operator's own routes."""
    clouds = credentials.paths(settings.credentials_dir).clouds_yaml
    cloud = Cloud(clouds, f"cairn-{credentials.ADMIN_PROJECT}", timeout_s=timeout_s)
    cloud.sign_in_as_before(settings.run_dir / "operator-token")
    return cloud


class Cloud:
    """Signed in to one project, by an entry of `clouds.yaml`."""

    def __init__(self, clouds_yaml: Path, name: str, *, timeout_s: float = TIMEOUT_S) -> None:
        try:
            entry = yaml.safe_load(clouds_yaml.read_text())["clouds"][name]
        except FileNotFoundError as error:
            raise NotFound(f"there is no {clouds_yaml}: `cairn up` writes it") from error
        self._auth = entry["auth"]
        self._context = ssl.create_default_context(cafile=entry.get("cacert"))
        self._timeout_s = timeout_s
        self._token = ""
        self._kept: Path | None = None
        auth_url = self._auth["auth_url"]
        # The operator's own routes are no service of the catalog.
        root = auth_url.removesuffix("/identity/v3")
        self._endpoints: dict[str, str] = {"identity": auth_url, "cairn": f"{root}/cairn/v1"}
        self._connections: dict[str, http.client.HTTPConnection] = {}
        self.project_id = ""
        self.user_id = ""

    def sign_in_as_before(self, kept: Path) -> None:
        """`sign_in` with the token that the last command left in `kept`, else anew (also when it is
        refused later): a check of a password is slow on purpose. Only for the operator's routes,
        since it reads no catalog."""
        self._kept = kept
        try:
            held = json.loads(kept.read_text())
        except (FileNotFoundError, ValueError):
            held = {}
        if held.get("auth_url") == self._auth["auth_url"]:
            self._token = held["token"]
        else:
            self._sign_in_and_keep(kept)

    def _sign_in_and_keep(self, kept: Path) -> None:
        self._token = ""
        self.sign_in()
        told = {"auth_url": self._auth["auth_url"], "token": self._token}
        private_files.write(kept, json.dumps(told))

    def sign_in(self) -> None:
        """Get a token and the catalog. Raises Unavailable, or what the API says."""
        auth = self._auth
        user = {
            "name": auth["username"],
            "password": auth["password"],
            "domain": {"name": auth["user_domain_name"]},
        }
        project = {"name": auth["project_name"], "domain": {"name": auth["project_domain_name"]}}
        identity = {"methods": ["password"], "password": {"user": user}}
        body = {"auth": {"identity": identity, "scope": {"project": project}}}
        answer, headers = self._call("POST", f"{auth['auth_url']}/auth/tokens", body)
        self._token = headers["x-subject-token"]
        self.project_id = answer["token"]["project"]["id"]
        self.user_id = answer["token"]["user"]["id"]
        for service in answer["token"]["catalog"]:
            for endpoint in service["endpoints"]:
                if endpoint["interface"] == "public" and service["type"] != "identity":
                    version = VERSIONS.get(service["type"], "")
                    url = endpoint["url"].rstrip("/").removesuffix(version)
                    self._endpoints[service["type"]] = url + version

    def get(self, service: str, path: str, **filters: str) -> Any:
        query = f"?{urlencode(filters)}" if filters else ""
        return self._call("GET", self._url(service, path + query))[0]

    def post(self, service: str, path: str, body: Mapping[str, Any]) -> Any:
        return self._call("POST", self._url(service, path), body)[0]

    def put(self, service: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._call("PUT", self._url(service, path), body)[0]

    def patch(self, service: str, path: str, body: Mapping[str, Any]) -> Any:
        return self._call("PATCH", self._url(service, path), body)[0]

    def delete(self, service: str, path: str) -> None:
        self._call("DELETE", self._url(service, path))

    def upload(self, service: str, path: str, file: Path) -> None:
        """Send a file's bytes as they are."""
        headers = {"content-type": "application/octet-stream", "x-auth-token": self._token}
        headers["content-length"] = str(file.stat().st_size)
        with file.open("rb") as content:
            self._send("PUT", self._url(service, path), content, headers)

    def download(self, service: str, path: str, **filters: str) -> Iterator[bytes]:
        """The bytes of a long answer as they come. Whoever is signed in as before asks for something
        short first: a token that has expired is not noticed here."""
        url = urlsplit(self._url(service, path))
        connection = self._connect(url.scheme, url.netloc)
        try:
            query = f"?{urlencode(filters)}" if filters else ""
            connection.request("GET", url.path + query, headers={"x-auth-token": self._token})
            answer = connection.getresponse()
            if answer.status >= 400:
                raise _refusal("GET", url.path, answer.status, answer.read())
            while chunk := answer.read1(1 << 16):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable("the answer ended before its end", because=str(error)) from error
        finally:
            connection.close()

    def stream(self, service: str, path: str, chunks: Iterator[bytes]) -> Any:
        """Post bytes as they come. They cannot be sent twice, so a token must be good."""
        headers = {"content-type": "application/x-ndjson", "x-auth-token": self._token}
        return self._send("POST", self._url(service, path), chunks, headers)[0]

    def _url(self, service: str, path: str) -> str:
        if service not in self._endpoints:
            raise Unavailable(f"the catalog has no service of type {service}")
        return self._endpoints[service] + path

    def _call(
        self, method: str, url: str, body: Mapping[str, Any] | None = None
    ) -> tuple[Any, Mapping[str, str]]:
        try:
            return self._call_once(method, url, body)
        except Refused as error:
            if error.status != HTTPStatus.UNAUTHORIZED or not self._kept:
                raise
        kept, self._kept = self._kept, None
        self._sign_in_and_keep(kept)  # The token has expired, or the cloud is another one.
        return self._call_once(method, url, body)

    def _call_once(
        self, method: str, url: str, body: Mapping[str, Any] | None
    ) -> tuple[Any, Mapping[str, str]]:
        headers = {"accept": "application/json", "openstack-api-version": "compute 2.79"}
        if self._token:
            headers["x-auth-token"] = self._token
        content = None
        if body is not None:
            headers["content-type"] = "application/json"
            content = json.dumps(body).encode()
        return self._send(method, url, content, headers)

    def _send(
        self, method: str, url: str, content: Any, headers: Mapping[str, str]
    ) -> tuple[Any, Mapping[str, str]]:
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection = self._connections.get(parts.netloc)
        if connection is None:
            connection = self._connect(parts.scheme, parts.netloc)
            self._connections[parts.netloc] = connection
        try:
            connection.request(method, target, body=content, headers=dict(headers))
            answer = connection.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException) as error:
            # The next call opens a new connection.
            connection.close()
            raise Unavailable(
                f"the API at {parts.netloc} does not answer", because=str(error)
            ) from error
        if answer.status >= 400:
            raise _refusal(method, parts.path, answer.status, said)
        lower = {name.lower(): value for name, value in answer.getheaders()}
        is_json = said and "json" in lower.get("content-type", "")
        return (json.loads(said) if is_json else said), lower

    def _connect(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        if scheme == "http":  # `cairn dev` has no certificate.
            return http.client.HTTPConnection(netloc, timeout=self._timeout_s)
        return http.client.HTTPSConnection(netloc, context=self._context, timeout=self._timeout_s)


def until(look: Callable[[], T | None], *, what: str, within_s: float) -> T:
    """What `look` returns when it is no longer None; CloudErrors that may pass are waited out too."""
    deadline = time.monotonic() + within_s
    last = ""
    while True:
        try:
            found = look()
        except Unavailable as error:
            found, last = None, str(error)
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{what} did not come about within {within_s:.0f} s", because=last or None
            )
        time.sleep(LOOK_EVERY_S)


class Refused(CloudError):
    """The API's answer was a fault; the demonstration treats 404 and 409 in their own way."""

    def __init__(self, message: str, *, status: int, because: str | None = None) -> None:
        super().__init__(message, because=because)
        self.status = status


def _refusal(method: str, path: str, status: int, said: bytes) -> CloudError:
    text = said.decode(errors="replace")[:2000]
    try:
        told = json.loads(text)
    except ValueError:
        told = text
    # Each service wraps its message in a key of its own: {"badRequest": {"message": …}}.
    while isinstance(told, dict):
        inner = told.get("message") or next(iter(told.values()), "")
        if told is inner:
            break
        told = inner
    return Refused(f"{told}", status=status, because=f"{method} {path} was answered with {status}")
