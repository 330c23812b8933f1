"""What keeps images true: uploads whose process died are given up, files that nobody names are removed."""

import time
from functools import partial
from pathlib import Path

from cairn.core import log
from cairn.core.ids import ImageId
from cairn.db.engine import Database, Tx
from cairn.image import service, store
from cairn.life.reconcile import Round

BATCH_MAX = 100
_STRAY_AGE_S = 2 * service.UPLOAD_LEASE.total_seconds()
_log = log.get("image")


class UploadKeeper:
    """Returns images to "queued" whose upload was not renewed in time, and removes strays.

    A file belongs to a record that names it or to an upload under way. The age saves one that was
    renamed a moment ago and is not in its record yet.
    """

    name = service.KEEPER

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    async def run_once(self) -> Round:
        given_up = await self._database.write(_give_up_stalled)
        strays = await self._strays()
        for path in strays:
            _log.info("stray image file removed", file=path.name)
            path.unlink(missing_ok=True)
        done = given_up + len(strays)
        is_any = await self._database.read(store.is_any_upload)
        again_s = service.UPLOAD_LEASE.total_seconds() if is_any else None
        return Round(found=done, done=done, again_s=again_s)

    async def _strays(self) -> list[Path]:
        newest = time.time() - _STRAY_AGE_S
        old = [p for p in sorted(self._folder.iterdir()) if _changed_at(p) < newest]
        strays = []
        for start in range(0, len(old), BATCH_MAX):
            batch = old[start : start + BATCH_MAX]
            strays += await self._database.read(partial(_unnamed, paths=batch))
        return strays


def _give_up_stalled(tx: Tx) -> int:
    stalled = store.stalled_uploads(tx, BATCH_MAX)
    for image in stalled:
        service.give_up(tx, image)
    return len(stalled)


def _unnamed(tx: Tx, paths: list[Path]) -> list[Path]:
    ids = {ImageId(path.name.partition(".")[0]) for path in paths}
    named = {Path(known).name for known in store.known_files(tx, ids)}
    named |= {f"{image_id}.{upload}" for image_id, upload in store.uploads_under_way(tx, ids)}
    return [path for path in paths if path.name.removesuffix(".part") not in named]


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")
