"""`quantlab live`: is what had data in the last days still flushed? It starts without Dagster, but for `--metrics`."""

from typing import TYPE_CHECKING, Annotated

import typer

from quantlab_dagster.cli.options import Exchanges, Json, Streams, leave, select_pairs

if TYPE_CHECKING:
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.market.live import LiveJudgement, LiveLook

__all__ = ["live"]

_SECONDS = 120.0


def live(
    exchange: Exchanges = None,
    stream: Streams = None,
    as_json: Json = False,
    metrics: Annotated[bool, typer.Option("--metrics", help="Write what was found to the metrics, too.")] = False,
) -> None:
    """How old the newest part of each symbol is that had data in the last days. Exit code 1 if one is silent."""
    from quantlab_dagster.access import open_market
    from quantlab_dagster.cli.documents import live_document
    from quantlab_dagster.cli.screen import Screen
    from quantlab_dagster.market.listening import listen
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.stopping import run_interruptible

    settings = load_settings()
    screen = Screen(as_json=as_json)
    pairs = select_pairs(settings, exchange, stream)
    place = open_market(settings)
    if not as_json:
        screen.note(f"raw lake {place.raw.url}, compact lake {place.compact.url}")
    judgement = run_interruptible(
        listen(place, pairs, usual_days=settings.usual_days, limits=settings.live_limits, seconds=_SECONDS)
    )
    _say(screen, judgement)
    if metrics:
        from quantlab_dagster.cli.runs.metrics import write_live

        write_live(settings, judgement)
    screen.document(live_document(judgement))
    leave(found=not judgement.fine)


def _say(screen: "Screen", judgement: "LiveJudgement") -> None:
    from quantlab_dagster.market.live import NONE_EXPECTED, NOTHING_KNOWN, Hearing

    rows = [
        (
            str(pair),
            str(len(judgement.of(pair))),
            str(len(judgement.having(Hearing.SILENT, pair))),
            str(len(judgement.having(Hearing.UNKNOWN, pair))),
            _age(judgement.newest(pair)),
        )
        for pair in judgement.pairs
        if judgement.of(pair)
    ]
    title = f"Live symbols at {judgement.now:%Y-%m-%d %H:%M:%S} UTC"
    if rows:
        screen.table(title, ("exchange/stream", "#symbols", "#silent", "#unknown", "#newest part"), rows)
    bad = judgement.having(Hearing.SILENT) + judgement.having(Hearing.UNKNOWN)
    if bad:
        screen.table(
            "Silent or unknown", ("symbol", "#newest part", "#usual", "why"), [_row(look, judgement) for look in bad]
        )
    if judgement.unheard:
        screen.say(f"FAIL {NOTHING_KNOWN}")
    elif not judgement.looks:
        screen.say(f"ok   {NONE_EXPECTED}")
    elif bad:
        screen.say(f"FAIL {len(bad)} of {len(judgement.looks)} symbols are silent or unknown")
    else:
        screen.say(f"ok   all {len(judgement.looks)} symbols are flushed")


def _row(look: "LiveLook", judgement: "LiveJudgement") -> tuple[str, str, str, str]:
    moment = f"{look.flushed:%m-%d %H:%M:%S}" if look.flushed else ""
    why = "all of its pair is silent" if look.of.pair in judgement.stopped else "silent"
    return look.of.name, moment, _age(look.of.limit), look.problem or why


def _age(age: object) -> str:
    return "" if age is None else str(age).partition(".")[0]
