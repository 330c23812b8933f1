"""`cairn up`: make what is missing, start control plane and agent, wait until they answer.

Without `--detach` this process becomes the supervisor itself and stays; a child of it waits and tells.
With `--demo` the supervisor is detached, because the command's end is a server that answers SSH.
"""

import contextlib
import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click

from cairn import settings as settings_file
from cairn.cli import demo as demonstration
from cairn.cli.cloud import Cloud, until
from cairn.cli.main import state_option
from cairn.cli.progress import Step, Steps
from cairn.core.errors import CloudError, Conflict, Unavailable
from cairn.host import credentials, engines, probes, supervise, teardown
from cairn.host.prepare import prepare
from cairn.settings import Settings

SUPERVISOR_S_MAX = 10.0
API_S_MAX = 60.0
HOST_S_MAX = 180.0  # the first start of the network engine on a busy machine
RESTARTS_MAX = 3  # a part that ends this often while it is waited for will not come up
LOG_TAIL_LINES = 15


@click.command()
@click.option("--demo", is_flag=True, help="Boot a first server and wait until SSH answers.")
@click.option("--detach", is_flag=True, help="Return when the cloud answers; it runs on.")
@state_option
def up(demo: bool, detach: bool, state: Path | None) -> None:
    """Start the cloud on this machine: control plane, agent, network engine."""
    settings = settings_file.load(settings_file.state_dir(state))
    if os.geteuid() != 0:
        raise CloudError("`cairn up` needs root: it makes interfaces and starts guests")
    running = supervise.look(settings.state)
    if running is not None and not demo:
        raise Conflict(
            f"Cairn already runs from {settings.state} (process {running.get('pid', '?')});"
            " `cairn status` shows it, `cairn down` ends it"
        )
    is_first = not settings.node_id_file.exists()
    with Steps() as steps:
        if running is None:
            _check_machine(settings, steps)
            with steps.step("unpacking the network engine"):
                engines.ensure_ovs(settings.cache)
                engines.ensure_novnc(settings.cache)
            with steps.step("certificates and credentials"):
                prepare(settings)
            if not demo and not detach:
                _become_supervisor(settings, steps)
            _start_detached(settings)
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


def _check_machine(settings: Settings, steps: Steps) -> None:
    with steps.step("looking at the machine"):
        findings = probes.probe(settings)
    fatal = [finding for finding in findings if finding.is_fatal]
    if fatal:
        told = "\n".join(f"  - {f.what}: {f.found}\n    {f.cure}" for f in fatal)
        raise CloudError(f"this machine cannot run Cairn yet:\n{told}")


def _supervisor(settings: Settings) -> list[str]:
    return [sys.executable, "-m", "cairn.host.supervise", str(settings.state)]


def _start_detached(settings: Settings) -> None:
    with (settings.log_dir / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            _supervisor(settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )

    def is_up() -> bool | None:
        if process.poll() is not None:
            raise CloudError("the supervisor has ended", because=_tail(settings, "supervisor"))
        return supervise.look(settings.state) is not None or None

    until(is_up, what="the supervisor", within_s=SUPERVISOR_S_MAX)


def _take_back(settings: Settings, *, is_first: bool) -> None:
    """What we started and does not come up is not left behind, but earlier guests are left alone."""
    teardown.stop(settings)
    if is_first:
        teardown.remove(settings, engines.present(settings.cache))


def _become_supervisor(settings: Settings, steps: Steps) -> None:
    """Never returns in this process; the child that it leaves waits, tells and ends."""
    if os.fork() != 0:
        command = _supervisor(settings)
        os.execv(command[0], command)  # noqa: S606 - this very interpreter
    status = 0
    try:
        _wait(settings, steps)
        _show(settings)
        click.echo("Ctrl-C ends control plane and agent; guests run on until `cairn down`.")
    except CloudError as error:
        click.secho(f"cairn: {error}", fg="red", err=True)
        status = 1
    os._exit(status)


def _wait(settings: Settings, steps: Steps) -> None:
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
    _raise_if_failing(settings, "control")
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
    _raise_if_failing(settings, "agent")
    node_id = settings.node_id_file.read_text().strip()
    for node in cloud.get("cairn", "/status")["nodes"]:
        if node["id"] == node_id:
            if node["state"] == "up" and node["facts"]:
                found: dict[str, Any] = node
                return found
            step.tell(f"this host is {node['state']}; {_last_line(settings, 'agent')}")
    return None


def _raise_if_failing(settings: Settings, part: str) -> None:
    """A process that ends again and again is not waited for: its log says why."""
    known = supervise.look(settings.state)
    if known is None:
        told = _tail(settings, "supervisor")
        raise CloudError("the supervisor has ended", because=told or None)
    shown = known.get("parts", {}).get(part, {})
    if shown.get("restarts", 0) >= RESTARTS_MAX and "ended with" in shown.get("last_end", ""):
        raise CloudError(
            f"{part} does not start: it {shown['last_end']}",
            because=f"{settings.log_dir / f'{part}.log'} ends:\n{_tail(settings, part)}",
        )


def _tail(settings: Settings, part: str) -> str:
    with contextlib.suppress(FileNotFoundError):
        text = (settings.log_dir / f"{part}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])
    return ""


def _last_line(settings: Settings, part: str) -> str:
    return _tail(settings, part).rpartition("\n")[2][:100]


def _show(settings: Settings) -> None:
    clouds = credentials.paths(settings.credentials_dir).clouds_yaml
    click.echo(
        f"\nCairn runs at {settings.api_url}\n\n"
        f"    export OS_CLIENT_CONFIG_FILE={clouds} OS_CLOUD=cairn-admin\n"
        "    openstack catalog list\n"
    )
