"""Taking over a Keystone from what its database's own programs dump.

PostgreSQL's dumps are made here by pg_dump; MySQL's are written in its form, of which
`test_what_mysqldump_writes_is_read` holds the fine points (a real server's dump was read by hand).
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import falcon.testing
import pytest
import sqlalchemy
from click.testing import CliRunner

from cairn import operator
from cairn.cli import import_dump, import_keystone
from cairn.cli.cloud import Refused
from cairn.core.errors import Invalid
from cairn.db.secrets import Sealer
from cairn.http.shell import Shell
from cairn.identity.directory import domain_config
from cairn.identity.importing import api as importing_api
from cairn.identity.importing.shape import TABLES
from cairn.identity.records import DEFAULT_DOMAIN
from tests.identity import keystone_database as there
from tests.identity.conftest import SEALING_KEY, Cloud


class Operator:
    """The operator's API of a cloud, as the command speaks to it."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        parts = operator.service(
            [(importing_api.routes(Sealer(SEALING_KEY)), importing_api.POLICY)]
        )
        shell = Shell(
            services=[cloud.service, parts],
            database=cloud.database,
            authenticate=cloud.issuer.authenticate,
        )
        self.client = falcon.testing.TestClient(shell.app)

    def post(self, body: bytes, *, dry_run: bool = False, token: str | None = "") -> Any:
        sent = self.cloud.admin_token if token == "" else token
        return self.client.simulate_post(
            f"/cairn/v1/import/keystone?dry_run={str(dry_run).lower()}",
            body=body,
            headers={"X-Auth-Token": sent} if sent else {},
        )

    # What the command asks of cli.cloud.Cloud.

    def get(self, _service: str, _path: str) -> Any:
        return None

    def stream(self, _service: str, path: str, chunks: Iterator[bytes]) -> Any:
        answer = self.post(b"".join(chunks), dry_run="dry_run=true" in path)
        if answer.status_code >= 400:
            raise Refused(answer.json["error"]["message"], status=answer.status_code)
        return answer.json


def run(cloud: Cloud, file: Path, *more: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """`cairn import keystone FILE`."""
    monkeypatch.setattr(import_keystone, "as_operator", lambda *_, **__: Operator(cloud))
    done = CliRunner().invoke(import_keystone.keystone, [str(file), *more, "--state", "/nowhere"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def pg_dump(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The same database as pg_dump writes it in its two forms."""
    engine = sqlalchemy.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE keystone")
    inside = sqlalchemy.create_engine(postgres_url.replace("/postgres?", "/keystone?"))
    with inside.begin() as connection:
        for table, columns in there.SCHEMA.items():
            connection.exec_driver_sql(f'CREATE TABLE "{table}" ({", ".join(columns)})')
            for row in there.ROWS[table]:
                names = ", ".join(f'"{name}"' for name in row)
                marks = ", ".join(f"%({name})s" for name in row)
                connection.exec_driver_sql(
                    f'INSERT INTO "{table}" ({names}) VALUES ({marks})', dict(row)
                )
    inside.dispose()
    folder = tmp_path_factory.mktemp("dump")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"))
    program = str(programs[-1]) if programs else shutil.which("pg_dump")
    assert program, "PostgreSQL's programs are not installed"
    files = {}
    for form, option in (("copy", []), ("inserts", ["--inserts"]), ("rows", ["--column-inserts"])):
        files[form] = folder / f"{form}.sql"
        url = postgres_url.replace("+psycopg", "").replace("/postgres?", "/keystone?")
        subprocess.run([program, *option, "-f", str(files[form]), url], check=True, env=os.environ)
    with engine.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE keystone")
    engine.dispose()
    return files


@pytest.fixture(scope="module")
def mysqldump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As mysqldump writes it: extended inserts without columns, in the order of the alphabet."""
    lines = [
        "-- MySQL dump 10.13  Distrib 8.0.36, for Linux (x86_64)",
        "/*!40101 SET NAMES utf8mb4 */;",
    ]
    for table in sorted(there.SCHEMA):
        columns = [c.replace('"', "`").split(" ", 1) for c in there.SCHEMA[table]]
        inner = ",\n  ".join(f"`{name.strip('`')}` {rest}" for name, rest in columns)
        lines.append(f"DROP TABLE IF EXISTS `{table}`;")
        lines.append(f"CREATE TABLE `{table}` (\n  {inner},\n  KEY `x` (`a`)\n) ENGINE=InnoDB;")
        lines.append(f"LOCK TABLES `{table}` WRITE;")
        lines.append(f"/*!40000 ALTER TABLE `{table}` DISABLE KEYS */;")
        names = [name.strip("`") for name, _ in columns]
        rows = ",".join(
            f"({','.join(_in_mysql(row.get(name)) for name in names)})" for row in there.ROWS[table]
        )
        lines.append(f"INSERT INTO `{table}` VALUES {rows};")
        lines.append("UNLOCK TABLES;")
    file = tmp_path_factory.mktemp("dump") / "mysql.sql"
    file.write_text("\n".join(lines) + "\n")
    return file


def _in_mysql(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool | int):
        return str(int(value))
    escapes = {"\\": "\\\\", "'": "\\'", '"': '\\"', "\n": "\\n", "\t": "\t"}
    return "'" + "".join(escapes.get(char, char) for char in str(value)) + "'"


def lines_of(rows: Mapping[str, Any] = there.ROWS) -> bytes:
    """As the command sends them."""
    found = []
    for table, its in rows.items():
        for row in its if table in TABLES else ():
            cells = (row.get(name) for name in TABLES[table])
            said = [
                None if c is None else str(int(c)) if isinstance(c, bool) else str(c) for c in cells
            ]
            found.append(json.dumps([table, *said]))
    return "\n".join(found).encode()


# --- reading dumps -----------------------------------------------------------------------------------


def plain(value: str | None) -> str | None:
    """MySQL's 1 and PostgreSQL's t are one."""
    return {"t": "1", "f": "0", "true": "1", "false": "0"}.get(value or "", value)


def read(file: Path) -> dict[str, list[dict[str, str | None]]]:
    found: dict[str, list[dict[str, str | None]]] = {}
    for table, columns, values in import_dump.rows(file):
        row = dict(zip(columns, map(plain, values), strict=True))
        found.setdefault(table, []).append(row)
    return found


@pytest.mark.parametrize("chunk", [1 << 18, 977])
def test_every_form_of_a_dump_gives_the_same_rows(
    pg_dump: Mapping[str, Path],
    mysqldump: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
) -> None:
    monkeypatch.setattr(import_dump, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(import_dump, "HEAD_CHARACTERS", 200)
    packed = tmp_path / "dump.sql.gz"
    packed.write_bytes(
        subprocess.run(["gzip", "-c", str(mysqldump)], check=True, capture_output=True).stdout
    )
    wanted = {
        table: [
            {
                k: None if v is None else str(int(v)) if isinstance(v, bool) else str(v)
                for k, v in row.items()
            }
            for row in rows
        ]
        for table, rows in there.ROWS.items()
    }
    for file in (*pg_dump.values(), mysqldump, packed):
        found = read(file)
        assert set(found) == set(wanted), file.name
        for table, rows in wanted.items():
            assert found[table] == [{k: plain(v) for k, v in row.items()} for row in rows], table


def test_what_mysqldump_writes_is_read(tmp_path: Path) -> None:
    file = tmp_path / "dump.sql"
    file.write_bytes(
        rb"""/*M!999999\- enable the sandbox mode */
-- MariaDB dump 10.19; it's a comment
CREATE TABLE `t` (
  `a` varchar(9) NOT NULL DEFAULT 'x,)(' COMMENT 'it''s, \'a\' (b)',
  `key` enum('(','b') CHARACTER SET utf8 /* , */ DEFAULT NULL,
  `c` decimal(3,1), -- d int,
  PRIMARY KEY (`a`), UNIQUE KEY `u` (`key`(10),`c`), CONSTRAINT `k` CHECK (json_valid(`a`))
) ENGINE=InnoDB AUTO_INCREMENT=3 COMMENT='a;b';
/*!50003 CREATE TRIGGER `x` BEFORE INSERT ON `t` FOR EACH ROW SET @a = ';' */;
INSERT INTO `t` VALUES
('a\\\'\"\n\0\Zb''c',_binary 'x',-1.5),
('\%\_',NULL,0x4142),(X'4142',_utf8mb4'e',1e3);
INSERT INTO `db`.`t` (`c`,`a`) VALUES (1,'2') ON DUPLICATE KEY UPDATE `a`='(;';
"""
    )
    assert [values for _, _, values in import_dump.rows(file)] == [
        ["a\\'\"\n\0\x1ab'c", "x", "-1.5"],
        ["%_", None, "AB"],
        ["AB", "e", "1e3"],
        ["1", "2"],
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PGDMP\x01\x0e", "--format=plain"),
        (b"-- MySQL dump\nINSERT INTO `user` VALUES ('a')", "columns of table user"),
        (b"-- MySQL dump\nINSERT INTO `user` (`id`) VALUES ('a", "line 2"),
        (b"-- MySQL dump\nINSERT INTO `user` (`id`) VALUES ('a','b');", "2 values for 1 columns"),
        (b'-- PostgreSQL database dump\nCOPY "user" (id) FROM stdin;\na\n', "ends within"),
        (b'-- PostgreSQL database dump\nCOPY "user" (id) FROM stdin;\na\tb\n\\.\n', "2 values"),
        (b"", "no row"),
        (b"hello world", "no row"),
        (b"\x00\xff\xfe" * 100, "no row"),
        (b"CREATE TABLE `x` (`a` int", "ends within"),
        (b"INSERT INTO `user` (`id`) VALUES ('\xff\xfe');", "UTF-8"),
    ],
)
def test_what_is_no_dump_is_refused_by_its_line(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, says: str
) -> None:
    file = tmp_path / "dump.sql"
    file.write_bytes(content)
    with pytest.raises(Invalid, match=says):
        run(cloud, file, monkeypatch=monkeypatch)


# --- what becomes of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["copy", "inserts", "mysql"])
def test_a_keystone_is_taken_over(
    cloud_on_both: Cloud,
    pg_dump: Mapping[str, Path],
    mysqldump: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    cloud = cloud_on_both
    file = mysqldump if form == "mysql" else pg_dump[form]
    before = cloud.call("GET", "/users").json["users"]
    dry = run(cloud, file, "--dry-run", "--all", monkeypatch=monkeypatch)
    assert cloud.call("GET", "/users").json["users"] == before
    assert cloud.call("GET", f"/domains/{there.ACME}").status_code == 404
    done = run(cloud, file, "--all", monkeypatch=monkeypatch)
    assert dry.splitlines()[:-1] == done.splitlines()[:-1]
    assert "dry run" in dry.splitlines()[-1]
    assert "Done" in done.splitlines()[-1]
    for said in (
        "project admin", "role admin", "bob o'hara has a password of a kind", "not imported: 1 x credential",
        "has no name", "group_ad_nesting", "implied role",
    ):  # fmt: skip
        assert said in done, done
    check_all_is_here(cloud)
    again = run(cloud, file, "--all", monkeypatch=monkeypatch)
    assert "nothing was changed" in again
    assert all(line.split()[-4] == "0" for line in again.splitlines()[1:10]), again
    check_all_is_here(cloud)


def check_all_is_here(cloud: Cloud) -> None:
    acme = cloud.call("GET", f"/domains/{there.ACME}").json["domain"]
    assert (acme["name"], acme["description"]) == ("Acme", there.NASTY)
    web = cloud.call("GET", f"/projects/{there.P_WEB}").json["project"]
    assert (web["cost_center"], web["tags"], web["domain_id"]) == (
        there.NASTY, ["blue, not red"], there.ACME,
    )  # fmt: skip
    assert web["options"] == {"immutable": True}
    shop = cloud.call("GET", f"/projects/{there.P_SHOP}").json["project"]
    assert (shop["parent_id"], shop["enabled"]) == (there.P_WEB, False)
    ann = cloud.call("GET", f"/users/{there.ANN}").json["user"]
    assert (ann["name"], ann["email"], ann["room"]) == ("ann", "ann@acme.example", 7)
    assert ann["description"] == there.NASTY
    assert ann["options"] == {
        "ignore_lockout_failure_attempts": True,
        "multi_factor_auth_enabled": False,
        "multi_factor_auth_rules": [["password", "totp"]],
    }
    bob = cloud.call("GET", f"/users/{there.BOB}").json["user"]
    assert (bob["name"], bob["enabled"]) == ("bob o'hara", False)
    assert cloud.call("GET", f"/users/{there.FED}").json["user"]["name"] == "fay"
    assert cloud.call("GET", f"/users/{'d' * 32}").status_code == 404
    mine = cloud.call("GET", f"/users/{there.ANN}/groups").json["groups"]
    assert [g["id"] for g in mine] == [there.G_OPS]
    # An old password, of which only a bcrypt hash was known, in a project of theirs.
    who = {"id": there.ANN, "password": there.ANN_PASSWORD}
    auth: dict[str, Any] = {
        "identity": {"methods": ["password"], "password": {"user": who}},
        "scope": {"project": {"id": there.P_WEB}},
    }
    answer = cloud.call("POST", "/auth/tokens", {"auth": auth}, token=None)
    assert answer.status_code == 201, answer.text
    assert {"own", "member"} <= {r["name"] for r in answer.json["token"]["roles"]}
    auth["scope"] = {"system": {"all": True}}
    answer = cloud.call("POST", "/auth/tokens", {"auth": auth}, token=None)
    assert "admin" in {r["name"] for r in answer.json["token"]["roles"]}
    # The cloud's own administrator is met and stays as it was.
    admin = cloud.call("GET", f"/users?name=admin&domain_id={DEFAULT_DOMAIN}").json["users"]
    assert [u["id"] for u in admin] == [cloud.admin.user_id]
    assert cloud.call("GET", f"/users/{there.ADMIN}").status_code == 404
    listed = cloud.call("GET", f"/role_assignments?scope.domain.id={there.ACME}").json
    inherited = [a for a in listed["role_assignments"] if "OS-INHERIT:inherited_to" in a["scope"]]
    assert [a["group"]["id"] for a in inherited] == [there.G_OPS]
    # Corp's users are in a directory, which is away now.
    config = cloud.call("GET", f"/domains/{there.CORP}/config").json["config"]
    assert config == {"identity": {"driver": "ldap"}, "ldap": {"url": "ldap://127.0.0.1:1"}}
    whole = cloud.database.read_now(
        lambda tx: domain_config.whole(tx, Sealer(SEALING_KEY), there.CORP)  # type: ignore[arg-type]
    )
    assert whole["ldap"]["password"] == "hush"
    assert cloud.call("GET", f"/users?domain_id={there.CORP}").status_code == 503
    listed = cloud.call("GET", f"/role_assignments?user.id={there.LDAP}").json["role_assignments"]
    assert [a["scope"]["project"]["id"] for a in listed] == [there.P_WEB]


def test_a_name_that_is_here_is_taken_for_the_same(cloud: Cloud) -> None:
    project = cloud.make("project", name="web")
    user = cloud.make("user", name="ann", password="ann's own password")
    rows = {
        "project": [
            there._domain("default", "Default"),
            there._project(there.P_WEB, "web", "default"),
            there._project(there.P_SHOP, "shop", "default", parent_id=there.P_WEB),
        ],
        "role": [there._role(there.R_MEMBER, "member")],
        "user": [there._user(there.ANN, "default")],
        "local_user": [there._local(1, there.ANN, "default", "ann")],
        "password": [there._password(1, 1, there.BCRYPT, 1)],
        "assignment": [there._grant("UserProject", there.ANN, there.P_WEB, there.R_MEMBER)],
    }
    said = Operator(cloud).post(lines_of(rows)).json["import"]
    assert said["counts"]["user"] == {"merged": 1}
    assert said["counts"]["assignment"] == {"new": 1}
    assert cloud.token("ann", "ann's own password", scope={"project": {"id": project["id"]}})
    assert cloud.sign_in("ann", there.ANN_PASSWORD).status_code == 401
    shop = cloud.call("GET", f"/projects/{there.P_SHOP}").json["project"]
    assert shop["parent_id"] == project["id"]
    assert any(user["id"] in note for note in said["notes"])


def test_what_was_changed_here_since_stays(cloud: Cloud) -> None:
    asked = Operator(cloud)
    assert asked.post(lines_of()).status_code == 200
    cloud.call("PATCH", f"/users/{there.ANN}", {"user": {"name": "anna", "password": "a new one"}})
    said = asked.post(lines_of()).json["import"]
    assert not said["changed"]
    assert cloud.call("GET", f"/users/{there.ANN}").json["user"]["name"] == "anna"
    assert any("anna" in note for note in said["notes"])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "no row"),
        (b"{}", "Line 1"),
        (b'["user"]', "columns"),
        (b'["nova"]', "nova"),
        (b"[null]", "None"),
        (b'["project_tag","a",1]', "Line 1"),
        (b'["project_tag","a","b\\u0000"]', "NUL"),
        (b"\xff\xfe", "Line 1"),
        (b"[" * 10_000, "Line 1"),
        (b"x" * ((1 << 20) + 2), "bytes"),
    ],
)
def test_a_bad_body_is_refused_and_changes_nothing(cloud: Cloud, body: bytes, says: str) -> None:
    good = lines_of({"project": [there._domain(there.ACME, "Acme")]})
    if body:
        body = good + b"\n" + body if says != "no row" else body
    answer = Operator(cloud).post(body)
    assert answer.status_code == 400, answer.text
    assert says.replace("Line 1", "Line 2") in answer.json["error"]["message"]
    assert cloud.call("GET", f"/domains/{there.ACME}").status_code == 404


def test_only_an_admin_imports(cloud: Cloud) -> None:
    user = cloud.make("user", name="ann", password="long enough")
    project = cloud.make("project", name="p")
    cloud.grant(user["id"], project["id"], "manager")
    token = cloud.token("ann", "long enough", scope={"project": {"id": project["id"]}})
    assert Operator(cloud).post(lines_of(), token=token).status_code == 403
    assert Operator(cloud).post(lines_of(), token=None).status_code == 401
    assert cloud.call("GET", f"/domains/{there.ACME}").status_code == 404


@pytest.mark.parametrize("spoilt", ["id", "name", "domain_id", "extra", "enabled"])
def test_rows_that_make_no_sense_are_left_out_or_read_kindly(cloud: Cloud, spoilt: str) -> None:
    for value in ("", None, "x" * 70_000, "'", "[1]", "\U0001f600", "-1", "{"):
        rows = {
            "project": [
                there._domain(there.ACME, "Acme"),
                {**there._project("a1", "p", there.ACME), spoilt: value},
            ]
        }
        answer = Operator(cloud).post(lines_of(rows), dry_run=True)
        assert answer.status_code == 200, (value, answer.text)
