"""The whole of a newcomer's first minutes: `./cairn up --demo` in a fresh clone, by step.

With an empty cache, so that the network engine is fetched and the guest image built; only Debian packages
that this machine has already are not installed again. The cloud itself runs in a network namespace that
reaches nothing, so what comes from outside is fetched before, in the same order and by the same code. The
steps are those that the launcher and the command print themselves.
"""

import os
import re
import secrets
import shutil
import subprocess
import time
from pathlib import Path

from bench import cloud
from bench.table import Result
from cairn import settings as settings_file

DEMO_S_MAX = 300.0
_LAUNCHER = re.compile(r"cairn: (.+): done in (\d+) s")
_STEP = re.compile(r"✓ (.+): ([\d.]+) s")
_ENGINES = """
import pathlib, sys
from cairn.host import engines
cache = pathlib.Path(sys.argv[1])
engines.ensure_ovs(cache), engines.ensure_novnc(cache)
"""
_IMAGE = """
import pathlib, sys
from cairn.host import images
images.ensure_probe(pathlib.Path(sys.argv[1]))
"""

Taken = list[tuple[str, float]]


def run() -> list[Result]:
    home = Path(f"/tmp/cvb-{secrets.token_hex(3)}")
    home.mkdir()
    home.chmod(0o711)  # Guests pass through to their own folder.
    state, clone, cache = home / "s", home / "cairn", home / "cache"
    state.mkdir(mode=0o711)
    (state / settings_file.FILE_NAME).write_text(f'cache = "{cache}"\n')
    taken: Taken = []
    began = time.monotonic()
    try:
        _command("git clone", taken, "git", "clone", "-q", str(cloud.ROOT), str(clone))
        _launch(taken, clone)
        python = str(clone / ".venv" / "bin" / "python")
        _command("fetching the network engine", taken, python, "-c", _ENGINES, str(cache))
        _command("building the guest image", taken, python, "-c", _IMAGE, str(cache))
        with cloud.namespace():
            try:
                _launch(taken, clone, "up", "--demo", "--state", str(state))
                total_s = time.monotonic() - began
            finally:
                for words in (("down",), ("wipe", "--yes")):
                    _launch([], clone, *words, "--state", str(state))
    finally:
        shutil.rmtree(home)
    rows = [(what, f"{took:.1f} s") for what, took in taken if took >= 0.05]
    between_s = total_s - sum(took for _, took in taken)
    rows += [
        ("starting programs, between steps", f"{between_s:.1f} s"),
        ("in all", f"{total_s:.1f} s"),
    ]
    return [
        Result(
            title="`./cairn up --demo` in a fresh clone, by step",
            columns=("step", "time"),
            rows=tuple(rows),
            notes=(
                "Until the guest answered SSH with the injected key; nothing in the cache, Debian"
                " packages already there.",
            ),
        )
    ]


def _launch(taken: Taken, clone: Path, *words: str) -> None:
    """One call of the launcher; the steps that it tells are added to `taken`."""
    done = _done([str(clone / "cairn"), *(words or ("--version",))])
    for line in done.splitlines():
        if found := _LAUNCHER.search(line) or _STEP.search(line):
            taken.append((found[1], float(found[2])))


def _command(what: str, taken: Taken, *command: str) -> None:
    began = time.monotonic()
    _done(list(command))
    taken.append((what, time.monotonic() - began))


def _done(command: list[str]) -> str:
    """What the command told on standard error; the benchmark ends when it fails."""
    # Ours would lead the clone's Python to this tree.
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=DEMO_S_MAX,
        env=env,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise SystemExit(f"bench: {' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return done.stderr
