"""Taking over a Keystone: its rows become ours, in one transaction, so that ids and passwords stay good.

Who or what has an id that is here already is that one, and stays as it is. Who has a name that another one
here has, in the same domain, is taken for that one: roles and memberships come to it. So a cloud's own
`admin`, its roles and the Default domain are met and not doubled, and a second run finds everything here.
What refers to something that is neither here nor in the dump is left out and told.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cairn.core.errors import CloudError
from cairn.core.ids import DomainId
from cairn.db.engine import Tx
from cairn.db.secrets import Sealer
from cairn.identity import store, store_grants
from cairn.identity import store_places as places
from cairn.identity.accounts import foreign_hashes
from cairn.identity.directory import domain_config, domain_config_store
from cairn.identity.directory import store as directory_store
from cairn.identity.directory.domain_options import require_valid
from cairn.identity.federation import store as federation_store
from cairn.identity.importing.report import Report
from cairn.identity.importing.rows import Row, Rows
from cairn.identity.importing.shape import IMMUTABLE, NO_DOMAIN, ROOT_DOMAIN, USER_OPTIONS
from cairn.identity.importing_ledger import ID, Ledger, insert, pairs, tuples
from cairn.identity.records import SYSTEM, ActorKind, ScopeKind

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_US = 253_402_300_799_000_000  # the end of the year 9999
_ASSIGNED: Mapping[str, tuple[str, ScopeKind]] = {
    "UserProject": ("user", ScopeKind.PROJECT),
    "GroupProject": ("group", ScopeKind.PROJECT),
    "UserDomain": ("user", ScopeKind.DOMAIN),
    "GroupDomain": ("group", ScopeKind.DOMAIN),
    "UserSystem": ("user", ScopeKind.SYSTEM),
    "GroupSystem": ("group", ScopeKind.SYSTEM),
}


class Import:
    """One run, over one transaction."""

    def __init__(self, tx: Tx, sealer: Sealer, rows: Rows) -> None:
        self._ledger = Ledger(tx)
        self._tx = tx
        self._sealer = sealer
        self._rows = rows

    def run(self) -> Report:
        self._domains()
        self._roles()
        self._projects()
        self._users()
        self._groups()
        self._from_directories()
        self._memberships()
        self._assignments()
        self._configs()
        return self._ledger.report

    # --- domains and projects --------------------------------------------------------------------

    def _domains(self) -> None:
        options = _options(self._rows, "project_option", "project_id")
        wanted = [
            {
                "id": row.text("id"),
                "name": row.text("name"),
                "description": row.text("description"),
                "enabled": row.flag("enabled", default=True),
                "is_immutable": bool(options.get(row.text("id"), {}).get(IMMUTABLE)),
                "extra": row.attributes(),
            }
            for row in self._rows.of("project")
            if row.flag("is_domain") and row.text("id") != ROOT_DOMAIN
        ]
        self._ledger.things("domain", store.domains, wanted)

    def _projects(self) -> None:
        options = _options(self._rows, "project_option", "project_id")
        wanted = []
        parents: dict[str, str] = {}
        for row in self._rows.of("project"):
            domain_id = self._ledger.ids["domain"].get(row.text("domain_id"))
            if row.flag("is_domain"):
                continue
            if domain_id is None:
                self._ledger.report.left_out("project", _orphan("project", row, "domain"))
                continue
            parents[row.text("id")] = row.text("parent_id")
            wanted.append(
                {
                    "id": row.text("id"),
                    "name": row.text("name"),
                    "domain_id": domain_id,
                    "parent_id": domain_id,
                    "description": row.text("description"),
                    "enabled": row.flag("enabled", default=True),
                    "is_immutable": bool(options.get(row.text("id"), {}).get(IMMUTABLE)),
                    "extra": row.attributes(),
                }
            )
        self._ledger.things("project", store.projects, wanted, parents=parents)
        self._tags()

    def _tags(self) -> None:
        known = pairs(self._tx, places.project_tags, "project_id", "tag")
        self._ledger.links(
            "project tag",
            places.project_tags,
            ("project_id", "tag"),
            known,
            (
                (self._ledger.id("project", r.text("project_id")), r.text("name"))
                for r in self._rows.of("project_tag")
            ),
        )

    # --- roles -------------------------------------------------------------------------------------

    def _roles(self) -> None:
        options = _options(self._rows, "role_option", "role_id")
        wanted = []
        for row in self._rows.of("role"):
            asked = row.text("domain_id")
            domain_id = "" if asked in (*NO_DOMAIN, "") else self._ledger.ids["domain"].get(asked)
            if domain_id is None:
                self._ledger.report.left_out("role", _orphan("role", row, "domain"))
                continue
            extra = row.attributes()
            wanted.append(
                {
                    "id": row.text("id"),
                    "name": row.text("name"),
                    "domain_id": domain_id,
                    "description": row.maybe("description") or extra.pop("description", None),
                    "is_immutable": bool(options.get(row.text("id"), {}).get(IMMUTABLE)),
                    "extra": extra,
                }
            )
        self._ledger.things("role", store.roles, wanted)
        known = pairs(self._tx, store_grants.implications, "prior_id", "implied_id")
        # A circle would come of two halves, one here and one there: each is good alone.
        self._ledger.links(
            "implied role",
            store_grants.implications,
            ("prior_id", "implied_id"),
            known,
            (
                (
                    self._ledger.id("role", r.text("prior_role_id")),
                    self._ledger.id("role", r.text("implied_role_id")),
                )
                for r in self._rows.of("implied_role")
            ),
            may=_no_circle(known),
        )

    # --- users and groups --------------------------------------------------------------------------

    def _users(self) -> None:
        local = {r.text("user_id"): r for r in self._rows.of("local_user")}
        elsewhere = {r.text("user_id"): r.text("name") for r in self._rows.of("nonlocal_user")}
        federated = {
            r.text("user_id"): r.maybe("display_name") or r.text("unique_id")
            for r in self._rows.of("federated_user")
        }
        passwords = self._passwords()
        options = _options(self._rows, "user_option", "user_id")
        wanted = []
        for row in self._rows.of("user"):
            id_ = row.text("id")
            domain_id = self._ledger.ids["domain"].get(row.text("domain_id"))
            if domain_id is None:
                self._ledger.report.left_out("user", _orphan("user", row, "domain"))
                continue
            own = local.get(id_)
            name = own.text("name") if own else elsewhere.get(id_) or federated.get(id_) or ""
            if not name:
                self._ledger.report.left_out("user", f"user {id_} has no name: left out")
                continue
            password = passwords.get(own.text("id")) if own else None
            wanted.append(self._user(row, name, domain_id, password, options.get(id_, {})))
        self._ledger.things("user", store.users, wanted)
        self._federated()

    def _user(
        self, row: Row, name: str, domain_id: str, password: Row | None, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        extra = row.attributes()
        hash_ = password.maybe("password_hash") if password else None
        if hash_ is not None and not foreign_hashes.is_foreign(hash_):
            self._ledger.report.note(
                f"user {name} has a password of a kind that is not known: set a new one"
            )
            hash_ = None
        made = _moment(password.number("created_at_int")) if password and hash_ else None
        ends = _moment(password.number("expires_at_int")) if password and hash_ else None
        default = row.text("default_project_id")
        return {
            "id": row.text("id"),
            "name": name,
            "domain_id": domain_id,
            "enabled": row.flag("enabled", default=True),
            "default_project_id": self._ledger.ids["project"].get(default),
            "description": _text(extra.pop("description", None)),
            "email": _text(extra.pop("email", None)),
            "options": {
                USER_OPTIONS[code]: value
                for code, value in options.items()
                if code in USER_OPTIONS and value is not None
            },
            "extra": extra,
            "password_hash": hash_,
            "password_made_at": made or (self._tx.now if hash_ else None),
            "password_expires_at": ends,
            "password_is_own": bool(password and password.flag("self_service")),
            "active_at": self._tx.now,
        }

    def _passwords(self) -> dict[str, Row]:
        """The newest of each local user; Keystone keeps older ones, so that they are not chosen again."""
        newest: dict[str, Row] = {}
        for row in self._rows.of("password"):
            before = newest.get(row.text("local_user_id"))
            if before is None or _age(before) < _age(row):
                newest[row.text("local_user_id")] = row
        return newest

    def _federated(self) -> None:
        """By which provider's words they are known: the same provider made here finds them again."""
        columns = ("provider_id", "protocol_id", "unique_id", "user_id")
        links = federation_store.links
        known = set(tuples(self._tx, links, columns))
        taken = {entry[:3] for entry in known}
        self._ledger.links(
            "federated user",
            links,
            columns,
            known,
            (
                (r.text("idp_id"), r.text("protocol_id"), r.text("unique_id"),
                 self._ledger.id("user", r.text("user_id")))
                for r in self._rows.of("federated_user")
            ),
            may=lambda new: new[:3] not in taken,
        )  # fmt: skip

    def _groups(self) -> None:
        wanted = []
        for row in self._rows.of("group"):
            domain_id = self._ledger.ids["domain"].get(row.text("domain_id"))
            if domain_id is None:
                self._ledger.report.left_out("group", _orphan("group", row, "domain"))
                continue
            wanted.append(
                {
                    "id": row.text("id"),
                    "name": row.text("name"),
                    "domain_id": domain_id,
                    "description": row.text("description"),
                    "extra": row.attributes(),
                }
            )
        self._ledger.things("group", store.groups, wanted)

    def _from_directories(self) -> None:
        """Users and groups of LDAP: who has roles is here from now on; the directory tells the rest."""
        known = {e[0] for e in tuples(self._tx, directory_store.entries, ("id",))}
        named = {kind: set(self._ledger.ids[kind].values()) for kind in ("user", "group")}
        acting = {r.text("actor_id") for r in self._rows.of("assignment")}
        acting |= {r.text("actor_id") for r in self._rows.of("system_assignment")}
        entries, rows = [], {"user": [], "group": []}  # type: ignore[var-annotated]
        for row in self._rows.of("id_mapping"):
            id_, kind = row.text("public_id"), row.text("entity_type")
            domain_id = self._ledger.ids["domain"].get(row.text("domain_id"))
            if id_ in known:
                self._ledger.ids.get(kind, {})[id_] = id_
                self._ledger.report.here("user or group of LDAP")
                continue
            if kind not in rows or domain_id is None or not ID.fullmatch(id_):
                continue
            if id_ not in named[kind] and id_ not in acting:
                continue  # It will be found when it is looked for.
            local_id = row.text("local_id")
            entries.append({"id": id_, "domain_id": domain_id, "kind": kind, "local_id": local_id})
            if id_ not in named[kind]:
                rows[kind].append(_placeholder(kind, id_, domain_id))
            self._ledger.ids[kind][id_] = id_
            self._ledger.report.new("user or group of LDAP")
        insert(self._tx, directory_store.entries, entries)
        insert(self._tx, store.users, rows["user"])
        insert(self._tx, store.groups, rows["group"])

    def _memberships(self) -> None:
        self._ledger.links(
            "membership",
            store.members,
            ("user_id", "group_id"),
            pairs(self._tx, store.members, "user_id", "group_id"),
            (
                (
                    self._ledger.id("user", r.text("user_id")),
                    self._ledger.id("group", r.text("group_id")),
                )
                for r in self._rows.of("user_group_membership")
            ),
        )

    # --- assignments -------------------------------------------------------------------------------

    def _assignments(self) -> None:
        columns = ("scope_kind", "scope_id", "actor_kind", "actor_id", "role_id")
        for table, is_inherited in (
            (store_grants.assignments, False),
            (store_grants.inherited, True),
        ):
            self._ledger.links(
                "inherited assignment" if is_inherited else "assignment",
                table,
                columns,
                set(tuples(self._tx, table, columns)),
                (
                    self._assignment(row)
                    for name in ("assignment", "system_assignment")
                    for row in self._rows.of(name)
                    if row.flag("inherited") is is_inherited
                ),
            )

    def _assignment(self, row: Row) -> tuple[str | None, ...]:
        known = _ASSIGNED.get(row.text("type"))
        if known is None:
            return (None,)
        actor, scope = known
        scope_id: str | None = SYSTEM.id
        if scope is not ScopeKind.SYSTEM:
            scope_id = self._ledger.id(str(scope), row.text("target_id"))
        return (
            str(scope),
            scope_id,
            str(ActorKind(actor)),
            self._ledger.id(actor, row.text("actor_id")),
            self._ledger.id("role", row.text("role_id")),
        )

    # --- configuration -----------------------------------------------------------------------------

    def _configs(self) -> None:
        wanted: dict[str, list[tuple[str, str, Any]]] = {}
        for table in ("whitelisted_config", "sensitive_config"):
            for row in self._rows.of(table):
                domain_id = self._ledger.ids["domain"].get(row.text("domain_id"))
                option = (row.text("group"), row.text("option"), row.json("value"))
                if domain_id is not None and self._is_known(option):
                    wanted.setdefault(domain_id, []).append(option)
        for domain_id, values in sorted(wanted.items()):
            id_ = DomainId(domain_id)
            if domain_config_store.config_of(self._tx, id_):
                self._ledger.report.here("configured domain")
                continue
            domain_config_store.put(self._tx, self._sealer, id_, values)
            self._tx.wake(domain_config.TOPIC)
            self._ledger.report.new("configured domain")

    def _is_known(self, option: tuple[str, str, Any]) -> bool:
        group, name, value = option
        try:
            require_valid({group: {name: value}})
        except CloudError as error:
            self._ledger.report.left_out(
                "configured domain", f"option {group}.{name}: {error.message}"
            )
            return False
        return True


def _options(rows: Rows, table: str, key: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in rows.of(table):
        found.setdefault(row.text(key), {})[row.text("option_id")] = row.json("option_value")
    return found


def _no_circle(known: set[tuple[str, ...]]) -> Callable[[tuple[str, ...]], bool]:
    def may(new: tuple[str, ...]) -> bool:
        prior, implied = new
        reached, to_do = {implied}, [implied]
        while to_do:
            at = to_do.pop()
            for p, i in known:
                if p == at and i not in reached:
                    reached.add(i)
                    to_do.append(i)
        return prior not in reached

    return may


def _placeholder(kind: str, id_: str, domain_id: str) -> dict[str, Any]:
    """A row of a directory's user or group until the directory is asked: its id is its name."""
    row: dict[str, Any] = {"id": id_, "name": id_, "domain_id": domain_id, "extra": {}}
    more = {"enabled": True, "options": {}} if kind == "user" else {"description": ""}
    return row | more


def _orphan(kind: str, row: Row, missing: str) -> str:
    return f"{kind} {row.text('id')[:64]} is of a {missing} that is not there: left out"


def _age(password: Row) -> tuple[int, int]:
    return (password.number("created_at_int") or 0, password.number("id") or 0)


def _moment(microseconds: int | None) -> datetime | None:
    if microseconds is None or not 0 < microseconds < _LATEST_US:
        return None
    return _EPOCH + timedelta(microseconds=microseconds)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
