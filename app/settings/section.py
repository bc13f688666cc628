"""What all sections of the settings are made of."""

from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "PHALANX_"


def setting(default: Any, description: str, *flags: str, **bounds: Any) -> Any:  # Any: as pydantic's Field
    """A setting, with the spellings of its flag besides the one that its name gives."""
    return Field(default, description=description, json_schema_extra={"flags": list(flags)}, **bounds)


class Section(BaseSettings):
    """What all sections have in common."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=True)
