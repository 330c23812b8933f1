"""The control processes in the operator's API, with the release that each runs."""

from typing import Any

import pytest
from tests.callers import Api

from cairn import operator
from cairn.db.engine import Database
from cairn.fleet import api_controls, control_store
from cairn.fleet.control_store import Control

ME = Control(id="c1", name="alpha", address="192.0.2.1:8444", version="0.5.0")
OTHER = Control(id="c2", name="beta", address="192.0.2.2:8444", version="0.4.0")


def listed(database: Database, *, is_alone: bool, who: str = "admin") -> Any:
    routes = api_controls.routes(me=ME, is_alone=is_alone)
    api = Api(database, operator.service([(routes, api_controls.POLICY)]))
    return api.get("/cairn/v1/controls", who=who)


def test_a_process_without_peers_names_itself(database: Database) -> None:
    (only,) = listed(database, is_alone=True).json["controls"]
    assert (only["name"], only["version"], only["answers_you"]) == ("alpha", "0.5.0", True)


def test_peers_are_listed_with_their_release(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("a database in a file has one process")
    for control in (ME, OTHER):
        database.write_now(lambda tx, c=control: control_store.add(tx, c))  # type: ignore[misc]
    found = listed(database, is_alone=False).json["controls"]
    shown = {c["name"]: (c["version"], c["answers_you"]) for c in found}
    assert shown == {"alpha": ("0.5.0", True), "beta": ("0.4.0", False)}
    assert all(c["silent_s"] < 60 for c in found)


def test_only_administrators_see_them(database: Database) -> None:
    assert listed(database, is_alone=True, who="alice").status_code == 403
