"""What a request costs the control plane, against a bare ASGI server that answers the same bytes.

The control plane is the real process: TLS, policy, SQLite in a file, 1,000 servers that were made through
the API on fake hosts. The bare server is the same uvicorn with the same TLS and gives back one recorded
answer, headers included: what it costs is the limit of this kind of server.
"""

import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from bench import cloud, fill
from bench.bare import Canned
from bench.client import Client
from bench.cloud import Dev
from bench.processes import cpu_s
from bench.table import Result, ratio
from cairn import settings as settings_file
from cairn.core.clock import SystemClock
from cairn.core.ids import DomainId, ProjectId, UserId
from cairn.db import migrate
from cairn.db.engine import Database
from cairn.db.secrets import Sealer
from cairn.host.prepare import prepare
from cairn.identity.keys import KeyRepository
from cairn.identity.revocation import Revocations
from cairn.identity.tokens import Payload, TokenIssuer, microseconds, new_audit_id
from cairn.settings import Settings
from cairn.sim.dev import PASSWORD

SERVERS = 1000
WARM_UP = 30
POINT_READS = 600
LISTS = 12
CHECKS = 20_000


def run(dev: Dev) -> list[Result]:
    with dev.client() as client:
        fill.up_to(client, SERVERS)
    with _installation(dev.database()) as settings, _control(settings) as pid:
        return [_requests(settings, pid), _checks()]


@contextmanager
def _installation(database: Path) -> Iterator[Settings]:
    """A state directory as `up` prepares it, with a copy of a database that was filled elsewhere."""
    state = Path(tempfile.mkdtemp(prefix="cvb-", dir="/tmp"))
    try:
        ports = f"api_port = {cloud.free_port()}\nnode_port = {cloud.free_port()}\n"
        addresses = (
            'api_host = "127.0.0.1"\napi_address = "127.0.0.1"\nnode_address = "127.0.0.1"\n'
        )
        (state / settings_file.FILE_NAME).write_text(ports + addresses)
        settings = settings_file.load(state)
        prepare(settings)
        source, target = sqlite3.connect(database), settings.control_dir / "cairn.db"
        with closing(source), closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            _mark_as_migrated(copy)
        yield settings
    finally:
        shutil.rmtree(state)


def _mark_as_migrated(copy: sqlite3.Connection) -> None:
    """`cairn dev` makes its tables at once; an installation's know how far they were migrated."""
    copy.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    copy.execute("INSERT INTO alembic_version VALUES (?)", (migrate.newest(),))
    copy.commit()


@contextmanager
def _control(settings: Settings) -> Iterator[int]:
    command = [sys.executable, "-m", "cairn", "control", "--state", str(settings.state)]
    with _process(command, settings.api_port, settings.log_dir / "control.log") as pid:
        yield pid


@contextmanager
def _bare(settings: Settings, canned: Canned) -> Iterator[Client]:
    port = cloud.free_port()
    file = settings.run_dir / "canned"
    file.write_bytes(msgspec.msgpack.encode(canned))
    command = [sys.executable, "-m", "bench.bare", str(port), str(file), str(settings.certs_dir)]
    with (
        _process(command, port, settings.log_dir / "bare.log") as pid,
        Client(f"https://127.0.0.1:{port}", authority=settings.certs_dir / "ca.crt") as client,
    ):
        client.token = str(pid)
        yield client


@contextmanager
def _process(command: list[str], port: int, log: Path) -> Iterator[int]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=cloud.ROOT)
    try:
        cloud.wait_for_port(port, process, log)
        yield process.pid
    finally:
        cloud.end(process)


def _requests(settings: Settings, pid: int) -> Result:
    with Client(settings.api_url, authority=settings.certs_dir / "ca.crt") as client:
        client.sign_in(PASSWORD)
        listed = client.must("GET", "/compute/v2.1/servers?limit=1").body["servers"]
        server = f"/compute/v2.1/servers/{listed[0]['id']}"
        work = (
            ("GET /servers/{id}", server, POINT_READS),
            ("GET /v3/auth/tokens", "/identity/v3/auth/tokens", POINT_READS),
            ("GET /servers/detail, 1,000", f"/compute/v2.1/servers/detail?limit={SERVERS}", LISTS),
        )
        rows = tuple(_row(settings, client, pid, *what) for what in work)
    return Result(
        title="CPU of the control plane per request, against a bare ASGI server with the same bytes",
        columns=("request", "bytes", "Cairn", "bare", "ratio", "SQL", "p50"),
        rows=rows,
        notes=(
            "CPU of the server process, over TLS, one kept-alive connection; SQL: statements a request.",
        ),
    )


def _row(
    settings: Settings, client: Client, pid: int, name: str, path: str, count: int
) -> tuple[str, ...]:
    extra = {"x_subject_token": client.token} if "auth/tokens" in path else {}
    sample = client.must("GET", path, **extra)
    if "limit=" in path and name.endswith("1,000"):
        assert len(sample.body["servers"]) == SERVERS, "the list is not whole"
    before = client.statements()
    client.must("GET", path, **extra)
    statements = client.statements() - before
    ours_s, latency_s = _measure(client, pid, path, count, extra)
    with _bare(settings, Canned(headers=sample.headers, data=sample.data)) as bare:
        bare_s, _ = _measure(bare, int(bare.token), path, count, extra)
    return (
        name,
        f"{len(sample.data):,}",
        f"{ours_s * 1000:.2f} ms",
        f"{bare_s * 1000:.2f} ms",
        ratio(ours_s, bare_s),
        f"{statements:.0f}",
        f"{latency_s * 1000:.2f} ms",
    )


def _measure(
    client: Client, pid: int, path: str, count: int, extra: dict[str, str]
) -> tuple[float, float]:
    """Seconds of the server's CPU a request, and the median time to an answer."""
    for _ in range(min(WARM_UP, count)):
        client.must("GET", path, **extra)
    began = cpu_s(pid)
    took = sorted(client.must("GET", path, **extra).seconds for _ in range(count))
    return (cpu_s(pid) - began) / count, took[count // 2]


def _checks() -> Result:
    """What the control plane does with each request's token, without HTTP around it."""
    database = Database("sqlite://", inline=True)
    database.create_all()
    try:
        clock = SystemClock()
        issuer = TokenIssuer(
            KeyRepository(database, Sealer(bytes(32)), clock=clock), clock, Revocations(database)
        )
        now_us = microseconds(clock.now())
        tokens = [
            issuer.issue(
                Payload(
                    user_id=UserId(f"{n:032x}"), user_domain_id=DomainId("default"),
                    project_id=ProjectId("1" * 32), project_domain_id=DomainId("default"),
                    roles=("admin", "manager", "member", "reader"), methods=("password",),
                    audit_ids=(new_audit_id(n.to_bytes(16, "big")),),
                    issued_us=now_us, expires_us=now_us + 3_600_000_000, revocations_seen=0,
                )
            )
            for n in range(2000)
        ]  # fmt: skip
        first_s = _per_check(issuer, tokens)
        again_s = _per_check(issuer, [tokens[0]] * CHECKS)
    finally:
        database.close()
    return Result(
        title="CPU per check of a token in the control plane's process",
        columns=("check", "CPU", "aim"),
        rows=(
            ("of a token seen for the first time", f"{first_s * 1e6:.0f} µs", "≤ 100 µs"),
            ("of one seen before", f"{again_s * 1e6:.1f} µs", "≤ 100 µs"),
        ),
        notes=("No SQL, no waiting: expiry and revocations are looked at every time.",),
    )


def _per_check(issuer: TokenIssuer, tokens: list[str]) -> float:
    began = time.process_time()
    for token in tokens:
        issuer.authenticate(token)
    return (time.process_time() - began) / len(tokens)
