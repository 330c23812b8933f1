"""Requests to identity providers: bounded in time, size and number, over TLS that is checked.

A provider is somebody else's: it may be down, slow, or answer anything. What it cannot do is hold a
request for longer than some seconds, fill our memory, or send us elsewhere (redirects are not followed).
"""

import ssl
from collections.abc import Mapping

import aiohttp
import msgspec
from msgspec import Struct

from cairn.core.errors import Unavailable
from cairn.identity.federation.records import OidcClient

ANSWER_BYTES_MAX = 1 << 20
ANSWER_S_MAX = 8.0
CONNECT_S_MAX = 4.0
AT_ONCE_MAX = 64
CONTEXTS_MAX = 64

_SORRY = "The identity provider cannot be asked at the moment."


class Answer(Struct, frozen=True):
    status: int
    body: bytes


def unavailable(client: OidcClient, because: str) -> Unavailable:
    """What the user hears of a provider's failure; the reason is for the operator."""
    return Unavailable(_SORRY, because=f"provider {client.provider_id}: {because}")


class Asker:
    """Sends requests to providers. Only on the event loop."""

    def __init__(self) -> None:
        self._under_way = 0
        self._contexts: dict[str, ssl.SSLContext] = {}

    async def ask(
        self,
        client: OidcClient,
        url: str,
        *,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """GET, or POST of a form. Raises Unavailable when there is no answer that can be read."""
        if self._under_way >= AT_ONCE_MAX:
            raise unavailable(client, f"{AT_ONCE_MAX} requests to providers are under way already")
        self._under_way += 1
        try:
            return await self._ask(client, url, form, headers or {})
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise unavailable(client, f"{url}: {error!r}"[:500]) from error
        except TimeoutError as error:
            raise unavailable(client, f"{url}: no answer within {ANSWER_S_MAX} s") from error
        finally:
            self._under_way -= 1

    async def _ask(
        self,
        client: OidcClient,
        url: str,
        form: Mapping[str, str] | None,
        headers: Mapping[str, str],
    ) -> Answer:
        # A session for each: sign-ins are rare, and nothing of one user's may reach another's.
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._context(client.ca_certificates)),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=ANSWER_S_MAX, sock_connect=CONNECT_S_MAX),
                auto_decompress=False,  # What little becomes much is not taken.
            ) as session,
            session.request(
                "GET" if form is None else "POST",
                url,
                data=form,
                headers={"Accept": "application/json", "Accept-Encoding": "identity", **headers},
                allow_redirects=False,
            ) as answer,
        ):
            body = bytearray()
            async for chunk in answer.content.iter_chunked(1 << 16):
                body += chunk
                if len(body) > ANSWER_BYTES_MAX:
                    raise unavailable(
                        client, f"{url} answers with more than {ANSWER_BYTES_MAX} bytes"
                    )
            return Answer(answer.status, bytes(body))

    def _context(self, pem: str) -> ssl.SSLContext:
        if pem not in self._contexts:
            if len(self._contexts) >= CONTEXTS_MAX:
                self._contexts.clear()
            self._contexts[pem] = ssl.create_default_context(cadata=pem or None)
        return self._contexts[pem]


def document(client: OidcClient, url: str, answer: Answer) -> dict[str, object]:
    """The JSON object in a good answer. Raises Unavailable on anything else."""
    if answer.status != 200:
        raise unavailable(client, f"{url} answers with {answer.status}")
    try:
        return msgspec.json.decode(answer.body, type=dict[str, object])
    except (msgspec.DecodeError, RecursionError) as error:
        raise unavailable(client, f"{url} answers with no JSON object: {error}"[:300]) from error
