"""What of a Keystone's database is taken over, and what is not: tables and their columns.

The command that reads a dump and the API that takes it agree on this: a line of what is sent is a JSON array
of the table's name and its columns' values in this order, texts or null. The shape is that of Keystone's
migrations from Yoga on; columns that a dump lacks are null.
"""

from collections.abc import Mapping

TABLES: Mapping[str, tuple[str, ...]] = {
    "project": (
        "id", "name", "extra", "description", "enabled", "domain_id", "parent_id", "is_domain",
    ),
    "project_tag": ("project_id", "name"),
    "project_option": ("project_id", "option_id", "option_value"),
    "role": ("id", "name", "extra", "domain_id", "description"),
    "role_option": ("role_id", "option_id", "option_value"),
    "implied_role": ("prior_role_id", "implied_role_id"),
    "user": ("id", "extra", "enabled", "default_project_id", "domain_id", "last_active_at"),
    "user_option": ("user_id", "option_id", "option_value"),
    "local_user": ("id", "user_id", "name"),
    "password": (
        "id", "local_user_id", "password_hash", "self_service", "created_at_int", "expires_at_int",
    ),
    "nonlocal_user": ("user_id", "name"),
    "federated_user": ("user_id", "idp_id", "protocol_id", "unique_id", "display_name"),
    "group": ("id", "domain_id", "name", "description", "extra"),
    "user_group_membership": ("user_id", "group_id"),
    "assignment": ("type", "actor_id", "target_id", "role_id", "inherited"),
    "system_assignment": ("type", "actor_id", "target_id", "role_id", "inherited"),
    "id_mapping": ("public_id", "domain_id", "local_id", "entity_type"),
    "whitelisted_config": ("domain_id", "group", "option", "value"),
    "sensitive_config": ("domain_id", "group", "option", "value"),
}  # fmt: skip

LEFT_OUT: Mapping[str, str] = {
    "credential": "sealed with that Keystone's credential keys, which are not in its database",
    "application_credential": "make new ones: their users' programs have to be told the new cloud anyway",
    "trust": "they end with the services that hold them",
    "access_token": "they end with the consumers that hold them",
    "consumer": "make new ones with `openstack consumer create`",
    "service": "this cloud's catalog shows what this cloud serves",
    "endpoint": "this cloud's catalog shows what this cloud serves",
    "region": "this cloud's catalog shows what this cloud serves",
    "endpoint_group": "this cloud's catalog shows what this cloud serves",
    "identity_provider": "make it with `openstack identity provider create` under the same id",
    "mapping": "make it with `openstack mapping create`",
    "federation_protocol": "make it with `openstack federation protocol create`",
    "registered_limit": "this cloud counts its own resources",
    "limit": "this cloud counts its own resources",
    "policy": "nothing reads it",
}
"""Tables that are counted and not taken, with the reason."""

ROOT_DOMAIN = "<<keystone.domain.root>>"
NO_DOMAIN = ("<<null>>", "<<keystone.domain.root>>")
USER_OPTIONS: Mapping[str, str] = {
    "1000": "ignore_change_password_upon_first_use",
    "1001": "ignore_password_expiry",
    "1002": "ignore_lockout_failure_attempts",
    "1003": "lock_password",
    "1004": "ignore_user_inactivity",
    "MFAR": "multi_factor_auth_rules",
    "MFAE": "multi_factor_auth_enabled",
}
IMMUTABLE = "IMMU"
ROWS_MAX = 5_000_000
LINE_BYTES_MAX = 1 << 20
