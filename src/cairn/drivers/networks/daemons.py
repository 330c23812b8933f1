"""OVS's and OVN's own processes: started detached, adopted, watched, started again.

They outlive the agent, since guests' traffic must. Each is known by its pid file and the mark of our
directory in its command line, never by its name. A pid file descriptor tells of a death at once, of a
child's or a stranger's alike; a daemon that died is started again straight away, one that dies again and
again with growing pauses, and the reason stands in its `EngineSeen`.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from cairn.core import log
from cairn.core.errors import CloudError, Unavailable
from cairn.core.tasks import TaskGroup
from cairn.drivers.networks import links
from cairn.drivers.networks.layout import OvnOptions
from cairn.wire.report import EngineSeen, Trouble

_log = log.get("ovn")

_PAUSES_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_STEADY_S = 10.0  # a daemon that lived this long starts over with the shortest pause
_STOP_S = 5.0
# Asked this way, the one takes bridges and flows out of the kernel, the other its host out of the zone.
_POLITE = {"ovs-vswitchd": ("exit", "--cleanup"), "ovn-controller": ("exit",)}
_LOG_BYTES_MAX = 16 << 20  # of a log that a start continues


class Program(Struct, frozen=True, kw_only=True):
    """How one daemon is started. Files are named after `name`."""

    name: str
    command: tuple[str, ...]
    unixctl: bool = True  # whether it takes the path of its control socket
    is_for_others: bool = False  # started again where an older agent's did not let other hosts in
    database: Path | None = None  # made of `schema` before the start
    schema: Path | None = None


def programs(options: OvnOptions) -> tuple[Program, ...]:
    """The daemons that this host runs, in the order of their needs."""
    local = _database_server(options, "conf", "db.sock", "openvswitch/vswitch")
    switch = Program(
        name="ovs-vswitchd",
        command=(
            options.program("ovs-vswitchd"),
            options.socket("db.sock"),
            *(("--disable-system",) if options.datapath == "netdev" else ()),
        ),
    )
    # Its control socket has its process id in the name: old versions take no other.
    controller = Program(
        name="ovn-controller",
        command=(options.program("ovn-controller"), options.socket("db.sock")),
        unixctl=False,
    )
    if not options.has_network_role:
        return local, switch, controller
    northd = Program(
        name="ovn-northd",
        command=(
            options.program("ovn-northd"),
            f"--ovnnb-db={options.socket('nb.sock')}",
            f"--ovnsb-db={options.socket('sb.sock')}",
        ),
    )
    return (
        local,
        _database_server(options, "nb", "nb.sock", "ovn/ovn-nb"),
        _southbound_server(options),
        switch,
        northd,
        controller,
    )


def _database_server(options: OvnOptions, database: str, socket: str, schema: str) -> Program:
    path = options.database(database)
    return Program(
        name=f"ovsdb-{database}",
        command=(
            options.program("ovsdb-server"),
            str(path),
            f"--remote=p{options.socket(socket)}",
        ),
        database=path,
        schema=options.schema(schema),
    )


def _southbound_server(options: OvnOptions) -> Program:
    """The zone's database also listens where the database itself says (see `southbound.py`), by TLS."""
    alone = _database_server(options, "sb", "sb.sock", "ovn/ovn-sb")
    if options.tls is None:
        return alone
    door = (
        "--remote=db:OVN_Southbound,SB_Global,connections",
        f"--private-key={options.tls.key}",
        f"--certificate={options.tls.certificate}",
        f"--ca-cert={options.tls.authority}",
    )
    return msgspec.structs.replace(alone, command=(*alone.command, *door), is_for_others=True)


class Daemon:
    """One daemon of this host: at most one process, whoever started it."""

    def __init__(self, options: OvnOptions, program: Program) -> None:
        self._options = options
        self._program = program
        self.name = program.name
        self.pid = 0
        self.since = 0.0
        self.restarts = 0
        self.trouble: Trouble | None = None

    @property
    def pid_file(self) -> Path:
        return self._options.run_dir / f"{self.name}.pid"

    def find(self) -> bool:
        """Adopt the process that an earlier agent left, if it lives."""
        self.pid = _living(self.pid_file)
        if self.pid:
            self.since = _started_at(self.pid)
        return bool(self.pid)

    def must_start_again(self) -> bool:
        """Whether it runs with other words than it would be started with today, and that matters."""
        if not self._program.is_for_others:
            return False
        words = Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")
        return not {word.encode() for word in self._program.command[1:]} <= set(words)

    async def start(self) -> None:
        """Start the process and return when it serves. Unavailable, with its own words, when it does not."""
        await self._prepare_database()
        log_file = self._options.log_dir / f"{self.name}.log"
        if log_file.exists() and log_file.stat().st_size > _LOG_BYTES_MAX:
            log_file.rename(log_file.with_suffix(".log.1"))
        await links.run(
            *self._program.command,
            f"--pidfile={self.pid_file}",
            f"--log-file={log_file}",
            *((f"--unixctl={self.control_socket}",) if self._program.unixctl else ()),
            "-vconsole:off",
            "-vsyslog:off",
            "--no-chdir",
            "--detach",
            env=self._options.environment(),
        )
        if not self.find():
            raise Unavailable(f"{self.name} ended right after its start", because=str(log_file))

    async def stop(self) -> None:
        """End the process, if it lives, by force where asking fails."""
        pid, self.pid = self.pid, 0
        if not pid:
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                os.kill(pid, sign)
                async with asyncio.timeout(_STOP_S):
                    await _until_dead(pid)
                break

    @property
    def control_socket(self) -> str:
        unique = "" if self._program.unixctl else f".{self.pid}"
        return str(self._options.run_dir / f"{self.name}{unique}.ctl")

    async def _prepare_database(self) -> None:
        database, schema = self._program.database, self._program.schema
        if database is None or schema is None:
            return
        tool = self._options.program("ovsdb-tool")
        if not database.exists():
            await links.run(tool, "create", str(database), str(schema))
        elif await links.run(tool, "needs-conversion", str(database), str(schema)) == b"yes\n":
            await links.run(tool, "convert", str(database), str(schema))

    def seen(self) -> EngineSeen:
        return EngineSeen(
            name=self.name,
            pid=self.pid,
            up=self.pid != 0,
            since=self.since,
            restarts=self.restarts,
            trouble=self.trouble,
        )


class Daemons:
    """All daemons of this host, kept running until `close`, which leaves them alone."""

    def __init__(
        self,
        options: OvnOptions,
        *,
        changed: Callable[[], None],
        restarted: Callable[[str], None],
    ) -> None:
        self._all = [Daemon(options, program) for program in programs(options)]
        self._changed = changed
        self._restarted = restarted  # told the name of each daemon that was started again
        self._tasks = TaskGroup()

    async def start(self) -> None:
        """Adopt or start each, databases first. Raises what the first of them that cannot start says."""
        for daemon in self._all:
            if daemon.find() and not daemon.must_start_again():
                _log.info("adopted", engine=daemon.name, pid=daemon.pid)
            else:
                await daemon.stop()
                await daemon.start()
        for daemon in self._all:
            self._tasks.start(self._keep(daemon), name=f"keep {daemon.name}")

    async def close(self) -> None:
        await self._tasks.close()

    def seen(self) -> tuple[EngineSeen, ...]:
        return tuple(daemon.seen() for daemon in self._all)

    def control_socket(self, name: str) -> str:
        return next(daemon.control_socket for daemon in self._all if daemon.name == name)

    async def _keep(self, daemon: Daemon) -> None:
        quick_deaths = 0
        while True:
            if daemon.pid:
                began = time.monotonic()
                await _until_dead(daemon.pid)
                quick_deaths = quick_deaths + 1 if time.monotonic() - began < _STEADY_S else 0
                _log.warning("engine died", engine=daemon.name, pid=daemon.pid)
                daemon.pid = 0
                daemon.trouble = Trouble(
                    message=f"{daemon.name} died and is being started again", since=time.time()
                )
                self._changed()
            await asyncio.sleep(_PAUSES_S[min(quick_deaths, len(_PAUSES_S) - 1)])
            try:
                if not daemon.find():  # somebody else may have been quicker
                    await daemon.start()
            except CloudError as error:
                quick_deaths += 1
                since = daemon.trouble.since if daemon.trouble else time.time()
                tries = daemon.trouble.tries + 1 if daemon.trouble else 1
                daemon.trouble = Trouble(
                    message=error.message, because=error.because or "", since=since, tries=tries
                )
                _log.warning("engine does not start", engine=daemon.name, because=str(error))
            else:
                daemon.restarts += 1
                daemon.trouble = None
                _log.info("engine is back", engine=daemon.name, pid=daemon.pid)
                self._restarted(daemon.name)
            self._changed()


async def stop_all(options: OvnOptions) -> None:
    """End every daemon of this directory, those that use others first, by force where asking fails."""
    for program in reversed(programs(options)):
        daemon = Daemon(options, program)
        if not daemon.find():
            continue
        if (polite := _POLITE.get(program.name)) is not None:
            with contextlib.suppress(CloudError):
                await links.run(
                    options.program("ovs-appctl"), "-t", daemon.control_socket, *polite,
                    env=options.environment(),
                )  # fmt: skip
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await _until_dead(daemon.pid)
        await daemon.stop()
    for left in options.run_dir.glob("*"):
        left.unlink(missing_ok=True)


def _living(pid_file: Path) -> int:
    """The process of a pid file, if it lives and is the one that wrote it; else 0."""
    try:
        pid = int(pid_file.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return 0
    # A dead process that nobody has waited for has no command line either.
    return pid if f"--pidfile={pid_file}".encode() in command else 0


def _started_at(pid: int) -> float:
    """Seconds since the epoch (proc(5): field 22 of stat, in clock ticks since boot)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, IndexError):
        return time.time()
    return time.time() - uptime_s + int(fields[19]) / os.sysconf("SC_CLK_TCK")


async def _until_dead(pid: int) -> None:
    """Return when the process has ended. It need not be our child."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    dead: asyncio.Future[None] = loop.create_future()
    loop.add_reader(handle, _finish, dead)
    try:
        await dead
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def _finish(dead: "asyncio.Future[None]") -> None:
    if not dead.done():
        dead.set_result(None)
