"""What the gateway does with a frame that one life of a rank has sent, however it came."""

import msgspec

from app.logs import get_logger
from app.ranks.hosts.host import OnMessage
from engines.contract.protocol import decode_from_rank
from engines.failures import kind

logger = get_logger("ranks")


class Reception:
    """Hands over the messages of one connection, called `name` in logs. What is said to another life of the gateway
    concerns nobody here."""

    def __init__(self, name: str, epoch: int, on_message: OnMessage) -> None:
        self._name = name
        self._epoch = epoch
        self._on_message = on_message

    def take(self, frame: bytes) -> str | None:
        """Why nothing more can be taken from this connection; None when all is well."""
        try:
            message = decode_from_rank(frame)
        except msgspec.DecodeError as error:
            return f"it sent what is no message of this protocol: {error}"
        if message.epoch != self._epoch:
            return None
        try:
            self._on_message(message)
        except Exception as error:
            # The edge. A connection that fell silent without a word would leave the rank's items waiting for ever.
            logger.exception("message_failed", channel=self._name, message=type(message).__name__)
            return f"the gateway failed on its message: {kind(error, with_message=False)}"
        return None
