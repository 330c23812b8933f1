"""Bringing an image to this host: from the control plane's own file if that is here, else over the link."""

import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from cairn.core.errors import NotFound, Unavailable
from cairn.core.ids import NodeId
from cairn.wire.link import WIRE_VERSION, Go, Hello, Refused, StreamLink
from cairn.wire.spec import ImageSpec

CHUNK_BYTES = 1 << 20
Connect = Callable[[], Awaitable[StreamLink]]


class ImageFetcher:
    def __init__(self, *, node_id: NodeId, folder: Path, connect: Connect) -> None:
        self._node_id = node_id
        self._folder = folder
        self._connect = connect

    async def fetch(self, spec: ImageSpec) -> Path:
        """A local file with the image's bytes; Unavailable if it cannot be had now or came damaged."""
        hint = Path(spec.path_hint) if spec.path_hint else None
        if hint is not None and _has_size(hint, spec.size_bytes):
            return hint  # One machine: the volumes engine links or clones it, no byte is copied.
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = self._folder / f"{spec.id}.new"
        link = await self._connect()
        try:
            await self._receive(link, spec, target)
        except OSError as error:
            target.unlink(missing_ok=True)
            raise Unavailable(
                "The image could not be stored on the host.", because=repr(error)
            ) from error
        finally:
            link.close()
        return target

    async def _receive(self, link: StreamLink, spec: ImageSpec, target: Path) -> None:
        await link.send(
            Hello(wire_version=WIRE_VERSION, node_id=self._node_id, kind="image", subject=spec.id)
        )
        answer = await link.receive()
        if isinstance(answer, Refused):
            raise NotFound(f"Image {spec.id}: {answer.reason}")
        if not isinstance(answer, Go):
            raise Unavailable(f"Image {spec.id} was not sent.")
        digest = hashlib.sha256()
        left = answer.size_bytes
        with target.open("wb") as file:
            while left > 0:
                chunk = await link.reader.read(min(CHUNK_BYTES, left))
                if not chunk:
                    break
                digest.update(chunk)
                file.write(chunk)
                left -= len(chunk)
            file.flush()
            os.fsync(file.fileno())
        if left or digest.hexdigest() != spec.sha256:
            target.unlink()
            raise Unavailable(f"Image {spec.id} came damaged; it will be fetched again.")


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False
