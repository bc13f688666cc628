"""How good a batch's predictions were: kept when a quarter, half and three quarters are done, judged at its end."""

from collections.abc import Callable

import msgspec
from msgspec import UNSET, UnsetType

MARKS = {"quarter": 0.25, "half": 0.5, "three_quarters": 0.75}  # shares of the items that are done
LEAST_ITEMS = 100  # of a batch that is looked at: predicting takes a while, and small batches are many
LEAST_S = 5.0  # that it has run


class PredictionQuality(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Predicted / true time left, when so much of the batch was done; 1 is exact."""

    quarter: float | UnsetType = UNSET
    half: float | UnsetType = UNSET
    three_quarters: float | UnsetType = UNSET


class Hindsight:
    """Of one batch with so many items, which begins now."""

    def __init__(self, items: int, clock: Callable[[], float]) -> None:
        self._items = items
        self._clock = clock
        self._began = clock()
        self._due = list(MARKS)
        self._kept: dict[str, tuple[float, float]] = {}  # when, and what was predicted
        self._done = 0

    def one_more(self, predict: Callable[[], float | None]) -> None:
        """Another item is done. At a mark, keeps what `predict` says of the seconds left."""
        self._done += 1
        while self._due and self._done >= MARKS[self._due[0]] * self._items:
            mark = self._due.pop(0)
            now = self._clock()
            if self._items < LEAST_ITEMS or now - self._began < LEAST_S:
                continue
            predicted = predict()
            if predicted is not None:
                self._kept[mark] = now, predicted

    def quality(self) -> PredictionQuality | None:
        """To be asked when the last item is done. None where nothing was predicted."""
        now = self._clock()
        ratios = {mark: round(s / (now - at), 3) for mark, (at, s) in self._kept.items() if now > at}
        return PredictionQuality(**ratios) if ratios else None
