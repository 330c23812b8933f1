"""The network engine, OVS and OVN, in a version whose userspace conntrack holds.

Debian 12's OVS 3.1 can crash in userspace connection tracking with NAT, and a machine without the
kernel module has no other datapath. So unless the machine's own is new enough, Debian 13's packages
are unpacked beside the system: fetched by apt from the archive that this machine already uses,
verified by apt against Debian's keys, never installed. Nothing outside the cache directory changes
and no daemon starts.

The programs keep their names: each ELF file is given the unpacked loader and library path, so that
`comm`, `/proc/PID/exe` and pidfiles name the daemon and not a loader.
"""

import fcntl
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cairn.core.errors import Unavailable
from cairn.host import packages

CACHE = Path("/var/cache/cairn")
OVS_SERIES = (3, 5)
SUITE = "trixie"
PROGRAMS = (
    "ovsdb-server",
    "ovsdb-tool",
    "ovsdb-client",
    "ovs-vsctl",
    "ovs-vswitchd",
    "ovs-ofctl",
    "ovs-appctl",
    "ovs-dpctl",
    "ovn-nbctl",
    "ovn-sbctl",
    "ovn-northd",
    "ovn-controller",
    "ovn-appctl",
    "ovn-trace",
)
PACKAGES = ("openvswitch-switch", "ovn-central", "ovn-host", "patchelf")
# Of everything these packages ask for, only what the programs link to: no Python, Perl or systemd.
SLAPD_NEEDED = r"slapd|patchelf|lib.*|zlib1g"
POSTGRES_NEEDED = r"postgresql-(client-)?\d+|patchelf|lib.*|zlib1g"
NEEDED = r"openvswitch-(common|switch)|ovn-(common|central|host)|patchelf|lib.*|zlib1g"


def ensure_ovs(cache: Path = CACHE) -> Path:
    """Folder with `bin/` (every program of PROGRAMS) and `usr/share/` (database schemas).

    Takes some seconds and the network the first time, nothing afterwards; an interrupted first
    time is done again from the start. Raises Unavailable with apt's own words.
    """
    return _unpacked(_home(cache), _link_own if _own_version() >= OVS_SERIES else _unpack_ovs)


def ensure_postgres(cache: Path = CACHE) -> Path:
    """Folder of PostgreSQL's programs, for tests: the machine's own, else unpacked beside it.

    It is not installed, because Debian's package makes a cluster and starts it.
    """
    for own in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True):
        return own.parent
    home = _unpacked(cache / "engines" / "postgresql", _unpack_postgres)
    return next(home.glob("usr/lib/postgresql/*/bin"))


def ensure_slapd(cache: Path = CACHE) -> Path:
    """Folder of an LDAP server, for tests: `usr/sbin/slapd`, `usr/lib/ldap`, `etc/ldap/schema`.

    It is not installed, because Debian's package makes a directory and starts it.
    """
    if Path("/usr/sbin/slapd").exists():
        return Path("/")
    return _unpacked(cache / "engines" / "slapd", _unpack_slapd)


def ensure_novnc(cache: Path = CACHE) -> Path:
    """Folder of noVNC's pages, which the control plane serves for consoles in the browser."""
    home = _unpacked(
        cache / "engines" / "novnc", lambda work, home: packages.fetch(("novnc",), "novnc", work)
    )
    return home / "usr" / "share" / "novnc"


def _unpacked(home: Path, fill: Callable[[Path, Path], None]) -> Path:
    """`home`, filled by `fill(work, home)` in a folder that is renamed to it at the end."""
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with _only_one(home.parent / f".{home.name}.lock"):
        if home.is_dir():
            return home
        for left_over in home.parent.glob(f".{home.name}-*"):
            shutil.rmtree(left_over)
        work = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
        try:
            work.chmod(0o755)
            fill(work, home)
            work.rename(home)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return home


def present(cache: Path = CACHE) -> Path | None:
    """The folder of `ensure_ovs` if it is there."""
    home = _home(cache)
    return home if home.is_dir() else None


def _home(cache: Path) -> Path:
    return cache / "engines" / "ovs-{}.{}".format(*OVS_SERIES)


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _own_version() -> tuple[int, int]:
    """Version of the machine's installed OVS, (0, 0) when one of the programs is missing."""
    if any(shutil.which(program) is None for program in PROGRAMS):
        return (0, 0)
    said = subprocess.run(
        ["ovs-vswitchd", "--version"], check=False, capture_output=True, text=True
    ).stdout
    found = re.search(r"(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _link_own(work: Path, home: Path) -> None:
    (work / "usr").mkdir()
    (work / "usr/share").symlink_to("/usr/share")
    (work / "bin").mkdir()
    for program in PROGRAMS:
        where = shutil.which(program)
        assert where is not None
        (work / "bin" / program).symlink_to(where)


def _unpack_ovs(work: Path, home: Path) -> None:
    packages.fetch(PACKAGES, NEEDED, work, suite=SUITE)
    (work / "bin").mkdir()
    for name in PROGRAMS:
        program = _program(work, name)
        _settle(program, work, home)
        (work / "bin" / name).symlink_to(Path("..") / program.relative_to(work))


def _settle(program: Path, work: Path, home: Path) -> None:
    """Have a program use the loader and libraries that were unpacked with it, at their last place."""
    loader = packages.loader_in(work)
    libraries = loader.parent
    # Debian 12 still keeps libc's libraries under /lib and the others under /usr/lib.
    others = work / "usr/lib" / libraries.name
    paths = (libraries, others, libraries / "openvswitch", libraries / "ovn")
    search = ":".join(str(home / path.relative_to(work)) for path in paths if path.is_dir())
    patchelf = [str(loader), "--library-path", str(libraries), str(work / "usr/bin/patchelf")]
    interpreter = str(home / loader.relative_to(work))
    # DT_RPATH and not RUNPATH: it also holds for what the libraries themselves link to.
    ask = ["--set-interpreter", interpreter, "--force-rpath", "--set-rpath", search]
    packages.run([*patchelf, *ask, str(program)])


def _unpack_postgres(work: Path, home: Path) -> None:
    packages.fetch(("postgresql", "patchelf"), POSTGRES_NEEDED, work)
    for program in next(work.glob("usr/lib/postgresql/*/bin")).iterdir():
        if program.read_bytes()[:4] == b"\x7fELF":
            _settle(program, work, home)


def _unpack_slapd(work: Path, home: Path) -> None:
    packages.fetch(("slapd", "patchelf"), SLAPD_NEEDED, work)
    _settle(work / "usr/sbin/slapd", work, home)


def _program(work: Path, name: str) -> Path:
    # Debian puts ovs-vswitchd where alternatives choose among builds; elsewhere it is usr/sbin.
    for pattern in (f"usr/*bin/{name}", f"usr/lib/*/{name}"):
        for found in sorted(work.glob(pattern)):
            if found.is_file():
                return found
    raise Unavailable("Debian's Open vSwitch packages are not as expected", because=f"no {name}")
