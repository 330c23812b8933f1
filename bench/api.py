"""What a request costs the control plane, against a bare ASGI server that answers the same bytes.

The control plane is the real process: TLS, policy, SQLite in a file, 1,000 servers that were made through
the API on fake hosts. The bare server is the same uvicorn with the same TLS and gives back one recorded
answer, headers included: what it costs is the limit of this kind of server.
"""

import time

from bench import control, fill
from bench.bare import Canned
from bench.client import Client
from bench.cloud import Dev
from bench.table import Result, ratio
from cairn.core.clock import SystemClock
from cairn.core.ids import DomainId, ProjectId, UserId
from cairn.db.engine import Database
from cairn.db.secrets import Sealer
from cairn.identity.keys import KeyRepository
from cairn.identity.revocation import Revocations
from cairn.identity.tokens import Payload, TokenIssuer, microseconds, new_audit_id
from cairn.settings import Settings
from cairn.sim.dev import PASSWORD

SERVERS = 1000
POINT_READS = 600
LISTS = 12
CHECKS = 20_000


def run(dev: Dev) -> list[Result]:
    with dev.client() as client:
        fill.up_to(client, SERVERS)
    with control.installation(dev.database()) as settings, control.running(settings) as pid:
        return [_requests(settings, pid), _checks()]


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
    ours_s, latency_s = control.measure(client, pid, path, count, extra)
    with control.bare(settings, Canned(headers=sample.headers, data=sample.data)) as bare:
        bare_s, _ = control.measure(bare, int(bare.token), path, count, extra)
    return (
        name,
        f"{len(sample.data):,}",
        f"{ours_s * 1000:.2f} ms",
        f"{bare_s * 1000:.2f} ms",
        ratio(ours_s, bare_s),
        f"{statements:.0f}",
        f"{latency_s * 1000:.2f} ms",
    )


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
