"""The tables of images, their tags, properties and members.

Tags and properties are rows, not JSON, because lists filter by them. Lists read their children by two
more statements, however long the page.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    ForeignKey,
    Index,
    Integer,
    Row,
    String,
    Table,
    Text,
    and_,
    bindparam,
    exists,
    false,
    func,
    or_,
    select,
)

from cairn.core.errors import Conflict, Invalid
from cairn.core.ids import ImageId, ProjectId
from cairn.db.columns import Json, Time, id_column, metadata
from cairn.db.engine import Tx
from cairn.db.prepared import Prepared
from cairn.image.records import (
    Content,
    Image,
    ImageStatus,
    ImportTask,
    Member,
    MemberStatus,
    Usage,
    Visibility,
)

images = Table(
    "images",
    metadata,
    id_column(primary_key=True),
    Column("name", String(255)),
    id_column("owner"),
    Column("status", String(16), nullable=False),
    Column("visibility", String(16), nullable=False),
    Column("is_protected", Boolean, nullable=False),
    Column("is_hidden", Boolean, nullable=False),
    Column("format", String(16)),
    Column("container", String(16)),
    Column("min_disk_gib", Integer, nullable=False),
    Column("min_ram_mib", Integer, nullable=False),
    Column("content", Json(Content)),
    # Copies out of `content`, written with it, because lists filter and sort by them.
    Column("size_bytes", BigInteger),
    Column("checksum", String(32)),
    Column("hash_value", String(128)),
    Column("staged", Json(Content)),
    id_column("upload_id"),
    Column("upload_until", Time),
    Column("tasks", Json(tuple[ImportTask, ...]), nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Index("ix_images_created", "created_at", "id"),
    Index("ix_images_owner", "owner", "created_at", "id"),
    Index("ix_images_visibility", "visibility", "created_at", "id"),
    Index("ix_images_name", "name"),
    Index("ix_images_upload_until", "upload_until"),
)

image_tags = Table(
    "image_tags",
    metadata,
    Column("image_id", String(64), ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", String(255), primary_key=True),
    Index("ix_image_tags_tag", "tag"),
)

image_properties = Table(
    "image_properties",
    metadata,
    Column("image_id", String(64), ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("value", Text),
    Index("ix_image_properties_name", "name"),
)

image_members = Table(
    "image_members",
    metadata,
    Column("image_id", String(64), ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
    id_column("project_id", primary_key=True),
    Column("status", String(16), nullable=False),
    Column("created_at", Time, nullable=False),
    Column("updated_at", Time, nullable=False),
    Index("ix_image_members_project", "project_id", "status"),
)

SORTABLE = {
    "name": func.coalesce(images.c.name, ""),
    "status": images.c.status,
    "container_format": func.coalesce(images.c.container, ""),
    "disk_format": func.coalesce(images.c.format, ""),
    "size": func.coalesce(images.c.size_bytes, -1),
    "id": images.c.id,
    "created_at": images.c.created_at,
    "updated_at": images.c.updated_at,
}
"""By the API's names. Nulls become a value, so that pages can continue after them."""


class Filter(Struct, frozen=True, kw_only=True):
    """What a list asks for; empty means no condition."""

    ids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    owner: ProjectId | None = None
    visibility: str | None = None  # one of Visibility, or "all"
    member_status: str = MemberStatus.ACCEPTED  # or "all"
    is_hidden: bool = False
    is_protected: bool | None = None
    min_disk_gib: int | None = None
    min_ram_mib: int | None = None
    size_bytes: int | None = None
    size_bytes_min: int | None = None
    size_bytes_max: int | None = None
    checksum: str | None = None
    hash_value: str | None = None
    tags: tuple[str, ...] = ()
    properties: tuple[tuple[str, str], ...] = ()
    times: tuple[tuple[str, str, datetime], ...] = ()  # ("created_at", "gte", moment)


class Order(Struct, frozen=True, kw_only=True):
    """(sort key, descending) pairs, ending in "id" so that the order is total."""

    keys: tuple[tuple[str, bool], ...] = (("created_at", True), ("id", True))


# --- images ------------------------------------------------------------------------------------------


_DISK = Prepared(
    select(images.c.format, images.c.container, images.c.content).where(
        images.c.id == bindparam("image_id")
    )
)


def disk_of(tx: Tx, image_id: ImageId) -> tuple[str | None, str | None, Content | None] | None:
    """Format, container and content; None when there is no such image."""
    row = tx.run(_DISK, {"image_id": image_id}).first()
    return None if row is None else (row[0], row[1], row[2])


def image(tx: Tx, image_id: ImageId) -> Image | None:
    row = tx.run(_IMAGE, {"image_id": image_id}).first()
    if row is None:
        return None
    tags = tx.run(_TAGS, {"image_id": image_id}).scalars()
    return _image(
        dict(zip(_IMAGE_NAMES, row, strict=True)),
        tuple(tags),
        dict(tx.run(_PROPERTIES, {"image_id": image_id}).rows),
    )


_IMAGE = Prepared(select(images).where(images.c.id == bindparam("image_id")))
_IMAGE_NAMES = tuple(c.name for c in images.c)
_TAGS = Prepared(
    select(image_tags.c.tag)
    .where(image_tags.c.image_id == bindparam("image_id"))
    .order_by(image_tags.c.tag)
)
_PROPERTIES = Prepared(
    select(image_properties.c.name, image_properties.c.value)
    .where(image_properties.c.image_id == bindparam("image_id"))
    .order_by(image_properties.c.name)
)


def listed(
    tx: Tx,
    reach: ProjectId | None,
    wanted: Filter,
    order: Order,
    *,
    limit: int,
    marker: ImageId | None = None,
) -> list[Image]:
    """A page of what a project may list (None: every project's). Invalid when the marker is unknown."""
    query = select(images).where(*_conditions(wanted, reach))
    if marker is not None:
        query = query.where(_after(tx, order, marker))
    columns = [(SORTABLE[name], descending) for name, descending in order.keys]
    query = query.order_by(*(c.desc() if descending else c.asc() for c, descending in columns))
    return _whole(tx, tx.execute(query.limit(limit)).all())


def add(tx: Tx, new: Image) -> Image:
    """Raises Conflict when the id is taken."""
    taken = tx.execute(select(images.c.id).where(images.c.id == new.id)).first()
    if taken is not None:
        raise Conflict(f"Image ID {new.id} already exists.")
    tx.execute(images.insert().values(id=new.id, **_columns(new)))
    _write_children(tx, new)
    return new


def save(tx: Tx, before: Image, after: Image) -> Image:
    """Write what a verb changed, provided that nobody else moved the image meanwhile."""
    done = tx.execute(
        images.update()
        .where(images.c.id == before.id, images.c.status == before.status)
        .where(images.c.upload_id.is_not_distinct_from(before.upload_id))
        .values(**_columns(after))
    )
    if done.rowcount == 0:
        raise Conflict(f"Image {before.id} was changed at the same time.")
    if (before.tags, before.properties) != (after.tags, after.properties):
        tx.execute(image_tags.delete().where(image_tags.c.image_id == after.id))
        tx.execute(image_properties.delete().where(image_properties.c.image_id == after.id))
        _write_children(tx, after)
    return after


def remove(tx: Tx, image_id: ImageId) -> None:
    tx.execute(images.delete().where(images.c.id == image_id))


def renew_upload(tx: Tx, image_id: ImageId, upload_id: str, until: datetime) -> bool:
    done = tx.execute(
        images.update()
        .where(images.c.id == image_id, images.c.upload_id == upload_id)
        .values(upload_until=until)
    )
    return done.rowcount == 1


def stalled_uploads(tx: Tx, limit: int) -> list[Image]:
    """Images whose upload nobody renewed in time, the oldest first."""
    query = (
        select(images)
        .where(images.c.upload_until < tx.now)
        .order_by(images.c.upload_until, images.c.id)
        .limit(limit)
    )
    return _whole(tx, tx.execute(query).all())


def known_files(tx: Tx, image_ids: Collection[ImageId]) -> set[str]:
    """The paths that these images' records name."""
    query = select(images.c.content, images.c.staged).where(images.c.id.in_(image_ids))
    found = (content for row in tx.execute(query) for content in (row.content, row.staged))
    return {content.path for content in found if content is not None}


def uploads_under_way(tx: Tx, image_ids: Collection[ImageId]) -> set[tuple[str, str]]:
    """(image id, upload id) of these images' uploads."""
    query = select(images.c.id, images.c.upload_id).where(
        images.c.id.in_(image_ids), images.c.upload_id.is_not(None)
    )
    return {(row.id, row.upload_id) for row in tx.execute(query)}


def is_any_upload(tx: Tx) -> bool:
    """Whether any upload is under way."""
    query = select(images.c.id).where(images.c.upload_until.is_not(None)).limit(1)
    return tx.execute(query).first() is not None


def usage(tx: Tx, owner: ProjectId) -> Usage:
    count = func.count().label("images")
    total = func.coalesce(func.sum(images.c.size_bytes), 0).label("bytes")
    row = tx.execute(select(count, total).where(images.c.owner == owner)).one()
    under_way = select(images.c.staged).where(
        images.c.owner == owner,
        images.c.status.in_((ImageStatus.SAVING, ImageStatus.UPLOADING)),
    )
    staged = list(tx.execute(under_way).scalars())
    return Usage(
        images=row.images,
        bytes=int(row.bytes),
        staged_bytes=sum(content.size_bytes for content in staged if content is not None),
        uploads=len(staged),
    )


# --- members -----------------------------------------------------------------------------------------


def members(tx: Tx, image_id: ImageId, *, only: ProjectId | None = None) -> list[Member]:
    query = select(image_members).where(image_members.c.image_id == image_id)
    if only is not None:
        query = query.where(image_members.c.project_id == only)
    rows = tx.execute(query.order_by(image_members.c.created_at, image_members.c.project_id))
    return [_member(row) for row in rows]


def member(tx: Tx, image_id: ImageId, project_id: ProjectId) -> Member | None:
    found = members(tx, image_id, only=project_id)
    return found[0] if found else None


def add_member(tx: Tx, new: Member) -> Member:
    """Raises Conflict when the project is a member already."""
    if member(tx, new.image_id, new.project_id) is not None:
        raise Conflict(f"Project {new.project_id} is a member of image {new.image_id} already.")
    tx.execute(
        image_members.insert().values(
            image_id=new.image_id,
            project_id=new.project_id,
            status=new.status,
            created_at=new.created_at,
            updated_at=new.updated_at,
        )
    )
    return new


def save_member(tx: Tx, changed: Member) -> Member:
    tx.execute(
        image_members.update()
        .where(
            image_members.c.image_id == changed.image_id,
            image_members.c.project_id == changed.project_id,
        )
        .values(status=changed.status, updated_at=changed.updated_at)
    )
    return changed


def remove_member(tx: Tx, image_id: ImageId, project_id: ProjectId) -> bool:
    done = tx.execute(
        image_members.delete().where(
            image_members.c.image_id == image_id, image_members.c.project_id == project_id
        )
    )
    return done.rowcount == 1


# --- conditions --------------------------------------------------------------------------------------


def _conditions(wanted: Filter, reach: ProjectId | None) -> list[ColumnElement[bool]]:
    c = images.c
    found = [_listable(wanted, reach), c.is_hidden == wanted.is_hidden]
    among: tuple[tuple[Any, tuple[str, ...]], ...] = (
        (c.id, wanted.ids),
        (c.name, wanted.names),
        (c.status, wanted.statuses),
        (c.format, wanted.formats),
        (c.container, wanted.containers),
    )
    found += [column.in_(values) for column, values in among if values]
    equal: tuple[tuple[Any, Any], ...] = (
        (c.owner, wanted.owner),
        (c.is_protected, wanted.is_protected),
        (c.min_disk_gib, wanted.min_disk_gib),
        (c.min_ram_mib, wanted.min_ram_mib),
        (c.size_bytes, wanted.size_bytes),
        (c.checksum, wanted.checksum),
        (c.hash_value, wanted.hash_value),
    )
    found += [column == value for column, value in equal if value is not None]
    if wanted.size_bytes_min is not None:
        found.append(c.size_bytes >= wanted.size_bytes_min)
    if wanted.size_bytes_max is not None:
        found.append(c.size_bytes <= wanted.size_bytes_max)
    found += [
        exists().where(image_tags.c.image_id == c.id, image_tags.c.tag == tag)
        for tag in wanted.tags
    ]
    found += [
        exists().where(
            image_properties.c.image_id == c.id,
            image_properties.c.name == name,
            image_properties.c.value == value,
        )
        for name, value in wanted.properties
    ]
    found += [_compared(c[column], how, moment) for column, how, moment in wanted.times]
    return found


def _listable(wanted: Filter, reach: ProjectId | None) -> ColumnElement[bool]:
    """A project lists its own, the public, and what was shared with it and accepted; the community's
    only when asked for."""
    c = images.c
    is_shown: ColumnElement[bool] = c.id.is_not(None)
    if wanted.visibility not in (None, "all"):
        is_shown = c.visibility == wanted.visibility
    if reach is None:
        return is_shown
    shared = and_(
        image_members.c.image_id == c.id,
        image_members.c.project_id == reach,
        _has_status(wanted.member_status),
    )
    kinds = [
        c.owner == reach,
        c.visibility == Visibility.PUBLIC,
        and_(c.visibility == Visibility.SHARED, exists().where(shared)),
    ]
    if wanted.visibility in (Visibility.COMMUNITY, "all"):
        kinds.append(c.visibility == Visibility.COMMUNITY)
    return and_(is_shown, or_(*kinds))


def _has_status(status: str) -> ColumnElement[bool]:
    if status == "all":
        return image_members.c.status.is_not(None)
    return image_members.c.status == status


def _compared(column: Any, how: str, moment: datetime) -> ColumnElement[bool]:
    match how:
        case "gt":
            return column > moment  # type: ignore[no-any-return]
        case "gte":
            return column >= moment  # type: ignore[no-any-return]
        case "lt":
            return column < moment  # type: ignore[no-any-return]
        case "lte":
            return column <= moment  # type: ignore[no-any-return]
        case "neq":
            return column != moment  # type: ignore[no-any-return]
        case _:
            return column == moment  # type: ignore[no-any-return]


def _after(tx: Tx, order: Order, marker: ImageId) -> ColumnElement[bool]:
    """Rows behind the marker's, compared key by key."""
    columns = [SORTABLE[name] for name, _ in order.keys]
    row = tx.execute(select(*columns).where(images.c.id == marker)).first()
    if row is None:
        raise Invalid(f"Query parameter 'marker': image {marker[:64]} is not known.")
    steps: list[ColumnElement[bool]] = [false()]
    for index, (_, descending) in enumerate(order.keys):
        equal = [columns[i] == row[i] for i in range(index)]
        beyond = columns[index] < row[index] if descending else columns[index] > row[index]
        steps.append(and_(*equal, beyond))
    return or_(*steps)


# --- rows and records --------------------------------------------------------------------------------


def _columns(of: Image) -> dict[str, Any]:
    return {
        "name": of.name,
        "owner": of.owner,
        "status": of.status,
        "visibility": of.visibility,
        "is_protected": of.is_protected,
        "is_hidden": of.is_hidden,
        "format": of.format,
        "container": of.container,
        "min_disk_gib": of.min_disk_gib,
        "min_ram_mib": of.min_ram_mib,
        "content": of.content,
        "size_bytes": of.size_bytes,
        "checksum": of.content.md5 if of.content else None,
        "hash_value": of.content.sha512 if of.content else None,
        "staged": of.staged,
        "upload_id": of.upload_id,
        "upload_until": of.upload_until,
        "tasks": of.tasks,
        "created_at": of.created_at,
        "updated_at": of.updated_at,
    }


def _write_children(tx: Tx, of: Image) -> None:
    if of.tags:
        tx.execute(image_tags.insert(), [{"image_id": of.id, "tag": tag} for tag in of.tags])
    if of.properties:
        rows = [{"image_id": of.id, "name": k, "value": v} for k, v in of.properties.items()]
        tx.execute(image_properties.insert(), rows)


def _whole(tx: Tx, rows: Sequence[Row[Any]]) -> list[Image]:
    """Images with their tags and properties."""
    ids = [row.id for row in rows]
    if not ids:
        return []
    tags: dict[str, list[str]] = {}
    properties: dict[str, dict[str, str | None]] = {}
    query = select(image_tags).where(image_tags.c.image_id.in_(ids)).order_by(image_tags.c.tag)
    for row in tx.execute(query):
        tags.setdefault(row.image_id, []).append(row.tag)
    of_these = select(image_properties).where(image_properties.c.image_id.in_(ids))
    for row in tx.execute(of_these.order_by(image_properties.c.name)):
        properties.setdefault(row.image_id, {})[row.name] = row.value
    return [
        _image(row._mapping, tuple(tags.get(row.id, ())), properties.get(row.id, {}))
        for row in rows
    ]


def _image(
    row: Mapping[Any, Any], tags: tuple[str, ...], properties: dict[str, str | None]
) -> Image:
    return Image(
        id=row["id"],
        name=row["name"],
        owner=row["owner"],
        status=ImageStatus(row["status"]),
        visibility=Visibility(row["visibility"]),
        is_protected=row["is_protected"],
        is_hidden=row["is_hidden"],
        format=row["format"],
        container=row["container"],
        min_disk_gib=row["min_disk_gib"],
        min_ram_mib=row["min_ram_mib"],
        content=row["content"],
        staged=row["staged"],
        upload_id=row["upload_id"],
        upload_until=row["upload_until"],
        tasks=row["tasks"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        tags=tags,
        properties=properties,
    )


def _member(row: Row[Any]) -> Member:
    return Member(
        image_id=row.image_id,
        project_id=row.project_id,
        status=MemberStatus(row.status),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
