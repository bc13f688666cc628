"""Settings of what `phalanx tune` has found out: whether it is used, and where it is kept."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from app.settings.field_types import home
from app.settings.section import Section, setting


class TuningSettings(Section):
    """Tuning: what `phalanx tune` has found to be the fastest for this model on this machine"""

    tuned: bool = setting(True, "Take what was found as defaults; your own settings win.")
    tuned_dir: Annotated[Path | None, BeforeValidator(home)] = setting(
        None, "Folder of what was found. Default: ~/.local/share/phalanx/tuned."
    )
