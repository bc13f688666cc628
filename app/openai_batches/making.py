"""How the items of a batch's run are made, by its endpoint."""

from app.batches.detached.starting import Making
from app.journal.records import StoredBatch
from app.openai_batches.lines import Lines, endpoint_of
from app.openai_batches.prompt_lines import PromptLines
from app.ranks.fleet import Fleet
from app.settings.declaration import Settings
from engines.contract.exchanges import BATCH_GENERATE, Exchange


def making_of(stored: StoredBatch, settings: Settings, fleet: Fleet) -> Making:
    """Of lines that are exchanges, or prompts."""
    endpoint = endpoint_of(stored)
    if endpoint == BATCH_GENERATE:
        return PromptLines(stored, settings, fleet)
    return Lines(stored, Exchange(endpoint), settings, fleet)
