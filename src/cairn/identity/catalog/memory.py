"""The stored part of the catalog in memory, so that a sign-in asks the database nothing for it.

The hint of a transaction that changed the catalog marks the copy as stale; the next use reads it anew. A
hint that was lost is made up for by the next one, or by EVERYTHING. What tokens show is kept as it was last
put together for an address: it changes with the copy alone.
"""

from typing import Any

from cairn.db.engine import Database
from cairn.db.feed import EVERYTHING
from cairn.identity.catalog import catalog
from cairn.identity.catalog import store as catalog_store
from cairn.identity.catalog.catalog import Own
from cairn.identity.catalog.records import Catalog, Stored

ADDRESSES_MAX = 64  # for which ours are kept; clients choose the name by which they call us


class CatalogMemory:
    """Only the thread of the event loop may use it."""

    def __init__(self, database: Database, own: Own) -> None:
        self._database = database
        self._own = own
        self._stored = Stored()
        self._is_stale = True
        self._by_address: dict[str, tuple[Catalog, list[dict[str, Any]] | None]] = {}
        database.on_wake(self._hint)

    def shown(
        self, base_url: str, *, project_id: str | None, user_id: str | None
    ) -> list[dict[str, Any]]:
        """What a token of this project and user shows. Raises Unavailable."""
        if self._is_stale:
            self._catch_up()
        whole, for_all = self._at(base_url)
        if for_all is not None and project_id not in self._stored.shown:
            return for_all
        return catalog.shown(whole, self._stored, project_id=project_id, user_id=user_id)

    def _at(self, base_url: str) -> tuple[Catalog, list[dict[str, Any]] | None]:
        """The catalog as clients of this address see it, and what tokens show if it is the same for all."""
        known = self._by_address.get(base_url)
        if known is None:
            whole = catalog.whole(self._own, self._stored, base_url)
            has_places = any(
                "%" in e.url or "$" in e.url for e in whole.endpoints.values() if e.url
            )
            for_all = (
                None
                if has_places
                else catalog.shown(whole, self._stored, project_id=None, user_id=None)
            )
            if len(self._by_address) >= ADDRESSES_MAX:
                self._by_address.clear()
            known = self._by_address[base_url] = (whole, for_all)
        return known

    def _catch_up(self) -> None:
        self._is_stale = False
        try:
            self._stored = self._database.read_now(catalog_store.everything)
        except BaseException:
            self._is_stale = True
            raise
        self._by_address.clear()

    def _hint(self, topic: str) -> None:
        if topic in (catalog_store.TOPIC, EVERYTHING):
            self._is_stale = True
