"""What is about to be sent: all items of one rank in one message."""

from collections.abc import Callable

from app.dispatch.credit import RankCredit
from app.dispatch.item import Item
from engines.contract.protocol import Abort, Run

Send = Callable[[int, Run | Abort], None]  # to a rank's current incarnation


class Outbox:
    """Collects items by rank, and sends one message to each."""

    def __init__(self) -> None:
        self._parcels: dict[int, _Parcel] = {}

    def add(self, rank: RankCredit, item: Item) -> None:
        """The item goes to this rank."""
        if rank.rank not in self._parcels:
            self._parcels[rank.rank] = _Parcel(rank.incarnation)
        self._parcels[rank.rank].add(item)

    def send(self, send: Send) -> None:
        """Sends everything."""
        for rank, parcel in self._parcels.items():
            send(rank, parcel.message)


class _Parcel:
    """The items that one rank gets in one message. Equal parameters travel once."""

    def __init__(self, incarnation: int) -> None:
        self.message = Run(incarnation=incarnation, params=[], items=[])
        self._indices: dict[bytes, int] = {}  # of the parameters in the message

    def add(self, item: Item) -> None:
        index = self._indices.setdefault(item.params, len(self._indices))
        if index == len(self.message.params):
            self.message.params.append(item.params)
        self.message.items.append(item.message(index))
