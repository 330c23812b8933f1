"""The control processes in the operator's API: which there are, and which release each runs."""

from collections.abc import Mapping
from typing import Any

from cairn.db.engine import Tx
from cairn.fleet import control_store
from cairn.fleet.control_store import Control
from cairn.http.call import Call
from cairn.http.routes import Route

POLICY: Mapping[str, str] = {"cairn:controls:list": "rule:admin"}


def routes(*, me: Control, is_alone: bool) -> tuple[Route, ...]:
    """`me` is this process; `is_alone`: there are no others, and no table of them."""

    def list_controls(tx: Tx, call: Call[None]) -> Any:
        found = [me] if is_alone else control_store.all_controls(tx)
        return {"controls": [_shown(one, is_me=one.id == me.id) for one in found]}

    path = "/cairn/v1/controls"
    return (Route(method="GET", path=path, rule="cairn:controls:list", do=list_controls),)


def _shown(control: Control, *, is_me: bool) -> dict[str, Any]:
    return {
        "id": control.id,
        "name": control.name,
        "address": control.address,
        "version": control.version,
        "silent_s": round(control.silent_s, 1),
        "answers_you": is_me,
    }
