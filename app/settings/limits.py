"""What one item's sampling parameters may cost, as the ranks are told it too."""

from app.settings.declaration import Settings
from engines.contract.limits import ParameterLimits


def parameter_limits(settings: Settings) -> ParameterLimits:
    """By the settings of the same names."""
    return ParameterLimits(**{name: getattr(settings, name) for name in ParameterLimits.__struct_fields__})
