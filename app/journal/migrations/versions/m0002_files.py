"""Files of /v1/files, which have a quota of their own; and OpenAI's batches, whose results are the lines of files."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

STATUSES = ("validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled")
WHOLE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Makes their tables."""
    _files()
    _openai_batches()


def _files() -> None:
    op.add_column("holdings", sa.Column("files", WHOLE, nullable=False, server_default="0"))
    op.create_table(
        "files",
        sa.Column("ordinal", WHOLE, primary_key=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        *(sa.Column(f"{what}_at", sa.Double) for what in ("expires", "removed")),
        sa.Column("is_whole", sa.Boolean, nullable=False),
        sa.Column("purpose", sa.Text),
        sa.Column("filename", sa.Text),
        sa.Column("piece_bytes", WHOLE, nullable=False),
        sa.Column("size", WHOLE, nullable=False),
        sa.Column("batch", WHOLE),
        sa.Column("holds", sa.Text),
        sa.Column("lines", WHOLE, nullable=False),
        sa.PrimaryKeyConstraint("ordinal", name="files_pkey"),
        sa.UniqueConstraint("id", name="files_unique_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("files_by_tenant_id", "files", ["tenant", "id"])
    for column in ("batch", "expires_at", "removed_at"):
        op.create_index(f"files_by_{column}", "files", [column])
    op.create_table(
        "file_marks",
        *(sa.Column(name, WHOLE, nullable=False) for name in ("file", "start", "line", "seq")),
        sa.PrimaryKeyConstraint("file", "start", name="file_marks_pkey"),
    )
    op.create_table(
        "file_pieces",
        sa.Column("file", WHOLE, nullable=False),
        sa.Column("piece", WHOLE, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("file", "piece", name="file_pieces_pkey"),
    )


def _openai_batches() -> None:
    op.add_column("batches", sa.Column("kind", sa.Text, nullable=False, server_default="batch_generation"))
    op.create_table(
        "openai_batches",
        sa.Column("ordinal", WHOLE, primary_key=True),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("id", "tenant")),
        sa.Column("key_id", sa.Text),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("endpoint", "input_file_id", "completion_window")),
        sa.Column("metadata", sa.LargeBinary),
        sa.Column("output_kept_s", WHOLE),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("run", WHOLE),
        *(sa.Column(f"{which}_file_id", sa.Text) for which in ("output", "error")),
        sa.Column("errors", sa.LargeBinary),
        *(sa.Column(f"{what}_at", sa.Double, nullable=False) for what in ("created", "expires")),
        *(sa.Column(f"{status}_at", sa.Double) for status in (*STATUSES[1:], "ended")),
        sa.PrimaryKeyConstraint("ordinal", name="openai_batches_pkey"),
        sa.UniqueConstraint("id", name="openai_batches_unique_id"),
        sa.CheckConstraint(f"status IN ({', '.join(map(repr, STATUSES))})", name="openai_batches_status_known"),
        sqlite_autoincrement=True,
    )
    op.create_index("openai_batches_by_tenant_id", "openai_batches", ["tenant", "id"])
    for column in ("run", "ended_at"):
        op.create_index(f"openai_batches_by_{column}", "openai_batches", [column])
