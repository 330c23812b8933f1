"""The action `evacuate`: a server of a host that is fenced is to start elsewhere.

Its body differs by microversion (Nova's api-ref, "Evacuate Server"): 2.14 takes `onSharedStorage` and the
answer's password away, 2.29 adds `force`, 2.68 takes it away again, and since 2.95 the server stays
stopped where it comes to.
"""

from typing import Any

from cairn.compute import recovery, service
from cairn.compute.api_servers import server_id
from cairn.compute.shapes import minor_of
from cairn.core.errors import Invalid
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Reply


def evacuate(tx: Tx, call: Call[Any], asked: Any) -> Reply:
    """Accept it; the placer does the rest."""
    minor = minor_of(call)
    wish = _wish(asked, minor)
    recovery.evacuate(
        tx,
        call.who,
        server_id(call),
        to=wish.get("host"),
        password=wish.get("adminPass"),
        stay_stopped=minor >= 95,
    )
    if minor >= 14:
        return Reply(status=200)
    password = service.get(tx, call.who, server_id(call)).admin_password
    return Reply(body={"adminPass": password}, status=200)


def _wish(asked: Any, minor: int) -> dict[str, Any]:
    """Raises Invalid naming the field."""
    if not isinstance(asked, dict):
        raise Invalid("Invalid input for field/attribute evacuate: it must be an object.")
    kinds: dict[str, type] = {"host": str, "adminPass": str}
    if minor < 14:
        kinds["onSharedStorage"] = bool
    if 29 <= minor < 68:
        kinds["force"] = bool
    for name, value in asked.items():
        if name not in kinds:
            raise Invalid(
                f"Invalid input for field/attribute evacuate: '{name[:60]}' is not among "
                f"{', '.join(kinds)} in this microversion."
            )
        is_flag = kinds[name] is bool and str(value).lower() in ("true", "false", "1", "0")
        if not isinstance(value, kinds[name]) and not is_flag:
            raise Invalid(f"Invalid input for field/attribute {name}: it has the wrong type.")
        if isinstance(value, str) and not is_flag and not 1 <= len(value) <= 255:
            raise Invalid(f"Invalid input for field/attribute {name}: 1 to 255 characters.")
    if minor < 14 and "onSharedStorage" not in asked:
        raise Invalid(
            "Invalid input for field/attribute evacuate: 'onSharedStorage' is a required property"
        )
    if str(asked.get("force", "false")).lower() in ("true", "1") and "host" not in asked:
        raise Invalid("Can't force to a non-provided destination")
    return asked
