"""Actions on servers: `POST …/action` with the action's name as the body's one key, and what they left.

One route carries them all, so each action has its line in a table: rule, first and last microversion,
what to do. Only the console's log has to ask the host, outside of a transaction.
"""

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from cairn.compute import api_migrations, console, firewall, service, shapes
from cairn.compute.api_evacuate import evacuate
from cairn.compute.api_servers import server_id
from cairn.compute.bodies import OpenConsole
from cairn.compute.records import Action, ServerState
from cairn.compute.shapes import minor_of, time_text
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import ServerId
from cairn.db.engine import Database, Tx
from cairn.fleet import service as fleet
from cairn.fleet.ask import Ask
from cairn.http import pages
from cairn.http.call import Call
from cairn.http.faults import HttpFault
from cairn.http.routes import Reply, Route
from cairn.http.versions import Version
from cairn.wire.link import ConsoleLog

LOG_LINES_MAX = 100_000
Act = Callable[[Tx, "Call[Any]", Any], Reply]


class Known(Struct, frozen=True):
    """One action: who may, since and until which microversion 2.x, and what it does."""

    rule: str
    act: Act
    since: int = 1
    until: int = 10**6


# --- what each action does ---------------------------------------------------------------------------


def _start(tx: Tx, call: Call[Any], asked: Any) -> Reply:
    service.start(tx, call.who, server_id(call))
    return Reply(status=202)


def _stop(tx: Tx, call: Call[Any], asked: Any) -> Reply:
    service.stop(tx, call.who, server_id(call))
    return Reply(status=202)


def _reboot(tx: Tx, call: Call[Any], asked: Any) -> Reply:
    kind = asked.get("type") if isinstance(asked, dict) and set(asked) == {"type"} else None
    if not isinstance(kind, str) or kind.upper() not in ("SOFT", "HARD"):
        raise Invalid("Invalid input for field/attribute reboot: 'type' must be SOFT or HARD.")
    service.reboot(tx, call.who, server_id(call), softly=kind.upper() == "SOFT")
    return Reply(status=202)


def _force_delete(tx: Tx, call: Call[Any], asked: Any) -> Reply:
    service.delete(tx, call.who, server_id(call))
    return Reply(status=204)


def _reset_state(tx: Tx, call: Call[Any], asked: Any) -> Reply:
    state = asked.get("state") if isinstance(asked, dict) and set(asked) == {"state"} else None
    if state not in (ServerState.ACTIVE, ServerState.ERROR):
        raise Invalid("Invalid input for field/attribute state: it must be 'active' or 'error'.")
    service.reset_state(tx, call.who, server_id(call), ServerState(state))
    return Reply(status=202)


def _open_vnc(tx: Tx, call: Call[Any], asked: Any) -> Reply:
    kind = asked.get("type") if isinstance(asked, dict) and set(asked) == {"type"} else None
    if kind not in ("novnc", "xvpvnc"):
        raise Invalid("Invalid input for field/attribute type: it must be 'novnc'.")
    _require_novnc(kind)
    return Reply(body={"console": {"type": kind, "url": _screen_url(tx, call)}}, status=200)


def _add_group(tx: Tx, call: Call[Any], asked: Any) -> Reply:
    firewall.add_group(tx, call.who, server_id(call), _group_name(asked))
    return Reply(status=202)


def _remove_group(tx: Tx, call: Call[Any], asked: Any) -> Reply:
    firewall.remove_group(tx, call.who, server_id(call), _group_name(asked))
    return Reply(status=202)


def _group_name(asked: Any) -> str:
    name = asked.get("name") if isinstance(asked, dict) and set(asked) == {"name"} else None
    if not isinstance(name, str) or not 1 <= len(name) <= 255:
        raise Invalid("Invalid input for field/attribute name: a security group's name or id.")
    return name


ACTIONS = {
    "os-start": Known("os_compute_api:servers:start", _start),
    "os-stop": Known("os_compute_api:servers:stop", _stop),
    "reboot": Known("os_compute_api:servers:reboot", _reboot),
    "forceDelete": Known("os_compute_api:os-deferred-delete:force", _force_delete),
    "os-resetState": Known("os_compute_api:os-admin-actions:reset_state", _reset_state),
    "evacuate": Known("os_compute_api:os-evacuate", evacuate),
    "addSecurityGroup": Known("os_compute_api:os-security-groups:add", _add_group),
    "removeSecurityGroup": Known("os_compute_api:os-security-groups:remove", _remove_group),
    "os-migrateLive": Known(
        "os_compute_api:os-migrate-server:migrate_live", api_migrations.migrate_live
    ),
    "migrate": Known("os_compute_api:os-migrate-server:migrate", api_migrations.migrate),
    "confirmResize": Known("os_compute_api:servers:confirm_resize", api_migrations.confirm),
    "revertResize": Known("os_compute_api:servers:revert_resize", api_migrations.revert),
    "os-getVNCConsole": Known("os_compute_api:os-remote-consoles", _open_vnc, until=5),
}
CONSOLE_LOG = "os-getConsoleOutput"


def routes(ask: Ask) -> tuple[Route, ...]:
    async def act(database: Database, call: Call[Any]) -> Reply:
        """Do the one action that the body names."""
        name, asked = _named(call.body)
        if name == CONSOLE_LOG:
            call.require("os_compute_api:os-console-output")
            return await _console_log(ask, database, call, asked)
        known = ACTIONS.get(name)
        if known is None or not known.since <= minor_of(call) <= known.until:
            if known is not None:
                raise HttpFault(404, "The resource could not be found in this API version.")
            # Unknown servers answer the same to every action.
            await database.read(lambda tx: service.get(tx, call.who, server_id(call)))
            raise Invalid(f"There is no such action: {name[:60]}")
        call.require(known.rule)
        return await database.write(lambda tx: known.act(tx, call, asked))

    return (
        Route(
            method="POST",
            path="/v2.1/servers/{server_id}/action",
            rule="os_compute_api:servers:action",
            run=act,
            body=object,
            status=202,
        ),
        Route(
            method="POST",
            path="/v2.1/servers/{server_id}/remote-consoles",
            rule="os_compute_api:os-remote-consoles",
            do=open_console,
            body=OpenConsole,
            since=Version(2, 6),
        ),
        Route(
            method="GET",
            path="/v2.1/servers/{server_id}/os-instance-actions",
            rule="os_compute_api:os-instance-actions:list",
            do=list_actions,
        ),
        Route(
            method="GET",
            path="/v2.1/servers/{server_id}/os-instance-actions/{request_id}",
            rule="os_compute_api:os-instance-actions:show",
            do=show_action,
        ),
    )


def _named(body: Any) -> tuple[str, Any]:
    if not isinstance(body, dict) or len(body) != 1:
        raise Invalid("The body must be an object with one key, the action.")
    ((name, asked),) = body.items()
    return name, asked


# --- consoles ----------------------------------------------------------------------------------------


async def _console_log(ask: Ask, database: Database, call: Call[Any], asked: Any) -> Reply:
    lines = _lines(asked)
    server = await database.read(lambda tx: service.get(tx, call.who, server_id(call)))
    if server.node_id is None:
        raise Conflict(f"Instance {server.id} is not ready: no host has it yet.")
    try:
        data = await ask(server.node_id, ConsoleLog(server_id=ServerId(server.id), lines=lines))
    except NotFound as error:
        raise Conflict(
            f"Instance {server.id} has no console log yet.", because=str(error)
        ) from error
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n").replace("\x00", "")
    return Reply(body={"output": text}, status=200)


def _lines(asked: Any) -> int | None:
    """How many; None is all. Clients write numbers as text, and -1 for all."""
    if asked is None:
        return None
    if not isinstance(asked, dict) or set(asked) - {"length"}:
        raise Invalid("Invalid input for os-getConsoleOutput: only 'length' is known.")
    length = asked.get("length")
    if length is None:
        return None
    if isinstance(length, str) and length.removeprefix("-").isdecimal() and len(length) < 12:
        length = int(length)
    if not isinstance(length, int) or isinstance(length, bool) or length < -1:
        raise Invalid("Invalid input for field/attribute length: it must be an integer >= -1.")
    return None if length == -1 else min(length, LOG_LINES_MAX)


def open_console(tx: Tx, call: Call[OpenConsole]) -> Any:
    wanted = call.body.console
    if (wanted.protocol, wanted.type) != ("vnc", "novnc"):
        if minor_of(call) < 8 and "mks" in (wanted.protocol, wanted.type):
            raise Invalid("Invalid input for field/attribute protocol: 'mks' came with 2.8.")
        _require_novnc(wanted.type)
        raise Invalid(f"A console of type {wanted.type} has protocol vnc.")
    body = {"protocol": wanted.protocol, "type": wanted.type, "url": _screen_url(tx, call)}
    return {"remote_console": body}


def _require_novnc(kind: str) -> None:
    if kind != "novnc":
        raise Invalid(f"Unavailable console type {kind}: servers have a noVNC console.")


def _screen_url(tx: Tx, call: Call[Any]) -> str:
    return f"{call.base_url}{console.PAGE}?token={console.make_key(tx, call.who, server_id(call))}"


# --- what was done -----------------------------------------------------------------------------------


def list_actions(tx: Tx, call: Call[None]) -> Any:
    found = service.actions_of(tx, call.who, server_id(call))
    minor = minor_of(call)
    if minor < 58:
        return {"instanceActions": [_action(action, minor) for action in found]}
    page = pages.page_of(call)
    if page.marker is not None:
        at = [i for i, action in enumerate(found) if action.request_id == page.marker]
        if not at:
            raise Invalid(f"marker [{page.marker[:64]}] not found")
        found = found[at[0] + 1 :]
    body: dict[str, Any] = {}
    if len(found) > page.limit > 0:
        href = pages.next_link(call, marker=found[page.limit - 1].request_id)
        body["links"] = [{"rel": "next", "href": href}]
    return {"instanceActions": [_action(a, minor) for a in found[: page.limit]], **body}


def show_action(tx: Tx, call: Call[None]) -> Any:
    wanted = call.path["request_id"]
    for action in service.actions_of(tx, call.who, server_id(call)):
        if action.request_id == wanted:
            return {"instanceAction": _action(action, minor_of(call)) | _events(tx, call, action)}
    raise NotFound(
        f"Action for request_id {wanted[:64]} on instance {server_id(call)[:64]} not found"
    )


def _action(action: Action, minor: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "action": action.action,
        "instance_uuid": action.server_id,
        "request_id": action.request_id,
        "user_id": action.user_id,
        "project_id": action.project_id,
        "start_time": _precise(action.started_at),
        "message": action.message,
    }
    if minor >= 58:
        body["updated_at"] = _precise(action.updated_at)
    return body


def _events(tx: Tx, call: Call[None], action: Action) -> dict[str, Any]:
    """Everybody sees an action's events since 2.51, before that only administrators."""
    minor = minor_of(call)
    is_admin = call.may("os_compute_api:os-instance-actions:events:details")
    if minor < 51 and not is_admin:
        return {}
    event: dict[str, Any] = {
        "event": action.event,
        "start_time": _precise(action.started_at),
        "finish_time": _precise(action.finished_at) if action.finished_at else None,
        "result": action.result,
    }
    if is_admin:
        event["traceback"] = None
    if minor >= 62:
        node = action.node_id
        event["hostId"] = shapes.host_id(action.project_id, node) if node else ""
        if is_admin and node is not None:
            event["host"] = fleet.node(tx, node).hostname
    if minor >= 84:
        event["details"] = action.details
    return {"events": [event]}


def _precise(at: Any) -> str:
    return time_text(at)[:-1] + ".000000"
