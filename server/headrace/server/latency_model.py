"""What a batch of so many rows costs, learned as batches run: a line, and what was seen per size.

    latency(rows) = a + b · rows

The line is a least-squares fit that forgets; around it, sizes that were seen have their own typical
time and spread, since real models are no lines. An outlier moves either only a little. `predict`
is the typical time, `upper` what a deadline should be kept with, `useful_rows` from where on larger
batches gain too little. Values in seconds; nothing here reads a clock.
"""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

FORGET = 0.98  # weight of the past at each observation
STEP = 0.15  # how far a size's typical time moves towards a new one
CLIP = 4.0  # spreads beyond which an observation counts as an outlier
SEEN = 3  # observations from which a size speaks for itself
FLOOR_S = 20e-6  # what a clock and a loop add to any time
GAIN = 0.95  # of the best throughput is good enough: smaller batches answer earlier …
GAIN_BEHIND = 0.98  # … but not where requests pile up
MAX_CLASSES = 16


@dataclass(slots=True)
class Size:
    """Batches of about one size. spread_s: typical distance of an observation from typical_s."""

    rows: float
    typical_s: float
    spread_s: float
    count: int = 1


class LatencyModel:
    """latency(rows) of one model, or of one class of shapes of it."""

    def __init__(self) -> None:
        self.count = 0
        self.largest = 0  # rows of a batch that was seen to run
        self._sizes: dict[int, Size] = {}
        self._weight = self._rows = self._squares = self._times = self._products = 0.0
        self._base_s = 0.0
        self._per_row_s = 0.0
        self._useful: dict[tuple[int, float], int] = {}  # until something is learned

    @property
    def base_s(self) -> float:
        """a: what a batch costs however small it is."""
        return self._base_s

    @property
    def per_row_s(self) -> float:
        """b: what a row adds."""
        return self._per_row_s

    def observe(self, rows: int, seconds: float) -> None:
        """A batch of rows took seconds."""
        self.count += 1
        self.largest = max(self.largest, rows)
        seconds = self._note_size(rows, max(seconds, 1e-9))
        if self.count & 15 == 0 or self.count < 64:
            self._useful.clear()
        weight = 1.0 / (self._base_s + self._per_row_s * rows + FLOOR_S)  # errors are relative
        self._weight = self._weight * FORGET + weight
        self._rows = self._rows * FORGET + weight * rows
        self._squares = self._squares * FORGET + weight * rows * rows
        self._times = self._times * FORGET + weight * seconds
        self._products = self._products * FORGET + weight * rows * seconds
        self._fit()

    def predict(self, rows: int) -> float:
        """Typical seconds; 0 before the first observation."""
        size = self._sizes.get(_bucket(rows))
        if size is not None and size.count >= SEEN:
            return size.typical_s * self._ratio(rows, size.rows)
        return self._base_s + self._per_row_s * rows

    def upper(self, rows: int) -> float:
        """Seconds that are seldom passed: the typical time and a margin for its spread."""
        typical_s = self.predict(rows)
        size = self._sizes.get(_bucket(rows))
        if size is not None and size.count >= SEEN:
            return typical_s + 2.5 * size.spread_s + FLOOR_S
        return 1.15 * typical_s + FLOOR_S

    def rows_within(self, seconds: float, limit: int) -> int:
        """The most rows, of at most limit, whose `upper` fits seconds; 0: not even one."""
        if self.upper(limit) <= seconds:
            return limit
        low, high = 0, limit  # low fits, high does not
        while high - low > 1:
            middle = (low + high) // 2
            if self.upper(middle) <= seconds:
                low = middle
            else:
                high = middle
        return low

    def useful_rows(self, limit: int, gain: float = GAIN) -> int:
        """The fewest rows of a batch with nearly the best throughput that limit rows allow.

        gain: the share of the best that is enough.
        """
        if not self.count:
            return limit
        found = self._useful.get((limit, gain))
        if found is None:
            sizes = [limit]
            while sizes[-1] > 1:
                sizes.append(sizes[-1] // 2)
            costs = [self.predict(rows) / rows for rows in sizes]
            enough = min(costs) / gain
            found = min(rows for rows, cost in zip(sizes, costs, strict=True) if cost <= enough)
            self._useful[limit, gain] = found
        return found

    def to_json(self) -> dict[str, Any]:
        """What it believes, for people; milliseconds."""
        return {
            "observations": self.count,
            "base_ms": round(self._base_s * 1e3, 4),
            "per_row_ms": round(self._per_row_s * 1e3, 4),
            "sizes": [
                {
                    "rows": round(size.rows, 1),
                    "count": size.count,
                    "typical_ms": round(size.typical_s * 1e3, 4),
                    "spread_ms": round(size.spread_s * 1e3, 4),
                }
                for _, size in sorted(self._sizes.items())
            ],
        }

    def _ratio(self, rows: int, of_rows: float) -> float:
        """A bucket holds several sizes: how much its typical time has to be stretched for rows."""
        of_s = self._base_s + self._per_row_s * of_rows
        return (self._base_s + self._per_row_s * rows) / of_s if of_s > 0 else 1.0

    def _note_size(self, rows: int, seconds: float) -> float:
        """seconds without what makes it an outlier among its size."""
        bucket = _bucket(rows)
        size = self._sizes.get(bucket)
        if size is None:
            self._sizes[bucket] = Size(float(rows), seconds, 0.1 * seconds)
            return seconds
        size.count += 1
        step = max(STEP, 1.0 / size.count)
        error = seconds - size.typical_s
        bound = CLIP * size.spread_s + 0.02 * size.typical_s
        clipped = min(bound, max(-bound, error))
        size.rows += step * (rows - size.rows)
        size.typical_s += step * clipped
        size.spread_s += step * (min(abs(error), 2 * bound) - size.spread_s)
        return size.typical_s + (1 - step) * clipped

    def _fit(self) -> None:
        mean_rows, mean_s = self._rows / self._weight, self._times / self._weight
        spread = self._squares / self._weight - mean_rows * mean_rows
        if spread < 1e-3 * mean_rows * mean_rows:
            if not self._per_row_s:  # one size seen so far: half of it is taken to be the rows'
                self._per_row_s = 0.5 * mean_s / mean_rows
            self._per_row_s = min(self._per_row_s, mean_s / mean_rows)
        else:
            slope = (self._products / self._weight - mean_rows * mean_s) / spread
            self._per_row_s = min(max(0.0, slope), mean_s / mean_rows)
        self._base_s = max(0.0, mean_s - self._per_row_s * mean_rows)


def _bucket(rows: int) -> int:
    """Rows up to 8 each for themselves, then four sizes per doubling."""
    if rows <= 8:
        return rows
    doubling = rows.bit_length() - 4  # 8..15: 0
    return 8 + 4 * doubling + ((rows >> (doubling + 1)) & 3)


class LatencyModels:
    """A latency model per class of shapes; beyond MAX_CLASSES the oldest in use is forgotten."""

    def __init__(self) -> None:
        self._models: OrderedDict[Hashable, LatencyModel] = OrderedDict()

    def of(self, shapes: Hashable) -> LatencyModel:
        """The model of a class of shapes, made when it is first asked for."""
        model = self._models.get(shapes)
        if model is None:
            if len(self._models) >= MAX_CLASSES:
                self._models.popitem(last=False)
            model = self._models[shapes] = LatencyModel()
        else:
            self._models.move_to_end(shapes)
        return model

    def known(self, shapes: Hashable) -> LatencyModel | None:
        """The model of a class of shapes if there is one; asking does not keep it."""
        return self._models.get(shapes)

    def items(self) -> list[tuple[Hashable, LatencyModel]]:
        return list(self._models.items())
