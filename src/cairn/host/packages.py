"""Debian packages as parts, not as installations: fetched and verified by apt, unpacked anywhere.

apt runs with an empty list of installed packages, so that it names the whole set a program needs,
and with folders of its own wherever it would write. The machine's own packages stay as they are.
"""

import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cairn.core.errors import Unavailable

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
RUN_S_MAX = 600
SYSTEM_LISTS = Path("/var/lib/apt/lists")


def fetch(names: tuple[str, ...], keep: str, folder: Path, *, suite: str | None = None) -> None:
    """Unpack `names`, and of what they depend on all whose name matches `keep`, into `folder`.

    `suite` names another Debian release than the machine's own. Raises Unavailable with apt's words.
    """
    work = folder / ".apt"
    for part in ("lists/partial", "archives/partial", "debs"):
        (work / part).mkdir(parents=True)
    (work / "status").touch()
    world: dict[str, object] = {
        "Dir::State": work,
        "Dir::State::status": work / "status",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work,
        # The unpacking user must be able to read what apt's own user fetched.
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "APT::Architectures": _architecture(),
    }
    if suite:
        source = f"deb [signed-by={KEYRING}] {debian_archive()} {suite} main\n"
        (work / "sources.list").write_text(source)
        # The machine's pins are about its own release.
        world |= {
            "Dir::Etc::sourcelist": work / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
        }
    elif _lists_are_there():
        # The machine's own lists serve: reading the archive's anew takes longer than the packages do.
        try:
            _download(names, keep, work, world | {"Dir::State::lists": SYSTEM_LISTS})
        except Unavailable:
            pass  # They may be older than the archive is: below they are read anew.
        else:
            return _unpack(work, folder)
    _apt(world, "update")
    _download(names, keep, work, world)
    return _unpack(work, folder)


def _download(names: tuple[str, ...], keep: str, work: Path, world: Mapping[str, object]) -> None:
    plan = _apt(world, "install", "--simulate", "--no-install-recommends", *names)
    planned = re.findall(r"^Inst (\S+)", plan, re.MULTILINE)
    wanted = [name for name in planned if re.fullmatch(keep, name)]
    _apt(world, "download", *wanted, cwd=work / "debs")


def _apt(world: Mapping[str, object], *words: str, cwd: Path | None = None) -> str:
    return run(
        ["apt-get", "-q", *(f"-o{key}={value}" for key, value in world.items()), *words], cwd
    )


def _unpack(work: Path, folder: Path) -> None:
    for deb in sorted((work / "debs").glob("*.deb")):
        run(["dpkg", "-x", str(deb), str(folder)])
    run(["rm", "-r", str(work)])


def _lists_are_there() -> bool:
    return any(SYSTEM_LISTS.glob("*_Packages*"))


def loader_in(folder: Path) -> Path:
    """The dynamic loader of an unpacked libc; its folder holds the libraries."""
    for found in sorted(folder.glob("**/ld-linux*.so.*")):
        if not found.is_symlink():
            return found
    raise Unavailable("the unpacked Debian packages hold no libc", because=str(folder))


def file_in(folder: Path, ending: str) -> Path:
    """The first file of unpacked packages whose path ends so."""
    for found in sorted(folder.glob(f"**/{ending}")):
        return found
    raise Unavailable("Debian's packages are not as expected", because=f"no {ending}")


def run(command: list[str], cwd: Path | None = None, *, within_s: float = RUN_S_MAX) -> str:
    """What the command printed. Raises Unavailable with its own words when it failed."""
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=cwd, timeout=within_s
        )
    except FileNotFoundError as missing:
        raise Unavailable(f"this machine has no program `{command[0]}`") from missing
    except subprocess.TimeoutExpired as late:
        raise Unavailable(
            f"`{command[0]}` did not end within {within_s:.0f} s", because=" ".join(command)
        ) from late
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise Unavailable(f"`{command[0]}` failed: {said}", because=" ".join(command))
    return done.stdout


def debian_archive() -> str:
    """Address of the Debian archive that this machine's own apt uses (not the security one)."""
    form = "$(ORIGIN) $(LABEL) $(REPO_URI)"
    said = run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
    for line in said.splitlines():
        *labels, address = line.split()
        if labels == ["Debian", "Debian"]:
            return address
    raise Unavailable(
        "this machine's apt knows no Debian archive; run `apt-get update`",
        because="`apt-get indextargets` lists none with Origin and Label Debian",
    )


def own_suite() -> str:
    """The release that this machine runs, by its code name."""
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def _architecture() -> str:
    return run(["dpkg", "--print-architecture"]).strip()
