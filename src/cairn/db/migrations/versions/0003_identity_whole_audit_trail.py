"""Identity, whole, and the audit trail."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_events",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("service", sa.String(length=32), nullable=False),
        sa.Column("target_type", sa.String(length=96), nullable=False),
        sa.Column("target_id", sa.String(length=64), nullable=True),
        sa.Column("target_name", sa.String(length=255), nullable=True),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=True),
        sa.Column("domain_id", sa.String(length=64), nullable=True),
        sa.Column("user_id", sa.String(length=64), nullable=True),
        sa.Column("user_domain_id", sa.String(length=64), nullable=True),
        sa.Column("scope", sa.String(length=80), nullable=True),
        sa.Column("roles", sa.String(length=255), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("agent", sa.String(length=255), nullable=False),
        sa.Column("token_id", sa.String(length=64), nullable=True),
        sa.Column("delegation", sa.String(length=128), nullable=True),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(length=255), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_events")),
    )
    with op.batch_alter_table("audit_events", schema=None) as batch_op:
        batch_op.create_index("ix_audit_events_domain", ["domain_id", "id"], unique=False)
        batch_op.create_index("ix_audit_events_project", ["project_id", "id"], unique=False)
        batch_op.create_index("ix_audit_events_request", ["request_id"], unique=False)
        batch_op.create_index("ix_audit_events_target", ["target_id", "id"], unique=False)
        batch_op.create_index("ix_audit_events_user", ["user_id", "id"], unique=False)

    op.create_table(
        "identity_access_rules",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("service", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=225), nullable=False),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_access_rules")),
        sa.UniqueConstraint(
            "user_id",
            "service",
            "path",
            "method",
            name=op.f("uq_identity_access_rules_user_id_service_path_method"),
        ),
    )
    op.create_table(
        "identity_application_credentials",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("role_ids", sa.Text(), nullable=False),
        sa.Column("rule_ids", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("unrestricted", sa.Boolean(), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_application_credentials")),
        sa.UniqueConstraint(
            "user_id", "name", name=op.f("uq_identity_application_credentials_user_id_name")
        ),
    )
    with op.batch_alter_table("identity_application_credentials", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_identity_application_credentials_project_id"),
            ["project_id"],
            unique=False,
        )

    op.create_table(
        "identity_credentials",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=True),
        sa.Column("type", sa.String(length=255), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("key_number", sa.Integer(), nullable=False),
        sa.Column("used_step", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("extra", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_credentials")),
    )
    with op.batch_alter_table("identity_credentials", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_identity_credentials_key_number"), ["key_number"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_identity_credentials_project_id"), ["project_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_identity_credentials_user_id"), ["user_id"], unique=False
        )

    op.create_table(
        "identity_directory_entries",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("domain_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("local_id", sa.String(length=255), nullable=False),
        sa.Column("gone_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_directory_entries")),
    )
    with op.batch_alter_table("identity_directory_entries", schema=None) as batch_op:
        batch_op.create_index(
            "ix_identity_directory_entries_domain", ["domain_id", "kind", "id"], unique=False
        )

    op.create_table(
        "identity_domain_options",
        sa.Column("domain_id", sa.String(length=64), nullable=False),
        sa.Column("group_name", sa.String(length=64), nullable=False),
        sa.Column("option_name", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint(
            "domain_id", "group_name", "option_name", name=op.f("pk_identity_domain_options")
        ),
    )
    op.create_table(
        "identity_endpoint_groups",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("filters", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_endpoint_groups")),
    )
    op.create_table(
        "identity_endpoints",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("interface", sa.String(length=8), nullable=False),
        sa.Column("region_id", sa.String(length=255), nullable=True),
        sa.Column("url", sa.Text(), nullable=True),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("extra", sa.Text(), nullable=False),
        sa.Column("is_own", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_endpoints")),
    )
    op.create_table(
        "identity_failures",
        sa.Column("subject", sa.String(length=80), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subject", name=op.f("pk_identity_failures")),
    )
    op.create_table(
        "identity_federated_users",
        sa.Column("provider_id", sa.String(length=64), nullable=False),
        sa.Column("protocol_id", sa.String(length=64), nullable=False),
        sa.Column("unique_id", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint(
            "provider_id", "protocol_id", "unique_id", name=op.f("pk_identity_federated_users")
        ),
    )
    with op.batch_alter_table("identity_federated_users", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_identity_federated_users_user_id"), ["user_id"], unique=False
        )

    op.create_table(
        "identity_inherited_assignments",
        sa.Column("scope_kind", sa.String(length=8), nullable=False),
        sa.Column("scope_id", sa.String(length=64), nullable=False),
        sa.Column("actor_kind", sa.String(length=8), nullable=False),
        sa.Column("actor_id", sa.String(length=64), nullable=False),
        sa.Column("role_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint(
            "scope_kind",
            "scope_id",
            "actor_kind",
            "actor_id",
            "role_id",
            name=op.f("pk_identity_inherited_assignments"),
        ),
    )
    with op.batch_alter_table("identity_inherited_assignments", schema=None) as batch_op:
        batch_op.create_index(
            "ix_identity_inherited_assignments_actor", ["actor_id", "actor_kind"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_identity_inherited_assignments_role_id"), ["role_id"], unique=False
        )

    op.create_table(
        "identity_lasting_groups",
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("group_id", sa.String(length=64), nullable=False),
        sa.Column("provider_id", sa.String(length=64), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "group_id", name=op.f("pk_identity_lasting_groups")),
    )
    with op.batch_alter_table("identity_lasting_groups", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_identity_lasting_groups_ends_at"), ["ends_at"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_identity_lasting_groups_group_id"), ["group_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_identity_lasting_groups_provider_id"), ["provider_id"], unique=False
        )

    op.create_table(
        "identity_limits",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("registered_limit_id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=True),
        sa.Column("domain_id", sa.String(length=64), nullable=True),
        sa.Column("resource_limit", sa.BigInteger(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_limits")),
    )
    with op.batch_alter_table("identity_limits", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_identity_limits_domain_id"), ["domain_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_identity_limits_project_id"), ["project_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_identity_limits_registered_limit_id"),
            ["registered_limit_id"],
            unique=False,
        )

    op.create_table(
        "identity_mappings",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("rules", sa.Text(), nullable=False),
        sa.Column("schema_version", sa.String(length=8), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_mappings")),
    )
    op.create_table(
        "identity_oauth_access_tokens",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("consumer_id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("role_ids", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_oauth_access_tokens")),
    )
    with op.batch_alter_table("identity_oauth_access_tokens", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_identity_oauth_access_tokens_consumer_id"), ["consumer_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_identity_oauth_access_tokens_expires_at"), ["expires_at"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_identity_oauth_access_tokens_project_id"), ["project_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_identity_oauth_access_tokens_user_id"), ["user_id"], unique=False
        )

    op.create_table(
        "identity_oauth_consumers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("extra", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_oauth_consumers")),
    )
    op.create_table(
        "identity_oauth_nonces",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_identity_oauth_nonces")),
    )
    with op.batch_alter_table("identity_oauth_nonces", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_identity_oauth_nonces_used_at"), ["used_at"], unique=False
        )

    op.create_table(
        "identity_oauth_request_tokens",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("consumer_id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=True),
        sa.Column("role_ids", sa.Text(), nullable=False),
        sa.Column("verifier", sa.String(length=16), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_oauth_request_tokens")),
    )
    with op.batch_alter_table("identity_oauth_request_tokens", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_identity_oauth_request_tokens_consumer_id"),
            ["consumer_id"],
            unique=False,
        )
        batch_op.create_index(
            batch_op.f("ix_identity_oauth_request_tokens_expires_at"), ["expires_at"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_identity_oauth_request_tokens_project_id"), ["project_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_identity_oauth_request_tokens_user_id"), ["user_id"], unique=False
        )

    op.create_table(
        "identity_oidc_clients",
        sa.Column("provider_id", sa.String(length=64), nullable=False),
        sa.Column("protocol_id", sa.String(length=64), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("client_id", sa.Text(), nullable=False),
        sa.Column("discovery_url", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("audiences", sa.Text(), nullable=False),
        sa.Column("ca_certificates", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint(
            "provider_id", "protocol_id", name=op.f("pk_identity_oidc_clients")
        ),
    )
    op.create_table(
        "identity_passwords",
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "number", name=op.f("pk_identity_passwords")),
    )
    op.create_table(
        "identity_policies",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("type", sa.String(length=255), nullable=False),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("extra", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_policies")),
    )
    op.create_table(
        "identity_policy_places",
        sa.Column("endpoint_id", sa.String(length=64), nullable=False),
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("region_id", sa.String(length=255), nullable=False),
        sa.Column("policy_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint(
            "endpoint_id", "service_id", "region_id", name=op.f("pk_identity_policy_places")
        ),
    )
    with op.batch_alter_table("identity_policy_places", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_identity_policy_places_policy_id"), ["policy_id"], unique=False
        )

    op.create_table(
        "identity_project_endpoint_groups",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("endpoint_group_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint(
            "project_id", "endpoint_group_id", name=op.f("pk_identity_project_endpoint_groups")
        ),
    )
    with op.batch_alter_table("identity_project_endpoint_groups", schema=None) as batch_op:
        batch_op.create_index(
            "ix_identity_project_endpoint_groups_group", ["endpoint_group_id"], unique=False
        )

    op.create_table(
        "identity_project_endpoints",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("endpoint_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint(
            "project_id", "endpoint_id", name=op.f("pk_identity_project_endpoints")
        ),
    )
    with op.batch_alter_table("identity_project_endpoints", schema=None) as batch_op:
        batch_op.create_index(
            "ix_identity_project_endpoints_endpoint", ["endpoint_id"], unique=False
        )

    op.create_table(
        "identity_provider_protocols",
        sa.Column("provider_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("mapping_id", sa.String(length=64), nullable=False),
        sa.Column("remote_id_attribute", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("provider_id", "id", name=op.f("pk_identity_provider_protocols")),
    )
    with op.batch_alter_table("identity_provider_protocols", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_identity_provider_protocols_mapping_id"), ["mapping_id"], unique=False
        )

    op.create_table(
        "identity_provider_remote_ids",
        sa.Column("remote_id", sa.String(length=255), nullable=False),
        sa.Column("provider_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("remote_id", name=op.f("pk_identity_provider_remote_ids")),
    )
    with op.batch_alter_table("identity_provider_remote_ids", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_identity_provider_remote_ids_provider_id"), ["provider_id"], unique=False
        )

    op.create_table(
        "identity_providers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("domain_id", sa.String(length=64), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("remote_ids", sa.Text(), nullable=False),
        sa.Column("authorization_ttl", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_providers")),
    )
    with op.batch_alter_table("identity_providers", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_identity_providers_domain_id"), ["domain_id"], unique=False
        )

    op.create_table(
        "identity_regions",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("parent_region_id", sa.String(length=255), nullable=True),
        sa.Column("extra", sa.Text(), nullable=False),
        sa.Column("is_own", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_regions")),
    )
    op.create_table(
        "identity_registered_limits",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("service_id", sa.String(length=64), nullable=False),
        sa.Column("region_id", sa.String(length=255), nullable=True),
        sa.Column("resource_name", sa.String(length=255), nullable=False),
        sa.Column("default_limit", sa.BigInteger(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_registered_limits")),
    )
    with op.batch_alter_table("identity_registered_limits", schema=None) as batch_op:
        batch_op.create_index(
            "ix_identity_registered_limits_service", ["service_id", "resource_name"], unique=False
        )

    op.create_table(
        "identity_service_providers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("auth_url", sa.String(length=256), nullable=False),
        sa.Column("sp_url", sa.String(length=256), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("relay_state_prefix", sa.String(length=256), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_service_providers")),
    )
    op.create_table(
        "identity_services",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("type", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("extra", sa.Text(), nullable=False),
        sa.Column("is_own", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_services")),
    )
    op.create_table(
        "identity_trusts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("trustor_user_id", sa.String(length=64), nullable=False),
        sa.Column("trustee_user_id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=True),
        sa.Column("impersonation", sa.Boolean(), nullable=False),
        sa.Column("role_ids", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("remaining_uses", sa.Integer(), nullable=True),
        sa.Column("redelegated_trust_id", sa.String(length=64), nullable=True),
        sa.Column("redelegation_count", sa.Integer(), nullable=False),
        sa.Column("extra", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_trusts")),
    )
    with op.batch_alter_table("identity_trusts", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_identity_trusts_project_id"), ["project_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_identity_trusts_redelegated_trust_id"),
            ["redelegated_trust_id"],
            unique=False,
        )
        batch_op.create_index(
            batch_op.f("ix_identity_trusts_trustee_user_id"), ["trustee_user_id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_identity_trusts_trustor_user_id"), ["trustor_user_id"], unique=False
        )

    op.create_table(
        "identity_used_states",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_identity_used_states")),
    )
    with op.batch_alter_table("identity_used_states", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_identity_used_states_ends_at"), ["ends_at"], unique=False
        )

    with op.batch_alter_table("identity_revocations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("role_id", sa.String(length=64), nullable=True))

    with op.batch_alter_table("identity_users", schema=None) as batch_op:
        batch_op.add_column(sa.Column("password_made_at", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("password_expires_at", sa.BigInteger(), nullable=True))
        batch_op.add_column(
            sa.Column("password_is_own", sa.Boolean(), server_default=sa.false(), nullable=False)
        )
        batch_op.add_column(sa.Column("active_at", sa.BigInteger(), nullable=True))

    with op.batch_alter_table("quota_limits", schema=None) as batch_op:
        batch_op.add_column(sa.Column("description", sa.Text(), nullable=True))
