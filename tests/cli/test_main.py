"""The command line: every command is there, failures are told without a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cairn.cli.main import COMMANDS


def _cairn(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cairn", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    done = _cairn(name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: cairn {name} ")


def test_help_imports_none_of_the_heavy_libraries() -> None:
    script = "import sys, cairn.cli.main; print(*sorted(m for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    heavy = {"rich", "sqlalchemy", "cryptography", "yaml", "falcon", "aiohttp", "asyncio"}
    assert heavy.isdisjoint(done.stdout.split())


def test_unknown_setting_names_file_and_setting(tmp_path: Path) -> None:
    (tmp_path / "cairn.toml").write_text("api_prot = 1\n")
    done = _cairn("status", "--state", str(tmp_path))
    assert done.returncode == 1
    assert f"{tmp_path}/cairn.toml" in done.stderr
    assert "api_prot" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_of_nothing_says_how_to_start(tmp_path: Path) -> None:
    done = _cairn("status", "--state", str(tmp_path))
    assert done.returncode == 1
    assert "`cairn up` starts it" in done.stdout
    assert "Traceback" not in done.stderr


def test_doctor_speaks_json(tmp_path: Path) -> None:
    findings = json.loads(_cairn("doctor", "--json", "--state", str(tmp_path)).stdout)
    assert {"what", "found", "is_good", "is_fatal", "cure"} <= set(findings[0])
