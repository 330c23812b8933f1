"""`cairn up`: make what is missing, start control plane and agent, wait until they answer.

Without `--detach` this process becomes the supervisor itself and stays; a child of it waits and tells.
With `--demo` the supervisor is detached, because the command's end is a server that answers SSH.
"""

import json
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click

from cairn import settings as settings_file
from cairn.cli import demo as demonstration
from cairn.cli import launch, leave
from cairn.cli.cloud import Cloud, until
from cairn.cli.main import state_option
from cairn.cli.progress import Step, Steps
from cairn.core.errors import CloudError, Conflict, Unavailable
from cairn.host import credentials, engines, leaving, supervise, teardown
from cairn.host.prepare import prepare, require_member
from cairn.settings import Settings

API_S_MAX = 60.0
HOST_S_MAX = 180.0  # the first start of the network engine on a busy machine


@click.command()
@click.option("--demo", is_flag=True, help="Boot a first server and wait until SSH answers.")
@click.option("--detach", is_flag=True, help="Return when the cloud answers; it runs on.")
@state_option
def up(demo: bool, detach: bool, state: Path | None) -> None:
    """Start the cloud on this machine: control plane, agent, network engine."""
    settings = settings_file.load(settings_file.state_dir(state))
    if os.geteuid() != 0:
        raise CloudError("`cairn up` needs root: it makes interfaces and starts guests")
    if leaving.reason(settings) is not None:
        leave.finish(settings)
        return
    if not settings.control and demo:
        raise Conflict("this host has no control plane: --demo belongs where that runs")
    running = supervise.look(settings.state)
    if running is not None and not demo:
        raise Conflict(
            f"Cairn already runs from {settings.state} (process {running.get('pid', '?')});"
            " `cairn status` shows it, `cairn down` ends it"
        )
    is_first = not settings.node_id_file.exists()
    with Steps() as steps:
        if running is None:
            launch.check_machine(settings, steps)
            with steps.step("unpacking the network engine"):
                engines.ensure_ovs(settings.cache)
                if settings.control:
                    engines.ensure_novnc(settings.cache)
            with steps.step("certificates and credentials"):
                if settings.control:
                    prepare(settings)
                else:
                    require_member(settings)
            if not demo and not detach:
                _become_supervisor(settings, steps)
            launch.start_detached(settings)
        try:
            _wait(settings, steps)
        except CloudError:
            if running is None:
                _take_back(settings, is_first=is_first)
            raise
        if demo:
            login = demonstration.run(settings, steps)
            steps.show_total()
            demonstration.show(login, settings)
        else:
            _show(settings)


def _take_back(settings: Settings, *, is_first: bool) -> None:
    """What we started and does not come up is not left behind, but earlier guests are left alone."""
    teardown.stop(settings)
    if is_first:
        teardown.remove(settings, engines.present(settings.cache))


def _become_supervisor(settings: Settings, steps: Steps) -> None:
    """Never returns in this process; the grandchild that it leaves waits, tells and ends."""
    if (child := os.fork()) != 0:
        os.waitpid(child, 0)
        command = launch.supervisor(settings)
        os.execv(command[0], command)  # noqa: S606 - this very interpreter
    if os.fork() != 0:
        os._exit(0)  # So that the supervisor has no child that it knows nothing of.
    status = 0
    try:
        launch.wait_for_supervisor(settings)
        _wait(settings, steps)
        _show(settings)
        click.echo("Ctrl-C ends what was started here; guests run on until `cairn down`.")
    except CloudError as error:
        click.secho(f"cairn: {error}", fg="red", err=True)
        status = 1
    os._exit(status)


def _wait(settings: Settings, steps: Steps) -> None:
    if not settings.control:
        with steps.step("starting this host") as step:
            why = launch.wait_for_agent(settings, step)
        if why is not None:
            click.echo(
                f"The agent runs, by what it knew last; it is not connected: {why}", err=True
            )
        return
    with steps.step("starting the control plane") as step:
        until(lambda: _health(settings, step), what="an answer of the API", within_s=API_S_MAX)
    cloud = Cloud(
        credentials.paths(settings.credentials_dir).clouds_yaml,
        f"cairn-{credentials.ADMIN_PROJECT}",
    )
    with steps.step("starting this host") as step:
        cloud.sign_in()
        until(lambda: _host(settings, cloud, step), what="this host", within_s=HOST_S_MAX)


def _health(settings: Settings, step: Step) -> dict[str, Any] | None:
    launch.raise_if_failing(settings, "control")
    context = ssl.create_default_context(cafile=settings.certs_dir / "ca.crt")
    url = f"https://127.0.0.1:{settings.api_port}/healthz"
    try:
        with urllib.request.urlopen(url, context=context, timeout=5) as answer:
            told: dict[str, Any] = json.load(answer)
            return told
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = str(getattr(error, "reason", error))
        step.tell(reason)
        raise Unavailable(reason) from error


def _host(settings: Settings, cloud: Cloud, step: Step) -> dict[str, Any] | None:
    launch.raise_if_failing(settings, "agent")
    node_id = settings.node_id_file.read_text().strip()
    for node in cloud.get("cairn", "/status")["nodes"]:
        if node["id"] == node_id:
            if node["state"] == "up" and node["facts"]:
                found: dict[str, Any] = node
                return found
            step.tell(f"this host is {node['state']}; {launch.last_line(settings, 'agent')}")
    return None


def _show(settings: Settings) -> None:
    if not settings.control:
        click.echo("This host's agent runs; `cairn status` shows how it is.")
        return
    clouds = credentials.paths(settings.credentials_dir).clouds_yaml
    click.echo(
        f"\nCairn runs at {settings.api_url}\n\n"
        f"    export OS_CLIENT_CONFIG_FILE={clouds} OS_CLOUD=cairn-admin\n"
        "    openstack catalog list\n"
    )
