"""The agent's certificate is replaced before it ends, and whole wherever the replacement is cut off."""

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from cairn.agent.membership import HostMembership
from cairn.agent.renewal import AGAIN_S, SLEEP_S_MAX, Renewal
from cairn.core.clock import FakeClock
from cairn.core.errors import Invalid
from cairn.core.ids import NodeId
from cairn.host import certs
from cairn.settings import Settings
from cairn.wire import tls
from cairn.wire.link import Renewed

NODE = NodeId("0b4c8f0e-5a39-4f0e-9a77-3c1d0b8f7a11")
DAY_S = 86400.0


class Host:
    """A host with a certificate of a day, and the authority that gave it."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
        self.folder = folder
        self.authority = certs.Authority(
            *certs._new_authority(self.clock.now()), clock=self.clock, days=1
        )
        key = certs.ensure_key(folder / "node.key")
        (folder / "ca.crt").write_bytes(self.authority.pem)
        issued = self.authority.issue(certs.request_for(key), NODE, address="192.0.2.7")
        (folder / "node.crt").write_bytes(issued)
        self.renewal = self.restarted()

    def restarted(self) -> Renewal:
        return Renewal(self.folder, self.clock, owns_authorities=True, jitter=lambda: 0.5)

    def answer(self, request: bytes, node_id: NodeId = NODE) -> Renewed:
        fresh = self.authority.issue(request, node_id, address="192.0.2.7")
        return Renewed(certificate=fresh, authorities=self.authority.pem)

    def require_whole(self) -> x509.Certificate:
        """Key and certificate belong together, and TLS takes them."""
        held = x509.load_pem_x509_certificate((self.folder / "node.crt").read_bytes())
        key = serialization.load_pem_private_key(
            (self.folder / "node.key").read_bytes(), password=None
        )
        assert held.public_key() == key.public_key()
        tls.client_context(
            authority=self.folder / "ca.crt",
            certificate=self.folder / "node.crt",
            key=self.folder / "node.key",
        )
        return held


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_it_is_due_when_a_third_is_left(host: Host) -> None:
    assert host.renewal.wait_s() == SLEEP_S_MAX  # It looks again now and then: clocks are set.
    host.clock.advance(0.6 * DAY_S)
    assert 0 < host.renewal.wait_s() < 0.1 * DAY_S
    host.clock.advance(0.1 * DAY_S)
    assert host.renewal.wait_s() == 0


def test_hosts_that_joined_together_do_not_ask_together(host: Host) -> None:
    early = Renewal(host.folder, host.clock, owns_authorities=True, jitter=lambda: 1.0)
    late = Renewal(host.folder, host.clock, owns_authorities=True, jitter=lambda: 0.0)
    host.clock.advance(0.63 * DAY_S)
    assert early.wait_s() == 0
    assert late.wait_s() > 0.05 * DAY_S


def test_next_certificate_is_taken_into_use(host: Host) -> None:
    before = host.require_whole()
    host.clock.advance(0.7 * DAY_S)
    host.renewal.accept(host.answer(host.renewal.request()))
    after = host.require_whole()
    assert after.public_key() != before.public_key()
    assert after.not_valid_after_utc > before.not_valid_after_utc
    assert host.renewal.wait_s() > 0
    assert sorted(p.name for p in host.folder.iterdir()) == ["ca.crt", "node.crt", "node.key"]


def test_unanswered_request_is_repeated_after_a_pause(host: Host) -> None:
    host.clock.advance(0.7 * DAY_S)
    host.renewal.request()
    assert host.renewal.wait_s() == AGAIN_S
    host.clock.advance(AGAIN_S)
    assert host.renewal.wait_s() == 0


def test_old_certificate_stays_where_the_next_is_not_ours(host: Host) -> None:
    before = host.require_whole()
    host.clock.advance(0.7 * DAY_S)
    request = host.renewal.request()
    stranger = Host.__new__(Host)
    stranger.clock = host.clock
    stranger.authority = certs.new_authority(host.clock)
    other_key = certs.request_for(certs.ensure_key(host.folder / "other.key"))
    (host.folder / "other.key").unlink()
    for wrong in (
        host.answer(request, NodeId("somebody-else")),
        host.answer(other_key),
        Renewed(certificate=b"garbage", authorities=host.authority.pem),
        Renewed(certificate=stranger.answer(request).certificate, authorities=host.authority.pem),
    ):
        with pytest.raises(Invalid):
            host.renewal.accept(wrong)
        assert host.require_whole() == before


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_replacement_that_was_cut_off_is_finished(
    host: Host, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power fails after so many of the renames: keys, then certificate."""
    before = host.require_whole()
    host.clock.advance(0.7 * DAY_S)
    answer = host.answer(host.renewal.request())
    done = 0
    rename = Path.rename

    class PowerCut(Exception): ...

    def failing(self: Path, target: Path) -> Path:
        nonlocal done
        if self.name in ("node.key.next", "node.crt.next"):
            if done == renames:
                raise PowerCut
            done += 1
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    if renames < 2:
        with pytest.raises(PowerCut):
            host.renewal.accept(answer)
    else:
        host.renewal.accept(answer)
    monkeypatch.undo()
    host.restarted()
    assert host.require_whole() != before
    assert sorted(p.name for p in host.folder.iterdir()) == ["ca.crt", "node.crt", "node.key"]


def test_request_without_an_answer_leaves_nothing_behind(host: Host) -> None:
    before = host.require_whole()
    host.renewal.request()
    host.restarted()
    assert host.require_whole() == before
    assert not (host.folder / "node.key.next").exists()


def test_control_planes_own_authority_is_left_alone(host: Host) -> None:
    renewal = Renewal(host.folder, host.clock, owns_authorities=False, jitter=lambda: 0.5)
    answer = host.answer(renewal.request())
    both = answer.authorities + certs.new_authority(host.clock).pem
    before = (host.folder / "ca.crt").read_bytes()
    renewal.accept(Renewed(certificate=answer.certificate, authorities=both))
    assert (host.folder / "ca.crt").read_bytes() == before


def test_host_with_a_control_plane_never_deletes_itself(host: Host, tmp_path: Path) -> None:
    settings = Settings(state=tmp_path / "state", control=True)
    member = HostMembership(settings, host.renewal)
    member.removed("Host beta was removed.")
    assert not settings.removal_file.exists()
    assert "removed" in settings.agent_state_file.read_text()
