"""Settings of what is kept on disk until it is read."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from app.settings.field_types import Size, home
from app.settings.section import Section, setting


class SpoolSettings(Section):
    """Spool: NDJSON bodies and unread results, on disk for as long as their requests"""

    spool_dir: Annotated[Path | None, BeforeValidator(home)] = setting(
        None, "Folder for their files, which have no names. Default: /var/tmp, or else the temporary folder."
    )
    max_spool_bytes: Size = setting(
        "16GiB", "Bytes of them all together; beyond it NDJSON bodies wait. Each may have 20M items."
    )
