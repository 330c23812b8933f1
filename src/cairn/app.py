"""One control plane put together: services, reconcilers, the agents' streams, over one database.

`Cloud` is the whole of it without sockets, so the simulator runs the very same; `run_control` gives it
TLS, ports and signals.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import ssl
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvicorn
import uvloop
from msgspec import Struct

from cairn import (
    __version__,
    handover,
    health,
    membership,
    metrics,
    operator,
    quotas,
    replies,
    serving,
    slices,
)
from cairn.audit import api as audit_api
from cairn.audit.control import AuditKeeper
from cairn.audit.service import Trail
from cairn.compute import aggregates, api_drain, marks, mover, placing, recovery
from cairn.compute import api as compute_api
from cairn.compute import control as compute_control
from cairn.core import log
from cairn.core.clock import Clock, SystemClock
from cairn.core.errors import CloudError, Conflict, Unavailable
from cairn.core.ids import NodeId
from cairn.core.tasks import TaskGroup
from cairn.db import migrate, move, secrets
from cairn.db.engine import Database, open_sqlite, with_driver
from cairn.db.feed import Feed
from cairn.db.notify import Notifier
from cairn.db.secrets import Sealer
from cairn.fleet import api_controls, api_hosts, api_join, api_loss, control_store
from cairn.fleet import control as fleet_control
from cairn.fleet import service as fleet
from cairn.fleet.api_join import Addresses
from cairn.fleet.control_store import Control
from cairn.fleet.controls import Controls
from cairn.fleet.join import Authority
from cairn.fleet.peers import Connect, Peers
from cairn.fleet.records import DEFAULT_ZONE
from cairn.fleet.stream import NodeStreams
from cairn.host import certs, prepare, private_files, processes
from cairn.http import openapi
from cairn.http import policies as http_policies
from cairn.http.connections import Crowd
from cairn.http.limits import Limits
from cairn.http.origin import Origins
from cairn.http.policies import Policies
from cairn.http.rates import Limiter, Rates
from cairn.http.routes import Service
from cairn.http.shell import Shell
from cairn.identity import api as identity_api
from cairn.identity import api_keys, bootstrap
from cairn.identity import control as identity_control
from cairn.identity.accounts.activity import InactivityKeeper
from cairn.identity.accounts.passwords import Passwords
from cairn.identity.accounts.security import Security
from cairn.identity.catalog import catalog
from cairn.identity.directory.directories import Directories
from cairn.identity.directory.keeper import DirectoryKeeper
from cairn.identity.federation.memberships import MembershipKeeper
from cairn.identity.importing import api as importing_api
from cairn.identity.keys import KeyRepository
from cairn.identity.revocation import Revocations
from cairn.identity.tokens import TokenIssuer
from cairn.image import api as image_api
from cairn.image import control as image_control
from cairn.image import service as image
from cairn.image.content import ContentStore
from cairn.life import lease
from cairn.life.lease import Leased
from cairn.life.reconcile import Reconciler, Runner
from cairn.network import api as network_api
from cairn.placement import fit
from cairn.placement.records import Ratios
from cairn.settings import Settings
from cairn.volume import api as volume_api
from cairn.volume import control as volume_control
from cairn.web import console
from cairn.wire import port, tls
from cairn.wire.addresses import is_loopback, joined, split
from cairn.wire.link import Go, Hello, Refused, StreamLink, connect, wanted_image

CHUNK_BYTES = 1 << 20
TOKEN_ADDRESSES_MAX = 8
NOWHERE = Addresses(api=("127.0.0.1:8443",))
# Hosts whose connections may wait to be accepted: after a restart all of them come at once, and each that
# does not fit tries again seconds later. The system's own limit (net.core.somaxconn) is usually this, too.
NODE_BACKLOG = 4096
SWITCH_S = 0.0005
GC_THRESHOLDS = (20_000, 20, 100)
GOODBYE_S = 10  # how long requests under way may take to end when the process is told to stop

_log = log.get("control")


class CloudOptions(Struct, frozen=True, kw_only=True):
    """What a control plane must be told."""

    control_dir: Path  # images and keys live below it
    clock: Clock
    admin_password: str  # of the first administrator, if there is none yet
    region: str = "RegionOne"
    token_lifetime_s: int = 3600
    trusted_dashboards: tuple[str, ...] = ()
    audit_days: int = 90
    metrics_secret: str = ""  # with which /metrics may be read without a token
    security: Security = Security()
    upload_gib_max: int = 512
    migrations_at_once: int = mover.AT_ONCE
    lost_after_s: float = fleet_control.LOST_AFTER_S
    restart_elsewhere: str = "false"
    recoveries_per_minute: int = recovery.RECOVERIES_PER_MINUTE
    sealing_key: bytes | None = None  # of the database's secrets; None: kept in `control_dir`
    images_dir: Path | None = None  # None: below `control_dir`
    policy_dir: Path | None = None  # an operator's overrides of the policy; None: there are none
    origins: Origins = Origins()  # who may say where a request comes from
    rates: Rates = Rates()  # how often somebody may ask
    # This process among several over one PostgreSQL, and how to reach the others; None: it is alone.
    me: Control | None = None
    connect_peer: Connect | None = None
    authority: Authority | None = None  # None: one in memory, for clouds without certificates
    addresses: Callable[[], Addresses] | None = None  # for join tokens; None: loopback


class Cloud:
    """All parts of one control process, over a database whose schema is up to date."""

    def __init__(self, database: Database, options: CloudOptions) -> None:
        self.database = database
        self._options = options
        self.feed = Feed()
        database.on_wake(self.feed.wake)
        marks.set_default(options.restart_elsewhere)
        self.passwords = Passwords()
        self.revocations = Revocations(database)
        sealing_key = options.sealing_key or secrets.key_in(options.control_dir / "control.key")
        self.sealer = Sealer(sealing_key)
        self.directories = Directories(database, self.sealer)
        self.keys = KeyRepository(
            database,
            self.sealer,
            clock=options.clock,
            lifetime_s=options.token_lifetime_s,
            folder=options.control_dir / "keys" / "fernet",
        )
        self.issuer = TokenIssuer(
            self.keys,
            options.clock,
            self.revocations,
            lifetime_s=options.token_lifetime_s,
        )
        self.authority = options.authority or certs.new_authority(options.clock)
        self.metrics = metrics.Metrics()
        self.health = health.Health(database)
        self.streams = NodeStreams(
            database=database,
            feed=self.feed,
            compile_spec=slices.compile_spec,
            take_report=slices.take_report,
            send_image=self._send_image,
            renew=membership.renewals(database, self.authority),
            control_id=options.me.id if options.me else None,
        )
        images = options.images_dir or options.control_dir / "images"
        self.peers = Peers(
            database,
            self.streams,
            control_id=options.me.id if options.me else None,
            connect=options.connect_peer,
            files=images,
        )
        self.images = ContentStore(
            images, bytes_max=options.upload_gib_max << 30, fetch=self.peers.fetch
        )
        self._tasks = TaskGroup()
        self.trail = Trail(database, clock=options.clock, tasks=self._tasks)
        self._notifier: Notifier | None = None
        self._controls: Controls | None = None
        if options.me is not None:
            self._notifier = Notifier(database, sender=options.me.id)
            self._controls = Controls(
                database, options.me, adopt=self.streams.adopt, lose_all=self.streams.close_all
            )
        self.runner = Runner(self._reconcilers(), self.feed, options.clock)
        self.limiter = Limiter(options.rates)
        self._watch()
        services = openapi.with_documents(replies.declared(self._services()))
        self.policies = Policies(services, options.policy_dir)
        self.shell = Shell(
            services=services,
            policies=self.policies.tables,
            origins=options.origins,
            limiter=self.limiter,
            database=database,
            authenticate=self.metrics.counted(self.issuer.authenticate),
            observe=self.metrics.observe,
            auditor=self.trail,
        )

    async def start(self) -> None:
        """Make the first rows, if they are missing, and give hosts time to come back."""
        hashed = await self.passwords.hash(self._options.admin_password)
        try:
            await self.database.write(lambda tx: bootstrap.bootstrap(tx, hashed))
        except Conflict:  # Another control process made them at the same moment.
            await self.database.write(lambda tx: bootstrap.bootstrap(tx, hashed))
        if self._controls is not None and self._notifier is not None:
            await self._controls.join()
            self._tasks.start(self._notifier.run(), name="notifier")
            self._tasks.start(self._controls.run(), name="controls")
        await self.streams.start(is_alone=self._controls is None)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to the node port: an agent's, or another control process's."""
        if not tls.names_control(writer.get_extra_info("peercert")):
            await self.streams.accept(reader, writer)
            return
        link = StreamLink(reader, writer)
        try:
            await self.peers.serve(link)
        except CloudError as error:
            _log.info("peer's connection ended", because=str(error))
        finally:
            link.close()

    @property
    def has_peers(self) -> bool:
        """Whether there are, or may be, other control processes."""
        return self._controls is not None

    def drain(self) -> None:
        """Send the agents elsewhere: this process will end soon."""
        self.streams.close_all()

    async def close(self) -> None:
        await self.streams.close()
        with contextlib.suppress(CloudError):
            await self.trail.flush()
        if self._controls is not None and self._notifier is not None:
            with contextlib.suppress(CloudError):  # Without a database there is nothing to leave.
                me = self._controls.me.id
                await self.database.write(lambda tx: lease.release(tx, me))
                await self._controls.leave()
                await self._notifier.flush()
        await self._tasks.close()
        self.passwords.close()
        self.directories.close()

    def _watch(self) -> None:
        """What `/healthz` asks and `/metrics` tells."""
        database, trail, notifier = self.database, self.trail, self._notifier
        for check in (
            health.of_reconcilers(lambda: self.runner.records),
            health.of_keys(self.keys.age_s, rotated_every_s=identity_control.KEY_SECONDS_MAX),
            health.of_replica(database),
            health.of_trail(lambda: trail.is_losing, lambda: trail.dropped),
            health.of_directories(self.directories.troubles),
            health.of_disk("disk", self._options.control_dir),
        ):
            self.health.add(check)
        if notifier is not None:
            self.health.add(health.of_hints(notifier.is_listening.is_set))
        if self._options.images_dir is not None:
            self.health.add(health.of_disk("images disk", self._options.images_dir))
        for source in (
            metrics.of_database(database),
            metrics.of_reconcilers(lambda: self.runner.records),
            metrics.of_streams(self.streams),
            metrics.of_nodes(lambda: self.health.nodes),
            metrics.of_trail(trail),
            metrics.of_limits(self.limiter),
        ):
            self.metrics.add(source)

    def _services(self) -> list[Service]:
        options = self._options
        apis: list[Service] = [
            compute_api.service(ask=self.peers.ask),
            image_api.service(self.images),
            network_api.SERVICE,
            volume_api.SERVICE,
        ]
        identity: Service = identity_api.service(
            identity_api.Options(
                database=self.database,
                issuer=self.issuer,
                passwords=self.passwords,
                sealer=self.sealer,
                directories=self.directories,
                region=options.region,
                dashboards=options.trusted_dashboards,
                security=options.security,
                entries=lambda: catalog.entries_of([identity, *apis]),
                limits=[counted.limits for counted in slices.COUNTED],
            )
        )
        return [identity, *apis, operator.service(self._operator_parts())]

    def _operator_parts(self) -> list[operator.Part]:
        own = health.routes(
            health=self.health,
            metrics=self.metrics,
            scrapers=health.Scrapers(
                authenticate=self.issuer.authenticate, secret=self._options.metrics_secret
            ),
            connected=lambda: self.streams.connected,
            rounds=lambda: self.runner.records,
            directories=self.directories.troubles,
        )
        hosts = api_hosts.routes(loads=aggregates.loads, last_heard=self.streams.last_heard_s)
        is_alone = self._options.me is None
        me = self._options.me or Control(
            id="", name=socket.gethostname(), address="", version=__version__
        )
        doors = api_join.Doors(
            authority=self.authority,
            addresses=self._addresses,
            refused=self.metrics.join_refused,
            clock=self._options.clock,
        )
        return [
            (own, health.POLICY),
            (hosts, api_hosts.POLICY),
            (api_controls.routes(me=me, is_alone=is_alone), api_controls.POLICY),
            (api_loss.ROUTES, api_loss.POLICY),
            (api_join.routes(doors), api_join.POLICY),
            (membership.routes(), membership.POLICY),
            (api_drain.ROUTES, api_drain.POLICY),
            (importing_api.routes(self.sealer), importing_api.POLICY),
            (quotas.ROUTES, quotas.POLICY),
            (audit_api.routes(observer=self._options.region), audit_api.POLICY),
            (api_keys.routes(self.keys, self.sealer), api_keys.POLICY),
            (http_policies.routes(lambda: self.policies), http_policies.POLICY),
        ]

    async def _addresses(self) -> Addresses:
        find = self._options.addresses
        found = await asyncio.to_thread(find) if find is not None else NOWHERE
        if self._controls is None:
            return found
        # Hosts that join now learn of every control machine that serves now.
        living = await self.database.read(control_store.all_controls)
        served = [control.address for control in living]
        served = [a for a in served if not is_loopback(split(a, found.node_port)[0])]
        return msgspec.structs.replace(found, node=tuple(dict.fromkeys((*found.node, *served))))

    def _reconcilers(self) -> list[Reconciler]:
        """Those that one process does for all are leased; the others look after what each has itself."""
        return [
            *(
                self._leased(reconciler)
                for reconciler in (
                    placing.Placer(self.database, feed=self.feed, clock=self._options.clock),
                    compute_control.Janitor(self.database),
                    mover.Mover(self.database, at_once=self._options.migrations_at_once),
                    volume_control.Placer(self.database),
                    fleet_control.LossKeeper(
                        self.database,
                        self._options.clock,
                        lost_after_s=self._options.lost_after_s,
                    ),
                    recovery.Recoverer(
                        self.database,
                        self._options.clock,
                        per_minute=self._options.recoveries_per_minute,
                    ),
                    identity_control.KeyRotation(self.database, self.keys),
                    DirectoryKeeper(self.database, self.directories),
                    MembershipKeeper(self.database),
                    InactivityKeeper(self.database, self._options.security),
                    AuditKeeper(self.database, days=self._options.audit_days),
                )
            ),
            image_control.UploadKeeper(self.database, self.images.directory),
            identity_control.RevocationKeeper(
                self.database, self.revocations, lifetime_s=self._options.token_lifetime_s
            ),
        ]

    def _leased(self, reconciler: Reconciler) -> Reconciler:
        me = self._options.me
        if me is None:
            return reconciler
        return Leased(reconciler, self.database, holder=me.id, clock=self._options.clock)

    async def _send_image(self, link: StreamLink, hello: Hello) -> None:
        """The bytes of an image to a host that needs them."""
        spec = await self.database.read(lambda tx: image.spec_of(tx, wanted_image(hello)))
        if spec is None:
            await link.send(Refused(reason="There is no such image."))
            return
        path = await self.images.bring(spec.path_hint, spec.size_bytes, spec.sha256)
        try:
            with await asyncio.to_thread(path.open, "rb") as file:
                await link.send(Go(size_bytes=spec.size_bytes))
                while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                    link.writer.write(chunk)
                    await link.writer.drain()
        except OSError as error:
            raise Unavailable("The image's bytes cannot be sent.", because=repr(error)) from error


def services_without_cloud() -> tuple[Service, ...]:
    """The route and policy tables of all services, for whoever only reads them."""
    with tempfile.TemporaryDirectory(prefix="cairn-tables-") as folder:
        database = Database("sqlite://", inline=True)
        try:
            database.create_all()
            options = CloudOptions(control_dir=Path(folder), clock=SystemClock(), admin_password="")
            return Cloud(database, options).shell.services
        finally:
            database.close()


def run_control(settings: Settings, *, pages: Path) -> None:
    """Run until SIGTERM or SIGINT; requests under way are answered first. `pages`: noVNC's folder."""
    log.configure(debug=settings.debug)
    # Ten thousand connections are half a million objects that live long: looking through them for
    # rubbish as often as Python would by itself costs more than serving them.
    gc.set_threshold(*GC_THRESHOLDS)
    fit.promise(Ratios(vcpus=settings.vcpu_overcommit, memory=settings.memory_overcommit))
    processes.raise_file_limit()
    database = open_database(settings)
    try:
        if not database.is_sqlite:
            # A write waits for the server some thirty times; by default, whoever computes meanwhile
            # lets go of the interpreter only after 5 ms.
            sys.setswitchinterval(SWITCH_S)
            handover.share_authority(settings, database)
        uvloop.run(_serve(settings, database, pages))
    finally:
        database.close()


def open_database(settings: Settings) -> Database:
    """The installation's database, its schema brought up to date."""
    if settings.database_url:
        database = Database(
            with_driver(settings.database_url),
            replica_url=with_driver(settings.database_replica_url),
        )
    else:
        database = open_sqlite(settings.control_dir / "cairn.db")
    migrate.upgrade(database)
    if not database.is_sqlite:
        move.begin_use(database)
    return database


async def _serve(settings: Settings, database: Database, pages: Path) -> None:
    options = _cloud_options(settings)
    cloud = Cloud(database, options)
    crowd = Crowd(Limits(), refusal=cloud.shell.refusal, is_proxy=options.origins.is_proxy)
    cloud.metrics.add(metrics.of_connections(crowd))
    await cloud.start()
    await _enrol_this_host(settings, database)
    console.mount(
        cloud.shell.app,
        database=database,
        screens=cloud.peers,
        pages=pages,
    )
    node_context = _node_context(settings, cloud.streams)
    listener = port.listen(settings.node_address, settings.node_port, backlog=NODE_BACKLOG)
    nodes = port.Port(listener, node_context, cloud.accept)

    def drain() -> None:
        _log.info("control process goes")
        nodes.close()
        cloud.drain()

    door = serving.Door(cloud.shell.app)
    config = _uvicorn_config(settings, door)
    config.load()
    assert config.ssl is not None, "it was given a certificate"
    contexts = (node_context, config.ssl)
    api = serving.Server(config, door=door, crowd=crowd, has_peers=cloud.has_peers, on_drain=drain)
    names = prepare.names_of(settings)
    own = [
        asyncio.create_task(cloud.runner.run(), name="reconcilers"),
        asyncio.create_task(
            serving.keep_certificate(settings.certs_dir, names, lambda: contexts),
            name="certificate",
        ),
    ]
    _log.info("control plane serves", api=settings.api_url, node_port=settings.node_port)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, cloud.policies.reload)
    try:
        await api.serve()  # Handles SIGTERM and SIGINT itself.
    finally:
        nodes.close()
        for task in own:
            task.cancel()
        await asyncio.gather(*own, return_exceptions=True)
        await cloud.close()


def _uvicorn_config(settings: Settings, door: serving.Door) -> uvicorn.Config:
    return uvicorn.Config(
        door,
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
        timeout_keep_alive=Limits().idle_s,
        timeout_graceful_shutdown=GOODBYE_S,
    )


def _cloud_options(settings: Settings) -> CloudOptions:
    return CloudOptions(
        control_dir=settings.control_dir,
        clock=SystemClock(),
        admin_password=(settings.credentials_dir / "admin-password").read_text().strip(),
        region=settings.region,
        token_lifetime_s=settings.token_lifetime_s,
        trusted_dashboards=settings.trusted_dashboards,
        audit_days=settings.audit_days,
        metrics_secret=_metrics_secret(settings),
        security=security_of(settings),
        upload_gib_max=settings.upload_gib_max,
        migrations_at_once=settings.migrations_at_once,
        lost_after_s=settings.lost_after_s,
        restart_elsewhere=settings.restart_elsewhere,
        recoveries_per_minute=settings.recoveries_per_minute,
        sealing_key=secrets.key_in(settings.control_key_file),
        images_dir=settings.images_folder,
        policy_dir=settings.policy_dir,
        origins=Origins(
            settings.api_trusted_proxies,
            spoken=settings.api_proxy_headers,
            public_url=settings.api_public_url,
        ),
        rates=Rates(
            address_per_s=settings.requests_per_s_per_address,
            project_per_s=settings.requests_per_s_per_project,
            failed_sign_ins_per_min=settings.failed_sign_ins_per_min_per_address,
        ),
        me=_me(settings) if settings.database_url else None,
        connect_peer=_peer_connector(settings) if settings.database_url else None,
        authority=certs.open_authority(
            settings.certs_dir, clock=SystemClock(), days=settings.certificate_days
        ),
        addresses=lambda: _addresses(settings),
    )


def security_of(settings: Settings) -> Security:
    """How strict passwords and accounts are. Raises Invalid naming the setting."""
    names = Security.__struct_fields__
    return Security(**{name: getattr(settings, name) for name in names})


def _metrics_secret(settings: Settings) -> str:
    """What a scraper shows: made once, and read by its owner only."""
    file = settings.credentials_dir / "metrics-token"
    if not file.exists():
        private_files.write(file, os.urandom(32).hex() + "\n")
    return file.read_text().strip()


def _addresses(settings: Settings) -> Addresses:
    """Where hosts that join may find this control plane: what was settled first, then what is seen."""
    said = [split(a, settings.node_port) for a in settings.control_addresses]
    named = [(host, port) for host, port in said if not is_loopback(host)]
    hosts = [settings.effective_api_host, *(host for host, _ in named)]
    gateway = settings.external_gateway.partition("/")[0]
    hosts += [a for a in certs.local_addresses() if a != gateway]
    outside = [host for host in dict.fromkeys(hosts) if not is_loopback(host)]
    return Addresses(
        api=tuple(joined(host, settings.api_port) for host in outside[:TOKEN_ADDRESSES_MAX])
        or NOWHERE.api,
        node=tuple(joined(host, port) for host, port in named),
        node_port=settings.node_port,
    )


def _me(settings: Settings) -> Control:
    host = settings.effective_host_address
    return Control(
        id=str(uuid.uuid4()),
        name=socket.gethostname(),
        address=f"{f'[{host}]' if ':' in host else host}:{settings.node_port}",
        version=__version__,
    )


def _peer_connector(settings: Settings) -> Connect:
    certificate, key = certs.ensure_control(settings.certs_dir, name=socket.gethostname())

    async def connect_peer(address: str) -> StreamLink:
        context = tls.client_context(
            authority=settings.certs_dir / "ca.crt", certificate=certificate, key=key
        )
        host, _, port = address.rpartition(":")
        return await connect(host.strip("[]"), int(port), context)

    return connect_peer


def _node_context(settings: Settings, streams: NodeStreams) -> ssl.SSLContext:
    def refused(why: str) -> None:
        streams.refusals[why] += 1
        _log.warning("connection to the node port refused", why=why)

    return tls.server_context(
        refused=refused,
        authority=settings.certs_dir / "ca.crt",
        certificate=settings.certs_dir / "server.crt",
        key=settings.certs_dir / "server.key",
    )


async def _enrol_this_host(settings: Settings, database: Database) -> None:
    """The machine that the control plane was installed on is its first host, if it has an agent."""
    certificate = settings.certs_dir / "node.crt"
    if not certificate.exists() or not settings.roles:
        return
    node_id: NodeId = tls.node_id_of(certificate)
    hostname = settings.effective_host_name
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
