"""The launcher ends in the same state however often it was cut off on the way.

It runs in a folder of its own with one tiny library, which pip finds in that folder: no network, and
the machine's packages are all there.
"""

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import zipfile
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "cairn"
STEPS = (
    "making the virtual environment",
    "installing what builds libraries",
    "installing Python libraries",
)
PROGRAM = "import sys, tinylib\nprint('runs', tinylib.ANSWER, *sys.argv[1:])\n"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository as the launcher sees it."""
    home = tmp_path / "clone"
    (home / "requirements").mkdir(parents=True)
    (home / "src/cairn").mkdir(parents=True)
    (home / "src/cairn/__init__.py").touch()
    (home / "src/cairn/__main__.py").write_text(PROGRAM)
    shutil.copy(LAUNCHER, home / "cairn")
    wheel = _wheel(tmp_path / "wheels")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    lock = f"tinylib==1.0 --hash=sha256:{digest}\n"
    for name in ("run", "check", "build"):
        (home / f"requirements/{name}.txt").write_text(lock)
    return home


def test_second_start_installs_nothing(clone: Path) -> None:
    assert _run(clone, "status").stdout == "runs 42 status\n"
    again = _run(clone, "status")
    assert again.stdout == "runs 42 status\n"
    assert again.stderr == ""


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("whom", ["launcher", "everything"])
def test_killed_installation_is_finished_by_the_next_start(
    clone: Path, step: str, whom: str
) -> None:
    process = _start(clone, "status")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"cairn: {step} …"):
            break
    kill = os.kill if whom == "launcher" else os.killpg
    kill(process.pid, signal.SIGKILL)
    process.stderr.close()
    process.wait()
    assert _run(clone, "status").stdout == "runs 42 status\n"
    assert not (clone / ".venv/.installing").exists()
    assert _run(clone, "status").stderr == ""


def test_changed_lock_file_installs_again(clone: Path) -> None:
    _run(clone, "status")
    lock = clone / "requirements/run.txt"
    lock.write_text(lock.read_text() + "# renewed\n")
    assert "installing Python libraries" in _run(clone, "status").stderr


def test_moved_clone_installs_again(clone: Path) -> None:
    _run(clone, "status")
    moved = clone.rename(clone.with_name("elsewhere"))
    assert _run(moved, "status").stdout == "runs 42 status\n"


def test_library_that_is_not_the_locked_one_is_refused(clone: Path) -> None:
    for name in ("build", "run"):
        wrong = f"tinylib==1.0 --hash=sha256:{'0' * 64}\n"
        (clone / f"requirements/{name}.txt").write_text(wrong)
    done = _run(clone, "status", check=False)
    assert done.returncode != 0
    assert "hash" in done.stderr.lower()


def test_missing_debian_package_is_installed_by_apt(clone: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    asked = tmp_path / "asked"
    _tool(
        tools / "dpkg-query",
        f'[ -e {asked} ] && printf installed || [ "$4" = ethtool ] || printf installed',
    )
    _tool(tools / "apt-get", f'printf "%s " "$@" >>{asked}')
    done = _run(clone, "status", path=f"{tools}:{os.environ['PATH']}")
    if os.geteuid() == 0:
        assert done.stdout == "runs 42 status\n"
        words = asked.read_text().split()
        assert words[-2:] == ["--no-install-recommends", "ethtool"]


def _tool(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def _wheel(folder: Path) -> Path:
    """A wheel of one module, as PEP 427 lays it down."""
    folder.mkdir()
    path = folder / "tinylib-1.0-py3-none-any.whl"
    files = {
        "tinylib.py": "ANSWER = 42\n",
        "tinylib-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tinylib\nVersion: 1.0\n",
        "tinylib-1.0.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = ""
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
            record += f"{name},sha256={digest.decode().rstrip('=')},{len(text)}\n"
            archive.writestr(name, text)
        archive.writestr(
            "tinylib-1.0.dist-info/RECORD", record + "tinylib-1.0.dist-info/RECORD,,\n"
        )
    return path


def _environment(clone: Path, path: str | None) -> dict[str, str]:
    return {
        "PATH": path or os.environ["PATH"],
        "HOME": str(clone.parent),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(clone.parent / "wheels"),
        "PIP_CONFIG_FILE": os.devnull,
    }


def _start(clone: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(clone / "cairn"), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(clone, None),
        process_group=0,
    )


def _run(
    clone: Path, *words: str, check: bool = True, path: str | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(clone / "cairn"), *words],
        capture_output=True,
        text=True,
        check=check,
        timeout=120,
        env=_environment(clone, path),
    )
