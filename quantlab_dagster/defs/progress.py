"""Progress: one line per symbol-day in the run's log, and whatever else listens in this process."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from quantlab_dagster.market.outcome import Listener, Outcome, Status, line
from quantlab_dagster.warehouse.outcome import HourListener, HourOutcome, HourStatus, hour_line
from quantlab_dagster.work.wording import format_bytes

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence
    from logging import Logger

    from quantlab_dagster.lake.market import Pair, SymbolDay
    from quantlab_dagster.lake.warehouse import AppHour
    from quantlab_dagster.market.plan import Plan

__all__ = ["HourListeners", "HourLogListener", "Listeners", "LogListener", "extra_hour_listener", "extra_listener"]

extra_listener: ContextVar[Listener | None] = ContextVar("extra_listener", default=None)
"""A listener of the process that executes a run itself: the command line's progress bar."""

extra_hour_listener: ContextVar[HourListener | None] = ContextVar("extra_hour_listener", default=None)
"""The same for the hours of the event lake."""

_LOG_EVERY_PARTS = 1000


class LogListener:
    """Writes progress to a logger."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._logged: dict[SymbolDay, int] = {}

    def planned(self, pair: Pair, day: dt.date, symbols: int) -> None:
        """Say how much there is to look at."""
        self._logger.info(f"{pair} on {day:%Y-%m-%d}: {symbols:,} symbols to look at")  # noqa: G004

    def building(self, plan: Plan) -> None:
        """Say what is going to be read, and why."""
        size = format_bytes(plan.bytes_in)
        self._logger.info(f"{plan.symbol_day}: reading {len(plan.parts):,} parts, {size} ({plan.reason})")  # noqa: G004

    def fetched(self, symbol_day: SymbolDay, parts: int, of_parts: int) -> None:
        """Say now and then how far a long download is."""
        if parts < of_parts and parts - self._logged.get(symbol_day, 0) >= _LOG_EVERY_PARTS:
            self._logged[symbol_day] = parts
            self._logger.info(f"{symbol_day}: {parts:,} of {of_parts:,} parts fetched")  # noqa: G004

    def finished(self, outcome: Outcome) -> None:
        """The one line per symbol-day."""
        if outcome.status in (Status.FAILED, Status.QUARANTINE):
            self._logger.error(line(outcome))
        elif outcome.status is not Status.NO_FILES:
            self._logger.info(line(outcome))


class Listeners:
    """Tells several listeners."""

    def __init__(self, *listeners: Listener | None) -> None:
        self._listeners = [listener for listener in listeners if listener is not None]

    def planned(self, pair: Pair, day: dt.date, symbols: int) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.planned(pair, day, symbols)

    def building(self, plan: Plan) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.building(plan)

    def fetched(self, symbol_day: SymbolDay, parts: int, of_parts: int) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.fetched(symbol_day, parts, of_parts)

    def finished(self, outcome: Outcome) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.finished(outcome)


class HourLogListener:
    """Writes the progress over hours to a logger."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def found(self, partitions: Sequence[AppHour]) -> None:
        """Say how much there is to do."""
        self._logger.info(f"{len(partitions):,} hours need work")  # noqa: G004

    def finished(self, outcome: HourOutcome) -> None:
        """The one line per hour."""
        if outcome.status is HourStatus.FAILED or outcome.corrupt:
            self._logger.error(hour_line(outcome))
        elif outcome.withheld:
            self._logger.warning(hour_line(outcome))
        else:
            self._logger.info(hour_line(outcome))


class HourListeners:
    """Tells several listeners."""

    def __init__(self, *listeners: HourListener | None) -> None:
        self._listeners = [listener for listener in listeners if listener is not None]

    def found(self, partitions: Sequence[AppHour]) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.found(partitions)

    def finished(self, outcome: HourOutcome) -> None:
        """Pass on."""
        for listener in self._listeners:
            listener.finished(outcome)
