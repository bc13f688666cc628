"""Where the requests of a batch may go: all that a rank's application answers for more than an instant's work, and
prompts as ``/v1/batch_generate`` takes them."""

from engines.contract.exchanges import BATCH_GENERATE, Exchange

ENDPOINTS = (*(str(path) for path in Exchange if not path.is_instant), BATCH_GENERATE)
