"""An operator's policy in a real control process: read at start, again on SIGHUP, shown by the command."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.http.real import PROGRAM, Server, running


def cairn(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cairn", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_policy_is_read_at_start_and_again_on_sighup(tmp_path: Path) -> None:
    folder = tmp_path / "policy.d"
    folder.mkdir()
    file = folder / "keystone.yaml"
    file.write_text('# nobody lists regions\n"identity:list_regions": "!"\n')
    with running(tmp_path) as server:
        assert server.ask("GET", "/identity/v3/regions").status == 403
        shown = cairn("policy", "show", "--overrides", "--state", str(tmp_path))
        assert shown.returncode == 0, shown.stderr
        assert '"identity:list_regions": "!"' in shown.stdout
        assert f"from {file}:2; by default" in shown.stdout
        one = cairn("policy", "show", "identity", "--rule", "identity:get_user", "--json",
                    "--state", str(tmp_path))  # fmt: skip
        (rule,) = (r for r in json.loads(one.stdout) if r["rule"] == "identity:get_user")
        assert rule["source"] == "default"
        assert "GET /identity/v3/users/{user_id}" in rule["routes"]
        assert cairn("policy", "show", "nothing", "--state", str(tmp_path)).returncode == 1

        file.write_text('"identity:list_regions": "role:admin"\n')
        hang_up(server)
        until_status(server, 200)
        file.write_text('"identity:list_region": "!"\n')
        hang_up(server)
        time.sleep(1)
        assert server.ask("GET", "/identity/v3/regions").status == 200
        assert "keystone.yaml:1" in server.log


def hang_up(server: Server) -> None:
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)


def until_status(server: Server, status: int) -> None:
    deadline = time.monotonic() + 10
    while server.ask("GET", "/identity/v3/regions").status != status:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_wrong_policy_keeps_the_process_from_starting(tmp_path: Path) -> None:
    server = Server(tmp_path)
    (tmp_path / "policy.d").mkdir()
    file = tmp_path / "policy.d" / "nova.yaml"
    file.write_text('"os_compute_api:servers:show": "role:a"\n"os_compute_api:servers:sow": "@"\n')
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps(server.limits)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert f"{file}:2" in ended.stderr
    assert "did you mean os_compute_api:servers:show" in ended.stderr
