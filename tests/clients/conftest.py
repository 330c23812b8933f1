"""One whole cloud for all tests of this folder, with a first server in it; unmodified clients to drive it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openstack
import pytest
from openstack.config import OpenStackConfig

from cairn.cli.cloud import until
from tests.clients.rooms import Room, a_room, inside

Cli = Callable[..., Any]
BOOT_S = 240.0  # generous: guests boot in software emulation, beside whatever else runs here


@pytest.fixture(scope="session")
def room() -> Iterator[Room]:
    """The cloud. At its end nothing may be left of it."""
    with a_room() as made:
        up = made.cairn("up", "--demo")
        assert up.returncode == 0, f"{up.stderr}{up.stdout}\n{made.logs()}"
        yield made
        down = made.cairn("down")
        assert down.returncode == 0, f"{down.stderr}{down.stdout}\n{made.logs()}"
        assert made.left_overs() == []


@pytest.fixture
def connect(room: Room) -> Iterator[Callable[..., Any]]:
    """Signs in with openstacksdk; this thread is in the cloud's network meanwhile."""
    config = OpenStackConfig(
        config_files=[str(room.settings.credentials_dir / "clouds.yaml")], load_envvars=False
    )
    opened = []

    def sign_in(name: str = "cairn-demo", **more: Any) -> Any:
        opened.append(openstack.connection.Connection(config=config.get_one(name, **more)))
        return opened[-1]

    with inside(room):
        yield sign_in
        for connection in opened:
            connection.close()


@pytest.fixture
def demo(connect: Callable[..., Any]) -> Any:
    """Signed in to the demonstration's project."""
    return connect()


@pytest.fixture
def admin(connect: Callable[..., Any]) -> Any:
    """Signed in to the administrator's project."""
    return connect("cairn-admin")


@pytest.fixture
def cli(room: Room) -> Cli:
    """`openstack WORDS`: what it prints as JSON, or its words when `fails`."""

    def call(*words: str, fails: bool = False, is_silent: bool = False) -> Any:
        form = () if is_silent or fails else ("-f", "json")
        done = room.run(
            "openstack", "--os-cloud", "cairn-demo", *words, *form, variables=_files(room)
        )
        assert (done.returncode != 0) == fails, f"{words}: {done.stderr}{done.stdout}"
        if fails:
            return done.stderr + done.stdout
        return None if is_silent else json.loads(done.stdout)

    return call


def _files(room: Room) -> dict[str, str]:
    return {"OS_CLIENT_CONFIG_FILE": str(room.settings.credentials_dir / "clouds.yaml")}


def console_of(sdk: Any, server: Any) -> str:
    return str(sdk.compute.get_server_console_output(server)["output"])


def wait_for_console(sdk: Any, server: Any, words: str, *, times: int = 1) -> str:
    """What the guest has printed, once `words` are `times` in it."""

    def look() -> str | None:
        said = console_of(sdk, server)
        return said if said.count(words) >= times else None

    try:
        return until(look, what=f"{words!r} on the console", within_s=BOOT_S)
    except Exception as error:
        error.add_note(console_of(sdk, server)[-3000:])
        raise


def wait_until(look: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    until(lambda: look() or None, what=what, within_s=within_s)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The SDK warns its own users of its own next release in every call; that says nothing of ours."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"))
