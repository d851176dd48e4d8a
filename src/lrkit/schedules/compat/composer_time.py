"""Composer (mosaicml 0.32.1)'s clock: its texts of time as numbers of batches; conventions as in `compat.composer`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lrkit.errors import LARGEST, InputError, real, whole
from lrkit.schedules.base import Schedule
from lrkit.schedules.parts import Hold, Join, Segment

_TIME = re.compile(r"\s*(.+?)\s*(ba|ep|dur)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Clock:
    """A run's length, by which its times become batches.

    Args:
        call: The constructor, for messages.
        max_duration: Length of the run in ``ba`` or ``ep``, before `ssr`.
        steps_per_epoch: Batches of an epoch; needed where a time is in epochs.
        ssr: Scale schedule ratio, above 0.

    Raises:
        InputError: If the length is no such text, or leaves no batch.
    """

    call: str
    max_duration: str
    steps_per_epoch: int | None = None
    ssr: float = 1.0

    def __post_init__(self) -> None:
        real(self.call, "ssr", self.ssr, above=0.0)
        if self.steps_per_epoch is not None:
            whole(self.call, "steps_per_epoch", self.steps_per_epoch, what="a whole number of batches")
        if self.unit("max_duration", self.max_duration) == "dur" or self.total < 1:
            came = f"{self.call}(max_duration={self.max_duration!r}, ssr={self.ssr:g})"
            raise InputError(f"{came}: the run must have at least one batch. Give its length in ba or ep.")

    def _parse(self, name: str, time: str) -> tuple[float, str]:
        found = _TIME.fullmatch(time) if isinstance(time, str) else None
        try:
            number = float(found[1]) if found else math.nan
        except ValueError:
            number = math.nan
        if found is None or not 0 <= number <= LARGEST:
            known = "Count in batches, epochs or shares of the run, e.g. '30ba', '5ep', '0.9dur'."
            raise InputError(f"{self.call}({name}={time!r}): {name} must be a number of at least 0 with its unit. {known}")
        unit = found[2].lower()
        if unit == "ep" and self.steps_per_epoch is None:
            raise InputError(f"{self.call}({name}={time!r}): the length of an epoch is not known. Give steps_per_epoch.")
        return number if unit == "dur" else int(number), unit

    def unit(self, name: str, time: str) -> str:
        """The unit of a time: ``"ba"``, ``"ep"`` or ``"dur"``."""
        return self._parse(name, time)[1]

    @property
    def total(self) -> int:
        """The run in batches: its length in its own unit, scaled and cut off there."""
        number, unit = self._parse("max_duration", self.max_duration)
        return int(int(number) * self.ssr) * (self.steps_per_epoch or 1 if unit == "ep" else 1)

    def batches(self, name: str, time: str, scale: bool = True, least: int = 0) -> int:
        """A time in batches, cut off; shares of the run are not scaled again.

        Raises:
            InputError: If it is no time, or fewer batches than `least`.
        """
        number, unit = self._parse(name, time)
        ssr = self.ssr if scale else 1.0
        whole_epochs = int(number) * (self.steps_per_epoch or 1) if unit == "ep" else int(number)
        out = self._share(number) if unit == "dur" else int(whole_epochs * ssr)
        if out < least:
            raise InputError(f"{self.call}({name}={time!r}): {name} must be at least {least} batch, it is {out}. Lengthen it.")
        return out

    def _share(self, share: float) -> int:
        """A share of the run, in the library's order of operations."""
        number, unit = self._parse("max_duration", self.max_duration)
        length = int(int(number) * self.ssr)
        return int(share * (self.steps_per_epoch or 1) * length) if unit == "ep" else int(share * length)

    def end(self, t_max: str) -> int:
        """A `t_max` in batches, which must not be before the end of the run.

        Raises:
            InputError: If it is.
        """
        end = self.batches("t_max", t_max)
        if end < self.total:
            came = f"{self.call}(t_max={t_max!r}, max_duration={self.max_duration!r})"
            raise InputError(f"{came}: t_max must not be before the end of the run. Raise it, or leave it out.")
        return end

    def rise(self, t_warmup: str, peak: float, scale_warmup: bool = False) -> Schedule | None:
        """The line from 0 to `peak`, for `t_warmup` unscaled, with a slope that is scaled or not; None where that is nothing."""
        length = self.batches("t_warmup", t_warmup, scale=False)
        slope = self.batches("t_warmup", t_warmup, scale=scale_warmup)
        if length == 0:
            return None
        if slope == 0:
            return Hold(peak, length)
        if slope < length:
            return Join(Segment(0.0, peak, slope), Hold(peak, length - slope))
        return Segment(0.0, peak, length) if slope == length else Segment(0.0, peak, slope).cut(0, length)
