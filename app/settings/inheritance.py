"""What the gateway's children get of its environment: what is theirs, and no more."""

from collections.abc import Mapping

from app.settings.section import PREFIX
from app.settings.service_links import service_links


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """Without our own variables: what a child needs of the settings it is told otherwise, and some are secrets, which
    are no business of a model's code. Without what Kubernetes set under a name that a child takes for a setting.
    """
    ignored = service_links(environ)
    return {name: value for name, value in environ.items() if not name.startswith(PREFIX) and name not in ignored}
