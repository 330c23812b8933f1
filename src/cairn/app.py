"""One control plane put together: services, reconcilers, the agents' streams, over one database.

`Cloud` is the whole of it without sockets, so the simulator runs the very same; `run_control` gives it
TLS, ports and signals.
"""

import asyncio
import socket
import ssl
from pathlib import Path

import uvicorn
import uvloop
from msgspec import Struct

from cairn import health, operator, slices
from cairn.compute import aggregates
from cairn.compute import api as compute_api
from cairn.compute import control as compute_control
from cairn.core import log
from cairn.core.clock import Clock, SystemClock
from cairn.core.errors import Unavailable
from cairn.core.ids import NodeId
from cairn.db import migrate
from cairn.db.engine import Database, open_sqlite
from cairn.db.feed import Feed
from cairn.fleet import api_hosts
from cairn.fleet import service as fleet
from cairn.fleet.records import DEFAULT_ZONE
from cairn.fleet.stream import NodeStreams
from cairn.http.routes import Service
from cairn.http.shell import Shell
from cairn.identity import api as identity_api
from cairn.identity import bootstrap, catalog
from cairn.identity import control as identity_control
from cairn.identity.keys import KeyRepository
from cairn.identity.passwords import Passwords
from cairn.identity.revocation import Revocations
from cairn.identity.tokens import TokenIssuer
from cairn.image import api as image_api
from cairn.image import control as image_control
from cairn.image import service as image
from cairn.life.reconcile import Reconciler, Runner
from cairn.network import api as network_api
from cairn.settings import Settings
from cairn.volume import api as volume_api
from cairn.volume import control as volume_control
from cairn.web import console
from cairn.wire import tls
from cairn.wire.link import Go, Hello, Refused, StreamLink, wanted_image

CHUNK_BYTES = 1 << 20
GOODBYE_S = 10  # how long requests under way may take to end when the process is told to stop

_log = log.get("control")


class CloudOptions(Struct, frozen=True, kw_only=True):
    """What a control plane must be told."""

    control_dir: Path  # images and keys live below it
    clock: Clock
    admin_password: str  # of the first administrator, if there is none yet
    region: str = "RegionOne"
    token_lifetime_s: int = 3600
    upload_gib_max: int = 512
    vcpu_overcommit: float = 8.0
    memory_overcommit: float = 1.0


class Cloud:
    """All parts of one control process, over a database whose schema is up to date."""

    def __init__(self, database: Database, options: CloudOptions) -> None:
        self.database = database
        self._options = options
        self.feed = Feed()
        database.on_wake(self.feed.wake)
        self.passwords = Passwords()
        self.revocations = Revocations(database)
        self.keys = KeyRepository(options.control_dir / "keys" / "fernet")
        self.issuer = TokenIssuer(
            self.keys,
            options.clock,
            self.revocations,
            lifetime_s=options.token_lifetime_s,
        )
        self.metrics = health.Metrics(statements=lambda: database.statements_total)
        self.streams = NodeStreams(
            database=database,
            feed=self.feed,
            compile_spec=slices.compile_spec,
            take_report=slices.take_report,
            send_image=self._send_image,
        )
        self.runner = Runner(self._reconcilers(), self.feed, options.clock)
        self.shell = Shell(
            services=self._services(),
            database=database,
            authenticate=self.issuer.authenticate,
            observe=self.metrics.observe,
        )

    async def start(self) -> None:
        """Make the first rows, if they are missing, and give hosts time to come back."""
        hashed = await self.passwords.hash(self._options.admin_password)
        await self.database.write(lambda tx: bootstrap.bootstrap(tx, hashed))
        await self.streams.start()

    async def close(self) -> None:
        await self.streams.close()
        self.passwords.close()

    def _services(self) -> list[Service]:
        options = self._options
        apis: list[Service] = [
            compute_api.service(ask=self.streams.ask),
            image_api.service(
                image_api.ImageOptions(
                    folder=options.control_dir / "images", upload_gib_max=options.upload_gib_max
                )
            ),
            network_api.SERVICE,
            volume_api.SERVICE,
        ]
        identity: Service = identity_api.service(
            identity_api.Options(
                issuer=self.issuer,
                passwords=self.passwords,
                region=options.region,
                entries=lambda: catalog.entries_of([identity, *apis]),
            )
        )
        return [identity, *apis, operator.service(self._operator_parts())]

    def _operator_parts(self) -> list[operator.Part]:
        own = health.routes(
            metrics=self.metrics,
            connected=lambda: self.streams.connected,
            rounds=lambda: self.runner.records,
        )
        hosts = api_hosts.routes(
            loads=aggregates.loads, last_heard=lambda node_id: self.streams.last_heard_s(node_id)
        )
        return [(own, health.POLICY), (hosts, api_hosts.POLICY)]

    def _reconcilers(self) -> list[Reconciler]:
        images = self._options.control_dir / "images"
        return [
            compute_control.Placer(self.database),
            compute_control.Janitor(self.database),
            volume_control.Placer(self.database),
            image_control.UploadKeeper(self.database, images),
            identity_control.RevocationKeeper(
                self.database, self.revocations, lifetime_s=self._options.token_lifetime_s
            ),
            identity_control.KeyRotation(self.keys),
        ]

    async def _send_image(self, link: StreamLink, hello: Hello) -> None:
        """The bytes of an image to a host that needs them."""
        spec = await self.database.read(lambda tx: image.spec_of(tx, wanted_image(hello)))
        if spec is None:
            await link.send(Refused(reason="There is no such image."))
            return
        try:
            with await asyncio.to_thread(Path(spec.path_hint).open, "rb") as file:
                await link.send(Go(size_bytes=spec.size_bytes))
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    link.writer.write(chunk)
                    await link.writer.drain()
        except OSError as error:
            raise Unavailable("The image's bytes cannot be sent.", because=repr(error)) from error


def run_control(settings: Settings, *, pages: Path) -> None:
    """Run until SIGTERM or SIGINT; requests under way are answered first. `pages`: noVNC's folder."""
    log.configure(debug=settings.debug)
    database = open_database(settings)
    try:
        uvloop.run(_serve(settings, database, pages))
    finally:
        database.close()


def open_database(settings: Settings) -> Database:
    """The installation's database, its schema brought up to date."""
    if settings.database_url:
        database = Database(settings.database_url)
    else:
        database = open_sqlite(settings.control_dir / "cairn.db")
    migrate.upgrade(database)
    return database


async def _serve(settings: Settings, database: Database, pages: Path) -> None:
    cloud = Cloud(database, _cloud_options(settings))
    await cloud.start()
    await _enrol_this_host(settings, database)
    console.mount(
        cloud.shell.app,
        database=database,
        streams=cloud.streams,
        pages=pages,
    )
    api = uvicorn.Server(_uvicorn_config(settings, cloud))
    nodes = await asyncio.start_server(
        cloud.streams.accept,
        settings.node_address,
        settings.node_port,
        ssl=_node_context(settings),
    )
    rounds = asyncio.create_task(cloud.runner.run(), name="reconcilers")
    _log.info("control plane serves", api=settings.api_url, node_port=settings.node_port)
    try:
        await api.serve()  # Handles SIGTERM and SIGINT itself.
    finally:
        nodes.close()
        rounds.cancel()
        await asyncio.gather(rounds, return_exceptions=True)
        await cloud.close()


def _uvicorn_config(settings: Settings, cloud: Cloud) -> uvicorn.Config:
    return uvicorn.Config(
        cloud.shell.app,
        host=settings.api_address,
        port=settings.api_port,
        ssl_certfile=settings.certs_dir / "server.crt",
        ssl_keyfile=str(settings.certs_dir / "server.key"),
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
        loop="none",
        http="httptools",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GOODBYE_S,
        h11_max_incomplete_event_size=64 << 10,
    )


def _cloud_options(settings: Settings) -> CloudOptions:
    return CloudOptions(
        control_dir=settings.control_dir,
        clock=SystemClock(),
        admin_password=(settings.credentials_dir / "admin-password").read_text().strip(),
        region=settings.region,
        token_lifetime_s=settings.token_lifetime_s,
        upload_gib_max=settings.upload_gib_max,
        vcpu_overcommit=settings.vcpu_overcommit,
        memory_overcommit=settings.memory_overcommit,
    )


def _node_context(settings: Settings) -> ssl.SSLContext:
    return tls.server_context(
        authority=settings.certs_dir / "ca.crt",
        certificate=settings.certs_dir / "server.crt",
        key=settings.certs_dir / "server.key",
    )


async def _enrol_this_host(settings: Settings, database: Database) -> None:
    """The machine that the control plane was installed on is its first host, if it has an agent."""
    certificate = settings.certs_dir / "node.crt"
    if not certificate.exists():
        return
    node_id: NodeId = tls.node_id_of(certificate)
    hostname = socket.gethostname()
    await database.write(
        lambda tx: fleet.enrol(
            tx,
            node_id,
            hostname=hostname,
            zone=DEFAULT_ZONE,
            roles=settings.roles,
            origin="first host",
        )
    )
