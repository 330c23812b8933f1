"""An OpenID provider that says, signs and does whatever a test wants, in a thread on loopback."""

import asyncio
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

START_S_MAX = 10


class Key:
    """A key that signs, and how it is published."""

    def __init__(self, algorithm: str, kid: str, private: Any) -> None:
        self.algorithm, self.kid, self.private = algorithm, kid, private

    @property
    def public(self) -> dict[str, Any]:
        known = get_default_algorithms()[self.algorithm]
        document = json.loads(known.to_jwk(self.private.public_key()))
        return {**document, "kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        wanted = {"kid": self.kid, **header}
        sent = {name: value for name, value in wanted.items() if value is not None}
        return jwt.encode(claims, self.private, algorithm=self.algorithm, headers=sent)


def rsa_key(kid: str = "rsa", bits: int = 2048, algorithm: str = "RS256") -> Key:
    return Key(algorithm, kid, rsa.generate_private_key(public_exponent=65537, key_size=bits))


def ec_key(kid: str = "ec") -> Key:
    return Key("ES256", kid, ec.generate_private_key(ec.SECP256R1()))


def ed_key(kid: str = "ed") -> Key:
    return Key("EdDSA", kid, ed25519.Ed25519PrivateKey.generate())


class Hostile:
    """`says[path]` is what a path answers: a document, or a function that makes the response."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.issuer = ""
        self.hits: Counter[str] = Counter()
        self.says: dict[str, Any] = {}

    def behave(self) -> None:
        """As a good provider does, and with nothing counted."""
        self.hits.clear()
        self.says = {
            "/.well-known/openid-configuration": self.discovery(),
            "/keys": {"keys": [self.key.public]},
        }

    def discovery(self, **changes: Any) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/keys",
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "introspection_endpoint": f"{self.issuer}/introspect",
            **changes,
        }

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Of a good id token; what is changed to None is left out."""
        now = int(time.time())
        good = {
            "iss": self.issuer, "sub": "s1", "aud": "cloud", "exp": now + 60, "iat": now,
            "preferred_username": "ann", "groups": ["ops"],
        }  # fmt: skip
        return {k: v for k, v in {**good, **changes}.items() if v is not None}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.hits[request.path] += 1
        said = self.says.get(request.path)
        if said is None:
            return web.Response(status=404)
        if callable(said):
            made: web.StreamResponse = await said(request)
            return made
        return web.json_response(said)


@contextmanager
def running(key: Key, tls: ssl.SSLContext | None = None) -> Iterator[Hostile]:
    hostile = Hostile(key)
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", hostile.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        hostile.issuer = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        return runner

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(START_S_MAX)
    try:
        yield hostile
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=START_S_MAX)
