"""Every address of a subnet is given out once, and never twice, whoever comes at once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from cairn.core.clock import FakeClock
from cairn.core.errors import CloudError, Conflict, OverQuota, Unavailable
from cairn.db.engine import Database, Tx
from cairn.identity import service as identity
from cairn.network.records import Network
from cairn.network.service import ports
from cairn.network.wishes import PortWish
from tests.network import cloud
from tests.network.cloud import ALICE


def test_small_subnet_is_given_out_to_the_last_address(database: Database) -> None:
    def verb(tx: Tx) -> None:
        net = cloud.network(tx)
        cloud.subnet(tx, net, "10.1.0.0/28")
        made = [cloud.port(tx, net) for _ in range(12)]  # 14 less the gateway and metadata
        ips = {p.addresses[0].ip for p in made}
        assert len(ips) == 12 and not ips & {"10.1.0.0", "10.1.0.1", "10.1.0.2", "10.1.0.15"}
        with pytest.raises(Conflict, match="No more IP addresses"):
            cloud.port(tx, net)
        ports.delete_port(tx, ALICE, made[0].id)
        assert cloud.port(tx, net).addresses == made[0].addresses

    database.write_now(verb)


def test_full_subnet_is_followed_by_the_next_of_the_network(
    database: Database, clock: FakeClock
) -> None:
    def small(tx: Tx) -> Network:
        net = cloud.network(tx)
        cloud.subnet(tx, net, "10.1.0.0/30", has_dhcp=False)
        return net

    net = database.write_now(small)
    clock.advance(1)  # Subnets are tried in the order in which they were made.

    def verb(tx: Tx) -> None:
        second = cloud.subnet(tx, net, "10.2.0.0/24", has_dhcp=False)
        assert cloud.port(tx, net).addresses[0].ip == "10.1.0.2"
        assert cloud.port(tx, net).addresses[0].subnet_id == second.id

    database.write_now(verb)


def test_requests_at_once_never_share_an_address_or_pass_a_quota(
    postgres_url: str, database: Database, clock: FakeClock
) -> None:
    """Threads on PostgreSQL; SQLite has one writer."""
    if database.is_sqlite:
        workers, db = 1, database
    else:
        workers, db = 4, Database(postgres_url, clock=clock, inline=True)

    def prepare(tx: Tx) -> str:
        net = cloud.network(tx)
        cloud.subnet(tx, net, "10.1.0.0/28")
        identity.set_limit(tx, net.project_id, "port", 8)
        return net.id

    network_id = db.write_now(prepare)

    wish = PortWish(network_id=network_id)

    def one(_: int) -> str | None:
        for _ in range(20):
            try:
                made = db.write_now(lambda tx: ports.create_port(tx, ALICE, wish))
            except OverQuota:
                return None
            except (Unavailable, Conflict) as error:
                last: CloudError = error
                continue
            return made.addresses[0].ip
        raise last

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(one, range(12)))
    ips = [ip for ip in found if ip]
    assert len(ips) == len(set(ips)) == 8
    if db is not database:
        db.close()
