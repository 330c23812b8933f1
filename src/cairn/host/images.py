"""The guest images that Cairn builds itself, and where they are kept.

An image is named for what it was built from, so a change of its sources builds a new one and an
interrupted build leaves none; the plain name is a link to the newest.
"""

import fcntl
from pathlib import Path

from cairn.host import debian_image, probe_image
from cairn.host.engines import CACHE


def ensure_probe(cache: Path = CACHE) -> Path:
    """The probe image of the present sources, built if it is not there yet. Raises Unavailable."""
    folder = cache / "images"
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / f"probe-{probe_image.sources_hash()}.qcow2"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            probe_image.build(image)
        _point(folder / "probe.qcow2", image.name)
    return image


def build(name: str, out: Path | None = None, cache: Path = CACHE) -> Path:
    """Build `probe` or `debian`: into `out`, else into the cache. Raises Unavailable."""
    if name == "probe" and out is None:
        return ensure_probe(cache)
    target = out or cache / "images" / f"{name}.qcow2"
    {"probe": probe_image.build, "debian": debian_image.build}[name](target)
    return target


def _point(link: Path, target: str) -> None:
    if link.is_symlink() and str(link.readlink()) == target:
        return
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.rename(link)
