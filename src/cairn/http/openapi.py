"""OpenAPI 3.1 of the services, generated from their route tables: what is not in a table is not in here.

Each service tells its own at `<root>/openapi.json`, the operator's service that of all at `/openapi.json`;
without a token, for what is in it stands in the source, too, and programs read it before they sign in.
Bodies are the Structs that requests must be; replies are declared by a route that cares to (`Route.reply`).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from cairn import __version__
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.faults import JSON, TITLES
from cairn.http.routes import Reply, Route, Service

PATH = "/openapi.json"
_ERRORS = (400, 404, 406, 408, 413, 414, 429, 431, 503)  # any request may hear these
_GUARDED = (401, 403)  # some without a rule judge by a secret of their own
_CHANGING = (409, 412, 415)
_REF = "#/components/schemas/{name}"
_SECURITY = {
    "token": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Auth-Token",
        "description": "From `POST /identity/v3/auth/tokens`, in the reply's `X-Subject-Token`.",
    }
}


def document(services: Sequence[Service], *, title: str) -> dict[str, Any]:
    """The document of these services, without `servers`."""
    schemas, components = _schemas(services)
    paths: dict[str, dict[str, Any]] = {}
    for service in services:
        for route in service.routes:
            item = paths.setdefault(service.root + route.path, {})
            method = route.method.lower()
            made = _operation(service, route, schemas)
            item[method] = made if method not in item else _merged(item[method], made)
    refusals: dict[str, Any] = {}
    for service in services:
        components[f"{service.name}-fault"] = fault_schema(service)
        refusals |= _refusals(service)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": refusals,
            "securitySchemes": _SECURITY,
        },
    }


def with_documents(services: Sequence[Service]) -> list[Service]:
    """The services with a route each that tells its document; the one at the root tells of all."""
    made: list[Service] = []
    for service in services:
        of_all = service.root == ""
        told = _Told(f"Cairn {'' if of_all else service.kind}".strip(), lambda: made, service.name)
        route = Route(method="GET", path=PATH, rule=None, do=told.show, reply=dict[str, Any])
        made.append(msgspec.structs.replace(service, routes=(*service.routes, route)))
    return made


class _Told:
    """A document, made when it is first asked for."""

    def __init__(self, title: str, services: Any, name: str) -> None:
        self._title = title
        self._services = services
        self._name = name
        self._text = b""

    def show(self, tx: Tx, call: Call[Any]) -> Reply:
        if not self._text:
            every = self._services()
            own = [s for s in every if s.name == self._name]
            known = every if own[0].root == "" else own
            self._text = msgspec.json.encode(document(known, title=self._title))
        servers = msgspec.json.encode([{"url": call.base_url}])
        return Reply(
            body=b'{"servers":' + servers + b"," + self._text[1:],
            headers={"Cache-Control": "no-cache", "Vary": "Host"},
        )


def fault_schema(service: Service) -> dict[str, Any]:
    """What a refusal of the service looks like, by asking it for one."""
    body, content_type = service.shape_fault(404, "It could not be found.")
    if not content_type.startswith(JSON):
        return {"type": "string"}
    return _fault(msgspec.json.decode(body), name_varies=service.name in ("nova", "cinder"))


def _fault(body: Mapping[str, Any], *, name_varies: bool) -> dict[str, Any]:
    if name_varies:
        inner = _fault(next(iter(body.values())), name_varies=False)
        return {"type": "object", "minProperties": 1, "additionalProperties": inner}
    return {
        "type": "object",
        "required": sorted(body),
        "properties": {key: _like(value) for key, value in body.items()},
    }


def _like(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return _fault(value, name_varies=False)
    if isinstance(value, list):
        return {"type": "array", "items": _like(value[0]) if value else {}}
    return {"type": "integer" if isinstance(value, int) else "string"}


def _schemas(services: Iterable[Service]) -> tuple[dict[int, Any], dict[str, Any]]:
    """Of every type in the tables, by its id; and what they refer to."""
    kinds: dict[int, Any] = {}
    for service in services:
        for route in service.routes:
            for kind in (route.body, route.reply):
                if kind not in (None, object):
                    kinds[id(kind)] = kind
    found, components = msgspec.json.schema_components(
        tuple(kinds.values()), ref_template=_REF, schema_hook=lambda kind: {}
    )
    plain = {name: _without_defaults(schema) for name, schema in components.items()}
    return dict(zip(kinds, map(_without_defaults, found), strict=True)), plain


def _without_defaults(schema: Any) -> Any:
    """A field that may be left out has a default that need not be good when it is said: no list, say."""
    if isinstance(schema, list):
        return [_without_defaults(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _without_defaults(inner) for name, inner in value.items()}
        if key == "properties"
        else _without_defaults(value)
        for key, value in schema.items()
        if key != "default"
    }


def _operation(service: Service, route: Route, schemas: Mapping[int, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": operation_id(service, route),
        "tags": [service.kind],
        "parameters": [*_parameters(service, route)],
        "responses": _responses(service, route, schemas),
        "security": [] if route.rule is None else [{"token": []}],
    }
    if route.rule is not None:
        made["x-policy"] = route.rule
    if route.since or route.until:
        made["x-microversions"] = {
            "since": str(route.since) if route.since else None,
            "until": str(route.until) if route.until else None,
        }
    if route.streams:
        binary = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
        made["requestBody"] = {"content": {"application/octet-stream": binary}}
    elif route.body is not None:
        schema = schemas.get(id(route.body), {})
        made["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    return made


def operation_id(service: Service, route: Route) -> str:
    words = [service.name, route.method.lower(), *route.path.split("/")]
    name = "_".join(w.strip("{}").replace("-", "_").replace(".", "_") for w in words if w)
    return f"{name}_since_{route.since}".replace(".", "_") if route.since else name


def _parameters(service: Service, route: Route) -> Iterable[dict[str, Any]]:
    for part in route.path.split("/"):
        if part.startswith("{"):
            name = part[1:-1].partition(":")[0]
            text = {"type": "string", "minLength": 1}
            yield {"name": name, "in": "path", "required": True, "schema": text}
    for name in route.query:
        integer = {"type": "integer", "minimum": 0, "maximum": 10**9 - 1}
        schema: dict[str, Any] = integer if name == "limit" else {"type": "string"}
        yield {"name": name, "in": "query", "schema": schema}
    if service.versions is not None:
        known = service.versions
        spoken = f"`{known.service} {known.minimum}` to `{known.service} {known.maximum}`"
        yield {
            "name": "OpenStack-API-Version",
            "in": "header",
            "description": f"{spoken}, or `{known.service} latest`",
            "schema": {"type": "string", "examples": [f"{known.service} {known.maximum}"]},
        }


def _responses(service: Service, route: Route, schemas: Mapping[int, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "As asked.", "headers": _headers(service)}
    if route.status != 204:
        if route.reply is not None:
            good["content"] = {JSON: {"schema": schemas.get(id(route.reply), {})}}
        elif not route.streams:
            good["content"] = {JSON: {}, "*/*": {}} if route.method == "GET" else {JSON: {}}
    statuses = [*_ERRORS]
    statuses += _GUARDED
    statuses += _CHANGING if route.changes else ()
    bad = {
        str(status): {"$ref": f"#/components/responses/{service.name}-{status}"}
        for status in sorted(statuses)
    }
    other = {"$ref": f"#/components/responses/{service.name}-other"}
    return {**bad, **{str(s): good for s in (route.status, *route.also)}, "default": other}


def _refusals(service: Service) -> dict[str, Any]:
    """Every refusal, once: the routes refer to it."""
    content = _fault_content(service)
    made: dict[str, Any] = {
        f"{service.name}-{status}": {
            "description": TITLES.get(status, "Refused"),
            "headers": _headers(service),
            "content": content,
        }
        for status in {*_ERRORS, *_GUARDED, *_CHANGING}
    }
    other = {"description": "Refused, or good in another way.", "content": {"*/*": {}}}
    return {**made, f"{service.name}-other": other}


def _fault_content(service: Service) -> dict[str, Any]:
    _, content_type = service.shape_fault(404, "")
    reference = {"$ref": _REF.format(name=f"{service.name}-fault")}
    return {content_type.partition(";")[0]: {"schema": reference}}


def _headers(service: Service) -> dict[str, Any]:
    names = ["X-Openstack-Request-Id"]
    if service.request_id_header:
        names.append(service.request_id_header)
    if service.versions is not None:
        names += ["OpenStack-API-Version", "Vary"]
    return {name: {"schema": {"type": "string"}} for name in names}


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two routes that differ in microversion: a document knows one operation of a method and a path."""
    made = {**one}
    bodies = [o["requestBody"]["content"][JSON]["schema"] for o in (one, other)
              if JSON in o.get("requestBody", {}).get("content", {})]  # fmt: skip
    if len(bodies) == 2 and bodies[0] != bodies[1]:
        first = bodies[0].get("anyOf", [bodies[0]]) if set(bodies[0]) == {"anyOf"} else [bodies[0]]
        both = {"anyOf": [*first, bodies[1]]}
        made["requestBody"] = {"required": True, "content": {JSON: {"schema": both}}}
    elif len(bodies) == 1 and "requestBody" not in one:
        made["requestBody"] = {**other["requestBody"], "required": False}
    made["responses"] = {**other["responses"], **one["responses"]}
    versions = [o.get("x-microversions", {"since": None, "until": None}) for o in (one, other)]
    made["x-microversions"] = {"since": versions[0]["since"], "until": versions[-1]["until"]}
    return made
