"""A domain's options as what they mean for its directory. Whatever is wrong is named with its option.

Names, defaults and meanings are Keystone's (configuration reference, section `ldap`). Not used here, because
nothing would be done differently: `alias_dereferencing`, `debug_level`, `chase_referrals` (referrals are
never followed), `user_pass_attribute`, and the sizes of pools, which are bounded by `pool`.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from cairn.core.errors import Invalid
from cairn.identity.directory.domain_options import OPTIONS

PAGE_SIZE = 1000  # entries; Active Directory gives no more at once
PORT, TLS_PORT = 389, 636
LIST_MAX = 20_000  # users or groups that one look reads


class Address(Struct, frozen=True):
    host: str
    port: int
    is_tls: bool

    def __str__(self) -> str:
        return f"{'ldaps' if self.is_tls else 'ldap'}://{self.host}:{self.port}"


class Shape(Struct, frozen=True, kw_only=True):
    """Where things of one kind are in the directory, and which of their attributes are what."""

    tree: str
    object_class: str
    filter: str
    id_attribute: str
    name_attribute: str
    attributes: tuple[tuple[str, str], ...]  # (ours, the directory's); with further ones at the end


class Enabled(Struct, frozen=True, kw_only=True):
    """How the directory says that a user is enabled."""

    attribute: str = ""  # "": it does not, everybody is
    mask: int = 0  # Active Directory: the bit of userAccountControl that disables
    is_inverted: bool = False
    default: str = "True"
    group: str = ""  # DN of the group whose members are enabled
    group_member_attribute: str = "member"
    group_has_ids: bool = False


class DirectoryConfig(Struct, frozen=True, kw_only=True):
    addresses: tuple[Address, ...]
    user: str
    password: str
    is_subtree: bool
    page_size: int
    list_limit: int
    starts_tls: bool
    ca_file: str | None
    ca_folder: str | None
    verifies: bool
    users: Shape
    groups: Shape
    enabled: Enabled
    member_attribute: str
    members_are_ids: bool


def read(options: Mapping[str, Mapping[str, Any]]) -> DirectoryConfig:
    """Raises Invalid: the text names the option."""
    o = _Options(options.get("ldap", {}))
    ignored = {name.lower() for name in o.texts("user_attribute_ignore")}
    user_tree = o.text("user_tree_dn") or f"ou=Users,{o.text('suffix')}"
    group_tree = o.text("group_tree_dn") or f"ou=UserGroups,{o.text('suffix')}"
    is_emulated = o.flag("user_enabled_emulation")
    uses_groups = o.flag("user_enabled_emulation_use_group_config")
    member = o.text("group_member_attribute") or "member"
    limit = options.get("identity", {}).get("list_limit")
    return DirectoryConfig(
        addresses=_addresses(o.text("url")),
        user=o.text("user"),
        password=o.text("password"),
        is_subtree=o.text("query_scope") == "sub",
        page_size=o.number("page_size") or PAGE_SIZE,
        list_limit=min(int(float(limit)), LIST_MAX) if limit else LIST_MAX,
        starts_tls=o.flag("use_tls"),
        ca_file=o.text("tls_cacertfile") or None,
        ca_folder=o.text("tls_cacertdir") or None,
        verifies=o.text("tls_req_cert") == "demand",
        users=Shape(
            tree=user_tree,
            object_class=o.attribute("user_objectclass"),
            filter=o.filter("user_filter"),
            id_attribute=o.attribute("user_id_attribute"),
            name_attribute=o.attribute("user_name_attribute"),
            attributes=o.pairs(
                "user",
                ignored,
                email="user_mail_attribute",
                description="user_description_attribute",
                default_project_id="user_default_project_id_attribute",
            ),
        ),
        groups=Shape(
            tree=group_tree,
            object_class=o.attribute("group_objectclass"),
            filter=o.filter("group_filter"),
            id_attribute=o.attribute("group_id_attribute"),
            name_attribute=o.attribute("group_name_attribute"),
            attributes=o.pairs(
                "group",
                {name.lower() for name in o.texts("group_attribute_ignore")},
                description="group_desc_attribute",
            ),
        ),
        enabled=Enabled(
            attribute=""
            if is_emulated or "enabled" in ignored
            else o.text("user_enabled_attribute"),
            mask=o.number("user_enabled_mask"),
            is_inverted=o.flag("user_enabled_invert"),
            default=o.text("user_enabled_default"),
            group=(o.text("user_enabled_emulation_dn") or f"cn=enabled_users,{user_tree}")
            if is_emulated
            else "",
            group_member_attribute=member if uses_groups else "member",
            group_has_ids=uses_groups and o.flag("group_members_are_ids"),
        ),
        member_attribute=member,
        members_are_ids=o.flag("group_members_are_ids"),
    )


class _Options:
    """The group `ldap`, with defaults. Values may be texts, as in a configuration file."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def text(self, name: str) -> str:
        value = self._given.get(name)
        value = OPTIONS["ldap"][name].default if value is None else value
        return "" if value is None else str(value).strip()

    def flag(self, name: str) -> bool:
        return self.text(name).lower() == "true"

    def number(self, name: str) -> int:
        try:
            return int(float(self.text(name) or "0"))
        except ValueError as error:
            raise Invalid(f"ldap.{name} is no number") from error

    def texts(self, name: str) -> list[str]:
        value = self._given.get(name)
        value = OPTIONS["ldap"][name].default if value is None else value
        parts = value.split(",") if isinstance(value, str) else value
        return [part.strip() for part in parts if part.strip()]

    def attribute(self, name: str) -> str:
        """The name of an attribute or class: it is put into filters as it is."""
        value = self.text(name)
        if not value or not all(c.isalnum() or c in "-;._" for c in value):
            raise Invalid(f"ldap.{name} is no name of an attribute: '{value[:80]}'")
        return value

    def filter(self, name: str) -> str:
        value = self.text(name)
        if value and (not value.startswith("(") or value.count("(") != value.count(")")):
            raise Invalid(f"ldap.{name} is no filter in parentheses: '{value[:80]}'")
        return value

    def pairs(self, kind: str, ignored: set[str], **ours: str) -> tuple[tuple[str, str], ...]:
        found = [
            (name, self.attribute(option))
            for name, option in ours.items()
            if name not in ignored and self.text(option)
        ]
        for pair in self.texts(f"{kind}_additional_attribute_mapping"):
            theirs, colon, name = pair.partition(":")
            if not colon or not theirs or not name:
                raise Invalid(
                    f"ldap.{kind}_additional_attribute_mapping must be written attribute:name,"
                    f" not '{pair[:80]}'"
                )
            found.append((name.strip(), theirs.strip()))
        return tuple(found)


def _addresses(text: str) -> tuple[Address, ...]:
    found = []
    for url in text.replace(",", " ").split():
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise Invalid(f"ldap.url has a part that is no address: '{url[:80]}'") from error
        if parts.scheme not in ("ldap", "ldaps") or not parts.hostname:
            raise Invalid(f"ldap.url must be ldap:// or ldaps:// and a host, not '{url[:80]}'")
        is_tls = parts.scheme == "ldaps"
        found.append(Address(parts.hostname, port or (TLS_PORT if is_tls else PORT), is_tls))
    if not found:
        raise Invalid("ldap.url is empty")
    return tuple(found)
