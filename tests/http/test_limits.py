"""What comes in is bounded, and slow clients hold nobody up: a real process, raw connections over TLS."""

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from cairn.app import services_without_cloud
from cairn.core.errors import Invalid
from cairn.http.connections import Crowd, plain
from cairn.http.limits import DEPTH_MAX, Limits, require_shallow, require_short_numbers
from tests.http.real import Answer, Server, read, running, seconds_until_closed

PATHS = ("/identity/v3/users", "/compute/v2.1/servers", "/network/v2.0/networks",
         "/volume/v3/volumes", "/image/v2/images", "/cairn/v1/hosts")  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("limits")) as found:
        yield found


@contextlib.contextmanager
def ordinary_client(server: Server) -> Iterator[list[float]]:
    """Asks all the while; each answer must be good. How long each took, in seconds."""
    took: list[float] = []
    wrong: list[Any] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            began = time.monotonic()
            try:
                answer = server.ask("GET", "/identity/v3/projects")
                if answer.status != 200:
                    wrong.append(answer)
            except OSError as error:
                wrong.append(error)
            took.append(time.monotonic() - began)
            time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield took
    finally:
        is_over.set()
        thread.join()
    assert not wrong, wrong[:3]
    assert len(took) >= 3
    assert sorted(took)[len(took) * 9 // 10] < 2.0, "an ordinary client waits"


def fault(answer: Answer, path: str) -> str:
    """The message of a refusal, which must be in the shape of the path's service."""
    assert answer.headers["x-openstack-request-id"].startswith("req-")
    if path.startswith("/image"):
        assert answer.headers["content-type"].startswith("text/html")
        return answer.data.decode()
    body = answer.json
    if path.startswith("/network"):
        return str(body["NeutronError"]["message"])
    (inner,) = body.values()
    assert inner["code"] == answer.status
    if path.startswith("/compute"):
        assert answer.headers["x-compute-request-id"] == answer.headers["x-openstack-request-id"]
    return str(inner["message"])


# --- heads -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("what", "status"),
    [
        ("long address", 414),
        ("64 KiB header", 431),
        ("1,000 headers", 431),
        ("endless header", 431),
    ],
)
def test_large_heads_are_refused(server: Server, path: str, what: str, status: int) -> None:
    start = f"GET {path}".encode()
    data = {
        "long address": start + b"?name=" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        "64 KiB header": start + b" HTTP/1.1\r\nX-A: " + b"x" * 65_536 + b"\r\n\r\n",
        "1,000 headers": start + b" HTTP/1.1\r\n" + b"X-A: 1\r\n" * 1000 + b"\r\n",
        "endless header": start + b" HTTP/1.1\r\nX-A: " + b"x" * 1_000_000,
    }[what]
    with server.connect() as connection:
        connection.sendall(data)
        answer = read(connection)
        assert answer.status == status
        assert fault(answer, path)
        assert answer.headers["connection"] == "close"
        if path == PATHS[0]:
            assert seconds_until_closed(connection, 8) < 6


def test_heads_just_below_the_limits_are_served(server: Server) -> None:
    lines = [f"X-{n}: {'x' * 300}" for n in range(90)]
    path = "/identity/v3/projects?name=" + "x" * 4000
    with server.connect() as connection:
        connection.sendall(server.head("GET", path, *lines))
        assert read(connection).status == 200


def test_many_query_fields_are_refused_by_the_service(server: Server) -> None:
    answer = server.ask("GET", "/network/v2.0/ports?" + "&".join(f"id={n}" for n in range(1001)))
    assert answer.status == 400
    assert "too many fields" in fault(answer, "/network")
    many = server.ask("GET", "/network/v2.0/ports?" + "&".join(f"id={n:036}" for n in range(200)))
    assert many.status == 200, "Neutron's own client sends 8 KiB of ids"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01 nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /identity/v3 HTTP/1.1\r\nHost: a b/c\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(server: Server, data: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(data)
        answer = read(connection)
    assert answer.status == 400
    assert answer.headers["x-openstack-request-id"].startswith("req-")


def test_dripping_heads_end_and_hold_nobody_up(server: Server) -> None:
    with ordinary_client(server), contextlib.ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(40)]
        began = time.monotonic()
        for connection in slow:
            connection.sendall(b"GET /identity/v3/users HTTP/1.1\r\nX-A: ")
        alive = list(slow)
        while alive and time.monotonic() - began < 12:
            for connection in list(alive):
                try:
                    connection.sendall(b"x")
                except OSError:
                    alive.remove(connection)
            time.sleep(0.3)
        assert not alive, "a head may drip for ever"
        answer = read(slow[0])
        assert answer.status == 408
        assert "in time" in fault(answer, "/identity")


def test_connections_that_ask_nothing_end(server: Server) -> None:
    with server.connect() as connection:
        assert 1 < seconds_until_closed(connection, 12) < 8
    with server.connect() as connection:  # Empty lines are no request either.
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 12:
                connection.sendall(b"\r\n")
                time.sleep(0.2)


def test_kept_connections_end_when_idle(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(server.head("GET", "/identity/v3/projects"))
        assert read(connection).status == 200
        assert 2 < seconds_until_closed(connection, 15) < 10


def test_handshakes_that_stop_end(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.api_port)) as bare:
        bare.settimeout(12)
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            assert bare.recv(1) == b""
        assert 1 < time.monotonic() - began < 8


# --- bodies ----------------------------------------------------------------------------------------------


def kinds_of_routes() -> list[tuple[str, str, int]]:
    """(method, path, most) of one route of each method and each limit of each service."""
    found: dict[tuple[str, str, int, bool], tuple[str, str, int]] = {}
    for service in services_without_cloud():
        for route in service.routes:
            if route.streams:
                continue
            key = (service.name, route.method, route.body_bytes_max, route.body is None)
            path = (service.root + route.path).replace("{", "").replace("}", "")
            found.setdefault(key, (route.method, path, route.body_bytes_max))
    return list(found.values())


BIG = 10 << 20


def test_bodies_of_10_mb_are_refused_on_every_kind_of_route(server: Server) -> None:
    """With a length before a byte of it is read; the connection is good afterwards, or closed in order."""
    body = b"[" + b" " * BIG
    with ordinary_client(server):
        for method, path, most in kinds_of_routes():
            assert most < BIG
            with server.connect() as connection:
                connection.sendall(server.head(method, path, f"Content-Length: {len(body)}"))
                with contextlib.suppress(OSError):
                    connection.sendall(body)
                answer = read_head(connection, method)
                assert answer in (413, 404, 400, 403), f"{method} {path}: {answer}"


def test_bodies_of_10_mb_in_chunks_are_refused(server: Server) -> None:
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with ordinary_client(server):
        for path in PATHS[:-1]:
            with server.connect() as connection:
                lines = ("Transfer-Encoding: chunked", "Content-Type: application/json")
                connection.sendall(server.head("POST", path, *lines))
                with contextlib.suppress(OSError):
                    for _ in range(BIG // 0x10000):
                        connection.sendall(piece)
                answer = read(connection)
                assert answer.status == 413
                assert "at most" in fault(answer, path)


def read_head(connection: ssl.SSLSocket, method: str) -> int:
    """The status; an answer to HEAD has no body to wait for."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, f"{method}: closed without an answer"
        data += piece
    return int(data.split(b" ", 2)[1])


def test_dripping_bodies_end_and_hold_nobody_up(server: Server) -> None:
    head = server.head("POST", "/compute/v2.1/servers", "Content-Length: 1000",
                       "Content-Type: application/json")  # fmt: skip
    with ordinary_client(server), contextlib.ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(40)]
        for connection in slow:
            connection.sendall(head)
        for _ in range(4):
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.sendall(b" ")
            time.sleep(0.4)
        for connection in slow:
            answer = read(connection)
            assert answer.status == 408
            assert answer.headers["connection"] == "close"
            assert "in time" in fault(answer, "/compute")


def test_dripping_bodies_that_nobody_reads_end(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(
            server.head("GET", "/identity/v3/projects", "Content-Length: 1000") + b"x"
        )
        assert read(connection).status == 200
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 12:
                connection.sendall(b"x")
                time.sleep(0.2)


def test_uploads_that_stop_end(server: Server) -> None:
    wish = {"name": "i", "disk_format": "raw", "container_format": "bare"}
    image = server.ask("POST", "/image/v2/images", wish).json["id"]
    with server.connect() as connection:
        connection.sendall(
            server.head("PUT", f"/image/v2/images/{image}/file", "Content-Length: 1000000",
                        "Content-Type: application/octet-stream") + b"x" * 1000
        )  # fmt: skip
        answer = read(connection)
        assert answer.status == 408
    deadline = time.monotonic() + 10
    while server.ask("GET", f"/image/v2/images/{image}").json["status"] != "queued":
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"user": {"name": "u", "extra": ' + b"[" * 100 + b"]" * 100 + b"}}",
        b'{"user": ' + b"9" * 100_000 + b"}",
        b'{"user": {"name": "u", "x": 1e400}}',
        b'{"user": {"name": "u", "x": -' + b"9" * 500 + b"}}",
        b'{"user": {"name": "\\ud800"}}',
        b'{"user": {"name": "u"}} {"user": {}}',
        b"NaN",
    ],
)
def test_odd_json_is_refused_clearly(server: Server, body: bytes) -> None:
    answer = server.ask("POST", "/identity/v3/users", body)
    assert answer.status == 400
    message = fault(answer, "/identity")
    assert "recursion" not in message.lower()
    assert len(message) < 300
    if body.count(b"[") > 50:
        assert f"{DEPTH_MAX} deep" in message


def test_of_repeated_keys_the_last_one_counts(server: Server) -> None:
    """As in Python's own JSON, and so in OpenStack; policy and audit see the same one."""
    body = b'{"project": {"name": "first", "name": "second"}}'
    answer = server.ask("POST", "/identity/v3/projects", body)
    assert answer.status == 201
    assert answer.json["project"]["name"] == "second"


def test_many_keys_are_read_quickly(server: Server) -> None:
    keys = b",".join(b'"k%d":1' % n for n in range(60_000))
    began = time.monotonic()
    answer = server.ask("POST", "/compute/v2.1/servers", b'{"server": {' + keys + b"}}")
    assert answer.status == 400
    assert time.monotonic() - began < 3


# --- readers ---------------------------------------------------------------------------------------------


def test_clients_that_never_read_are_cut_off(server: Server) -> None:
    size = 24 << 20
    wish = {"name": "big", "disk_format": "raw", "container_format": "bare"}
    image = server.ask("POST", "/image/v2/images", wish).json["id"]
    path = f"/image/v2/images/{image}/file"
    put = server.ask("PUT", path, os.urandom(size), content_type="application/octet-stream")
    assert put.status == 204
    with ordinary_client(server), contextlib.ExitStack() as stack:
        deaf = [stack.enter_context(server.connect(buffer=4096)) for _ in range(20)]
        for connection in deaf:
            connection.sendall(server.head("GET", path))
        deadline = time.monotonic() + 15
        while open_to(server) > 5:
            assert time.monotonic() < deadline, f"{open_to(server)} are still served"
            time.sleep(0.3)
    assert len(server.ask("GET", path).data) == size, "who reads gets all of it"


def test_steady_slow_readers_are_served(server: Server) -> None:
    """Slow is not stalled: 100 KiB/s is somebody's line."""
    wish = {"name": "some", "disk_format": "raw", "container_format": "bare"}
    image = server.ask("POST", "/image/v2/images", wish).json["id"]
    path = f"/image/v2/images/{image}/file"
    size = 6 << 20
    server.ask("PUT", path, os.urandom(size), content_type="application/octet-stream")
    with server.connect(buffer=65536) as connection:
        connection.sendall(server.head("GET", path))
        got = 0
        began = time.monotonic()
        while time.monotonic() - began < 6:  # three times the patience of this process
            got += len(connection.recv(10 << 10))
            time.sleep(0.1)
        while got < size and (piece := connection.recv(1 << 20)):
            got += len(piece)
    assert got >= size


def open_to(server: Server) -> int:
    """Connections that the process holds to the API's port."""
    assert server.process is not None
    held = psutil.Process(server.process.pid).net_connections(kind="tcp")
    return sum(c.laddr.port == server.api_port and c.status == "ESTABLISHED" for c in held)


# --- many ------------------------------------------------------------------------------------------------


def test_a_thousand_idle_connections_hold_nobody_up(tmp_path: Path) -> None:
    """And when an address has as many as it may, who does nothing makes room."""
    with running(tmp_path, limits={"head_s": 300.0}) as server, contextlib.ExitStack() as stack:
        with ThreadPoolExecutor(8) as pool:
            idle = list(pool.map(lambda _: server.connect(), range(1000)))
        for connection in idle:
            stack.enter_context(connection)
        assert open_to(server) == 1000
        with ordinary_client(server):
            time.sleep(2)
        assert open_to(server) == 1000
        for _ in range(30):
            stack.enter_context(server.connect())
        assert server.ask("GET", "/identity/v3/projects").status == 200
        assert open_to(server) <= 1024


def test_one_address_has_its_share_of_connections() -> None:
    crowd = Crowd(Limits(connections_max=5, connections_per_address_max=3), refusal=plain,
                  is_proxy=lambda address: address == "10.0.0.9")  # fmt: skip
    assert [crowd.enter("10.0.0.1") for _ in range(4)] == [True, True, True, False]
    assert [crowd.enter("10.0.0.9") for _ in range(3)] == [True, True, False]
    crowd.leave("10.0.0.1")
    assert crowd.enter("10.0.0.1")
    assert len(crowd) == 5
    assert crowd.refused == {"connections": 1, "connections of one address": 1}


# --- the pure parts --------------------------------------------------------------------------------------


def test_depth_counts_structure_only() -> None:
    require_shallow(b"[" * DEPTH_MAX + b"]" * DEPTH_MAX)
    require_shallow(b'{"a": "' + b"[{" * 500 + b'"}')
    require_shallow(b'{"a\\"": "' + b"\\\\[" * 500 + b'"}')
    require_shallow(b"[" + b"[]," * 5000 + b"[]]")
    with pytest.raises(Invalid):
        require_shallow(b"[" * (DEPTH_MAX + 1))
    with pytest.raises(Invalid):
        require_shallow(b'["\\"",' * (DEPTH_MAX + 1))


def test_long_digits_in_texts_are_no_numbers() -> None:
    require_short_numbers(b'{"a": "' + b"1" * 5000 + b'"}')
    require_short_numbers(b'{"a": ' + b"1" * 300 + b"}")
    with pytest.raises(Invalid):
        require_short_numbers(b'{"a": ' + b"1" * 500 + b"}")
    with pytest.raises(Invalid):
        require_short_numbers(b'{"a": "x", "b": 0.' + b"1" * 500 + b"}")


def test_no_route_takes_more_than_some_megabytes_into_memory() -> None:
    for service in services_without_cloud():
        for route in service.routes:
            assert route.streams or route.body_bytes_max <= 4 << 20, f"{service.name} {route.path}"
