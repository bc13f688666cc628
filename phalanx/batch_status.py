"""The statuses of a detached batch, for the client and for the command line."""

from typing import Literal

BatchStatus = Literal["queued", "in_progress", "held", "cancelling", "completed", "cancelled", "expired", "failed"]
ENDS = ("completed", "cancelled", "expired", "failed")
