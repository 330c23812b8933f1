"""A small Keystone's database, for tests of the import: its tables as its migrations make them, and rows.

Written down once, so that the same cloud comes out of PostgreSQL's dumps and of MySQL's.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import bcrypt

ANN_PASSWORD = "ann's old password"
BCRYPT = bcrypt.hashpw(ANN_PASSWORD.encode(), bcrypt.gensalt(4)).decode()
DEFAULT, ACME, CORP = "default", "a" * 32, "c" * 32
P_ADMIN, P_WEB, P_SHOP = "1" * 32, "2" * 32, "3" * 32
ADMIN, ANN, BOB, FED, LDAP = "4" * 32, "5" * 32, "6" * 32, "7" * 32, "8" * 64
G_OPS = "9" * 32
R_ADMIN, R_MEMBER, R_OWN = "b1" * 16, "b2" * 16, "b3" * 16

SCHEMA: Mapping[str, Sequence[str]] = {
    "project": (
        "id varchar(64) NOT NULL", "name varchar(64) NOT NULL", "extra text", "description text",
        "enabled boolean", "domain_id varchar(64) NOT NULL", "parent_id varchar(64)",
        "is_domain boolean NOT NULL DEFAULT false",
    ),
    "project_tag": ("project_id varchar(64) NOT NULL", "name varchar(255) NOT NULL"),
    "project_option": (
        "project_id varchar(64) NOT NULL", "option_id varchar(4) NOT NULL", "option_value text",
    ),
    "role": (
        "id varchar(64) NOT NULL", "name varchar(255) NOT NULL", "extra text",
        "domain_id varchar(64) DEFAULT '<<null>>' NOT NULL", "description varchar(255)",
    ),
    "role_option": (
        "role_id varchar(64) NOT NULL", "option_id varchar(4) NOT NULL", "option_value text",
    ),
    "implied_role": ("prior_role_id varchar(64) NOT NULL", "implied_role_id varchar(64) NOT NULL"),
    "user": (
        "id varchar(64) NOT NULL", "extra text", "enabled boolean",
        "default_project_id varchar(64)", "created_at timestamp", "last_active_at date",
        "domain_id varchar(64) NOT NULL",
    ),
    "user_option": (
        "user_id varchar(64) NOT NULL", "option_id varchar(4) NOT NULL", "option_value text",
    ),
    "local_user": (
        "id integer NOT NULL", "user_id varchar(64) NOT NULL", "domain_id varchar(64) NOT NULL",
        "name varchar(255) NOT NULL", "failed_auth_count integer", "failed_auth_at timestamp",
    ),
    "password": (
        "id integer NOT NULL", "local_user_id integer NOT NULL", "expires_at timestamp",
        "self_service boolean DEFAULT false NOT NULL", "password_hash varchar(255)",
        "created_at_int bigint DEFAULT 0 NOT NULL", "expires_at_int bigint",
        "created_at timestamp NOT NULL",
    ),
    "nonlocal_user": (
        "domain_id varchar(64) NOT NULL", "name varchar(255) NOT NULL", "user_id varchar(64) NOT NULL",
    ),
    "federated_user": (
        "id integer NOT NULL", "user_id varchar(64) NOT NULL", "idp_id varchar(64) NOT NULL",
        "protocol_id varchar(64) NOT NULL", "unique_id varchar(255) NOT NULL",
        "display_name varchar(255)",
    ),
    "group": (
        "id varchar(64) NOT NULL", "domain_id varchar(64) NOT NULL", "name varchar(64) NOT NULL",
        "description text", "extra text",
    ),
    "user_group_membership": ("user_id varchar(64) NOT NULL", "group_id varchar(64) NOT NULL"),
    "assignment": (
        "type varchar(64) NOT NULL", "actor_id varchar(64) NOT NULL",
        "target_id varchar(64) NOT NULL", "role_id varchar(64) NOT NULL",
        "inherited boolean NOT NULL",
    ),
    "system_assignment": (
        "type varchar(64) NOT NULL", "actor_id varchar(64) NOT NULL",
        "target_id varchar(64) NOT NULL", "role_id varchar(64) NOT NULL",
        "inherited boolean NOT NULL",
    ),
    "id_mapping": (
        "public_id varchar(64) NOT NULL", "domain_id varchar(64) NOT NULL",
        "local_id varchar(255) NOT NULL", "entity_type varchar(5) NOT NULL",
    ),
    "whitelisted_config": (
        "domain_id varchar(64) NOT NULL", '"group" varchar(255) NOT NULL',
        '"option" varchar(255) NOT NULL', "value text NOT NULL",
    ),
    "sensitive_config": (
        "domain_id varchar(64) NOT NULL", '"group" varchar(255) NOT NULL',
        '"option" varchar(255) NOT NULL', "value text NOT NULL",
    ),
    "credential": ("id varchar(64) NOT NULL", "encrypted_blob text NOT NULL"),
    "revocation_event": ("id integer NOT NULL", "issued_before timestamp NOT NULL"),
}  # fmt: skip

ROOT = "<<keystone.domain.root>>"
NASTY = "it's a \"test\"; -- \\ no comment\n\twith /* all */ that's ugly, \\N é \U0001f600 $1"


def _domain(id_: str, name: str, **more: Any) -> dict[str, Any]:
    return {"id": id_, "name": name, "extra": "{}", "description": "", "enabled": True,
            "domain_id": ROOT, "parent_id": None, "is_domain": True, **more}  # fmt: skip


def _project(id_: str, name: str, domain_id: str, **more: Any) -> dict[str, Any]:
    return {"id": id_, "name": name, "extra": "{}", "description": "", "enabled": True,
            "domain_id": domain_id, "parent_id": domain_id, "is_domain": False, **more}  # fmt: skip


def _user(id_: str, domain_id: str, **more: Any) -> dict[str, Any]:
    return {"id": id_, "extra": "{}", "enabled": True, "default_project_id": None,
            "created_at": "2020-01-01 00:00:00", "last_active_at": None, "domain_id": domain_id,
            **more}  # fmt: skip


def _password(id_: int, user: int, hash_: str | None, made: int) -> dict[str, Any]:
    return {"id": id_, "local_user_id": user, "expires_at": None, "self_service": False,
            "password_hash": hash_, "created_at_int": made, "expires_at_int": None,
            "created_at": "2020-01-01 00:00:00"}  # fmt: skip


def _local(id_: int, user_id: str, domain_id: str, name: str) -> dict[str, Any]:
    return {"id": id_, "user_id": user_id, "domain_id": domain_id, "name": name,
            "failed_auth_count": 0, "failed_auth_at": None}  # fmt: skip


def _role(id_: str, name: str, domain_id: str = "<<null>>") -> dict[str, Any]:
    return {"id": id_, "name": name, "extra": "{}", "domain_id": domain_id, "description": None}


def _grant(kind: str, actor: str, target: str, role: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "actor_id": actor, "target_id": target, "role_id": role,
            "inherited": False, **more}  # fmt: skip


def _config(group: str, option: str, value: Any) -> dict[str, Any]:
    return {"domain_id": CORP, "group": group, "option": option, "value": json.dumps(value)}


ROWS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "project": [
        _domain(ROOT, ROOT, enabled=False),
        _domain(DEFAULT, "Default"),
        _domain(ACME, "Acme", description=NASTY),
        _domain(CORP, "Corp"),
        _project(P_ADMIN, "admin", DEFAULT),
        # A child before its parent, with what nobody gave a meaning.
        _project(P_SHOP, "shop", ACME, parent_id=P_WEB, enabled=False),
        _project(P_WEB, "web", ACME, extra=json.dumps({"cost_center": NASTY})),
        _project("e" * 32, "lost", "f" * 32),
    ],
    "project_tag": [{"project_id": P_WEB, "name": "blue, not red"}],
    "project_option": [{"project_id": P_WEB, "option_id": "IMMU", "option_value": "true"}],
    "role": [_role(R_ADMIN, "admin"), _role(R_MEMBER, "member"), _role(R_OWN, "own")],
    "role_option": [{"role_id": R_ADMIN, "option_id": "IMMU", "option_value": "true"}],
    "implied_role": [
        {"prior_role_id": R_ADMIN, "implied_role_id": R_MEMBER},
        {"prior_role_id": R_OWN, "implied_role_id": R_MEMBER},
        # Here, admin implies member: a circle would come of it.
        {"prior_role_id": R_MEMBER, "implied_role_id": R_OWN},
    ],
    "user": [
        _user(ADMIN, DEFAULT),
        _user(ANN, ACME, default_project_id=P_WEB, extra=json.dumps(
            {"email": "ann@acme.example", "description": NASTY, "room": 7})),
        _user(BOB, ACME, enabled=False),
        _user(FED, ACME),
        _user(LDAP, CORP),
        _user("d" * 32, ACME),
    ],
    "user_option": [
        {"user_id": ANN, "option_id": "1002", "option_value": "true"},
        {"user_id": ANN, "option_id": "MFAR", "option_value": '[["password", "totp"]]'},
        {"user_id": ANN, "option_id": "MFAE", "option_value": "false"},
    ],
    "local_user": [
        _local(1, ADMIN, DEFAULT, "admin"),
        _local(2, ANN, ACME, "ann"),
        _local(3, BOB, ACME, "bob o'hara"),
    ],
    "password": [
        _password(1, 1, BCRYPT, 1_600_000_000_000_000),
        _password(2, 2, "$2b$04$" + "x" * 53, 1_500_000_000_000_000),
        _password(3, 2, BCRYPT, 1_600_000_000_000_000),
        _password(4, 3, "$9$of a kind that nobody knows", 1_600_000_000_000_000),
    ],
    "nonlocal_user": [{"domain_id": CORP, "name": "lee", "user_id": LDAP}],
    "federated_user": [
        {"id": 1, "user_id": FED, "idp_id": "sso", "protocol_id": "openid",
         "unique_id": "fay%40acme", "display_name": "fay"},
    ],
    "group": [{"id": G_OPS, "domain_id": ACME, "name": "ops", "description": "o", "extra": "{}"}],
    "user_group_membership": [
        {"user_id": ANN, "group_id": G_OPS}, {"user_id": "f" * 32, "group_id": G_OPS},
    ],
    "assignment": [
        _grant("UserProject", ADMIN, P_ADMIN, R_ADMIN),
        _grant("UserProject", ANN, P_WEB, R_OWN),
        _grant("GroupProject", G_OPS, P_SHOP, R_MEMBER),
        _grant("GroupDomain", G_OPS, ACME, R_MEMBER, inherited=True),
        _grant("UserDomain", BOB, ACME, R_ADMIN),
        _grant("UserProject", LDAP, P_WEB, R_MEMBER),
        _grant("UserProject", "f" * 32, P_WEB, R_MEMBER),
    ],
    "system_assignment": [_grant("UserSystem", ANN, "system", R_ADMIN)],
    "id_mapping": [
        {"public_id": LDAP, "domain_id": CORP, "local_id": "lee", "entity_type": "user"},
        {"public_id": "0" * 64, "domain_id": CORP, "local_id": "mia", "entity_type": "user"},
    ],
    "whitelisted_config": [
        _config("identity", "driver", "ldap"), _config("ldap", "url", "ldap://127.0.0.1:1"),
        _config("ldap", "group_ad_nesting", True),
    ],
    "sensitive_config": [_config("ldap", "password", "hush")],
    "credential": [{"id": "x", "encrypted_blob": NASTY}],
    "revocation_event": [{"id": 1, "issued_before": "2020-01-01 00:00:00"}],
}  # fmt: skip
