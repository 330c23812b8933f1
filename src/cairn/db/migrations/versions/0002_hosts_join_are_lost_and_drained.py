"""Hosts that join, are lost and drained; control planes of several processes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "aggregate_hosts",
        sa.Column("aggregate_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("node_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("aggregate_id", "node_id", name=op.f("pk_aggregate_hosts")),
    )
    with op.batch_alter_table("aggregate_hosts", schema=None) as batch_op:
        batch_op.create_index("ix_aggregate_hosts_node_id", ["node_id"], unique=False)

    op.create_table(
        "aggregates",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("uuid", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_aggregates")),
        sa.UniqueConstraint("name", name=op.f("uq_aggregates_name")),
        sa.UniqueConstraint("uuid", name=op.f("uq_aggregates_uuid")),
    )
    op.create_table(
        "control_processes",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("address", sa.String(length=255), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.String(length=64), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_control_processes")),
    )
    op.create_table(
        "drains",
        sa.Column("node_id", sa.String(length=64), nullable=False),
        sa.Column("began_at", sa.BigInteger(), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_drains")),
    )
    op.create_table(
        "fleet_holds",
        sa.Column("zone", sa.String(length=255), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("released_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("zone", name=op.f("pk_fleet_holds")),
    )
    op.create_table(
        "fleet_losses",
        sa.Column("node_id", sa.String(length=64), nullable=False),
        sa.Column("hold", sa.Text(), nullable=False),
        sa.Column("may_recover", sa.Boolean(), nullable=False),
        sa.Column("power_by", sa.String(length=64), nullable=True),
        sa.Column("power_number", sa.Integer(), nullable=False),
        sa.Column("door", sa.String(length=16), nullable=False),
        sa.Column("door_by", sa.String(length=64), nullable=True),
        sa.Column("door_number", sa.Integer(), nullable=False),
        sa.Column("trouble", sa.Text(), nullable=False),
        sa.Column("fenced_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_fleet_losses")),
    )
    with op.batch_alter_table("fleet_losses", schema=None) as batch_op:
        batch_op.create_index("ix_fleet_losses_door", ["door"], unique=False)

    op.create_table(
        "join_tokens",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("secret_digest", sa.String(length=64), nullable=False),
        sa.Column("zone", sa.String(length=255), nullable=False),
        sa.Column("rack", sa.String(length=255), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.Column("used_by", sa.String(length=64), nullable=True),
        sa.Column("used_hostname", sa.String(length=255), nullable=True),
        sa.Column("used_key_digest", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_join_tokens")),
        sa.UniqueConstraint("secret_digest", name=op.f("uq_join_tokens_secret_digest")),
    )
    with op.batch_alter_table("join_tokens", schema=None) as batch_op:
        batch_op.create_index("ix_join_tokens_made_at", ["made_at", "id"], unique=False)
        batch_op.create_index("ix_join_tokens_used_by", ["used_by"], unique=False)

    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "migrations",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("server_id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.String(length=64), nullable=False),
        sa.Column("cause", sa.String(length=8), nullable=False),
        sa.Column("way", sa.String(length=8), nullable=False),
        sa.Column("asks_confirmation", sa.Boolean(), nullable=False),
        sa.Column("was_running", sa.Boolean(), nullable=False),
        sa.Column("from_node", sa.String(length=64), nullable=False),
        sa.Column("to_node", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("incarnation", sa.Integer(), nullable=False),
        sa.Column("secret", sa.String(length=64), nullable=False),
        sa.Column("is_cancelled", sa.Boolean(), nullable=False),
        sa.Column("is_cleared", sa.Boolean(), nullable=False),
        sa.Column("prepare_number", sa.BigInteger(), nullable=False),
        sa.Column("stop_number", sa.BigInteger(), nullable=False),
        sa.Column("ask_number", sa.BigInteger(), nullable=False),
        sa.Column("memory_port", sa.Integer(), nullable=False),
        sa.Column("disks", sa.Text(), nullable=False),
        sa.Column("total_bytes", sa.BigInteger(), nullable=False),
        sa.Column("left_bytes", sa.BigInteger(), nullable=False),
        sa.Column("pause_ms", sa.Integer(), nullable=False),
        sa.Column("progress_at", sa.BigInteger(), nullable=False),
        sa.Column("confirmation", sa.String(length=16), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_migrations")),
        sa.UniqueConstraint("id", name=op.f("uq_migrations_id")),
    )
    with op.batch_alter_table("migrations", schema=None) as batch_op:
        batch_op.create_index("ix_migrations_created", ["created_at", "number"], unique=False)
        batch_op.create_index("ix_migrations_from", ["from_node", "created_at"], unique=False)
        batch_op.create_index("ix_migrations_server", ["server_id"], unique=False)
        batch_op.create_index("ix_migrations_state", ["state"], unique=False)
        batch_op.create_index("ix_migrations_to", ["to_node", "state"], unique=False)

    op.create_table(
        "removed_nodes",
        sa.Column("node_id", sa.String(length=64), nullable=False),
        sa.Column("hostname", sa.String(length=255), nullable=False),
        sa.Column("removed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_removed_nodes")),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_secrets")),
    )
    with op.batch_alter_table("nodes", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("rack", sa.String(length=255), server_default="", nullable=False)
        )
        batch_op.add_column(sa.Column("labels", sa.Text(), server_default="{}", nullable=False))
        batch_op.add_column(
            sa.Column("is_draining", sa.Boolean(), server_default=sa.false(), nullable=False)
        )
        batch_op.add_column(sa.Column("health", sa.Text(), server_default="[]", nullable=False))
        batch_op.add_column(sa.Column("control_id", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("report_digest", sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column("power", sa.Text(), nullable=True))
        batch_op.add_column(
            sa.Column("power_on", sa.Boolean(), server_default=sa.true(), nullable=False)
        )
        batch_op.add_column(
            sa.Column("power_number", sa.Integer(), server_default="0", nullable=False)
        )
        batch_op.add_column(
            sa.Column("agent_version", sa.String(length=64), server_default="", nullable=False)
        )
        batch_op.add_column(
            sa.Column("wire_version", sa.Integer(), server_default="0", nullable=False)
        )
        batch_op.add_column(
            sa.Column("key_digest", sa.String(length=64), server_default="", nullable=False)
        )
        batch_op.add_column(
            sa.Column("address", sa.String(length=255), server_default="", nullable=False)
        )
        batch_op.add_column(
            sa.Column("origin", sa.String(length=255), server_default="", nullable=False)
        )
        batch_op.add_column(
            sa.Column("set_by_hand", sa.Text(), server_default="[]", nullable=False)
        )
        batch_op.add_column(
            sa.Column("wanted_images", sa.Text(), server_default="[]", nullable=False)
        )
        batch_op.add_column(
            sa.Column("is_fencer", sa.Boolean(), server_default=sa.false(), nullable=False)
        )
        batch_op.create_index("ix_nodes_address", ["address"], unique=False)
        batch_op.create_index("ix_nodes_hostname", ["hostname", "id"], unique=False)
        batch_op.create_index("ix_nodes_key_digest", ["key_digest"], unique=False)
        batch_op.create_index("ix_nodes_state", ["state"], unique=False)

    with op.batch_alter_table("ports", schema=None) as batch_op:
        batch_op.add_column(sa.Column("hosts", sa.Text(), server_default="[]", nullable=False))

    with op.batch_alter_table("servers", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "restart_default", sa.String(length=8), server_default="false", nullable=False
            )
        )
        batch_op.add_column(
            sa.Column("mark_number", sa.Integer(), server_default="0", nullable=False)
        )
        batch_op.add_column(
            sa.Column("evicted_incarnation", sa.Integer(), server_default="0", nullable=False)
        )
        batch_op.add_column(sa.Column("pool_zone", sa.String(length=255), nullable=True))
        batch_op.add_column(sa.Column("migration_id", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("moving", sa.String(length=8), nullable=True))
        batch_op.create_index(
            "ix_servers_unplaced", ["state", "node_id", "created_at"], unique=False
        )
        batch_op.create_index(
            "ix_servers_usage", ["project_id", "vcpus", "memory_mib"], unique=False
        )

    with op.batch_alter_table("volumes", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("is_moving", sa.Boolean(), server_default=sa.false(), nullable=False)
        )
