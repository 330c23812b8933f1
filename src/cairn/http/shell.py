"""A request's way: route, request id, token, version, policy, body, transaction, reply.

Falcon routes; everything else of a request is here, once, for all services. Whatever goes wrong leaves
as a reply in the service's own shape with the request's id, and as one log line with the cause.
"""

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import falcon
import falcon.asgi
import msgspec
import structlog

from cairn.core import log
from cairn.core.caller import Caller
from cairn.core.errors import CloudError, Denied, Invalid, Unauthenticated
from cairn.db.engine import Database, Tx
from cairn.http import access, faults, limits
from cairn.http.auditing import AuditedDatabase, Auditor, Deed
from cairn.http.call import Call, Query, global_id
from cairn.http.faults import HttpFault
from cairn.http.origin import Origins
from cairn.http.policy import Policy
from cairn.http.rates import Limiter, Rates
from cairn.http.routes import Reply, Route, Service
from cairn.http.versions import BadVersion, Version, VersionNotServed

Authenticate = Callable[[str], Caller]
"""A token's text to who it stands for; raises Unauthenticated. Must not touch the database or wait."""

Observe = Callable[[Service, Route, int, float], None]
"""Told of each finished request: service, route, status, seconds."""

REQUEST_SECONDS_MAX = 60.0
_log = log.get("http")
_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder().decode
_NO_QUERY = Query("")


class Shell:
    """The ASGI application over a set of services."""

    def __init__(
        self,
        *,
        services: Sequence[Service],
        database: Database,
        authenticate: Authenticate,
        observe: Observe | None = None,
        policies: Mapping[str, Policy] | None = None,
        auditor: Auditor | None = None,
        origins: Origins | None = None,
        limiter: Limiter | None = None,
    ) -> None:
        self.services = tuple(services)
        self.database = database
        self.authenticate = authenticate
        self.observe = observe
        self.auditor = auditor
        self.origins = origins or Origins()
        self.limiter = limiter or Limiter(Rates())
        self.policies = policies or {s.name: Policy(s.policy) for s in services}
        self.app = falcon.asgi.App()
        for kind in (Exception, falcon.HTTPError):
            self.app.add_error_handler(kind, self._on_error)
        for service in services:
            self._mount(service)
            if service.root:  # Below the bare root, others (consoles' pages) mount their own.
                self.app.add_sink(_refuse_unknown, prefix=service.root + "/")

    def _mount(self, service: Service) -> None:
        by_path: dict[str, dict[str, list[Route]]] = defaultdict(lambda: defaultdict(list))
        for route in service.routes:
            by_path[route.path][route.method].append(route)
        for path, methods in by_path.items():
            full = (service.root + path).rstrip("/") or "/"
            resource = self._resource(service, methods)
            self.app.add_route(full, resource)
            # Clients write documents of discovery in both forms. Below them, what follows the last
            # slash is an id, and none at all is not the same as the collection; but where the service
            # says so, nobody minds a slash at the end.
            if (path.count("/") == 1 or service.ignores_last_slash) and full != "/":
                self.app.add_route(full + "/", resource)

    def _resource(self, service: Service, methods: Mapping[str, list[Route]]) -> object:
        """An object with one responder a method, as Falcon wants it."""
        responders = {}
        if "GET" in methods and "HEAD" not in methods:
            methods = {**methods, "HEAD": methods["GET"]}
        for method, routes in methods.items():
            responders[f"on_{method.lower()}"] = _Responder(self, service, tuple(routes)).respond
        return type("Resource", (), {name: staticmethod(f) for name, f in responders.items()})()

    def refusal(self, path: str, status: int, message: str) -> tuple[bytes, Mapping[str, str]]:
        """Body and headers that refuse what never became a request, in its service's shape."""
        service = self._service_of(path)
        shape = service.shape_fault if service else faults.keystone
        body, content_type = shape(status, message)
        headers = {"content-type": content_type}
        return body, headers | _request_ids(service, f"req-{uuid.uuid4()}")

    def _service_of(self, path: str) -> Service | None:
        return next((s for s in self.services if s.root and _is_below(path, s.root)), None)

    async def _on_error(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: Any
    ) -> None:
        """Faults of the routing itself; a request that reached its responder never comes here."""
        service = self._service_of(req.path)
        shape = service.shape_fault if service else faults.keystone
        status = int(str(getattr(error, "status", "500"))[:3])
        if status >= 500:
            _log.error("request failed", path=req.path, exc_info=error)
        message = {404: "The resource could not be found.", 405: "Method not allowed."}.get(
            status, "The server has failed while it handled the request."
        )
        body, content_type = shape(status, message)
        resp.status = status
        resp.data, resp.content_type = body, content_type
        for name, value in _request_ids(service, f"req-{uuid.uuid4()}").items():
            resp.set_header(name, value)
        for name, value in (getattr(error, "headers", None) or {}).items():
            resp.set_header(name, value)


def _is_below(path: str, root: str) -> bool:
    return path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/")


def _request_ids(service: Service | None, request_id: str) -> dict[str, str]:
    headers = {"X-Openstack-Request-Id": request_id}
    if service is not None and service.request_id_header:
        headers[service.request_id_header] = request_id
    return headers


async def _refuse_unknown(req: Any, resp: Any, **_: Any) -> None:
    raise falcon.HTTPNotFound


class _Responder:
    """All routes of one method on one path: they differ in microversion only."""

    def __init__(self, shell: Shell, service: Service, routes: tuple[Route, ...]) -> None:
        self._shell = shell
        self._service = service
        self._routes = routes
        self._policy = shell.policies[service.name]
        self._is_probe = any(r.path == "/healthz" for r in routes)  # Balancers ask it, and often.
        self._decoders = {
            id(r): msgspec.json.Decoder(r.body).decode if r.body not in (None, object) else None
            for r in routes
        }
        for route in routes:
            assert (route.do is None) != (route.run is None), f"{route.path}: one of do and run"
            assert route.rule is None or route.rule in self._policy.rules, f"no rule {route.rule}"

    async def respond(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, **path: str
    ) -> None:
        started = time.perf_counter()
        request_id = f"req-{uuid.uuid4()}"
        service = self._service
        route = self._routes[0]
        version: Version | None = None
        try:
            headers = _lower(req.headers)
            version = service.versions.asked(headers) if service.versions else None
            route = self._route_for(version)
            reply = await self._answer(req, headers, route, version, path, request_id)
            _write_reply(resp, route, reply)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._refuse(req, resp, error, request_id)
        if service.versions:
            for name, value in service.versions.reply_headers(version).items():
                resp.set_header(name, value)
        for name, value in _request_ids(service, request_id).items():
            resp.set_header(name, value)
        if self._shell.observe:
            seconds = time.perf_counter() - started
            self._shell.observe(service, route, int(str(resp.status)[:3]), seconds)

    def _route_for(self, version: Version | None) -> Route:
        for route in self._routes:
            if version is None or (
                (route.since is None or version >= route.since)
                and (route.until is None or version <= route.until)
            ):
                return route
        raise HttpFault(404, "The resource could not be found in this API version.")

    async def _answer(
        self,
        req: falcon.asgi.Request,
        headers: Mapping[str, str],
        route: Route,
        version: Version | None,
        path: Mapping[str, str],
        request_id: str,
    ) -> Reply:
        shell = self._shell
        origin = shell.origins.of(
            headers, scheme=req.scheme, server=lambda: req.netloc, peer=req.remote_addr
        )
        if not self._is_probe:
            _require_pace(shell.limiter.address(origin.peer), "address")
        caller = self._caller(route, headers, request_id)
        if caller is not None and caller.project_id is not None:
            _require_pace(shell.limiter.project(caller.project_id), "project")
        call: Call[Any] = Call(
            caller=caller,
            path=path,
            query=_NO_QUERY,
            body=None,
            headers=headers,
            base_url=origin.base_url,
            url_path=req.path,
            request_id=request_id,
            policy=self._policy,
            version=version,
            stream=_chunks(req) if route.streams else None,
            peer=origin.peer,
        )
        if caller is None and route.method == "POST" and self._service.kind == "identity":
            return await self._signed_in(req, route, call)
        return await self._handled(req, route, call)

    async def _signed_in(self, req: falcon.asgi.Request, route: Route, call: Call[Any]) -> Reply:
        """A request that proves who somebody is. How often it may fail is bounded by address."""
        limiter = self._shell.limiter
        _require_pace(limiter.sign_in(call.peer), "address")
        has_failed = False
        try:
            return await self._handled(req, route, call)
        except Unauthenticated:
            has_failed = True
            raise
        finally:
            if not has_failed:
                limiter.signed_in(call.peer)

    async def _admit(self, req: falcon.asgi.Request, route: Route, call: Call[Any]) -> None:
        """Whether this may be asked at all; then the call has its query and its body."""
        if "\0" in req.path or "%00" in req.query_string:
            raise Invalid("The address must not contain a NUL character.")
        caller = call.caller
        if caller is not None:
            access.require(caller, self._service, req.method, req.path)
            if route.target is None:
                self._require(route, caller, call.path, {})
        if "" in call.path.values():
            raise HttpFault(
                404, "The resource could not be found: the address ends in an empty id."
            )
        call.query = _query(req)
        call.body = await self._body_of_allowed(req, route, caller, call.path)

    def _require(
        self,
        route: Route,
        caller: Caller,
        path: Mapping[str, str],
        target: Mapping[str, str | None],
    ) -> None:
        assert route.rule is not None, "whoever calls was asked for a token"
        known = {**path, "project_id": caller.project_id, **target}
        if not self._policy.allows(route.rule, caller, known):
            raise Denied(f"Policy does not allow this request: rule '{route.rule}'.")

    async def _body_of_allowed(
        self, req: falcon.asgi.Request, route: Route, caller: Caller | None, path: Mapping[str, str]
    ) -> Any:
        """The body. What is wrong with it hears only who may make the request with some body or other."""
        if route.streams:
            return None
        try:
            return await self._body(req, route)
        except (CloudError, HttpFault):
            if caller is not None and route.target is not None:
                self._require(route, caller, path, {})
            raise

    def _caller(self, route: Route, headers: Mapping[str, str], request_id: str) -> Caller | None:
        if route.rule is None:
            return None
        token = headers.get("x-auth-token")
        if not token:
            raise Unauthenticated("The request you have made requires authentication.")
        caller = self._shell.authenticate(token)
        return msgspec.structs.replace(caller, request_id=request_id)

    async def _body(self, req: falcon.asgi.Request, route: Route) -> Any:
        length = req.content_length
        if length is not None and length > route.body_bytes_max:
            raise HttpFault(413, f"The body may have at most {route.body_bytes_max} bytes.")
        if route.body is None:
            return None
        data = await _whole(req, route.body_bytes_max)
        if b"\\u0000" in data or b"\0" in data:
            raise Invalid("Invalid input: text must not contain a NUL character.")
        kind = (req.content_type or "application/json").split(";")[0].strip().lower()
        if kind != "application/json" and not (kind.startswith("application/") and "json" in kind):
            raise HttpFault(415, f"Unsupported Content-Type '{kind[:60]}'; use application/json.")
        limits.require_shallow(data)
        limits.require_short_numbers(data)
        try:
            decode = self._decoders[id(route)] or _decode_any
            return decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
            raise Invalid(f"Invalid input: {error}") from error

    async def _handled(self, req: falcon.asgi.Request, route: Route, call: Call[Any]) -> Reply:
        """Run the handler. Whatever it changes is told to the auditor in the same transaction, and what
        was refused to somebody who said who they are, or tried to, after it."""
        deed = Deed(service=self._service, route=route, call=call)
        auditor = self._shell.auditor
        try:
            await self._admit(req, route, call)
            result = await self._run(route, call, deed, auditor)
        except Exception as error:
            if auditor is not None and route.changes:
                auditor.refused(deed, self._verdict(error)[0], error)
            raise
        if auditor is not None and route.changes:
            auditor.answered(deed, result)
        return result if isinstance(result, Reply) else Reply(body=result)

    async def _run(self, route: Route, call: Call[Any], deed: Deed, auditor: Auditor | None) -> Any:
        database = self._shell.database
        if route.run is not None:
            if route.target is not None:
                await database.read(lambda tx: self._require_target(tx, route, call))
            audited = database if auditor is None else AuditedDatabase.over(database, deed, auditor)
            return await route.run(audited, call)
        do = route.do
        assert do is not None

        def act(tx: Tx) -> Any:
            if route.target is not None:
                self._require_target(tx, route, call)
            result = do(tx, call)
            if auditor is not None and route.changes:
                auditor.done(tx, deed, result)
            return result

        async with asyncio.timeout(REQUEST_SECONDS_MAX):
            if route.changes:
                return await database.write(act)
            return await database.read(act, stale_ok=route.stale_ok)

    def _require_target(self, tx: Tx, route: Route, call: Call[Any]) -> None:
        assert route.target is not None, "only routes with a target are asked for it"
        self._require(route, call.who, call.path, route.target(tx, call))

    def _refuse(
        self, req: Any, resp: falcon.asgi.Response, error: Exception, request_id: str
    ) -> None:
        status, message, headers = self._verdict(error)
        names = {"request_id": request_id}
        if whole := global_id(req.get_header("X-Openstack-Request-Id")):
            names["global_request_id"] = whole
        with structlog.contextvars.bound_contextvars(**names):
            if isinstance(error, CloudError) and error.because:
                # Foreseen: where it came from tells less than why, and an outage makes many of them.
                tell = _log.warning if status >= 500 else _log.info
                tell("refused", path=req.path, status=status, because=error.because)
            elif status >= 500:
                _log.error("request failed", method=req.method, path=req.path, exc_info=error)
        body, content_type = self._service.shape_fault(status, message)
        resp.status = status
        if req.method != "HEAD":
            resp.data = body
        resp.content_type = content_type
        for name, value in headers.items():
            resp.set_header(name, value)

    def _verdict(self, error: Exception) -> tuple[int, str, dict[str, str]]:
        if isinstance(error, HttpFault):
            return error.status, error.message, error.headers
        if isinstance(error, Unauthenticated):
            return 401, error.message, {"WWW-Authenticate": 'Keystone uri="/identity/v3"'}
        if isinstance(error, CloudError):
            status = faults.status_of(error, self._service.statuses)
            return status, error.message, {"Retry-After": "1"} if status == 503 else {}
        if isinstance(error, BadVersion):
            return 400, str(error), {}
        if isinstance(error, VersionNotServed):
            return 406, str(error), {}
        if isinstance(error, TimeoutError):
            return 503, "The request took too long and was given up; nothing was changed.", {}
        return 500, "The server has failed while it handled the request.", {}


def _write_reply(resp: falcon.asgi.Response, route: Route, reply: Reply) -> None:
    status = reply.status or route.status
    resp.status = status
    for name, value in reply.headers.items():
        if name == "Set-Cookie":  # The one header that may be there more than once.
            resp.append_header(name, value)
        else:
            resp.set_header(name, value)
    if reply.stream is not None:
        resp.content_type = reply.content_type
        resp.stream = reply.stream
        if reply.content_length is not None:
            resp.content_length = reply.content_length
    elif reply.body is None or status == 204:
        if status not in (204, 304):
            # Without a type, clients that parse by type would stumble over an empty body.
            resp.content_type = reply.content_type
            resp.data = b""
    else:
        resp.content_type = reply.content_type
        resp.data = reply.body if isinstance(reply.body, bytes) else _encode(reply.body)


def _lower(headers: Mapping[str, str]) -> Mapping[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _query(req: falcon.asgi.Request) -> Query:
    try:
        return Query(req.query_string)
    except ValueError as error:
        raise Invalid("The query string has too many fields.") from error


async def _whole(req: falcon.asgi.Request, bytes_max: int) -> bytes:
    """The body of a request that is not streamed."""
    data = b""
    try:
        async with asyncio.timeout(limits.BODY_S):
            async for chunk in req.stream:
                data = data + chunk if data else chunk
                if len(data) > bytes_max:
                    raise HttpFault(413, f"The body may have at most {bytes_max} bytes.")
    except TimeoutError:
        raise _late() from None
    return bytes(data)


def _late() -> HttpFault:
    return HttpFault(408, "The body did not come in time.", {"Connection": "close"})


def _require_pace(wait_s: int, whose: str) -> None:
    if wait_s:
        raise HttpFault(
            429,
            f"Too many requests of this {whose}; try again in {wait_s} s.",
            {"Retry-After": str(wait_s)},
        )


async def _chunks(req: falcon.asgi.Request) -> AsyncIterator[bytes]:
    """The body's bytes; Invalid when the client goes before the end.

    Falcon ends the stream in either case, and a chunked body has no length to compare with: without
    this, half an upload would pass for a whole one.
    """
    stream = req.stream
    receive = stream._receive
    began = time.monotonic()
    taken = 0

    async def receive_all() -> Any:
        nonlocal taken
        event = await receive()
        taken += len(event.get("body", b""))
        lasts_s = time.monotonic() - began
        if lasts_s > limits.STREAM_GRACE_S and taken < lasts_s * limits.STREAM_BYTES_PER_S_MIN:
            raise _late()
        if event["type"] == "http.disconnect":
            raise Invalid("The connection ended before the body did.")
        return event

    stream._receive = receive_all
    async for chunk in stream:
        yield chunk
