"""What may be done to images and their members.

Content does not pass through here: a verb gives the right to bring it (`begin_upload`), another takes the
finished file (`finish_upload`). The right expires unless it is renewed, so an upload whose process died
returns the image to "queued" (control.py). Files that no image names any more are removed after the
commit, and by control.py in case that was lost.
"""

from datetime import timedelta

from msgspec.structs import replace

from cairn.core.caller import Caller
from cairn.core.errors import Conflict, Denied, Invalid, NotFound, OverQuota
from cairn.core.ids import ImageId, ProjectId
from cairn.db.engine import Tx
from cairn.identity import service as identity
from cairn.image import attributes, store
from cairn.image.attributes import Change
from cairn.image.records import (
    BOOTABLE_FORMATS,
    CHECKED_CONTAINERS,
    IMAGE_LIFE,
    LIMITS,
    MEMBERS_MAX,
    MIB,
    TAGS_MAX,
    Content,
    Image,
    ImageStatus,
    ImageWish,
    ImportTask,
    Member,
    MemberStatus,
    Upload,
    Usage,
    Visibility,
)
from cairn.image.store import Filter, Order
from cairn.wire.spec import ImageSpec

UPLOAD_LEASE = timedelta(seconds=60)
KEEPER = "image.uploads"  # whoever gives up uploads that nobody renews


# --- for other slices --------------------------------------------------------------------------------


def image_for_boot(tx: Tx, who: Caller, image_id: ImageId) -> Image:
    """An image that a disk can be made from now. NotFound if it is not visible, Invalid if not usable."""
    found = get(tx, who, image_id)
    if found.status is not ImageStatus.ACTIVE:
        raise Invalid(f"Image {image_id} is not active: its status is {found.status}.")
    if not _is_disk(found):
        possible = ", ".join(BOOTABLE_FORMATS)
        raise Invalid(
            f"Image {image_id} has disk format {found.format} in container {found.container}; "
            f"a disk can be made from {possible} in container bare."
        )
    return found


def spec_of(tx: Tx, image_id: ImageId) -> ImageSpec | None:
    """What a node needs to know of an image; None when it has none that a disk can be made from."""
    found = store.disk_of(tx, image_id)
    if found is None:
        return None
    format_, container, content = found
    if content is None or container not in CHECKED_CONTAINERS or format_ not in BOOTABLE_FORMATS:
        return None
    return ImageSpec(
        id=image_id,
        format=BOOTABLE_FORMATS[format_],
        size_bytes=content.size_bytes,
        virtual_bytes=content.virtual_bytes or 0,
        sha256=content.sha256,
        path_hint=content.path,
    )


# --- images ------------------------------------------------------------------------------------------


def get(tx: Tx, who: Caller, image_id: ImageId) -> Image:
    """An image that the caller may see. Raises NotFound."""
    found = store.image(tx, image_id)
    if found is None or not _is_visible(tx, who, found):
        raise NotFound(f"No image found with ID {image_id[:64]}.")
    return found


def listed(
    tx: Tx,
    who: Caller,
    wanted: Filter,
    order: Order,
    *,
    limit: int,
    marker: ImageId | None = None,
) -> list[Image]:
    """A page of images. Raises Invalid when the marker is not visible."""
    if marker is not None:
        try:
            get(tx, who, marker)
        except NotFound as error:
            raise Invalid(f"Query parameter 'marker': {error.message}") from error
    return store.listed(tx, who.reach, wanted, order, limit=limit, marker=marker)


def create(tx: Tx, who: Caller, wish: ImageWish) -> Image:
    """An image without content. Raises Denied, Conflict (the id is taken), OverQuota."""
    owner = wish.owner or who.project_id
    if owner != who.project_id and not who.is_admin:
        raise Denied("Only an administrator may create an image for another project.")
    if owner is not None:
        _require_room(tx, owner, images=1)
    return store.add(
        tx,
        Image(
            id=wish.id or ImageId(tx.new_id()),
            name=wish.name,
            owner=owner,
            status=ImageStatus.QUEUED,
            visibility=wish.visibility,
            is_protected=wish.is_protected,
            is_hidden=wish.is_hidden,
            format=wish.format,
            container=wish.container,
            min_disk_gib=wish.min_disk_gib,
            min_ram_mib=wish.min_ram_mib,
            tags=wish.tags,
            properties=wish.properties,
            created_at=tx.now,
            updated_at=tx.now,
        ),
    )


def update(tx: Tx, who: Caller, image_id: ImageId, changes: tuple[Change, ...]) -> Image:
    """Apply a patch whole or not at all. Raises NotFound, Denied, Invalid, Conflict, OverQuota."""
    before = _for_change(tx, who, image_id)
    after = attributes.changed(before, changes)
    if after.owner != before.owner and not who.is_admin:
        raise Denied("Only an administrator may give an image to another project.")
    if after == before:
        return before
    return store.save(tx, before, replace(after, updated_at=tx.now))


def delete(tx: Tx, who: Caller, image_id: ImageId) -> Image:
    """Forget an image; disks made of it live on. Raises NotFound, Denied. Returns what it was."""
    found = _for_change(tx, who, image_id)
    if found.is_protected:
        raise Denied(f"Image {image_id} is protected and cannot be deleted.")
    store.remove(tx, found.id)
    return found


def deactivate(tx: Tx, who: Caller, image_id: ImageId) -> None:
    """Forbid download and boot. Raises NotFound, Denied, Conflict."""
    _move(tx, _for_change(tx, who, image_id), "deactivate")


def reactivate(tx: Tx, who: Caller, image_id: ImageId) -> None:
    _move(tx, _for_change(tx, who, image_id), "reactivate")


def add_tag(tx: Tx, who: Caller, image_id: ImageId, tag: str) -> None:
    before = _for_change(tx, who, image_id)
    tags = tuple(sorted({*before.tags, attributes.read_tag(tag)}))
    if len(tags) > TAGS_MAX:
        raise OverQuota(f"An image may have at most {TAGS_MAX} tags.")
    if tags != before.tags:
        store.save(tx, before, replace(before, tags=tags, updated_at=tx.now))


def remove_tag(tx: Tx, who: Caller, image_id: ImageId, tag: str) -> None:
    before = _for_change(tx, who, image_id)
    if tag not in before.tags:
        raise NotFound(f"Image {image_id} has no tag '{tag[:60]}'.")
    tags = tuple(t for t in before.tags if t != tag)
    store.save(tx, before, replace(before, tags=tags, updated_at=tx.now))


def usage(tx: Tx, project_id: ProjectId) -> tuple[Usage, dict[str, int]]:
    """What the project has, and its limits by name."""
    return store.usage(tx, project_id), identity.limits_of(tx, project_id, LIMITS)


def used(tx: Tx, project_id: ProjectId) -> dict[str, int]:
    """What counts against the limits, by their names."""
    return store.usage(tx, project_id).counts


# --- content -----------------------------------------------------------------------------------------


def content_for_download(tx: Tx, who: Caller, image_id: ImageId) -> Content | None:
    """The file to send; None while there is none. Raises NotFound, Denied (deactivated)."""
    found = get(tx, who, image_id)
    if found.status is ImageStatus.DEACTIVATED and not who.is_admin:
        raise Denied(f"Image {image_id} is deactivated.")
    return found.content


def begin_upload(tx: Tx, who: Caller, image_id: ImageId, *, stage: bool = False) -> Upload:
    """Take the right to bring the content. Raises NotFound, Denied, Invalid, Conflict, OverQuota."""
    before = _for_change(tx, who, image_id)
    if before.format is None or before.container is None:
        raise Invalid("disk_format and container_format must be set before content is uploaded.")
    status = IMAGE_LIFE.move(before.status, "stage" if stage else "upload")
    if before.owner is not None:
        _require_room(tx, before.owner, uploads=1)
    upload_id = tx.new_hex_id()
    store.save(
        tx,
        before,
        replace(before, status=status, upload_id=upload_id, upload_until=tx.now + UPLOAD_LEASE),
    )
    tx.wake(KEEPER)
    return Upload(
        image_id=before.id,
        upload_id=upload_id,
        format=before.format if before.container in CHECKED_CONTAINERS else None,
        bytes_max=_bytes_left(tx, before.owner, stage=stage),
    )


def renew_upload(tx: Tx, upload: Upload) -> None:
    """Keep the right for another while. Raises NotFound when it was lost."""
    until = tx.now + UPLOAD_LEASE
    if not store.renew_upload(tx, upload.image_id, upload.upload_id, until):
        raise NotFound(f"Image {upload.image_id} was deleted, or its upload given up.")


def finish_upload(tx: Tx, upload: Upload, content: Content) -> Image:
    """The content is there: the image is active, or staged. Raises NotFound, OverQuota."""
    before = _of_upload(tx, upload)
    is_staged = before.status is ImageStatus.UPLOADING
    if before.owner is not None:
        size_bytes, staged_bytes = content.size_bytes, 0
        if is_staged:
            size_bytes, staged_bytes = staged_bytes, size_bytes
        _require_room(tx, before.owner, size_bytes=size_bytes, staged_bytes=staged_bytes)
    after = replace(before, upload_id=None, upload_until=None, updated_at=tx.now)
    if is_staged:
        return store.save(tx, before, replace(after, staged=content))
    status = IMAGE_LIFE.move(before.status, "saved")
    return store.save(tx, before, replace(after, status=status, content=content))


def fail_upload(tx: Tx, upload: Upload) -> bool:
    """Back to "queued"; True when the upload's file is nobody's.

    An upload may be given up at the very moment at which it was finished: then its file is the image's.
    """
    found = store.image(tx, upload.image_id)
    if found is None or found.upload_id == upload.upload_id:
        if found is not None:
            give_up(tx, found)
        return True
    kept = (found.content, found.staged)
    return not any(content and content.path.endswith(upload.file_name) for content in kept)


def give_up(tx: Tx, before: Image) -> None:
    """Return an image whose upload failed to "queued"."""
    status = IMAGE_LIFE.move(before.status, "failed")
    after = replace(before, status=status, staged=None, upload_id=None, upload_until=None)
    store.save(tx, before, replace(after, updated_at=tx.now))


def import_staged(tx: Tx, who: Caller, image_id: ImageId, request_id: str) -> tuple[Image, Content]:
    """Make the staged file the image's content, or refuse it and return the image to "queued".

    Returns the image and the staged content, whose file is to be removed when it was refused.
    Raises NotFound, Denied, Conflict.
    """
    before = _for_change(tx, who, image_id)
    if before.status is not ImageStatus.UPLOADING or before.staged is None:
        raise Conflict(f"Image {image_id} has no staged content to import.")
    staged = before.staged
    task = ImportTask(
        id=tx.new_id(),
        request_id=request_id,
        user_id=who.user_id,
        method="glance-direct",
        status="failure" if staged.refusal else "success",
        message=staged.refusal or "",
        at=tx.now,
    )
    is_fine = staged.refusal is None
    after = replace(
        before,
        status=IMAGE_LIFE.move(before.status, "imported" if is_fine else "failed"),
        content=staged if is_fine else None,
        staged=None,
        tasks=(*before.tasks, task)[-10:],
        updated_at=tx.now,
    )
    return store.save(tx, before, after), staged


# --- members -----------------------------------------------------------------------------------------


def members(tx: Tx, who: Caller, image_id: ImageId) -> list[Member]:
    """All members for the owner; a member sees itself. Raises NotFound."""
    found = get(tx, who, image_id)
    if found.visibility is not Visibility.SHARED and not _is_mine(who, found):
        raise NotFound(f"No image found with ID {image_id[:64]}.")
    if found.visibility is not Visibility.SHARED:
        raise Denied("Only shared images have members.")
    only = None if _is_mine(who, found) else who.project_id
    return store.members(tx, found.id, only=only)


def member(tx: Tx, who: Caller, image_id: ImageId, project_id: ProjectId) -> Member:
    for found in members(tx, who, image_id):
        if found.project_id == project_id:
            return found
    raise NotFound(f"{project_id[:64]} is not a member of image {image_id[:64]}.")


def add_member(tx: Tx, who: Caller, image_id: ImageId, project_id: ProjectId) -> Member:
    """Offer the image to a project. Raises NotFound, Denied, Conflict, OverQuota."""
    found = _for_change(tx, who, image_id)
    if found.visibility is not Visibility.SHARED:
        raise Denied("Only shared images have members.")
    if len(store.members(tx, found.id)) >= MEMBERS_MAX:
        raise OverQuota(f"An image may have at most {MEMBERS_MAX} members.")
    new = Member(
        image_id=found.id,
        project_id=project_id,
        status=MemberStatus.PENDING,
        created_at=tx.now,
        updated_at=tx.now,
    )
    return store.add_member(tx, new)


def set_member_status(
    tx: Tx, who: Caller, image_id: ImageId, project_id: ProjectId, status: MemberStatus
) -> Member:
    """Accept or reject an offer: the member's own decision. Raises NotFound, Denied."""
    found = member(tx, who, image_id, project_id)
    if project_id != who.project_id and not who.is_admin:
        raise Denied("Only the member itself may accept or reject an image.")
    return store.save_member(tx, replace(found, status=status, updated_at=tx.now))


def remove_member(tx: Tx, who: Caller, image_id: ImageId, project_id: ProjectId) -> None:
    found = _for_change(tx, who, image_id)
    if not store.remove_member(tx, found.id, project_id):
        raise NotFound(f"{project_id[:64]} is not a member of image {image_id[:64]}.")


# --- inside ------------------------------------------------------------------------------------------


def _is_disk(image: Image) -> bool:
    return image.container in CHECKED_CONTAINERS and image.format in BOOTABLE_FORMATS


def _is_mine(who: Caller, image: Image) -> bool:
    return who.is_admin or (image.owner is not None and image.owner == who.project_id)


def _is_visible(tx: Tx, who: Caller, image: Image) -> bool:
    if _is_mine(who, image) or image.visibility in (Visibility.PUBLIC, Visibility.COMMUNITY):
        return True
    if image.visibility is not Visibility.SHARED or who.project_id is None:
        return False
    return store.member(tx, image.id, who.project_id) is not None


def _for_change(tx: Tx, who: Caller, image_id: ImageId) -> Image:
    """Somebody else's image that the caller can see is refused openly; one it cannot is not found."""
    found = get(tx, who, image_id)
    if not _is_mine(who, found):
        raise Denied(f"You are not permitted to modify image {image_id}.")
    return found


def _of_upload(tx: Tx, upload: Upload) -> Image:
    found = store.image(tx, upload.image_id)
    if found is None or found.upload_id != upload.upload_id:
        raise NotFound(f"Image {upload.image_id} was deleted, or its upload given up.")
    return found


def _move(tx: Tx, before: Image, event: str) -> None:
    if not IMAGE_LIFE.allows(before.status, event):
        # Glance calls this forbidden, and clients look for it.
        raise Denied(f"Not allowed to {event} image in status '{before.status}'.")
    status = IMAGE_LIFE.move(before.status, event)
    if status is not before.status:
        store.save(tx, before, replace(before, status=status, updated_at=tx.now))


def _require_room(
    tx: Tx,
    owner: ProjectId,
    *,
    images: int = 0,
    size_bytes: int = 0,
    staged_bytes: int = 0,
    uploads: int = 0,
) -> None:
    """OverQuota when so much more would pass a limit; what is not added to is not asked."""
    used, limits = usage(tx, owner)
    wanted = Usage(
        images=used.images + images,
        bytes=used.bytes + size_bytes,
        staged_bytes=used.staged_bytes + staged_bytes,
        uploads=used.uploads + uploads,
    ).counts
    added = {
        "image_count_total": images,
        "image_size_total": size_bytes,
        "image_stage_total": staged_bytes,
        "image_count_uploading": uploads,
    }
    for name, count in wanted.items():
        if added[name] and 0 <= limits[name] < count:
            raise OverQuota(f"Quota exceeded for {name}: {limits[name]} allowed, {count} needed.")


def _bytes_left(tx: Tx, owner: ProjectId | None, *, stage: bool) -> int | None:
    """How long content may be at most; None is as long as it likes."""
    if owner is None:
        return None
    used, limits = usage(tx, owner)
    limit = limits["image_stage_total" if stage else "image_size_total"]
    if limit < 0:
        return None
    return max(0, limit * MIB - (used.staged_bytes if stage else used.bytes))
