"""What the command `quantlab` calls first: nothing is imported yet, so that it can be stopped, and read, from then on.

What is told to a pipe that nobody reads any more (`quantlab status | head -1`) ends the command as a signal would, with
nothing said; what is told beside the results, on standard error, is then left untold, and the work goes on.
"""

import codecs
import os
import sys
from io import TextIOWrapper
from typing import Any, NoReturn, TextIO

__all__ = ["main"]

_FOUND = 1
_STOPPED, _NOBODY_READS = 130, 141  # as shells count: 128 and the signal's number


_ESCAPED = "quantlab-escaped"


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an output has not: an arrow must not end a command. In JSON it means the same."""
    import json

    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


class _Told:
    """Standard output, or error, whose reader may go away, or whose disk may be full.

    Args:
        stream: the stream.
        ends: whether the command ends then.
    """

    def __init__(self, stream: TextIO, *, ends: bool) -> None:
        self._stream = stream
        self._ends = ends

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream does."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._gone(error)
            return len(text)

    def flush(self) -> None:
        """As the stream does."""
        try:
            self._stream.flush()
        except OSError as error:
            self._gone(error)

    def _gone(self, error: OSError) -> None:
        # What is still in the buffer goes nowhere, also when the interpreter empties it at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if not self._ends:
            return
        if isinstance(error, BrokenPipeError):
            raise SystemExit(_NOBODY_READS)
        sys.stderr.write(f"error: standard output: {error.strerror}. Not all of the results were written\n")
        raise SystemExit(_FOUND)


def _nowhere() -> TextIO:
    """In the place of an output that was closed when the process started: it gets the number that is free."""
    stream = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # it stays open
    os.set_inheritable(stream.fileno(), stream.fileno() in (1, 2))
    return stream


def main() -> NoReturn:
    """Run the command line."""
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    if isinstance(sys.stdout, TextIOWrapper):
        codecs.register_error(_ESCAPED, _escaped)
        sys.stdout.reconfigure(errors=_ESCAPED)
    sys.stdout = _Told(sys.stdout, ends=True)
    sys.stderr = _Told(sys.stderr, ends=False)
    try:
        from quantlab_dagster.cli.app import main as run

        try:
            run()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(_STOPPED)
