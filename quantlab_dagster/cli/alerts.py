"""`quantlab alerts test`: does what is to tell people of trouble reach them? It starts without Dagster."""

import typer

from quantlab_dagster.errors import NotifyFailed, SettingsError

__all__ = ["alerts_app"]

alerts_app = typer.Typer(
    help="Who is told when something is wrong.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@alerts_app.callback()
def _alerts() -> None:
    """Who is told when something is wrong."""


@alerts_app.command("test")
def test_command() -> None:
    """Send a test message as alerts are sent, and say what came back. Exit code 1 if it did not arrive."""
    from quantlab_dagster.access import notifier_of
    from quantlab_dagster.alerts.news import Kind, Message, News
    from quantlab_dagster.settings import load_settings
    from quantlab_dagster.work.clock import utc_now

    settings = load_settings()
    notifier = notifier_of(settings)
    if notifier is None:
        raise SettingsError(
            "QUANTLAB_ALERT_URL, QUANTLAB_ALERT_COMMAND", "are not set: nobody is told", "Set one; see docs/alerts.md"
        )
    text = "somebody typed `quantlab alerts test`; nothing is wrong"
    message = Message((News(Kind.TEST, "of alerts", text, utc_now()),))
    try:
        answer = notifier.tell(message)
    except NotifyFailed as error:
        remedy = "Nobody was told; see QUANTLAB_ALERT_URL, QUANTLAB_ALERT_TEMPLATE and QUANTLAB_ALERT_COMMAND"
        raise NotifyFailed(error.where, error.cause, remedy) from None
    typer.echo(f"{answer}. It got: {message.text}")
