"""`cairn check`: everything that must hold before a change is taken, one command here and in CI."""

import os
import subprocess
import sys
from pathlib import Path

import click

from cairn.cli.progress import Steps
from cairn.core.errors import CloudError
from cairn.host import engines
from cairn.host.images import ensure_probe

ROOT = Path(__file__).parents[3]
TREES = ("src", "tests")


@click.command()
@click.option("--fast", is_flag=True, help="Leave out the tests that need root and real engines.")
@click.option("--live", is_flag=True, help="Also move running guests between real hosts.")
def check(fast: bool, live: bool) -> None:
    """Run format, lint, types, import table, all tests and a short simulator run."""
    if os.geteuid() != 0 and not fast:
        raise CloudError("the tests with real engines need root; --fast leaves them out")
    tools = Path(sys.executable).parent
    environment = _environment(fast=fast)
    trees = [tree for tree in (*TREES, "bench") if (ROOT / tree).is_dir()]
    pytest = [sys.executable, "-m", "pytest"]
    # Run by name first, because a wrong import or a failing seed should be seen as what it is.
    apart = ("--ignore=tests/arch", "--ignore=tests/sim")
    commands = {
        "format": [str(tools / "ruff"), "format", "--check", *trees],
        "lint": [str(tools / "ruff"), "check", *trees],
        "types": [str(tools / "mypy")],
        "import table": [*pytest, "tests/arch"],
        "simulator": [*pytest, "tests/sim", "-n", "2"],
        # Tests with real engines share the machine's interfaces and its few processors: one by one.
        "tests": [*pytest, "-m", "not host and not clients", "-n", "2", *apart],
        "tests on real engines": [*pytest, "-m", "(host or clients) and not live"],
        "live migration": [*pytest, "-m", "live"],
    }
    if fast:
        del commands["tests on real engines"]
    if not live:
        del commands["live migration"]
    if not (ROOT / "tests/sim").is_dir():
        del commands["simulator"]
    failed = []
    for name, command in commands.items():
        click.secho(f"\n== {name}: {' '.join(command)}", bold=True)
        if subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode != 0:
            failed.append(name)
    if failed:
        raise CloudError(f"these failed: {', '.join(failed)}")
    click.secho("\nAll is well.", fg="green")


def _environment(*, fast: bool) -> dict[str, str]:
    """With the engines that tests use on the path: what the machine lacks is unpacked beside it."""
    environment = dict(os.environ)
    with Steps() as steps:
        with steps.step("unpacking PostgreSQL for tests"):
            postgres = engines.ensure_postgres()
        with steps.step("unpacking an LDAP server for tests"):
            slapd = engines.ensure_slapd() / "usr/sbin"
        path = f"{postgres}:{slapd}:{environment.get('PATH', os.defpath)}"
        if not fast:
            with steps.step("unpacking the network engine"):
                engines.ensure_ovs()
            with steps.step("building the probe image"):
                ensure_probe()
    return environment | {"PATH": path}
