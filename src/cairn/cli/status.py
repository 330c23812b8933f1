"""`cairn status`: every process, host and engine; what is wrong, and since when.

The supervisor's notes and the API's health need no token and come at once; the hosts and reconcilers
are asked from the API as the administrator, with a token that is kept for the next time.
"""

import datetime
import sys
import time
from pathlib import Path
from typing import Any

import click

from cairn import settings as settings_file
from cairn.cli import launch
from cairn.cli.cloud import Cloud, as_operator
from cairn.cli.main import state_option
from cairn.core.errors import CloudError
from cairn.host import supervise
from cairn.settings import Settings

API_TIMEOUT_S = 5.0


@click.command()
@state_option
def status(state: Path | None) -> None:
    """Show how the cloud on this machine is. Ends with 1 if something is wrong."""
    settings = settings_file.load(settings_file.state_dir(state))
    troubles = [*_show_processes(settings), *_show_rest(settings)]
    if troubles:
        click.secho("\nWrong:", fg="red")
        for trouble in troubles:
            click.echo(f"  {trouble}")
    sys.exit(bool(troubles))


def _show_processes(settings: Settings) -> list[str]:
    known: dict[str, Any] | None = supervise.look(settings.state)
    if known is None:
        click.echo(f"supervisor  not running ({settings.state})")
        return [] if _runs_under_systemd() else ["nothing supervises Cairn: `cairn up` starts it"]
    troubles = []
    click.echo(f"supervisor  process {known.get('pid')}, for {_since(known.get('since'))}")
    for name, part in known.get("parts", {}).items():
        again = f", started again {part['restarts']} times" if part["restarts"] else ""
        if part["pid"] is None:
            click.echo(f"{name:11} not running for {_since(part['since'])}{again}")
            log = settings.log_dir / f"{name}.log"
            since = _since(part["since"])
            troubles.append(f"{name} {part['last_end']} {since} ago; its log is {log}")
        else:
            click.echo(f"{name:11} process {part['pid']}, for {_since(part['since'])}{again}")
    return troubles


def _show_rest(settings: Settings) -> list[str]:
    return _show_cloud(settings) if settings.control else _show_link(settings)


def _show_link(settings: Settings) -> list[str]:
    """Of a host that joined: it has no credentials, so what its agent says must do."""
    from cairn.host import leaving  # cryptography: more than the rest of this command

    if (why := leaving.reason(settings)) is not None:
        return [f"this host is no member any more: {why} `cairn up` finishes cleaning up"]
    told = launch.agent_state(settings)
    where = ", ".join(settings.control_addresses)
    if not told:
        click.echo(f"control     {where}: no word from the agent")
        return ["the agent does not run, or has not said yet whether it is connected"]
    since = _since(told["since"])
    if told["is_connected"]:
        click.echo(f"control     {where}: connected for {since}")
        return []
    click.echo(f"control     {where}: not connected for {since}")
    return [f"not connected to the control plane for {since}: {told['why']}"]


def _show_cloud(settings: Settings) -> list[str]:
    try:
        operator = as_operator(settings, timeout_s=API_TIMEOUT_S)
        told = operator.get("cairn", "/status")
    except CloudError as error:
        click.echo(f"API         {settings.api_url}: no answer")
        return [f"API: {error}"]
    click.echo(f"API         {settings.api_url}, version {told['version']}")
    troubles = []
    for node in told["nodes"]:
        troubles += _show_node(node)
    for zone, why in told["held_zones"].items():
        troubles.append(
            f"zone {zone}: nothing is recovered, since {why}; `cairn host recover --zone {zone}` "
            "if it is the hosts and not us"
        )
    for rounds in told["reconcilers"]:
        for trouble in _trouble_of(rounds):
            troubles.append(f"reconciler {rounds['name']}: {trouble}")
    return [*troubles, *_unhealthy(operator)]


def _unhealthy(operator: Cloud) -> list[str]:
    """What the control process itself finds wrong; hosts and reconcilers are told above."""
    try:
        checks = operator.get("cairn", "/health")["checks"]
    except CloudError as error:
        return [f"control process: {error}"]
    shown = ("nodes", "losses", "reconciler ")
    return [
        f"{name} is {check.pop('state')}: {', '.join(f'{k} {v}' for k, v in check.items() if v)}"
        for name, check in checks.items()
        if check["state"] != "ok" and not name.startswith(shown)
    ]


def _show_node(node: dict[str, Any]) -> list[str]:
    since = _ago(node["since"])
    click.echo(
        f"host        {node['hostname']} is {node['state']} for {since}, zone {node['zone']}"
    )
    troubles = []
    if node["loss"]:
        troubles.append(f"host {node['hostname']}, for {since}: {node['loss']}")
    elif node["state"] != "up":
        troubles.append(f"host {node['hostname']} is {node['state']} for {since}")
    if not node["enabled"]:
        troubles.append(f"host {node['hostname']} is disabled: {node['disabled_reason'] or '-'}")
    behind = node["spec_number"] - node["reported_spec_number"]
    if behind:
        click.echo(f"            {behind} changes are on their way to it")
    for engine in node["engines"] or ():
        click.echo(f"  {engine['name']:20} {_engine(engine)}")
        if not engine["up"] or engine.get("trouble"):
            said = (engine.get("trouble") or {}).get("message", "it does not run")
            troubles.append(f"{engine['name']} on {node['hostname']}: {said}")
    return troubles


def _engine(engine: dict[str, Any]) -> str:
    again = f", started again {engine['restarts']} times" if engine.get("restarts") else ""
    if not engine["up"]:
        return f"down for {_since(engine.get('since'))}{again}"
    return f"process {engine['pid']}, for {_since(engine.get('since'))}{again}"


def _trouble_of(rounds: dict[str, Any]) -> list[str]:
    trouble = rounds.get("trouble")
    failed = (rounds.get("last") or {}).get("failed") or ()
    return [*([str(trouble)] if trouble else ()), *(str(one) for one in failed)]


def _runs_under_systemd() -> bool:
    return Path("/run/systemd/units/invocation:cairn-agent.service").is_symlink()


def _ago(moment: str | None) -> str:
    if not moment:
        return "-"
    return _since(datetime.datetime.fromisoformat(moment).timestamp())


def _since(moment: float | None) -> str:
    """The time that has passed, in the largest unit that says enough."""
    if not moment:
        return "-"
    seconds = max(0, int(time.time() - moment))
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
