"""Starting the supervisor and waiting for what it starts; shared by `cairn up` and `cairn join`."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from cairn.cli.cloud import until
from cairn.cli.progress import Step, Steps
from cairn.core.errors import CloudError
from cairn.host import probes, processes, supervise
from cairn.settings import Settings

SUPERVISOR_S_MAX = 10.0
RESTARTS_MAX = 3  # a part that ends this often while it is waited for will not come up
LOG_TAIL_LINES = 15
CONNECTED_S_MAX = 10.0  # for the agent to reach the control plane: it works without, too


def check_machine(settings: Settings, steps: Steps) -> None:
    """Raises CloudError naming what is missing, each with its cure."""
    with steps.step("looking at the machine"):
        findings = probes.probe(settings)
    fatal = [finding for finding in findings if finding.is_fatal]
    if fatal:
        told = "\n".join(f"  - {f.what}: {f.found}\n    {f.cure}" for f in fatal)
        raise CloudError(f"this machine cannot run Cairn yet:\n{told}")


def supervisor(settings: Settings) -> list[str]:
    """The command that keeps this host's parts running."""
    parts = [] if settings.control else ["agent"]
    return [sys.executable, "-m", "cairn.host.supervise", str(settings.state), *parts]


def start_detached(settings: Settings) -> None:
    """Start the supervisor in a session of its own. Raises CloudError when it ends at once."""
    with (settings.log_dir / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            supervisor(settings),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )

    wait_for_supervisor(settings, has_ended=lambda: process.poll() is not None)


def wait_for_supervisor(settings: Settings, has_ended: Callable[[], bool] = lambda: False) -> None:
    """Until the supervisor has taken its lock. Raises CloudError: it has ended, or does not come."""

    def is_up() -> bool | None:
        if has_ended():
            raise CloudError("the supervisor has ended", because=tail(settings, "supervisor"))
        return supervise.look(settings.state) is not None or None

    until(is_up, what="the supervisor", within_s=SUPERVISOR_S_MAX)


def wait_for_agent(settings: Settings, step: Step) -> str | None:
    """Wait until the agent is connected; if it runs but is not, why. Raises CloudError: it ends."""
    deadline = time.monotonic() + CONNECTED_S_MAX
    while True:
        raise_if_failing(settings, "agent")
        told = agent_state(settings)
        if told and told["is_connected"]:
            return None
        why = str(told["why"]) if told else "the agent has said nothing yet"
        step.tell(why)
        if time.monotonic() > deadline:
            return why
        time.sleep(0.2)


def agent_state(settings: Settings) -> dict[str, Any]:
    """What the agent that runs now last said of its connection; empty if there is none."""
    try:
        told: dict[str, Any] = json.loads(settings.agent_state_file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    # One that has ended may have left its last word.
    agents = {one.pid for one in processes.agents() if one.state == settings.state}
    return told if told.get("pid") in agents else {}


def raise_if_failing(settings: Settings, part: str) -> None:
    """A process that ends again and again is not waited for: its log says why."""
    known = supervise.look(settings.state)
    if known is None:
        told = tail(settings, "supervisor")
        raise CloudError("the supervisor has ended", because=told or None)
    shown = known.get("parts", {}).get(part, {})
    if shown.get("restarts", 0) >= RESTARTS_MAX and "ended with" in shown.get("last_end", ""):
        raise CloudError(
            f"{part} does not start: it {shown['last_end']}",
            because=f"{settings.log_dir / f'{part}.log'} ends:\n{tail(settings, part)}",
        )


def tail(settings: Settings, part: str) -> str:
    with contextlib.suppress(FileNotFoundError):
        text = (settings.log_dir / f"{part}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])
    return ""


def last_line(settings: Settings, part: str) -> str:
    return tail(settings, part).rpartition("\n")[2][:100]
