"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

WHOLE = sa.BigInteger().with_variant(sa.Integer, "sqlite")
STATES = "'receiving', 'queued', 'in_progress', 'held', 'cancelling', 'completed', 'cancelled', 'expired', 'failed'"
COUNTED = (
    "ok_items",
    "error_items",
    "cancelled_items",
    "timeout_items",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
)


def upgrade() -> None:
    """Makes all tables."""
    _owner()
    _batches()
    _items()
    _results()
    _sums()


def _owner() -> None:
    op.create_table(
        "owner",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("epoch", WHOLE, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("probed_at", sa.Double),
        sa.PrimaryKeyConstraint("id", name="owner_pkey"),
        sa.CheckConstraint("id = 1", name="owner_one_row"),
    )


def _batches() -> None:
    op.create_table(
        "batches",
        sa.Column("ordinal", WHOLE, primary_key=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("key_id", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
        *(sa.Column(f"{what}_at", sa.Double) for what in ("started", "ended", "deadline", "expires", "removed")),
        sa.Column("priority", WHOLE, nullable=False),
        sa.Column("size", WHOLE, nullable=False, server_default="0"),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("answer_settings", sa.LargeBinary, nullable=False),
        sa.Column("options", sa.LargeBinary, nullable=False),
        sa.Column("metadata", sa.LargeBinary),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("body_digest", sa.LargeBinary),
        *(sa.Column(name, WHOLE, nullable=False, server_default="0") for name in COUNTED),
        sa.Column("restarts_without_result", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_seq", WHOLE, nullable=False, server_default="0"),
        sa.Column("stored_results", WHOLE, nullable=False, server_default="0"),
        sa.Column("stored_bytes", WHOLE, nullable=False, server_default="0"),
        sa.Column("stats", sa.LargeBinary),
        sa.PrimaryKeyConstraint("ordinal", name="batches_pkey"),
        sa.UniqueConstraint("id", name="batches_unique_id"),
        sa.UniqueConstraint("tenant", "idempotency_key", name="batches_unique_tenant_idempotency_key"),
        sa.CheckConstraint(f"state IN ({STATES})", name="batches_state_known"),
        sqlite_autoincrement=True,
    )
    op.create_index("batches_by_tenant_ordinal", "batches", ["tenant", "ordinal"])
    for column in ("state", "ended_at", "removed_at"):
        op.create_index(f"batches_by_{column}", "batches", [column])


def _items() -> None:
    op.create_table(
        "items",
        sa.Column("batch", WHOLE, nullable=False),
        sa.Column("idx", WHOLE, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("batch", "idx", name="items_pkey"),
    )
    op.create_table(
        "custom_ids",
        sa.Column("batch", WHOLE, nullable=False),
        sa.Column("custom_id", sa.LargeBinary, nullable=False),
        sa.Column("idx", WHOLE, nullable=False),
        sa.PrimaryKeyConstraint("batch", "custom_id", name="custom_ids_pkey"),
        sqlite_with_rowid=False,
    )


def _results() -> None:
    op.create_table(
        "results",
        sa.Column("batch", WHOLE, nullable=False),
        sa.Column("idx", WHOLE, nullable=False),
        sa.Column("seq", WHOLE, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("retryable", sa.Boolean, nullable=False),
        *(sa.Column(f"{kind}_tokens", WHOLE, nullable=False) for kind in ("prompt", "completion", "cached")),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("batch", "idx", name="results_pkey"),
        sa.UniqueConstraint("batch", "seq", name="results_unique_batch_seq"),
        sa.CheckConstraint("status IN ('ok', 'error', 'cancelled', 'timeout')", name="results_status_known"),
    )


def _sums() -> None:
    op.create_table(
        "usage",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("day", sa.Text, nullable=False),
        *(sa.Column(what, WHOLE, nullable=False) for what in ("requests", "items")),
        *(sa.Column(f"{kind}_tokens", WHOLE, nullable=False) for kind in ("prompt", "completion")),
        sa.PrimaryKeyConstraint("tenant", "day", name="usage_pkey"),
    )
    op.create_table(
        "holdings",
        sa.Column("tenant", sa.Text, nullable=False),
        *(sa.Column(what, WHOLE, nullable=False) for what in ("batches", "items", "bytes")),
        sa.PrimaryKeyConstraint("tenant", name="holdings_pkey"),
    )
