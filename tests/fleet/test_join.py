"""Machines become members once, by a secret and a key; whoever else comes is refused and counted."""

import base64
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.callers import Api

from cairn.app import Cloud, CloudOptions
from cairn.core.clock import FakeClock
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import NodeId, SeededRandomness
from cairn.db.engine import Database
from cairn.fleet import join, loss_store, service
from cairn.fleet.api_join import Addresses
from cairn.fleet.attempts import ADDRESSES_MAX, FAILURES_MAX, WINDOW_S, Attempts
from cairn.fleet.join_records import Applicant, Reason, Refusal, Wishes
from cairn.fleet.records import Loss, Node
from cairn.host import certs
from cairn.wire import token as wire_token

WISHES = Wishes(roles=("compute",), zone="nova", rack="r1", labels={"disk": "fast"})


def applicant(name: str = "beta", *, key: str = "k1", address: str = "192.0.2.7") -> Applicant:
    return Applicant(key_digest=key, hostname=name, address=address, agent_version="1")


def new_secret(database: Database, lifetime_s: int = 3600) -> bytes:
    _, secret = database.write_now(lambda tx: join.create_token(tx, WISHES, lifetime_s=lifetime_s))
    return secret


def attempt(database: Database, secret: bytes, who: Applicant) -> Node | Refusal:
    return database.write_now(lambda tx: join.join(tx, secret, who))


def admitted(database: Database, secret: bytes, who: Applicant) -> Node:
    verdict = attempt(database, secret, who)
    assert isinstance(verdict, Node), verdict
    return verdict


def refused(database: Database, secret: bytes, who: Applicant) -> Refusal:
    verdict = attempt(database, secret, who)
    assert isinstance(verdict, Refusal), verdict
    return verdict


# --- verbs -------------------------------------------------------------------------------------------


def test_token_makes_a_host_what_it_says(database: Database) -> None:
    node = admitted(database, new_secret(database), applicant())
    assert (node.hostname, node.zone, node.rack) == ("beta", "nova", "r1")
    assert node.roles == ("compute",)
    assert node.labels == {"disk": "fast"}
    assert join.has_joined(node)


def test_secret_itself_is_not_kept(sqlite: Database) -> None:
    secret = new_secret(sqlite)
    with sqlite.engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT * FROM join_tokens").all()
    shown = repr(rows)
    assert secret.hex() not in shown
    assert base64.b64encode(secret).decode() not in shown
    assert wire_token.digest(secret) in shown


def test_join_that_was_cut_off_gives_the_same_host(database: Database, clock: FakeClock) -> None:
    secret = new_secret(database)
    first = admitted(database, secret, applicant())
    clock.advance(7200)  # The token has expired meanwhile; the machine is known all the same.
    assert admitted(database, secret, applicant()).id == first.id
    assert len(database.read_now(service.nodes)) == 1


def test_token_is_good_for_one_key_only(database: Database) -> None:
    secret = new_secret(database)
    admitted(database, secret, applicant())
    told = refused(database, secret, applicant("gamma", key="k2", address="192.0.2.8"))
    assert told.reason is Reason.USED
    assert "host beta" in told.message


def test_expired_unknown_and_revoked_tokens_are_refused(
    database: Database, clock: FakeClock
) -> None:
    secret = new_secret(database, lifetime_s=60)
    clock.advance(61)
    assert refused(database, secret, applicant()).reason is Reason.EXPIRED
    assert refused(database, b"x" * 32, applicant()).reason is Reason.UNKNOWN
    (token,) = database.read_now(join.tokens)
    database.write_now(lambda tx: join.revoke_token(tx, token.id))
    assert refused(database, secret, applicant()).reason is Reason.UNKNOWN
    with pytest.raises(NotFound):
        database.write_now(lambda tx: join.revoke_token(tx, token.id))
    assert database.read_now(service.nodes) == []


def test_name_and_address_of_another_host_are_refused(database: Database) -> None:
    admitted(database, new_secret(database), applicant())
    fresh = new_secret(database)
    same_name = refused(database, fresh, applicant(key="k2", address="192.0.2.8"))
    assert same_name.reason is Reason.NAME
    same_address = refused(database, fresh, applicant("gamma", key="k2"))
    assert same_address.reason is Reason.ADDRESS
    # A refusal costs nothing: the token is still good.
    admitted(database, fresh, applicant("gamma", key="k2", address="192.0.2.8"))


def test_known_key_with_another_token_is_the_same_host(database: Database) -> None:
    first = admitted(database, new_secret(database), applicant())
    again = admitted(database, new_secret(database), applicant(address="192.0.2.9"))
    assert again.id == first.id
    assert again.address == "192.0.2.9"


def test_host_is_shown_to_whoever_has_its_secret_only(database: Database) -> None:
    secret, other = new_secret(database), new_secret(database)
    node = admitted(database, secret, applicant())
    assert database.read_now(lambda tx: join.member(tx, secret, node.id)) is not None
    assert database.read_now(lambda tx: join.member(tx, other, node.id)) is None
    assert database.read_now(lambda tx: join.member(tx, secret, NodeId("other"))) is None


def test_old_expired_tokens_are_forgotten(database: Database, clock: FakeClock) -> None:
    new_secret(database, lifetime_s=60)
    clock.advance(31 * 86400)
    new_secret(database)
    assert len(database.read_now(join.tokens)) == 1


def test_removed_host_is_remembered_until_it_has_cleaned_up(database: Database) -> None:
    secret = new_secret(database)
    node = admitted(database, secret, applicant())
    assert database.read_now(lambda tx: join.farewell(tx, node.id)) is None
    database.write_now(lambda tx: loss_store.write(tx, Loss(node_id=node.id)))
    database.write_now(lambda tx: join.remove(tx, node))
    assert database.read_now(loss_store.all_losses) == {}
    farewell = database.read_now(lambda tx: join.farewell(tx, node.id))
    assert farewell is not None and farewell.hostname == "beta"
    assert database.read_now(service.nodes) == []
    assert database.read_now(join.tokens) == []
    for _ in range(2):
        database.write_now(lambda tx: join.left(tx, node.id))
    assert database.read_now(lambda tx: join.farewell(tx, node.id)) is None


def test_two_machines_at_the_same_moment_use_a_token_once(sqlite: Database) -> None:
    secret = new_secret(sqlite)
    found: list[Node | Refusal | Conflict] = []
    for number in range(2):
        who = applicant(f"m{number}", key=f"k{number}", address=f"192.0.2.{number}")
        found.append(attempt(sqlite, secret, who))
    assert sum(isinstance(one, Node) for one in found) == 1


# --- guesses -----------------------------------------------------------------------------------------


def test_who_guesses_is_not_listened_to_for_a_while() -> None:
    clock = FakeClock()
    attempts = Attempts(clock)
    for _ in range(FAILURES_MAX):
        assert attempts.wait_s("192.0.2.1") == 0
        attempts.failed("192.0.2.1")
    assert attempts.wait_s("192.0.2.1") == WINDOW_S
    assert attempts.wait_s("192.0.2.2") == 0
    clock.advance(WINDOW_S)
    assert attempts.wait_s("192.0.2.1") == 0
    attempts.failed("192.0.2.1")
    assert attempts.wait_s("192.0.2.1") == 0


def test_memory_of_guesses_is_bounded() -> None:
    attempts = Attempts(FakeClock())
    for number in range(ADDRESSES_MAX + 100):
        attempts.failed(str(number))
    assert len(attempts._failures) == ADDRESSES_MAX


# --- over HTTP ---------------------------------------------------------------------------------------


class Machine:
    """A machine that joins, as `cairn join` does."""

    def __init__(self, api: Api, name: str = "beta", address: str = "192.0.2.7") -> None:
        self.api, self.name, self.address = api, name, address
        self.key = ec.generate_private_key(ec.SECP256R1())

    def join(self, token: str, **changes: Any) -> Any:
        secret = wire_token.decode(token).secret
        body = {
            "secret": base64.urlsafe_b64encode(secret).decode().rstrip("="),
            "request": certs.request_for(self.key).decode(),
            "hostname": self.name,
            "address": self.address,
        }
        return self.api.post("/cairn/v1/join", {"join": body | changes}, who=None)


class World:
    def __init__(self, database: Database, folder: Path, clock: FakeClock) -> None:
        self.clock = clock
        authority = certs.new_authority(clock)
        options = CloudOptions(
            control_dir=folder,
            clock=clock,
            admin_password="admin",
            authority=authority,
            addresses=lambda: Addresses(api=("192.0.2.1:8443",)),
        )
        self.cloud = Cloud(database, options)
        self.authority = authority
        self.api = Api(database, *self.cloud.shell.services)

    def token(self, **wishes: Any) -> str:
        made = self.api.post("/cairn/v1/tokens", {"token": wishes}, who="admin")
        assert made.status_code == 201, made.text
        return str(made.json["token"]["text"])

    def counted(self, reason: str) -> float:
        value = self.cloud.metrics.registry.get_sample_value(
            "cairn_join_refused_total", {"reason": reason}
        )
        return value or 0.0


@pytest.fixture
def world(sqlite: Database, clock: FakeClock, tmp_path: Path) -> Iterator[World]:
    made = World(sqlite, tmp_path, clock)
    yield made
    made.cloud.passwords.close()


def message(answer: Any) -> str:
    return str(answer.json["error"]["message"])


def test_token_carries_what_a_machine_needs(world: World) -> None:
    told = wire_token.decode(world.token())
    assert told.addresses == ("192.0.2.1:8443",)
    assert told.fingerprint == world.authority.fingerprint
    shown = world.api.get(f"/cairn/v1/authority?wanted={told.fingerprint.hex()}", who=None).content
    assert certs.fingerprint(shown) == told.fingerprint


def test_machine_that_joins_gets_a_certificate_for_its_key(world: World) -> None:
    machine = Machine(world.api)
    answer = machine.join(world.token(zone="nova", rack="r2"))
    assert answer.status_code == 200, answer.text
    given = answer.json
    certificate = x509.load_pem_x509_certificate(given["certificate"].encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(world.authority.pem))
    assert certificate.public_key() == machine.key.public_key()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"cairn:node:{given['host']['id']}"
    ]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(uses) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


def test_request_has_no_say_in_the_certificate(world: World) -> None:
    """It asks to be an authority, another node, and the control plane itself."""
    machine = Machine(world.api)
    wanted = [
        x509.UniformResourceIdentifier("cairn:node:somebody-else"),
        x509.DNSName("control.example.org"),
    ]
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")]))
        .add_extension(x509.SubjectAlternativeName(wanted), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(machine.key, hashes.SHA256())
    )
    pem = request.public_bytes(serialization.Encoding.PEM).decode()
    given = machine.join(world.token(), request=pem).json
    certificate = x509.load_pem_x509_certificate(given["certificate"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == []
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        f"cairn:node:{given['host']['id']}"
    ]
    basics = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not basics.ca
    assert certificate.subject.rfc4514_string() == f"CN={given['host']['id']}"


def test_interrupted_join_is_answered_again(world: World) -> None:
    machine, token = Machine(world.api), world.token()
    first, second = machine.join(token), machine.join(token)
    assert first.status_code == second.status_code == 200
    assert first.json["host"]["id"] == second.json["host"]["id"]


def test_used_token_is_refused_and_counted(world: World) -> None:
    token = world.token()
    Machine(world.api).join(token)
    answer = Machine(world.api, "gamma", "192.0.2.8").join(token)
    assert answer.status_code == 409
    assert "used already, by host beta" in message(answer)
    assert world.counted("used-token") == 1


def test_expired_token_is_refused_and_counted(world: World) -> None:
    token = world.token(expires_in_s=60)
    world.clock.advance(61)
    answer = Machine(world.api).join(token)
    assert answer.status_code == 403
    assert "expired" in message(answer)
    assert world.counted("expired-token") == 1


def test_token_of_another_cloud_is_refused_on_both_sides(
    world: World, database: Database, tmp_path: Path
) -> None:
    other = World(database, tmp_path / "other", world.clock)
    foreign = wire_token.decode(other.token())
    asked = world.api.get(f"/cairn/v1/authority?wanted={foreign.fingerprint.hex()}", who=None)
    assert asked.status_code == 403
    assert wire_token.shown(foreign.fingerprint) in message(asked)
    assert wire_token.shown(world.authority.fingerprint) in message(asked)
    assert world.counted("other-cloud") == 1
    # A machine that tells its secret all the same gets nothing for it.
    assert Machine(world.api).join(wire_token.encode(foreign)).status_code == 403
    assert world.counted("unknown-token") == 1
    other.cloud.passwords.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"secret": "AAAA"},
        {"secret": "!"},
        {"request": "garbage"},
        {"hostname": "a b"},
        {"hostname": ""},
        {"address": "x; rm"},
    ],
)
def test_bad_application_is_refused(world: World, changes: dict[str, str]) -> None:
    answer = Machine(world.api).join(world.token(), **changes)
    assert answer.status_code == 400
    assert next(iter(changes)) in message(answer)


def test_request_must_be_signed_by_its_own_key(world: World) -> None:
    machine = Machine(world.api)
    pem = certs.request_for(machine.key).decode()
    der = bytearray(x509.load_pem_x509_csr(pem.encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der)).decode()
    forged = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"
    assert machine.join(world.token(), request=forged).status_code == 400
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    weak = builder.sign(other, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    assert machine.join(world.token(), request=weak.decode()).status_code == 400
    assert world.counted("bad-request") == 2


def test_control_planes_address_is_nobody_elses(sqlite: Database, tmp_path: Path) -> None:
    """Who spoke for it with a certificate of our authority could be taken for the control plane."""
    certs.ensure(tmp_path / "certs", node_id="n1", also=("192.0.2.1",))
    clock = FakeClock(datetime.datetime.now(datetime.UTC))
    authority = certs.open_authority(tmp_path / "certs", clock=clock)
    assert not authority.may_be_at("192.0.2.1")
    assert not authority.may_be_at("localhost")
    assert authority.may_be_at("192.0.2.7")


def test_guesses_are_limited_by_address(world: World) -> None:
    machine = Machine(world.api)
    stolen = wire_token.encode(
        wire_token.JoinToken(addresses=("x",), fingerprint=b"f" * 32, secret=b"s" * 32)
    )
    answers = [machine.join(stolen).status_code for _ in range(FAILURES_MAX + 1)]
    assert answers == [403] * FAILURES_MAX + [429]
    assert world.counted("too-many-attempts") == 1
    world.clock.advance(WINDOW_S)
    assert machine.join(world.token()).status_code == 200


def test_machine_hears_how_it_stands_by_its_secret(world: World) -> None:
    machine, token = Machine(world.api), world.token()
    node_id = machine.join(token).json["host"]["id"]
    secret = base64.urlsafe_b64encode(wire_token.decode(token).secret).decode()
    path = f"/cairn/v1/join/{node_id}"
    told = world.api.get(path, who=None, headers={"X-Join-Secret": secret})
    assert told.json["host"]["state"] == "joining"
    assert world.api.get(path, who=None).status_code == 403
    wrong = base64.urlsafe_b64encode(b"x" * 32).decode()
    assert world.api.get(path, who=None, headers={"X-Join-Secret": wrong}).status_code == 403


def test_tokens_are_listed_without_their_secrets(world: World) -> None:
    token = world.token()
    Machine(world.api).join(token)
    listed = world.api.get("/cairn/v1/tokens", who="admin")
    (one,) = listed.json["tokens"]
    assert (one["state"], one["used_hostname"]) == ("used", "beta")
    assert wire_token.decode(token).secret.hex() not in listed.text
    assert "text" not in one
    assert world.api.delete(f"/cairn/v1/tokens/{one['id']}", who="admin").status_code == 204
    assert world.api.get("/cairn/v1/tokens", who="admin").json["tokens"] == []


def test_unknown_roles_and_words_are_named(world: World) -> None:
    for wish, word in (
        ({"roles": ["cook"]}, "cook"),
        ({"zone": "a b"}, "zone"),
        ({"labels": {"a b": "c"}}, "labels"),
        ({"expires_in_s": 1}, "expires_in_s"),
    ):
        answer = world.api.post("/cairn/v1/tokens", {"token": wish}, who="admin")
        assert answer.status_code == 400
        assert word in message(answer)


# --- leaving -----------------------------------------------------------------------------------------


def test_empty_host_is_removed_and_remembered(world: World) -> None:
    Machine(world.api).join(world.token())
    assert world.api.delete("/cairn/v1/hosts/beta", who="admin").status_code == 200
    (left,) = world.api.get("/cairn/v1/removed-hosts", who="admin").json["hosts"]
    assert left["hostname"] == "beta"
    assert world.api.delete("/cairn/v1/hosts/beta", who="admin").status_code == 404


def test_host_that_came_with_a_control_plane_is_not_removed(world: World, sqlite: Database) -> None:
    sqlite.write_now(
        lambda tx: service.enrol(
            tx, NodeId("n0"), hostname="alpha", zone="nova", roles=("compute",), origin="first host"
        )
    )
    answer = world.api.delete("/cairn/v1/hosts/alpha", who="admin")
    assert answer.status_code == 409
    assert "cairn wipe" in message(answer)


def test_only_host_that_writes_the_network_of_a_zone_stays(world: World) -> None:
    Machine(world.api).join(world.token(zone="east", roles=["compute", "network"]))
    Machine(world.api, "gamma", "192.0.2.8").join(world.token(zone="east"))
    answer = world.api.delete("/cairn/v1/hosts/beta", who="admin")
    assert answer.status_code == 409
    assert "network" in message(answer)
    assert world.api.delete("/cairn/v1/hosts/gamma", who="admin").status_code == 200
    assert world.api.delete("/cairn/v1/hosts/beta", who="admin").status_code == 200


def test_removed_host_is_in_no_aggregate(world: World) -> None:
    Machine(world.api).join(world.token())
    url = "/compute/v2.1/os-aggregates"
    made = world.api.post(url, {"aggregate": {"name": "fast"}}, who="admin")
    one = f"{url}/{made.json['aggregate']['id']}"
    added = world.api.post(f"{one}/action", {"add_host": {"host": "beta"}}, who="admin")
    assert added.status_code == 200, added.text
    assert world.api.delete("/cairn/v1/hosts/beta", who="admin").status_code == 200
    assert world.api.get(one, who="admin").json["aggregate"]["hosts"] == []


def test_host_that_is_up_is_not_gone(world: World, sqlite: Database) -> None:
    node_id = Machine(world.api).join(world.token()).json["host"]["id"]
    sqlite.write_now(lambda tx: service.connected(tx, node_id))
    answer = world.api.delete("/cairn/v1/hosts/beta?gone=true", who="admin")
    assert answer.status_code == 409
    assert "is up" in message(answer)


# --- the line itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", "cairn1.", "cairn1.AAAA", "cairn1.!!!!", "cairn2.AAAA", "cairn1." + "A" * 5000, "ключ"],
)
def test_what_is_no_token_is_said_to_be_none(text: str) -> None:
    with pytest.raises(Invalid):
        wire_token.decode(text)


def test_token_survives_its_way_through_a_terminal() -> None:
    token = wire_token.JoinToken(
        addresses=("192.0.2.1:8443", "[2001:db8::1]:8443"),
        fingerprint=SeededRandomness(1).token_bytes(32),
        secret=SeededRandomness(2).token_bytes(32),
    )
    text = wire_token.encode(token)
    assert wire_token.decode(f"  {text}\n") == token
    assert "\n" not in text and " " not in text
