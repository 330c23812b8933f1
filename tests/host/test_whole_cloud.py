"""One real cloud: whatever dies is noticed and put right, and a host that boots alone brings all back.

Control plane, agent, OVN and QEMU are the real ones, in a network namespace of their own. The tests go on
with what the one before left: that is the order of a host's worse days.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from cairn.cli.cloud import Cloud
from cairn.core.errors import CloudError
from tests.host.whole_cloud import Whole, cut_power, has_all_hardware, whole_cloud

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with whole_cloud() as made:
        yield made


def test_first_server_has_its_volume_and_its_second_port(whole: Whole) -> None:
    whole.wait(lambda: has_all_hardware(whole), "disk and port in the guest")


@pytest.mark.parametrize("part", ["agent", "control"])
def test_killed_part_comes_back_and_guests_go_on_untouched(whole: Whole, part: str) -> None:
    guests, before = whole.guests(), whole.part(part)
    os.kill(before, signal.SIGKILL)
    whole.wait(lambda: whole.part(part) not in (0, before), f"the {part}")
    whole.wait(lambda: whole.server("first")["status"] == "ACTIVE", "the API")
    whole.wait(
        lambda: whole.cloud.get("compute", "/servers/detail")["servers"] != [], "the servers"
    )
    assert whole.guests() == guests
    assert whole.ssh("true") is not None


def test_killed_guest_is_booted_again_with_all_it_had(whole: Whole) -> None:
    first = whole.server("first")["id"]
    before = whole.guests()[first]
    os.kill(before, signal.SIGKILL)
    whole.wait(lambda: whole.guests().get(first, before) != before, "a new process of the guest")
    whole.wait(lambda: has_all_hardware(whole), "the guest with disk and port")
    assert whole.server("first")["status"] == "ACTIVE"


def test_killed_network_daemons_come_back_and_guests_go_on(whole: Whole) -> None:
    guests = whole.guests()
    for name, before in sorted(whole.engines().items()):
        os.kill(before, signal.SIGKILL)
        whole.wait(lambda n=name, b=before: whole.engines().get(n, b) != b, f"{name} again")
        whole.wait(lambda: whole.ssh("true") is not None, f"the guest's network after {name}")
    assert whole.guests() == guests


def test_host_that_boots_alone_brings_all_back_and_leaves_the_stopped_stopped(
    whole: Whole,
) -> None:
    state = str(whole.settings.state)
    first, second = whole.server("first")["id"], whole.server("second")["id"]
    networks = [n["id"] for n in whole.cloud.get("network", "/networks")["networks"]]
    cut_power(whole, networks)
    assert whole.guests() == {}

    # No control plane: the agent has its ledger and nothing else.
    log = (whole.settings.log_dir / "alone.log").open("wb")
    command = [sys.executable, "-m", "cairn", "agent", "--state", state]
    agent = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        whole.wait(lambda: first in whole.guests(), "the guest's process")
        whole.wait(lambda: has_all_hardware(whole), "the guest with disk and port")
        assert second not in whole.guests()
    finally:
        agent.terminate()
        agent.wait(timeout=30)

    guests = whole.guests()
    again = whole.cairn("up", "--detach")
    assert again.returncode == 0, again.stderr + again.stdout
    whole.wait(lambda: whole.server("first")["status"] == "ACTIVE", "the first server")
    assert whole.server("second")["status"] == "SHUTOFF"
    time.sleep(2)  # What the control plane might wrongly order would come by now.
    assert whole.guests() == guests


def test_a_second_up_says_who_is_there(whole: Whole) -> None:
    second = whole.cairn("up", "--detach")
    assert second.returncode != 0
    assert "already runs" in second.stderr
    with pytest.raises(CloudError):
        Cloud(whole.settings.credentials_dir / "nothing.yaml", "cairn-demo")
