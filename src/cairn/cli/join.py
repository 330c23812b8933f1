"""`cairn join`: make this machine a member of the cloud that the token is of.

Interrupted anywhere and run again it ends the same. What it waits for at the end is the control plane's
word that the host is up; until then it says what is missing.
"""

import os
from pathlib import Path

import click

from cairn import settings as settings_file
from cairn.cli import launch, leave
from cairn.cli.cloud import until
from cairn.cli.main import state_option
from cairn.cli.progress import Step, Steps
from cairn.core.errors import CloudError, Denied
from cairn.host import engines, joining, leaving, supervise
from cairn.host.joining import Found, Standing, Wish
from cairn.settings import Settings
from cairn.wire import token as wire_token
from cairn.wire.token import JoinToken

HOST_S_MAX = 180.0  # the first start of the network engine on a busy machine


@click.command()
@click.argument("token")
@click.option("--name", default="", help="What the cloud calls this host [default: its name].")
@click.option(
    "--address",
    default="",
    metavar="IP",
    help="Where other hosts reach this one [default: the address it reaches the control plane from].",
)
@state_option
def join(token: str, name: str, address: str, state: Path | None) -> None:
    """Make this machine a member of the cloud that made the TOKEN."""
    parsed = wire_token.decode(token)
    settings = settings_file.load(settings_file.state_dir(state))
    if os.geteuid() != 0:
        raise CloudError("`cairn join` needs root: it makes interfaces and starts guests")
    if leaving.reason(settings) is not None:
        leave.finish(settings)
        settings = settings_file.load(settings.state)
    with Steps() as steps:
        is_member = joining.require_joinable(settings, parsed)
        if not is_member and supervise.look(settings.state) is None:
            launch.check_machine(agent_only(settings), steps)
        with steps.step("unpacking the network engine"):
            engines.ensure_ovs(settings.cache)
        if not is_member:
            wish = Wish(name=name or settings.host_name, address=address or settings.host_address)
            with steps.step("joining") as step:
                joining.join(settings, parsed, wish, step.tell)
        settings = settings_file.load(settings.state)
        if supervise.look(settings.state) is None:
            launch.start_detached(settings)
        with steps.step("starting this host") as step:
            standing = _wait(settings, parsed, step)
    click.echo(
        f"This machine is host {standing.hostname} ({', '.join(standing.roles)}; zone"
        f" {standing.zone}). `cairn status` shows how it is; after a reboot `cairn up --detach`"
        " starts it again, or `cairn install` has systemd do so."
    )


def agent_only(settings: Settings) -> Settings:
    """The settings as they will be once the machine has joined: no ports of a control plane."""
    from msgspec import structs

    return structs.replace(settings, control=False)


def _wait(settings: Settings, token: JoinToken, step: Step) -> Standing:
    """Until the control plane says that the host is up and knows what it has."""
    node_id = settings.node_id_file.read_text().strip()
    found: Found | None = None

    def look() -> Standing | None:
        nonlocal found
        launch.raise_if_failing(settings, "agent")
        told = launch.agent_state(settings)
        if not told or not told["is_connected"]:
            # What the control plane says may be about the agent that ran here before.
            why = str(told.get("why", ""))
            step.tell(f"the agent connects; {why or launch.last_line(settings, 'agent')}")
            return None
        if found is None:
            found = joining.find(token, lambda _: None)
        standing = joining.standing(found, token, node_id)
        if standing.is_at_work:
            return standing
        step.tell(f"the agent looks at what is here; {launch.last_line(settings, 'agent')}")
        return None

    try:
        return until(
            look, what="the control plane's word that this host is up", within_s=HOST_S_MAX
        )
    except Denied:
        # Joined long ago, by another token: then what the agent says must do.
        if (why := launch.wait_for_agent(settings, step)) is not None:
            raise CloudError("this host is a member, but not connected", because=why) from None
        return _as_known(settings, node_id)


def _as_known(settings: Settings, node_id: str) -> Standing:
    return Standing(
        id=node_id,
        hostname=settings.effective_host_name,
        zone="as before",
        roles=settings.roles,
        state="up",
        has_facts=True,
    )
