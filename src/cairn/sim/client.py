"""HTTP without sockets: one request straight into the ASGI application, everything else as on the wire."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct


class Answer(Struct, frozen=True, kw_only=True):
    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def body(self) -> Any:
        return msgspec.json.decode(self.data) if self.data else None


async def request(
    app: Any,
    method: str,
    target: str,
    body: Any = None,
    *,
    token: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """`body`: bytes as they are, anything else as JSON."""
    data = b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
    sent = {"host": "sim", "content-length": str(len(data)), **(headers or {})}
    if token is not None:
        sent["x-auth-token"] = token
    if body is not None:
        sent.setdefault("content-type", "application/json")
    path, _, query = target.partition("?")
    events = [{"type": "http.request", "body": data, "more_body": False}]
    status = 0
    answered: dict[str, str] = {}
    chunks: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return events.pop(0) if events else {"type": "http.disconnect"}

    async def send(event: dict[str, Any]) -> None:
        nonlocal status
        if event["type"] == "http.response.start":
            status = event["status"]
            answered.update((k.decode().lower(), v.decode()) for k, v in event["headers"])
        else:
            chunks.append(event.get("body", b""))

    await app(_scope(method, path, query, sent), receive, send)
    return Answer(status=status, headers=answered, data=b"".join(chunks))


def _scope(method: str, path: str, query: str, headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("sim", 443),
    }
