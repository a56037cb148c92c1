"""Early stop: a pure function of the history, so that a resumed run stops where the first would have.

Source: Prechelt, 1998, "Early stopping - but when?", criterion UP: stop after `patience` checks in a row
without improvement.
*Differs:* compares with the best check so far, not with the one before.
"""

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyStop:
    """Stop once `metric` has not been better than its best for `patience` rows."""

    metric: str  # a column of the history, such as "eval/accuracy"
    patience: int  # rows without improvement, >= 1
    better: str  # "higher" or "lower": which way the metric improves
    min_change: float = 0.0  # an improvement is more than this, in the metric's unit, >= 0

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(
                f"patience must be at least 1, got {self.patience!r}; 1 stops at the first setback."
            )
        if self.better not in ("higher", "lower"):
            raise ValueError(
                f"better must be 'higher' or 'lower', got {self.better!r}; an accuracy is 'higher'."
            )
        if not self.min_change >= 0:
            raise ValueError(
                f"min_change must be at least 0, got {self.min_change!r}; 0 counts any improvement."
            )

    def stops(self, history: Sequence[Mapping[str, float]]) -> bool:
        """True where the last `patience` rows brought nothing better. NaN is never better.

        Raises:
          ValueError: a row lacks the metric; the message names those that it has.
        """
        sign = 1 if self.better == "higher" else -1
        best, since = -float("inf"), 0
        for row in history:
            if self.metric not in row:
                raise ValueError(
                    f"metric must be one of {', '.join(sorted(row))}, got {self.metric!r}; choose one."
                )
            value = sign * row[self.metric]
            best, since = (value, 0) if value > best + self.min_change else (best, since + 1)
        return since >= self.patience
