"""Users and groups as one domain's directory has them.

What belongs to whom is Keystone's reading of an entry (`keystone.identity.backends.ldap`), so that the same
configuration gives the same users: entries without an id or a name do not exist, an id is the attribute's
one value or else the one in the DN, 16 bytes that are no text are a GUID.
"""

import re
import uuid
from collections.abc import Sequence

from msgspec import Struct

from cairn.core import log
from cairn.core.errors import Unavailable
from cairn.identity.directory.client import Attributes, Client, Found, escaped, escaped_bytes
from cairn.identity.directory.config import LIST_MAX, DirectoryConfig, Enabled, Shape
from cairn.identity.directory.pool import LOOK_S_MAX, Pool

AT_ONCE = 50  # entries that one filter asks for by id
NAME_MAX, GROUP_NAME_MAX, LOCAL_ID_MAX = 255, 64, 255
_DN_PART = re.compile(r"(?:\\.|[^,;\\])+")  # a separator that is escaped is none
_COMMA = "\\,"
_NOBODY = "0b0d1e5e6e9f4d4c"  # the name of an entry that is not there
_log = log.get("identity.directory")


class Person(Struct, frozen=True, kw_only=True):
    local_id: str
    dn: str
    name: str
    enabled: bool = True
    email: str | None = None
    description: str | None = None
    default_project_id: str | None = None
    extra: dict[str, str] = {}


class Team(Struct, frozen=True, kw_only=True):
    """A group of the directory."""

    local_id: str
    dn: str
    name: str
    description: str = ""
    extra: dict[str, str] = {}


class Listed(Struct, frozen=True, kw_only=True):
    """What a look found, and whether what it did not find is not there."""

    people: list[Person] = []
    teams: list[Team] = []
    is_whole: bool = True


class Tree:
    """The questions that a domain asks of its directory. All raise Unavailable."""

    def __init__(self, config: DirectoryConfig, pool: Pool) -> None:
        self._config = config
        self.pool = pool

    async def person(
        self, *, local_id: str | None = None, name: str | None = None
    ) -> Person | None:
        """The one with this id or name; None if there is none, or (by name) more than one."""
        users = self._config.users
        wanted = _is_id(users, local_id) if local_id is not None else _is_name(users, name or "")
        found = (await self.pool.ask(lambda c: self._people(c, wanted, 2))).people
        if len(found) > 1:
            _log.warning("a name that several users have is nobody's", name=name)
        return found[0] if len(found) == 1 else None

    async def people(self, *, name: str | None = None) -> Listed:
        wanted = _is_name(self._config.users, name) if name is not None else ""
        limit = self._config.list_limit
        return await self.pool.ask(lambda c: self._people(c, wanted, limit), within_s=LOOK_S_MAX)

    async def people_with(self, local_ids: Sequence[str]) -> list[Person]:
        """Those of these who are there."""

        def ask(client: Client) -> list[Person]:
            found: list[Person] = []
            for start in range(0, len(local_ids), AT_ONCE):
                any_of = "".join(
                    _is_id(self._config.users, local_id)
                    for local_id in local_ids[start : start + AT_ONCE]
                )
                part = self._people(client, f"(|{any_of})", 2 * AT_ONCE)
                if not part.is_whole:
                    raise Unavailable("", because="it cuts short what was asked by id")
                found += part.people
            return found

        return await self.pool.ask(ask, within_s=LOOK_S_MAX) if local_ids else []

    async def team(self, local_id: str) -> Team | None:
        wanted = _is_id(self._config.groups, local_id)
        found = (await self.pool.ask(lambda c: self._teams(c, wanted, 2))).teams
        return found[0] if found else None

    async def teams(self, *, name: str | None = None) -> Listed:
        wanted = _is_name(self._config.groups, name) if name is not None else ""
        limit = self._config.list_limit
        return await self.pool.ask(lambda c: self._teams(c, wanted, limit), within_s=LOOK_S_MAX)

    async def teams_of(self, person: Person) -> Listed:
        """The groups that name this user as a member."""
        member = person.local_id if self._config.members_are_ids else person.dn
        wanted = f"({self._config.member_attribute}={escaped(member)})"
        return await self.pool.ask(lambda c: self._teams(c, wanted, self._config.list_limit))

    async def members_of(self, team: Team) -> list[Person]:
        """The users whom a group names, as far as they are there."""
        found = await self.pool.ask(lambda c: self._members(c, team), within_s=LOOK_S_MAX)
        return found.people

    async def member_keys(self, team: Team) -> set[str]:
        """What a group says of its members, to be compared with `member_key`."""
        named = await self.pool.ask(lambda c: self._named(c, team))
        return {self._key(member) for member in named}

    def member_key(self, person: Person) -> str:
        """As a group would name this user."""
        return self._key(person.local_id if self._config.members_are_ids else person.dn)

    async def teams_with(self, local_ids: Sequence[str]) -> list[Team]:
        def ask(client: Client) -> list[Team]:
            found: list[Team] = []
            for start in range(0, len(local_ids), AT_ONCE):
                part = local_ids[start : start + AT_ONCE]
                any_of = "".join(_is_id(self._config.groups, local_id) for local_id in part)
                listed = self._teams(client, f"(|{any_of})", 2 * AT_ONCE)
                if not listed.is_whole:
                    raise Unavailable("", because="it cuts short what was asked by id")
                found += listed.teams
            return found

        return await self.pool.ask(ask, within_s=LOOK_S_MAX) if local_ids else []

    async def check_password(self, person: Person | None, password: str) -> str | None:
        """None if it is right, else why not. An unknown user takes a server's answer, too: as long."""
        if person is not None:
            return await self.pool.check_password(person.dn, password)
        users = self._config.users
        await self.pool.check_password(f"{users.id_attribute}={_NOBODY},{users.tree}", password)
        return "there is no such user in the directory"

    def _people(self, client: Client, wanted: str, limit: int) -> Listed:
        enabled = self._config.enabled
        more = (enabled.attribute,) if enabled.attribute else ()
        found = _look(client, self._config.users, wanted, more, limit)
        members = self._enabled_members(client) if enabled.group else frozenset()
        people = [
            person
            for dn, attributes in found.entries
            if (person := self._person(dn, attributes, members)) is not None
        ]
        return Listed(people=people, is_whole=found.is_whole)

    def _teams(self, client: Client, wanted: str, limit: int) -> Listed:
        found = _look(client, self._config.groups, wanted, (), limit)
        teams = [t for dn, attributes in found.entries if (t := self._team(dn, attributes))]
        return Listed(teams=teams, is_whole=found.is_whole)

    def _members(self, client: Client, team: Team) -> Listed:
        """Asked for by what names them in their DN, many at once, and kept if the whole DN is the same."""
        named = self._named(client, team)
        users = self._config.users
        people: list[Person] = []
        for start in range(0, len(named), AT_ONCE):
            part = named[start : start + AT_ONCE]
            if self._config.members_are_ids:
                any_of = "".join(_is_id(users, local_id) for local_id in part)
            else:
                any_of = "".join(_is_called(dn) for dn in part)
            wanted = {self._key(value) for value in part}
            found = self._people(client, f"(|{any_of})", LIST_MAX).people
            people += [person for person in found if self.member_key(person) in wanted]
        return Listed(people=people)

    def _named(self, client: Client, team: Team) -> list[str]:
        attribute = self._config.member_attribute
        found = client.search(team.dn, "(objectClass=*)", [attribute], limit=1, is_base=True)
        named = [
            text
            for _, attributes in found.entries
            for name, values in attributes.items()
            if name.split(";")[0] == attribute.lower()  # Active Directory: "member;range=0-1499"
            for value in values
            if (text := _text(value))
        ]
        return named[:LIST_MAX]

    def _key(self, member: str) -> str:
        return member.lower() if self._config.members_are_ids else same_dn(member)

    def _enabled_members(self, client: Client) -> frozenset[str]:
        enabled = self._config.enabled
        attribute = enabled.group_member_attribute
        found = client.search(enabled.group, "(objectClass=*)", [attribute], limit=1, is_base=True)
        return frozenset(
            text.lower() if enabled.group_has_ids else same_dn(text)
            for _, attributes in found.entries
            for value in attributes.get(attribute.lower(), ())
            if (text := _text(value)) is not None
        )

    def _person(self, dn: str, attributes: Attributes, members: frozenset[str]) -> Person | None:
        read = _read(self._config.users, dn, attributes, NAME_MAX)
        if read is None:
            return None
        local_id, name, known, extra = read
        enabled = self._config.enabled
        if enabled.group:
            key = local_id.lower() if enabled.group_has_ids else same_dn(dn)
            is_enabled = key in members
        else:
            is_enabled = _is_enabled(enabled, attributes)
        return Person(local_id=local_id, dn=dn, name=name, enabled=is_enabled, **known, extra=extra)

    def _team(self, dn: str, attributes: Attributes) -> Team | None:
        read = _read(self._config.groups, dn, attributes, GROUP_NAME_MAX)
        if read is None:
            return None
        local_id, name, known, extra = read
        description = known.get("description", "")
        return Team(local_id=local_id, dn=dn, name=name, description=description, extra=extra)


def _look(client: Client, shape: Shape, wanted: str, more: Sequence[str], limit: int) -> Found:
    theirs = (theirs for _, theirs in shape.attributes)
    attributes = list(dict.fromkeys((shape.id_attribute, shape.name_attribute, *theirs, *more)))
    found = client.search(shape.tree, _filter(shape, wanted), attributes, limit=limit)
    if not found.is_there:
        # Not the same as "nobody": or else a wrong configuration would make everybody disappear.
        raise Unavailable("", because=f"there is no '{shape.tree}' in it")
    return found


def _filter(shape: Shape, wanted: str) -> str:
    """Keystone's: what is wanted, the configured filter, the class, and that there is an id."""
    return f"(&{wanted}{shape.filter}(objectClass={shape.object_class})({shape.id_attribute}=*))"


def same_dn(dn: str) -> str:
    """One spelling of all that a DN may be written in: RFC 4514, compared as RFC 4518 compares texts."""
    parts = [part.split("=", 1) for part in _DN_PART.findall(dn.strip()) if "=" in part]
    return ",".join(f"{a.strip().lower()}={_unescaped(v)}" for a, v in parts)


def _unescaped(value: str) -> str:
    """As it is meant, in lower case, with single spaces; commas are told from separators."""
    pairs = re.compile(r"(?:\\[0-9A-Fa-f]{2})+")
    plain = pairs.sub(
        lambda m: bytes.fromhex(m[0].replace("\\", "")).decode(errors="replace"), value.strip()
    )
    plain = re.sub(r"\\(.)", r"\1", plain)
    return re.sub(r"\s+", " ", plain).lower().replace(",", "\\,")


def _is_called(dn: str) -> str:
    """A filter for what names the entry among its siblings: `(cn=Ann)`."""
    first = next(iter(_DN_PART.findall(dn.strip())), "")
    attribute, _, value = first.partition("=")
    name = attribute.strip()
    if not name or not all(c.isalnum() or c in "-;._" for c in name):
        return ""
    return f"({name}={escaped(_unescaped(value).replace(_COMMA, ','))})"


def _is_name(shape: Shape, name: str) -> str:
    return f"({shape.name_attribute}={escaped(name)})"


def _is_id(shape: Shape, local_id: str) -> str:
    if shape.id_attribute.lower() in ("objectguid", "msexchmailboxguid"):
        try:
            return f"({shape.id_attribute}={escaped_bytes(uuid.UUID(local_id).bytes_le)})"
        except ValueError:
            pass
    return f"({shape.id_attribute}={escaped(local_id)})"


def _read(
    shape: Shape, dn: str, attributes: Attributes, name_max: int
) -> tuple[str, str, dict[str, str], dict[str, str]] | None:
    """Id, name, attributes that mean something to us, others. None: it is not a thing of ours."""
    ids = attributes.get(shape.id_attribute.lower(), ())
    local_id = _text(ids[0]) if len(ids) == 1 else _id_in(dn, shape, ids)
    name = _first(attributes, shape.name_attribute)
    if not local_id or not name or not name.strip():
        return None
    if len(name) > name_max or len(local_id) > LOCAL_ID_MAX or "\0" in name + local_id:
        _log.warning("an entry's id or name is too long", dn=dn[:300])
        return None
    known: dict[str, str] = {}
    extra: dict[str, str] = {}
    for ours, theirs in shape.attributes:
        value = _first(attributes, theirs)
        if value is None or "\0" in value:
            continue
        if ours in ("email", "description", "default_project_id"):
            known[ours] = value[: 64 if ours == "default_project_id" else 4096]
        else:
            extra[ours] = value[:4096]
    return local_id, name, known, extra


def _id_in(dn: str, shape: Shape, ids: Sequence[bytes]) -> str | None:
    """Of several values of the id, the one that names the entry."""
    attribute, _, rest = dn.partition("=")
    if attribute.strip().lower() != shape.id_attribute.lower():
        return None
    texts = [text for value in ids if (text := _text(value)) is not None]
    return next((t for t in texts if rest.lower().startswith(t.lower())), None)


def _is_enabled(enabled: Enabled, attributes: Attributes) -> bool:
    if not enabled.attribute:
        return True
    value = _first(attributes, enabled.attribute)
    value = enabled.default if value is None else value
    if enabled.mask:
        try:
            return int(value) & enabled.mask != enabled.mask
        except ValueError:
            return False  # It cannot be told: then nobody gets in.
    return (value.strip().lower() == "true") is not enabled.is_inverted


def _first(attributes: Attributes, name: str) -> str | None:
    values = attributes.get(name.lower(), ())
    return _text(values[0]) if values else None


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return str(uuid.UUID(bytes_le=value)) if len(value) == 16 else None
