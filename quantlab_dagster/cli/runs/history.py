"""What became of earlier attempts, for commands that only look: read from Dagster's history, where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantlab_dagster.access import catch_up_rules
from quantlab_dagster.cli.runs.home import ensure_dagster_home
from quantlab_dagster.cli.runs.instance import open_instance
from quantlab_dagster.defs.history import busy_days, tries_of
from quantlab_dagster.market.judging import decide_all

if TYPE_CHECKING:
    import datetime as dt

    from quantlab_dagster.market.catchup import CatchUp
    from quantlab_dagster.market.state import State
    from quantlab_dagster.settings import Settings

__all__ = ["decide_by_history"]


def decide_by_history(settings: Settings, state: State, now: dt.datetime) -> CatchUp:
    """What catch-up decides of the due days, with what Dagster knows of earlier attempts.

    Raises:
        QuantlabError: Dagster's history cannot be used.
    """
    home = ensure_dagster_home(settings)
    with open_instance(home) as instance:
        rules = catch_up_rules(
            settings, settings.pairs, now, busy=busy_days(instance), tries=lambda task: tries_of(instance, task)
        )
        return decide_all(state, rules)
