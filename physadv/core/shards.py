"""A share of a run's batches, for several processes or machines that divide one run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from physadv.core.errors import OptionError

_FORM = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Shard:
    """One of ``count`` equal shares of a run's batches.

    Whole batches are divided, not samples, so that each is computed exactly as in one process.

    Attributes:
        number: Number of the share, from 1.
        count: Number of shares.

    Example:
        >>> [batch for batch in range(7) if Shard(2, 3).holds(batch)]
        [1, 4]
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the share that ``text`` names, "2/8" for the second of eight.

        Raises:
            OptionError: It is not written so, or there is no such share.

        Example:
            >>> Shard.parse("2/8")
            Shard(number=2, count=8)
        """
        found = _FORM.fullmatch(text.strip())
        number, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= number <= count:
            raise OptionError(
                f"shard {text!r}",
                "it is NUMBER/COUNT, counted from 1: 1/8 to 8/8",
                "Write --shard 2/8 for the second of eight",
            )
        return cls(number, count)

    @property
    def is_whole(self) -> bool:
        """Whether the share is the whole run."""
        return self.count == 1

    def holds(self, batch: int) -> bool:
        """Return whether ``batch``, numbered from 0, belongs to this share."""
        return batch % self.count == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


WHOLE = Shard()
"""All batches."""
