"""Loading Dagster without looking for garbage in what will stay."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["modules_loaded"]


@contextmanager
def modules_loaded() -> Iterator[None]:
    """Within, modules are loaded: a quarter of a million objects of Dagster's that live as long as the process.

    Nobody looks for garbage among them meanwhile, nor afterwards.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
