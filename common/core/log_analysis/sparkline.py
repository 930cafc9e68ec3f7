"""A course of numbers in one line of text, and the bounded series behind it."""

from __future__ import annotations

from typing import Final

SAMPLES_MAX: Final = 512
_BARS: Final = "▁▂▃▄▅▆▇█"


class ThinnedSeries:
    """Samples of a number over time. Neighbours are joined to their greater value when there are too many of them."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, float]] = []
        self.highest = 0.0
        self._step_us = 0

    def add(self, at_us: int, value: float) -> None:
        """A sample that is not older than the last one."""
        self.highest = max(self.highest, value)
        if self.samples and at_us - self.samples[-1][0] < self._step_us:
            last_us, last = self.samples[-1]
            self.samples[-1] = (last_us, max(last, value))
            return
        self.samples.append((at_us, value))
        if len(self.samples) > SAMPLES_MAX:
            pairs = zip(self.samples[::2], self.samples[1::2], strict=False)
            self.samples = [(first[0], max(first[1], second[1])) for first, second in pairs] + self.samples[-1:]
            self._step_us = max(2 * self._step_us, (self.samples[-1][0] - self.samples[0][0]) // SAMPLES_MAX)


def sparkline(samples: list[tuple[int, float]], from_us: int, until_us: int, width: int) -> str:
    """The highest value of each of `width` equal stretches of time as a bar; a blank where nothing was said."""
    if until_us <= from_us:
        until_us = from_us + 1
    cells: list[float | None] = [None] * width
    for at_us, value in samples:
        cell = min((at_us - from_us) * width // (until_us - from_us), width - 1)
        if cell >= 0:
            cells[cell] = max(cells[cell] or 0.0, value)
    top = max((value for value in cells if value is not None), default=0.0)
    return "".join(" " if value is None else _bar(value, top) for value in cells)


def _bar(value: float, top: float) -> str:
    """The lowest bar is 0 alone, so that a small lag does not look like none."""
    if value <= 0 or top <= 0:
        return _BARS[0]
    return _BARS[1 + min(int(value / top * (len(_BARS) - 1)), len(_BARS) - 2)]
