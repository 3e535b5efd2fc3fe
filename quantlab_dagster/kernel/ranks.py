"""The stable order of many integers: several times faster than a general sort that carries a row number along."""

from __future__ import annotations

import numpy as np
import polars as pl

__all__ = ["stable_order"]

_WORD_BITS = 64


def stable_order(keys: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    """The indices that sort keys, equal ones in the order in which they are.

    Key and index share one word where they fit into it, as times of a day nearly always do: words are all different, so
    that an unstable sort of one column does.

    Args:
        keys: fewer than 2^32 of them.
    """
    if not len(keys):
        return np.empty(0, dtype=np.uint32)
    low, index_bits = int(keys.min()), (len(keys) - 1).bit_length()
    if (int(keys.max()) - low).bit_length() + index_bits > _WORD_BITS:
        return pl.DataFrame({"key": keys}).with_row_index("row").sort("key", maintain_order=True)["row"].to_numpy()
    words = keys.view(np.uint64) - np.uint64(low % (1 << _WORD_BITS))  # modulo 2^64: no difference overflows
    words <<= np.uint64(index_bits)
    words |= np.arange(len(keys), dtype=np.uint64)
    # In this thread: the others decode and encode meanwhile.
    ranked = pl.Series(words).sort(multithreaded=False).to_numpy()
    return (ranked & np.uint64((1 << index_bits) - 1)).astype(np.uint32)
