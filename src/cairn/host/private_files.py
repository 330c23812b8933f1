"""Files that are whole or absent, and readable by their owner alone where they hold a secret."""

import os
from pathlib import Path


def write(path: Path, content: bytes | str, *, mode: int = 0o600) -> None:
    """Put `content` at `path` in one step: a reader, or a crash, sees the old file or the new one."""
    data = content.encode() if isinstance(content, str) else content
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    # Never a moment in which somebody else may open it: the mode is given at creation.
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)


def make_folder(path: Path, *, mode: int = 0o700) -> None:
    """Make the folder, or set its mode right."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
