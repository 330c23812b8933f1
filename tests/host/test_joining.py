"""What a machine does on its side of a join, without a network: settings, keys, refusals."""

import json
from pathlib import Path

import pytest

from cairn import settings as settings_file
from cairn.core.errors import Conflict, Denied, Invalid, Unavailable
from cairn.host import certs, joining, leaving, prepare
from cairn.settings import Settings
from cairn.wire.addresses import is_loopback, joined, split
from cairn.wire.token import JoinToken

NODE = "0b4c8f0e-5a39-4f0e-9a77-3c1d0b8f7a11"
MEMBERSHIP = {
    "control": False,
    "roles": ["compute", "storage"],
    "control_addresses": ["192.0.2.1:8444"],
    "host_address": "192.0.2.7",
    "host_name": "beta",
}


def token(fingerprint: bytes = b"f" * 32, *addresses: str) -> JoinToken:
    known = addresses or ("192.0.2.1:8443",)
    return JoinToken(addresses=known, fingerprint=fingerprint, secret=b"s" * 32)


@pytest.fixture
def member(tmp_path: Path) -> Settings:
    """A host that has joined."""
    certs.ensure(tmp_path / "certs", node_id=NODE)
    (tmp_path / "certs/ca.key").unlink()
    (tmp_path / "node-id").write_text(f"{NODE}\n")
    (tmp_path / "membership.json").write_text(json.dumps(MEMBERSHIP))
    return settings_file.load(tmp_path)


def test_membership_makes_the_settings_and_the_operator_overrides_them(member: Settings) -> None:
    assert not member.control
    assert member.control_addresses == ("192.0.2.1:8444",)
    assert member.effective_host_name == "beta"
    (member.state / "cairn.toml").write_text('host_address = "198.51.100.7"\n')
    again = settings_file.load(member.state)
    assert again.host_address == "198.51.100.7"
    assert not again.control


def test_damaged_membership_is_said_to_be(member: Settings) -> None:
    member.membership_file.write_text('{"control": ')
    with pytest.raises(Invalid, match=r"membership\.json"):
        settings_file.load(member.state)


def test_only_hosts_with_the_network_role_have_a_physical_network_unasked(member: Settings) -> None:
    assert member.effective_physical_networks == {}
    assert Settings(state=member.state).effective_physical_networks == {"external": ""}
    asked = Settings(state=member.state, roles=("compute",), physical_networks={"external": "eth1"})
    assert asked.effective_physical_networks == {"external": "eth1"}


def test_member_of_the_same_cloud_need_not_join_again(member: Settings) -> None:
    held = certs.fingerprint((member.certs_dir / "ca.crt").read_bytes())
    assert joining.require_joinable(member, token(held))


def test_member_of_another_cloud_is_not_taken_from_it(member: Settings) -> None:
    with pytest.raises(Conflict, match="member of another cloud"):
        joining.require_joinable(member, token())


def test_machine_with_a_control_plane_does_not_join(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    with pytest.raises(Conflict, match="control plane of its own"):
        joining.require_joinable(settings_file.load(tmp_path), token())


def test_fresh_machine_may_join(tmp_path: Path) -> None:
    assert not joining.require_joinable(settings_file.load(tmp_path), token())


def test_host_that_has_not_joined_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="cairn join"):
        prepare.require_member(Settings(state=tmp_path, control=False))


def test_member_has_all_that_it_needs(member: Settings) -> None:
    prepare.require_member(member)
    assert member.log_dir.is_dir()


def test_every_address_that_failed_is_named() -> None:
    nowhere = token(b"f" * 32, "127.0.0.1:1", "[::1]:1")
    told: list[str] = []
    with pytest.raises(Unavailable) as caught:
        joining.find(nowhere, told.append)
    assert "127.0.0.1:1" in str(caught.value) and "[::1]:1" in str(caught.value)
    assert len(told) == 2


def test_own_key_is_kept_between_two_attempts(tmp_path: Path) -> None:
    settings = settings_file.load(tmp_path / "state")
    for _ in range(2):
        with pytest.raises((Unavailable, Denied)):
            joining.join(settings, token(b"f" * 32, "127.0.0.1:1"), joining.Wish(), lambda _: None)
        key = (settings.certs_dir / "node.key").read_bytes()
    assert certs.ensure_key(settings.certs_dir / "node.key")
    assert (settings.certs_dir / "node.key").read_bytes() == key
    assert not settings.membership_file.exists()


def test_member_does_not_leave_unasked(member: Settings) -> None:
    with pytest.raises(Conflict, match="was not removed"):
        leaving.leave(member, lambda _: None)
    assert member.membership_file.exists()


def test_control_plane_is_never_cleaned_up(tmp_path: Path) -> None:
    settings = settings_file.load(tmp_path)
    settings.removal_file.write_text('{"reason": "Host alpha was removed."}')
    assert leaving.reason(settings) == "Host alpha was removed."
    with pytest.raises(Conflict, match="control plane lives here"):
        leaving.leave(settings, lambda _: None)
    assert tmp_path.exists()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("control", "control", 7),
        ("control:9", "control", 9),
        ("192.0.2.1:9", "192.0.2.1", 9),
        ("2001:db8::1", "2001:db8::1", 7),
        ("[2001:db8::1]", "2001:db8::1", 7),
        ("[2001:db8::1]:9", "2001:db8::1", 9),
    ],
)
def test_addresses_are_read_as_people_write_them(text: str, host: str, port: int) -> None:
    assert split(text, 7) == (host, port)
    assert split(joined(host, port), 1) == (host, port)


def test_loopback_is_known_by_its_names() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback, ("192.0.2.1", "control", "2001:db8::1")))
