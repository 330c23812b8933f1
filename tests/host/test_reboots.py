"""A real host loses its power again and again; whatever then starts first, its guest is back with all it had.

The check does it a few times. `CAIRN_REBOOTS=50 .venv/bin/pytest -m host tests/host/test_reboots.py -s`
does it as often as one likes, and prints a line for each.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.host.whole_cloud import Whole, cut_power, has_all_hardware, whole_cloud

pytestmark = pytest.mark.host

REBOOTS = int(os.environ.get("CAIRN_REBOOTS", "3"))
ORDERS = (
    ("agent",),  # and no control plane at all until the guest is back
    ("agent", "control"),
    ("control", "agent"),
    ("agent", "crash", "agent"),  # the agent dies in the middle of its first steps
)


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with whole_cloud() as made:
        yield made


def test_guest_is_back_after_every_reboot(whole: Whole) -> None:
    dice = random.Random(7)
    first, second = whole.server("first")["id"], whole.server("second")["id"]
    networks = [n["id"] for n in whole.cloud.get("network", "/networks")["networks"]]
    whole.wait(lambda: has_all_hardware(whole), "the guest with its volumes and ports")
    for number in range(1, REBOOTS + 1):
        order = ORDERS[(number - 1) % len(ORDERS)]
        cut_power(whole, networks)
        assert whole.guests() == {}
        began_s = time.monotonic()
        with started(whole, order, dice):
            whole.wait(
                lambda: has_all_hardware(whole), f"the guest after reboot {number} ({order})"
            )
            assert set(whole.guests()) == {first}, f"{second} was stopped and must stay so"
        sys.stdout.write(
            f"reboot {number} of {REBOOTS}, {' then '.join(order)}: guest with two volumes and two "
            f"ports answers after {time.monotonic() - began_s:.1f} s\n"
        )
    again = whole.cairn("up", "--detach")
    assert again.returncode == 0, again.stderr + again.stdout
    whole.wait(lambda: whole.server("first")["status"] == "ACTIVE", "the first server")
    assert whole.server("second")["status"] == "SHUTOFF"


@contextlib.contextmanager
def started(whole: Whole, order: tuple[str, ...], dice: random.Random) -> Iterator[None]:
    """The processes of a host, started by hand in this order, some moments apart."""
    running: list[subprocess.Popen[bytes]] = []
    log = (whole.settings.log_dir / "reboots.log").open("ab")
    try:
        for part in order:
            if part == "crash":
                time.sleep(dice.uniform(0.5, 3.0))
                running[-1].send_signal(signal.SIGKILL)
                running.pop().wait(timeout=30)
                continue
            command = [sys.executable, "-m", "cairn", part, "--state", str(whole.settings.state)]
            running.append(
                subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            )
            time.sleep(dice.uniform(0.0, 1.5))
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=60)
        log.close()
