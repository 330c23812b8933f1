"""A further control machine gets what it needs by one file, and nothing else takes the file."""

from pathlib import Path

import msgspec

from cairn import handover, serving
from cairn import settings as settings_file
from cairn.db import secrets
from tests.control.rig import Control
from tests.control.test_migrate import command


def test_export_and_import(tmp_path: Path) -> None:
    one = Control(tmp_path / "one", database_url="postgresql://u:p%20w@h/d", region="North")
    one.prepare()
    file = tmp_path / "handover.json"
    made = command("control", "export", str(file), "--state", str(one.state))
    assert made.returncode == 0, made.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    state = tmp_path / "two"
    state.mkdir()
    (state / "cairn.toml").write_text('api_port = 9443\n\n[physical_networks]\nexternal = "eth1"\n')
    taken = command("control", "--state", str(state), "import", str(file))
    assert taken.returncode == 0, taken.stderr
    settings = settings_file.load(state)
    assert (settings.database_url, settings.region) == ("postgresql://u:p%20w@h/d", "North")
    assert (settings.api_port, settings.physical_networks) == (9443, {"external": "eth1"})
    ours, theirs = one.settings, settings
    assert secrets.key_in(ours.control_key_file) == secrets.key_in(theirs.control_key_file)
    for path in (settings.control_key_file, settings.credentials_dir / "admin-password"):
        assert path.stat().st_mode & 0o077 == 0
    # Once more is the same.
    assert command("control", "import", str(file), "--state", str(state)).returncode == 0
    assert settings_file.load(state) == settings


def test_refusals_say_why(tmp_path: Path) -> None:
    alone = Control(tmp_path / "alone")
    alone.prepare()
    file = tmp_path / "handover.json"
    refused = command("control", "export", str(file), "--state", str(alone.state))
    assert refused.returncode == 1 and "cairn control migrate" in refused.stderr
    assert not file.exists()
    given = handover.Handover(
        database_url="postgresql://h/d", sealing_key="00" * 32, admin_password="x", region="R"
    )
    file.write_bytes(msgspec.json.encode(given))
    (alone.settings.control_dir / "cairn.db").touch()
    refused = command("control", "import", str(file), "--state", str(alone.state))
    assert refused.returncode == 1 and "cairn wipe" in refused.stderr
    for damaged in (b"{}", b"x", file.read_bytes().replace(b"00" * 32, b"00"), b'{"a":1}'):
        file.write_bytes(damaged)
        refused = command("control", "import", str(file), "--state", str(tmp_path / "new"))
        assert refused.returncode == 1 and refused.stderr.startswith("cairn: ")
    assert not (tmp_path / "new" / "cairn.toml").exists()


async def test_a_draining_door_ends_connections_and_says_so() -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b"ok"})  # type: ignore[operator]

    door = serving.Door(app)

    async def ask(path: str) -> tuple[int, dict[bytes, bytes]]:
        told: list[dict[str, object]] = []

        async def send(event: dict[str, object]) -> None:
            told.append(event)

        await door({"type": "http", "path": path}, None, send)
        return told[0]["status"], dict(told[0]["headers"])  # type: ignore[return-value, call-overload]

    assert await ask("/healthz") == (200, {b"a": b"b"})
    door.is_draining = True
    assert await ask("/x") == (200, {b"a": b"b", b"connection": b"close"})
    status, headers = await ask("/healthz")
    assert status == 503
    assert headers[b"connection"] == b"close" and headers[b"retry-after"] == b"1"
