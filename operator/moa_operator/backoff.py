"""How long to wait before trying again."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with jitter, so that those who failed together do not come back together.

    Attributes:
        base: Seconds after the first failure.
        cap: Seconds at most.
    """

    base: float
    cap: float

    def delay(self, failures: int) -> float:
        """Returns seconds to wait: doubled with every failure, of which half to all ("equal jitter").

        Args:
            failures: How many there were in a row, 1 at least.
        """
        # The exponent is bounded: 2.0**1024 does not exist, and a thousand failures in a row do.
        longest = min(self.cap, self.base * 2.0 ** min(failures - 1, 64))
        return random.uniform(longest / 2, longest)  # noqa: S311 - no secret depends on it
