"""Axes of a static figure: from data to pixels, and where ticks stand."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp_hooks.views.drawing.elements import plain

AIR = 0.055  # of the range, around points
ACROSS, DOWN = 78, 42  # pixels from tick to tick, about


class Undrawable(Exception):
    """A figure has something that is not drawn here; the message says what."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What a trace takes of an axis: its values, the room around them, and whether it begins at 0."""

    values: Sequence[Any]
    around: float = 0.0  # in data, on both sides
    air: bool = False  # a share of the range, around all
    from_zero: bool = False


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis: `kind`, the categories if it has some, its ends in data (or in powers of ten), and its two pixels."""

    kind: str
    categories: Sequence[Any]
    ends: tuple[float, float]
    pixels: tuple[float, float]
    settings: Mapping[str, Any]

    def place(self, value: Any) -> float | None:
        """The pixel of a value, None if it has no place."""
        if value is None:
            return None
        if self.kind == "category" and value in self.categories:
            value = self.categories.index(value)
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                return None
        if self.kind == "log":
            value = math.log10(value) if value > 0 else math.nan
        return self.at(float(value))

    def at(self, value: float) -> float | None:
        """The pixel of a number of the axis' own kind: the number of a category, a power of ten."""
        low, high = self.ends
        if not math.isfinite(value):
            return None
        return self.pixels[0] + (value - low) / (high - low) * (self.pixels[1] - self.pixels[0])

    def share(self, value: float) -> float:
        """The pixel of a share of the axis, from 0 to 1."""
        return self.pixels[0] + value * (self.pixels[1] - self.pixels[0])

    @property
    def length(self) -> float:
        """How many pixels long it is."""
        return abs(self.pixels[1] - self.pixels[0])

    def ticks(self) -> list[tuple[float, str]]:
        """Where ticks stand, in pixels, and what is written there."""
        low, high = sorted(self.ends)
        told = [(value, text) for value, text in self._told() if low - 1e-9 <= value <= high + 1e-9]
        return [(place, text) for value, text in told if (place := self.at(value)) is not None]

    def _told(self) -> Sequence[tuple[float, str]]:
        settings = self.settings
        if settings.get("tickvals") is not None:
            texts = settings.get("ticktext")
            places = [self._own(value) for value in settings["tickvals"]]
            texts = [self._number(value) for value in settings["tickvals"]] if texts is None else texts
            return list(zip(places, map(str, texts), strict=False))
        if self.kind == "category":
            every = max(1, math.ceil(len(self.categories) * 14 / max(self.length, 1)))
            return [(place, str(self.categories[place])) for place in range(0, len(self.categories), every)]
        if self.kind == "log":
            return [(math.log10(value), self._number(value)) for value in _decades(*sorted(self.ends))]
        return [(value, self._number(value)) for value in self._steps()]

    def _own(self, value: Any) -> float:
        if self.kind == "category" and value in self.categories:
            return float(self.categories.index(value))
        return math.log10(value) if self.kind == "log" else float(value)

    def _steps(self) -> list[float]:
        low, high = sorted(self.ends)
        apart = DOWN if self.settings.get("vertical") else ACROSS
        most = min(self.settings.get("nticks") or 99, max(2, self.length / apart))
        step = self.settings.get("dtick") or nice((high - low) / most)
        first = math.ceil(low / step - 1e-9)
        return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]

    def _number(self, value: Any) -> str:
        form = self.settings.get("tickformat")
        if isinstance(value, str):
            return value
        text = f"{value:.6g}"
        if form:
            try:
                text = format(value, form)
            except ValueError as error:
                raise Undrawable(f"the number format {form!r}") from error
        prefix, suffix = (self.settings.get(name) or "" for name in ("tickprefix", "ticksuffix"))
        return f"{prefix}{text.replace('-', '−', 1)}{suffix}"


def made(settings: Mapping[str, Any], extents: Sequence[Extent], pixels: tuple[float, float], *, strict: bool) -> Axis:
    """An axis for what traces take of it. With `strict`, texts that are numbers are texts all the same.

    Raises:
        Undrawable: an axis of dates, or one of several levels.
    """
    kind, categories = _kind(settings, extents, strict)
    numbers = _numbers_of(kind, categories)
    given = settings.get("range")
    if given is not None and None not in given:
        low, high = (float(end) for end in given)
        ends = (low, high)
    else:
        ends = _around(kind, extents, numbers, settings)
    return Axis(kind=kind, categories=categories, ends=ends, pixels=pixels, settings=settings)


def _kind(settings: Mapping[str, Any], extents: Sequence[Extent], strict: bool) -> tuple[str, list[Any]]:
    values = [value for extent in extents for value in extent.values if value is not None]
    kind = settings.get("type") or "-"
    if kind in ("date", "multicategory") or any(isinstance(one, datetime.date | list | tuple) for one in values):
        raise Undrawable("an axis of dates or of several levels")
    if kind == "-":
        texts = [one for one in values if isinstance(one, str)]
        kind = "category" if texts and (strict or not all(map(_is_number, texts))) else "linear"
    if kind != "category":
        return kind, []
    order = list(settings.get("categoryarray") or [])
    return kind, list(dict.fromkeys([*order, *values]))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers_of(kind: str, categories: Sequence[Any]) -> Callable[[Any], float]:
    places = {value: float(place) for place, value in enumerate(categories)}
    if kind == "category":
        return lambda value: places.get(value, math.nan)
    if kind == "log":
        return lambda value: math.log10(value) if value > 0 else math.nan
    return float


def _around(
    kind: str, extents: Sequence[Extent], number: Callable[[Any], float], settings: Mapping[str, Any]
) -> tuple[float, float]:
    ends, air = [], False
    for extent in extents:
        found = [number(value) for value in extent.values if value is not None]
        found = [value for value in found if math.isfinite(value)]
        around = 0.5 if kind == "category" else extent.around
        if found:
            ends += [min(found) - around, max(found) + around] + [0.0] * (extent.from_zero and kind == "linear")
            air = air or (extent.air and kind != "category")
    if settings.get("rangemode") in ("tozero", "nonnegative"):
        ends.append(0.0)
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    more = AIR * (high - low) if air else 0.0
    stands_on_zero = kind == "linear" and any(extent.from_zero for extent in extents)
    low, high = low - more * (low != 0.0 or not stands_on_zero), high + more * (high != 0.0 or not stands_on_zero)
    return (high, low) if settings.get("autorange") == "reversed" else (low, high)


def nice(step: float) -> float:
    """The next of 1, 2, 5, 10, ... and their like."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * one for one in (1, 2, 5, 10) if power * one >= step * (1 - 1e-9))


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten between two, with their double and fivefold where there are few of them."""
    among = (1,) if high - low > 3 else (1, 2, 5)
    values = [one * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for one in among]
    if high - low > 8:
        values = values[:: math.ceil((high - low) / 8)]
    return values


def widest(texts: Sequence[str]) -> str:
    """The longest of some texts, as they are written."""
    return max(map(plain, texts), key=len, default="")
