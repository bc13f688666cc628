"""The journal's settings: where it is, how long batches stay in it, and how much it takes."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from app.journal.records import Allowance, Quotas
from app.settings.field_types import Count, Seconds, Size, home
from app.settings.section import Section, setting


class JournalSettings(Section):
    """Journal: what is kept of batches, and files"""

    data_dir: Annotated[Path | None, BeforeValidator(home)] = setting(
        None, "Folder for the journal, a SQLite database. Default: ~/.local/share/phalanx/PORT."
    )
    journal_url: Annotated[str | None, Field(repr=False)] = setting(
        None, "A PostgreSQL database for the journal instead, such as postgresql://user@host:5432/phalanx."
    )
    retention: Seconds = setting(
        "30d",
        "How long a batch is kept after its end, with its prompts and results, and its input file after the upload.",
    )
    max_stored_batches: Count = setting(1_000_000, "Batches in the journal; beyond it no more are taken.")
    max_stored_items: Count = setting(50_000_000, "Items in the journal; beyond it no more are taken.")
    max_stored_files: Count = setting(1_000_000, "Files in the journal; beyond it no more are taken.")
    max_stored_bytes: Size = setting(
        "100GiB", "Bytes of items, results and files in the journal; beyond it no more are taken."
    )
    max_tenant_batches: Count | None = setting(
        None, "Batches of one tenant in the journal. Default: no limit of its own."
    )
    max_tenant_items: Count | None = setting(None, "Items of one tenant in the journal. Default: no limit of its own.")
    max_tenant_files: Count | None = setting(None, "Files of one tenant in the journal. Default: no limit of its own.")
    max_tenant_bytes: Size | None = setting(None, "Bytes of one tenant in the journal. Default: no limit of its own.")
    max_batch_lines: Count = setting(20_000_000, "Lines of the input file of one batch of /v1/batches.")
    max_file_bytes: Size = setting("512MiB", "Bytes of one file of /v1/files; as much as OpenAI takes.")

    @property
    def quotas(self) -> Quotas:
        """What may be stored."""
        return Quotas(
            total=Allowance(
                batches=self.max_stored_batches,
                items=self.max_stored_items,
                bytes=int(self.max_stored_bytes),
                files=self.max_stored_files,
            ),
            tenant=Allowance(
                batches=self.max_tenant_batches,
                items=self.max_tenant_items,
                files=self.max_tenant_files,
                bytes=None if self.max_tenant_bytes is None else int(self.max_tenant_bytes),
            ),
        )
