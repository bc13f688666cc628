"""What the served model does, as its ranks say, and how somebody is told that it does not do what was asked for."""

from engines.contract.exchanges import BATCH_GENERATE
from engines.contract.protocol import RankFacts


def endpoints_of(facts: RankFacts) -> list[str]:
    """The paths that a request for the model may have."""
    return [*([BATCH_GENERATE] if facts.generates else []), *facts.exchanges]


def refusal(model: str, path: str, facts: RankFacts | None) -> str | None:
    """Why the path is not to be had; None if it is, or while no rank has said what it does."""
    if facts is None or path in (offered := endpoints_of(facts)):
        return None
    kind = "generates text" if facts.generates else "is a pooling model, which generates nothing"
    return f"{model!r} {kind} and does not offer {path}: it offers {', '.join(offered)}"
