"""An upgrade: its steps from facts, in an order that keeps the cloud usable, resumable after any cut."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cairn import __version__
from cairn.cli import upgrade as command
from cairn.core.errors import Conflict, Unavailable
from cairn.host import upgrade as upgrades
from cairn.host.upgrade import Facts, Process, Progress, SchemaStep, Standing, plan
from cairn.settings import Settings

NEW, OLD = "0.5.0", "0.4.0"
EXPAND = SchemaStep(number="0002", title="Racks")
CONTRACT = SchemaStep(number="0003", title="No shelves", contracts=True)


def facts(**changes: Any) -> Facts:
    """One control machine with the old release, and another host."""
    known: dict[str, Any] = {
        "release": NEW,
        "wire_oldest": 1,
        "wire_newest": 2,
        "pending": (EXPAND, CONTRACT),
        "controls": (Process(name="alpha", version=OLD, is_here=True),),
        "hosts": (
            Process(name="alpha", version=OLD, wire_version=1, is_here=True),
            Process(name="beta", version=OLD, wire_version=1),
        ),
    }
    return Facts(**{**known, **changes})


def standings(facts_: Facts, progress: Progress | None = None) -> dict[str, str]:
    return {step.key: step.standing for step in plan(facts_, progress or Progress())}


def test_the_order_is_backup_expand_control_agents_contract() -> None:
    assert standings(facts()) == {
        "backup": Standing.NEXT,
        "expand": Standing.NEXT,
        "control": Standing.NEXT,
        "agent": Standing.NEXT,
        "agent beta": Standing.ELSEWHERE,
        "contract": Standing.WAITS,
    }


def test_a_step_elsewhere_names_the_command() -> None:
    (beta,) = (step for step in plan(facts(), Progress()) if step.key == "agent beta")
    assert beta.detail == f"it runs {OLD}; there: sudo ./cairn upgrade"
    away = (Process(name="beta", version=OLD, state="suspect"),)
    (beta,) = (s for s in plan(facts(hosts=away), Progress()) if s.key == "agent beta")
    assert "it is suspect; when it is back" in beta.detail


def test_nothing_is_to_do_when_everything_runs_the_release() -> None:
    done = facts(
        pending=(),
        controls=(Process(name="alpha", version=NEW, is_here=True),),
        hosts=(Process(name="alpha", version=NEW, wire_version=2, is_here=True),),
    )
    assert set(standings(done).values()) == {Standing.DONE}


def test_contracting_comes_when_nobody_runs_the_release_before() -> None:
    new = facts(
        pending=(CONTRACT,),
        controls=(Process(name="alpha", version=NEW, is_here=True),),
        hosts=(Process(name="alpha", version=NEW, is_here=True), Process(name="beta", version=NEW)),
    )
    backed_up = Progress(release=NEW, backup="b")
    assert standings(new, backed_up)["contract"] == Standing.NEXT
    late = facts(pending=(CONTRACT,), controls=new.controls)
    (contract,) = (s for s in plan(late, backed_up) if s.key == "contract")
    assert contract.standing is Standing.WAITS
    assert "Agent of alpha; Agent of beta" in contract.detail


def test_a_contracting_step_before_an_expanding_one_is_taken_along() -> None:
    pending = (CONTRACT, SchemaStep(number="0004", title="Aisles"))
    steps = {s.key: s for s in plan(facts(pending=pending), Progress())}
    assert steps["expand"].detail == "0003 No shelves, 0004 Aisles"
    assert steps["contract"].standing is Standing.DONE


def test_a_backup_of_an_earlier_upgrade_does_not_count() -> None:
    assert standings(facts(), Progress(release=NEW, backup="b"))["backup"] == Standing.DONE
    assert standings(facts(), Progress(release=OLD, backup="b"))["backup"] == Standing.NEXT
    assert upgrades.begun(Progress(release=OLD, backup="b"), NEW).backup == ""
    going_on = Progress(release=NEW, backup="b")
    assert upgrades.begun(going_on, NEW) == going_on


def test_an_agent_too_old_for_the_wire_blocks_everything() -> None:
    ancient = (Process(name="gamma", version="0.2.0", wire_version=1),)
    steps = {s.key: s for s in plan(facts(wire_oldest=2, hosts=ancient), Progress())}
    assert steps["agent gamma"].standing is Standing.BLOCKED
    assert "release in between" in steps["agent gamma"].detail
    others = [s.standing for key, s in steps.items() if key != "agent gamma"]
    assert Standing.NEXT not in others


def test_a_host_without_a_control_plane_has_its_agent_only() -> None:
    alone = facts(
        has_control=False,
        pending=(),
        controls=(),
        hosts=(Process(name="beta", version=OLD, is_here=True),),
    )
    assert standings(alone) == {"agent": Standing.NEXT}


# --- what was done -----------------------------------------------------------------------------------


def test_progress_is_kept_and_a_damaged_note_counts_as_none(tmp_path: Path) -> None:
    assert upgrades.load(tmp_path) == Progress()
    progress = Progress(release=NEW, began_at="2030-01-01T00:00:00Z", backup="b")
    upgrades.save(tmp_path, progress)
    assert upgrades.load(tmp_path) == progress
    (tmp_path / upgrades.FILE_NAME).write_text('{"release"')
    assert upgrades.load(tmp_path) == Progress()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Path]:
    """With rows that are in its log only, while somebody has it open."""
    path = tmp_path / "cairn.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (a)")
    connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(1000)])
    connection.commit()
    yield path
    connection.close()


def rows(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])
    finally:
        connection.close()


def test_a_backup_is_whole_and_leaves_nothing_half(database: Path, tmp_path: Path) -> None:
    made = upgrades.back_up_sqlite(database, tmp_path, release=NEW)
    assert rows(made) == 1000
    assert made.name.startswith(f"before-{NEW}-")
    assert [p.name for p in made.parent.iterdir()] == [made.name]
    assert made.parent.stat().st_mode & 0o077 == 0
    assert made.stat().st_mode & 0o077 == 0


def test_a_database_that_cannot_be_read_is_no_backup(tmp_path: Path) -> None:
    (tmp_path / "cairn.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(Unavailable):
        upgrades.back_up_sqlite(tmp_path / "cairn.db", tmp_path, release=NEW)
    assert not list((tmp_path / "backups").glob("*.db"))


def test_a_backup_that_does_not_fit_is_not_begun(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = type("Usage", (), {"free": 10})()
    monkeypatch.setattr(upgrades.shutil, "disk_usage", lambda _: full)
    with pytest.raises(Conflict, match="are free"):
        upgrades.back_up_sqlite(database, tmp_path, release=NEW)


# --- the command -------------------------------------------------------------------------------------


class Installation:
    """A machine on which the parts of an upgrade are noted instead of done."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = state
        self.did: list[str] = []
        self.versions = {"control": OLD, "agent": OLD}
        self.other = OLD
        self.pending: tuple[SchemaStep, ...] = (EXPAND, CONTRACT)
        self.cut_before = ""
        state.mkdir(exist_ok=True)
        (state / "node-id").write_text("n1")
        monkeypatch.setattr(command, "__version__", NEW)
        monkeypatch.setattr(command, "_facts", self._facts)
        monkeypatch.setattr(command, "_back_up", lambda _: self._do("backup") or "the backup")
        monkeypatch.setattr(command, "_change_schema", self._change_schema)
        monkeypatch.setattr(command, "_restart", self._restart)
        monkeypatch.setattr(command, "_wait", lambda *_: None)
        monkeypatch.setattr(command.os, "geteuid", lambda: 0)

    def _facts(self, settings: Settings) -> Facts:
        here = self.versions
        return facts(
            pending=self.pending,
            controls=(Process(name="alpha", version=here["control"], is_here=True),),
            hosts=(
                Process(name="alpha", version=here["agent"], wire_version=1, is_here=True),
                Process(name="beta", version=self.other, wire_version=1),
            ),
        )

    def _do(self, what: str) -> None:
        if what == self.cut_before:
            raise KeyboardInterrupt
        self.did.append(what)

    def _change_schema(self, settings: Settings, *, with_contracts: bool) -> None:
        self._do("contract" if with_contracts else "expand")
        self.pending = () if with_contracts else (CONTRACT,)

    def _restart(self, settings: Settings, part: str) -> None:
        self._do(part)
        self.versions[part] = NEW

    def run(self, *words: str) -> Any:
        return CliRunner().invoke(command.upgrade, ["--state", str(self.state), *words])


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    return Installation(tmp_path / "state", monkeypatch)


def test_steps_are_taken_in_order_and_what_is_left_is_said(machine: Installation) -> None:
    done = machine.run()
    assert done.exit_code == 0, done.output
    assert machine.did == ["backup", "expand", "control", "agent"]
    assert "Agent of beta: it runs 0.4.0; there: sudo ./cairn upgrade" in done.output
    machine.other = NEW
    done = machine.run()
    assert machine.did == ["backup", "expand", "control", "agent", "contract"]
    assert "Everything runs release 0.5.0." in done.output
    machine.run()
    assert len(machine.did) == 5


@pytest.mark.parametrize("cut", ["backup", "expand", "control", "agent"])
def test_an_upgrade_that_was_cut_goes_on_where_it_was(machine: Installation, cut: str) -> None:
    machine.cut_before = cut
    assert machine.run().exit_code != 0
    machine.cut_before = ""
    assert machine.run().exit_code == 0
    assert machine.did == ["backup", "expand", "control", "agent"]


def test_a_plan_changes_nothing(machine: Installation) -> None:
    shown = machine.run("--plan")
    assert machine.did == []
    assert "→ to do     Back up the database" in shown.output
    assert not (machine.state / upgrades.FILE_NAME).exists()
    told = json.loads(machine.run("--plan", "--json").output)
    assert [step["key"] for step in told["steps"]][:2] == ["backup", "expand"]


def test_your_own_backup_is_believed(machine: Installation) -> None:
    machine.run("--backed-up")
    assert machine.did == ["expand", "control", "agent"]
    assert upgrades.load(machine.state).backup == "by yourself"


def test_a_step_that_does_not_help_is_not_repeated_for_ever(
    machine: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_restart", lambda *_: machine.did.append("control"))
    done = machine.run()
    assert isinstance(done.exception, Unavailable)
    assert machine.did.count("control") == 1


def test_without_an_installation_nothing_is_upgraded(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cairn", "upgrade", "--plan", "--state", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "holds no installation" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_release_is_named_by_the_program() -> None:
    assert command.__version__ == __version__
