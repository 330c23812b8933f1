"""The keys that sign tokens: numbered files, as Keystone's key repository has them.

The highest number is the primary and signs; all verify. `0` is staged: the next primary, already known to
everyone who verifies before anybody signs with it. Rotation makes the staged key primary, stages a new
one and drops the oldest, so a token stays readable for `keep - 2` rotations after its key stopped
signing. Source of the layout: Keystone administration guide, "Fernet - Key Repository".
"""

import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from cairn.core import log

STAGED = 0
_log = log.get("identity.keys")


class KeyRepository:
    """The keys in one folder. Another process may rotate them: an unknown signature looks again."""

    def __init__(self, folder: Path, *, keep: int = 3) -> None:
        """Open the folder; make it with its first two keys if it is not there."""
        assert keep >= 2, "a staged key and a primary are the least"
        self._folder = folder
        self._keep = keep
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._numbers():
            self._write(STAGED + 1)
        if STAGED not in self._numbers():
            self._write(STAGED)
        self._load()

    def sign(self, data: bytes) -> bytes:
        return self._fernet.encrypt(data)

    def read(self, token: bytes) -> bytes | None:
        """What was signed; None when no key of ours did it."""
        try:
            return self._fernet.decrypt(token)
        except InvalidToken:
            if self._stamp_of_folder() == self._stamp:
                return None
        self._load()
        try:
            return self._fernet.decrypt(token)
        except InvalidToken:
            return None

    def rotate(self) -> None:
        """Sign with the staged key from now on. Repeatable; a crash in between leaves a valid folder."""
        primary = max(self._numbers()) + 1
        (self._folder / str(STAGED)).rename(self._folder / str(primary))
        self._write(STAGED)
        for number in self._numbers()[1 : -(self._keep - 1)]:
            (self._folder / str(number)).unlink()
        self._load()
        _log.info("token keys rotated", primary=primary)

    def age_s(self, now_s: float) -> float:
        """How long the primary has been signing, as the files tell it."""
        # The file keeps the time it was staged; the staged one was written when it became primary.
        return now_s - (self._folder / str(STAGED)).stat().st_mtime

    def _numbers(self) -> list[int]:
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def _write(self, number: int) -> None:
        """A new random key, whole or not at all, readable by its owner only."""
        path = self._folder / str(number)
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(Fernet.generate_key())
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)

    def _load(self) -> None:
        self._stamp = self._stamp_of_folder()
        numbers = self._numbers()
        # By number, so the staged 0 is last; a rotation in another process may be renaming it just now.
        primary_first = sorted(numbers, reverse=True)
        keys = [Fernet((self._folder / str(n)).read_bytes()) for n in primary_first]
        self._fernet = MultiFernet(keys)

    def _stamp_of_folder(self) -> int:
        return self._folder.stat().st_mtime_ns
