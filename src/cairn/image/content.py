"""Images' files: received in a stream, hashed and checked as they pass, given out again in ranges.

    DIRECTORY/<image id>.<upload id>        whole; an image's record names it
    DIRECTORY/<image id>.<upload id>.part   on its way; renamed after fsync

Nothing is buffered beyond one block, whatever the image's size. Hashing and writing happen in threads.
Files that no record names are leftovers of a crash; control.py removes them.
"""

import asyncio
import errno
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

from cairn.core.errors import Invalid, NoCapacity, OverQuota, Unavailable
from cairn.drivers import formats
from cairn.image.records import Content, Upload

BLOCK_BYTES = 1 << 20
SILENCE_S_MAX = 60.0  # a client that sends nothing for so long is gone
_RENEW_S = 15.0
_PART = ".part"

Renew = Callable[[], Awaitable[None]]


class Fetch(Protocol):
    async def __call__(self, name: str, *, size_bytes: int, sha256: str) -> bool:
        """Bring a file of this name into the directory; False if nobody has it."""
        ...


class ContentStore:
    """One directory of images' files. `bytes_max` guards the disk against a single upload."""

    def __init__(self, directory: Path, *, bytes_max: int, fetch: Fetch | None = None) -> None:
        """`fetch` brings a file that another control process received."""
        self.directory = directory
        self._bytes_max = bytes_max
        self._fetch = fetch
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def receive(
        self,
        upload: Upload,
        chunks: AsyncIterator[bytes],
        *,
        announced_bytes: int | None,
        renew: Renew,
        refuse_later: bool = False,
    ) -> Content:
        """Take a whole file, calling `renew` now and then.

        Raises Invalid (cut off, empty, not the format it claims), OverQuota, NoCapacity; then nothing
        is left. With `refuse_later` a wrong format is kept as `Content.refusal` instead.
        """
        bytes_max = min(self._bytes_max, upload.bytes_max or self._bytes_max)
        if upload.bytes_max == 0 or (announced_bytes or 0) > bytes_max:
            raise OverQuota(f"The image is larger than the {bytes_max} bytes that are allowed.")
        target = self.directory / upload.file_name
        part = target.with_name(target.name + _PART)
        try:
            sink = await asyncio.to_thread(_Sink, part, upload.format, refuse_later)
            try:
                await self._pour(chunks, sink, bytes_max, renew)
                if announced_bytes is not None and sink.size_bytes != announced_bytes:
                    raise Invalid(
                        f"The upload was cut off: {announced_bytes} bytes were announced, "
                        f"{sink.size_bytes} came."
                    )
                content = await asyncio.to_thread(sink.finish, target)
            finally:
                sink.close()
        except BaseException as error:
            part.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _storage_error(error) from error
            raise
        return content

    async def _pour(
        self, chunks: AsyncIterator[bytes], sink: "_Sink", bytes_max: int, renew: Renew
    ) -> None:
        loop = asyncio.get_running_loop()
        renewed_at = loop.time()
        block = bytearray()
        async for chunk in _unless_silent(chunks):
            block += chunk
            if sink.size_bytes + len(block) > bytes_max:
                raise OverQuota(f"The image is larger than the {bytes_max} bytes that are allowed.")
            if len(block) >= BLOCK_BYTES:
                await asyncio.to_thread(sink.write, bytes(block))
                block.clear()
            if loop.time() - renewed_at > _RENEW_S:
                await renew()
                renewed_at = loop.time()
        if block:
            await asyncio.to_thread(sink.write, bytes(block))

    async def read(self, content: Content, start: int, length: int) -> AsyncIterator[bytes]:
        """Bytes `start` to `start + length` of a file. Raises Unavailable when it is not there."""
        # Asked before the reply begins, so that it can be said.
        path = await self.bring(content.path, content.size_bytes, content.sha256)
        return _blocks(path, start, length)

    async def bring(self, recorded: str, size_bytes: int, sha256: str) -> Path:
        """The file, from another control machine if need be, which may have it elsewhere. Raises
        Unavailable."""
        path = self.directory / Path(recorded).name
        if path.is_file():
            return path
        if self._fetch is not None and await self._fetch(
            path.name, size_bytes=size_bytes, sha256=sha256
        ):
            return path
        raise Unavailable("The image's content is missing.", because=f"{path} is missing")

    def discard(self, *contents: Content | None) -> None:
        """Remove files; what reads one now reads on."""
        for content in contents:
            if content is not None:
                self._path(content).unlink(missing_ok=True)

    def discard_upload(self, upload: Upload) -> None:
        """Remove what an upload left."""
        target = self.directory / upload.file_name
        target.unlink(missing_ok=True)
        target.with_name(target.name + _PART).unlink(missing_ok=True)

    def _path(self, content: Content) -> Path:
        """In our directory, wherever it was when the file was received."""
        return self.directory / Path(content.path).name


class _Sink:
    """The receiving end of one upload: file, hashes and format check in one pass."""

    def __init__(self, part: Path, format_: str | None, refuse_later: bool) -> None:
        self.size_bytes = 0
        self._part = part
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._file = os.fdopen(os.open(part, flags, 0o600), "wb")
        self._hashes = (
            hashlib.md5(usedforsecurity=False),  # what Glance's API calls `checksum`
            hashlib.sha256(),
            hashlib.sha512(),
        )
        self._check = formats.FormatCheck(format_) if format_ is not None else None
        self._refuse_later = refuse_later
        self._refusal: str | None = None

    def write(self, block: bytes) -> None:
        self._file.write(block)
        for digest in self._hashes:
            digest.update(block)
        self.size_bytes += len(block)
        if self._check is not None and self._refusal is None:
            self._judge(lambda check: check.feed(block))

    def finish(self, target: Path) -> Content:
        """Make the file lasting under its final name."""
        if self.size_bytes == 0:
            raise Invalid("The upload has no content.")
        self._file.flush()
        virtual_bytes = self._virtual_bytes() if self._check is not None else None
        os.fsync(self._file.fileno())
        self._part.rename(target)
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        md5, sha256, sha512 = (digest.hexdigest() for digest in self._hashes)
        return Content(
            path=str(target),
            size_bytes=self.size_bytes,
            virtual_bytes=virtual_bytes,
            md5=md5,
            sha256=sha256,
            sha512=sha512,
            refusal=self._refusal,
        )

    def close(self) -> None:
        self._file.close()

    def _virtual_bytes(self) -> int | None:
        found: list[int] = []

        def conclude(check: formats.FormatCheck) -> None:
            facts = check.finish()
            if facts.format == "qcow2":
                formats.require_whole_qcow2(self._part)
            found.append(facts.virtual_bytes)

        if self._refusal is None:
            self._judge(conclude)
        return found[0] if found else None

    def _judge(self, step: Callable[[formats.FormatCheck], None]) -> None:
        assert self._check is not None
        try:
            step(self._check)
        except Invalid as error:
            if not self._refuse_later:
                raise
            self._refusal = error.message


async def _unless_silent(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(SILENCE_S_MAX):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            message = f"The upload was given up: nothing came for {SILENCE_S_MAX:.0f} s."
            raise Invalid(message) from error
        yield chunk


async def _blocks(path: Path, start: int, length: int) -> AsyncIterator[bytes]:
    fd = os.open(path, os.O_RDONLY)
    try:
        while length > 0:
            block = await asyncio.to_thread(os.pread, fd, min(BLOCK_BYTES, length), start)
            if not block:
                return  # shorter than recorded: the client sees that bytes are missing
            start += len(block)
            length -= len(block)
            yield block
    finally:
        os.close(fd)


def _storage_error(error: OSError) -> NoCapacity | Unavailable:
    because = f"{error.filename or 'image store'}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoCapacity("There is no room left for images.", because=because)
    return Unavailable("The image store failed.", because=because)
