"""Aggregates over the API. Source: Nova's api-ref, "Host aggregates (os-aggregates)"."""

import re
from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from cairn.compute import aggregates, bodies
from cairn.compute.aggregates import Aggregate
from cairn.compute.bodies import Id, Strict, Text255
from cairn.compute.shapes import minor_of, time_text
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import ImageId, NodeId
from cairn.db.engine import Tx
from cairn.fleet import hosts
from cairn.fleet import service as fleet
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.http.versions import Version
from cairn.image import service as images

_KEY = re.compile(r"[a-zA-Z0-9\-_:. ]{1,255}")


class NewAggregate(Strict, frozen=True, kw_only=True):
    name: Text255
    availability_zone: Text255 | None = None


class CreateAggregate(Strict, frozen=True, kw_only=True):
    aggregate: NewAggregate


class ChangedAggregate(Strict, frozen=True, kw_only=True):
    name: Text255 | UnsetType = UNSET
    availability_zone: Text255 | UnsetType | None = UNSET


class UpdateAggregate(Strict, frozen=True, kw_only=True):
    aggregate: ChangedAggregate


class Host(Strict, frozen=True, kw_only=True):
    host: Text255


class Metadata(Strict, frozen=True, kw_only=True):
    metadata: dict[str, Text255 | None]


class Action(Strict, frozen=True, kw_only=True):
    """Exactly one of them."""

    add_host: Host | UnsetType = UNSET
    remove_host: Host | UnsetType = UNSET
    set_metadata: Metadata | UnsetType = UNSET


class CachedImage(Strict, frozen=True, kw_only=True):
    id: Id


class CacheImages(Strict, frozen=True, kw_only=True):
    cache: Annotated[tuple[CachedImage, ...], Meta(min_length=1, max_length=100)]


def index(tx: Tx, call: Call[None]) -> Any:
    names = hosts.names(tx)
    return {"aggregates": [_shown(a, call, names) for a in aggregates.list_all(tx)]}


def show(tx: Tx, call: Call[Any]) -> Any:
    return {"aggregate": _shown(aggregates.get(tx, _id(call)), call, hosts.names(tx))}


def create(tx: Tx, call: Call[CreateAggregate]) -> Any:
    asked = call.body.aggregate
    made = aggregates.create(tx, name=bodies.name_of(asked.name), zone=asked.availability_zone)
    body = _shown(made, call, {})
    # As Nova's answer: it was so before there were hosts and metadata.
    del body["hosts"], body["metadata"]
    return {"aggregate": body}


def update(tx: Tx, call: Call[UpdateAggregate]) -> Any:
    asked, aggregate_id = call.body.aggregate, _id(call)
    if asked.name is UNSET and asked.availability_zone is UNSET:
        raise Invalid("aggregate: it must have a name or an availability_zone.")
    if asked.name is not UNSET:
        aggregates.rename(tx, aggregate_id, bodies.name_of(asked.name))
    if asked.availability_zone is not UNSET:
        _change(tx, aggregate_id, {aggregates.ZONE: asked.availability_zone})
    return show(tx, call)


def delete(tx: Tx, call: Call[None]) -> None:
    try:
        aggregates.remove(tx, _id(call))
    except Conflict as error:
        raise Invalid(error.message) from error  # Nova's status for an aggregate that is not empty.


def act(tx: Tx, call: Call[Action]) -> Any:
    asked, aggregate_id = call.body, _id(call)
    said = [name for name in asked.__struct_fields__ if getattr(asked, name) is not UNSET]
    if len(said) != 1:
        raise Invalid(f"Exactly one of {', '.join(asked.__struct_fields__)} must be given.")
    call.require(f"os_compute_api:os-aggregates:{said[0]}")
    if isinstance(asked.add_host, Host):
        aggregates.add_host(tx, aggregate_id, asked.add_host.host)
    elif isinstance(asked.remove_host, Host):
        aggregates.remove_host(tx, aggregate_id, asked.remove_host.host)
    elif isinstance(asked.set_metadata, Metadata):
        for key in asked.set_metadata.metadata:
            if _KEY.fullmatch(key) is None:
                raise Invalid(
                    f"metadata: the key '{key[:60]}' must be letters, digits and '-_:. '."
                )
        _change(tx, aggregate_id, asked.set_metadata.metadata)
    return show(tx, call)


def cache_images(tx: Tx, call: Call[CacheImages]) -> None:
    """Its hosts fetch the images before a server needs them."""
    aggregate = aggregates.get(tx, _id(call))
    wanted: list[ImageId] = []
    for image in call.body.cache:
        image_id = ImageId(image.id)
        if image_id in wanted:
            raise Invalid(f"cache: image {image_id} is named twice.")
        if images.spec_of(tx, image_id) is None:
            raise Invalid(f"cache: image {image_id} does not exist, or has no data.")
        wanted.append(image_id)
    for node_id in aggregate.node_ids:
        fleet.want_images(tx, NodeId(node_id), tuple(wanted))


def _change(tx: Tx, aggregate_id: int, changes: dict[str, str | None]) -> None:
    try:
        aggregates.change_metadata(tx, aggregate_id, changes)
    except Conflict as error:
        raise Invalid(error.message) from error  # Nova's status for a zone that cannot change.


def _id(call: Call[Any]) -> int:
    text = call.path["aggregate_id"]
    if not (text.isdecimal() and text.isascii()) or len(text) > 9:
        raise NotFound(f"Aggregate {text[:36]} could not be found.")
    return int(text)


def _shown(aggregate: Aggregate, call: Call[Any], names: dict[NodeId, str]) -> dict[str, Any]:
    updated_at = aggregate.updated_at
    body: dict[str, Any] = {
        "id": aggregate.id,
        "name": aggregate.name,
        "availability_zone": aggregate.zone,
        "hosts": sorted(names[i] for i in aggregate.node_ids if i in names),
        "metadata": aggregate.metadata,
        "created_at": _precise(time_text(aggregate.created_at)),
        "updated_at": _precise(time_text(updated_at)) if updated_at is not None else None,
        "deleted_at": None,
        "deleted": False,
    }
    return body | ({"uuid": aggregate.uuid} if minor_of(call) >= 41 else {})


def _precise(text: str) -> str:
    return text[:-1] + ".000000"


def _route(method: str, path: str, rule: str, do: Any, **options: Any) -> Route:
    name = f"os_compute_api:os-aggregates:{rule}"
    path = f"/v2.1/os-aggregates{path}"
    return Route(method=method, path=path, rule=name, do=do, **options)


_ONE = "/{aggregate_id}"

ROUTES = (
    _route("GET", "", "index", index),
    _route("POST", "", "create", create, body=CreateAggregate),
    _route("GET", _ONE, "show", show),
    _route("PUT", _ONE, "update", update, body=UpdateAggregate),
    _route("DELETE", _ONE, "delete", delete),
    _route("POST", _ONE + "/action", "show", act, body=Action),
    _route(
        "POST",
        _ONE + "/images",
        "images",
        cache_images,
        body=CacheImages,
        status=202,
        since=Version(2, 81),
    ),
)
