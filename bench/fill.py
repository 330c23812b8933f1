"""Fills a cloud on fake hosts through its API, as any client would."""

import concurrent.futures
import itertools
import threading
import uuid
from collections.abc import Sequence
from typing import Any

from bench import cloud
from bench.client import Client

SERVERS_A_HOST = 64  # eight processors each, promised eight times
CONNECTIONS = 8
FILL_S_MAX = 300.0
_UNLIMITED = ("instances", "cores", "ram", "key_pairs")
_local = threading.local()


def hosts_for(servers: int) -> int:
    return -(-servers // SERVERS_A_HOST) + 1


def servers(client: Client, count: int, *, network: str | None = None, tag: str = "") -> list[str]:
    """So many servers, all ACTIVE; their ids. With a port each when a network is named."""
    wish = server_wish(client, network=network)
    tag = tag or f"b{uuid.uuid4().hex[:8]}"
    wishes = [{"server": {**wish, "name": f"{tag}-{n}"}} for n in range(count)]
    made = posts(client, "/compute/v2.1/servers", wishes)
    wait_until_none_builds(client, tag)
    listed = ids(client, f"name={tag}&status=ACTIVE")
    assert len(listed) == count, f"{len(listed)} of {count} servers are ACTIVE"
    return [answer["server"]["id"] for answer in made]


def up_to(client: Client, count: int) -> None:
    """As many servers as are missing, without network."""
    servers(client, count - len(ids(client, "status=ACTIVE")))


def wait_until_none_builds(client: Client, tag: str) -> None:
    path = f"/compute/v2.1/servers?limit=1&name={tag}&status=BUILD"
    cloud.until(
        lambda: not client.must("GET", path).body["servers"] or None,
        "the last server",
        within_s=FILL_S_MAX,
        every_s=0.5,
    )


def ids(client: Client, query: str) -> list[str]:
    """Ids of all servers that match, page by page."""
    found: list[str] = []
    for _ in itertools.count():
        marker = f"&marker={found[-1]}" if found else ""
        page = client.must("GET", f"/compute/v2.1/servers?limit=1000&{query}{marker}").body
        found += [server["id"] for server in page["servers"]]
        if len(page["servers"]) < 1000:
            return found
    raise AssertionError


def server_wish(client: Client, *, network: str | None) -> dict[str, Any]:
    """A small server's body without a name; what it needs is made if it is missing."""
    project = client.must("GET", "/identity/v3/auth/tokens", x_subject_token=client.token)
    project_id = project.body["token"]["project"]["id"]
    quota = {"quota_set": dict.fromkeys(_UNLIMITED, -1)}
    client.must("PUT", f"/compute/v2.1/os-quota-sets/{project_id}", quota)
    flavors = client.must("GET", "/compute/v2.1/flavors").body["flavors"]
    flavor = next((f["id"] for f in flavors if f["name"] == "bench"), None)
    if flavor is None:
        body = {"flavor": {"name": "bench", "vcpus": 1, "ram": 128, "disk": 1}}
        flavor = client.must("POST", "/compute/v2.1/flavors", body).body["flavor"]["id"]
    return {
        "flavorRef": flavor,
        "imageRef": image(client),
        "networks": [{"uuid": network}] if network else "none",
    }


def image(client: Client) -> str:
    found = client.must("GET", "/image/v2/images?name=bench").body["images"]
    if found:
        return str(found[0]["id"])
    wish = {"name": "bench", "disk_format": "raw", "container_format": "bare"}
    made = client.must("POST", "/image/v2/images", wish).body
    client.must("PUT", f"/image/v2/images/{made['id']}/file", bytes(1 << 20))
    return str(made["id"])


def network(client: Client) -> str:
    """A network with room for thousands of ports, and leave to make them."""
    project = client.must("GET", "/identity/v3/auth/tokens", x_subject_token=client.token)
    project_id = project.body["token"]["project"]["id"]
    client.must("PUT", f"/network/v2.0/quotas/{project_id}", {"quota": {"port": -1}})
    made = client.must("POST", "/network/v2.0/networks", {"network": {"name": "bench"}}).body
    network_id = str(made["network"]["id"])
    subnet = {"network_id": network_id, "ip_version": 4, "cidr": "10.9.0.0/16"}
    client.must("POST", "/network/v2.0/subnets", {"subnet": subnet})
    return network_id


def posts(client: Client, path: str, bodies: Sequence[Any]) -> list[Any]:
    """The answers to many POSTs over some connections, in the order of the bodies."""

    def post(body: Any) -> Any:
        return _connection(client).must("POST", path, body).body

    with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as threads:
        return list(threads.map(post, bodies))


def deletes(client: Client, paths: Sequence[str]) -> None:
    with concurrent.futures.ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(lambda path: _connection(client).must("DELETE", path), paths))


def _connection(client: Client) -> Client:
    """One of this thread's own: a connection carries one request at a time."""
    known: Client | None = getattr(_local, "client", None)
    if known is None or known.root != client.root or known.token != client.token:
        known = _local.client = client.again()
    return known
