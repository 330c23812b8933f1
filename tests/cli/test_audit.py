"""`cairn audit` and `cairn keys`: what they ask of the API, and how they show the answer."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from cairn.cli import audit, keys

EVENT = {
    "id": "1", "at": "2026-01-31T12:00:00Z", "outcome": "denied", "action": "create", "status": 403,
    "target_type": "identity/role_assignment", "target_id": "r1", "target_name": None,
    "details": {"role_id": "r1", "user_id": "u2"}, "user_id": "u1", "source": "192.0.2.1",
    "reason": "Policy does not allow this request: rule 'x'.",
}  # fmt: skip
KEY = {"kind": "fernet", "number": 1, "state": "retired", "since": "2026-01-31T12:00:00Z",
       "needed_until": "2026-01-31T13:00:00Z"}  # fmt: skip


class Operator:
    """The API, which has five pages of one event."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def get(self, service: str, path: str, **filters: str) -> Any:
        self.asked.append((path, filters))
        if path == "/keys":
            return {"keys": [KEY]}
        number = int(filters.get("marker", "0"))
        return {"events": [EVENT], "next": str(number + 1) if number < 4 else None}

    def post(self, service: str, path: str, body: dict[str, Any]) -> Any:
        self.asked.append((path, body))
        return {"keys": [KEY, {**KEY, "kind": "credentials"}], "credentials_sealed": 7}

    def download(self, service: str, path: str, **filters: str) -> Iterator[bytes]:
        self.asked.append((path, filters))
        yield b'{"id": "1"}\n'
        yield b'{"id": "2"}\n'


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> Operator:
    made = Operator()
    for module in (audit, keys):
        monkeypatch.setattr(module, "as_operator", lambda settings: made)
        monkeypatch.setattr(module, "settings_file", SimpleNamespace(
            load=lambda folder: None, state_dir=lambda option: None
        ))  # fmt: skip
    return made


def run(command: Any, *words: str) -> str:
    result = CliRunner().invoke(command, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_list_follows_the_pages_up_to_its_limit(operator: Operator) -> None:
    said = run(audit.list_events, "--limit", "3", "--since", "90min", "--action", "start")
    lines = said.splitlines()
    assert len(lines) == 3 and len(operator.asked) == 3
    assert "2026-01-31 12:00:00" in lines[0] and "denied" in lines[0] and "192.0.2.1" in lines[0]
    assert "role_id=r1 user_id=u2" in lines[0] and "rule 'x'" in lines[0]
    _, filters = operator.asked[0]
    assert filters["action"] == "start" and filters["since"].endswith("+00:00")
    assert len(json.loads(run(audit.list_events, "--json"))) == 5


@pytest.mark.parametrize("text", ["yesterday", "5 parsecs", "99999999999h", "2026-13-01"])
def test_no_time(operator: Operator, text: str) -> None:
    result = CliRunner().invoke(audit.list_events, ["--since", text])
    assert result.exit_code == 2 and "is no time" in result.output


def test_export_writes_every_line(operator: Operator, tmp_path: Path) -> None:
    file = tmp_path / "out.ndjson"
    run(audit.export, "--format", "cadf", "--output", str(file))
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == ["1", "2"]
    assert operator.asked[-1] == ("/audit/export", {"format": "cadf"})


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        ([], ["fernet"]),
        (["--fernet"], ["fernet"]),
        (["--credentials"], ["credentials"]),
        (["--fernet", "--credentials"], ["fernet", "credentials"]),
        (["--all"], ["fernet", "credentials"]),
    ],
)
def test_rotate(operator: Operator, words: list[str], kinds: list[str]) -> None:
    said = run(keys.rotate, *words)
    assert operator.asked == [("/keys/rotate", {"rotate": {"kinds": kinds}})]
    assert [line.split()[0] for line in said.splitlines()] == kinds


def test_keys_are_listed(operator: Operator) -> None:
    said = run(keys.list_keys)
    assert "checks what it signed" in said and "until 2026-01-31 13:00:00 UTC" in said
