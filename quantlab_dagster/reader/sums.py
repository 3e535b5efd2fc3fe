"""The SHA-256 of what is read."""

from __future__ import annotations

import hashlib
from typing import IO

__all__ = ["sha256_of"]

_PIECE_BYTES = 4 << 20


def sha256_of(file: IO[bytes]) -> str:
    """Of a file from where it stands, hexadecimal, in bounded memory."""
    sha256 = hashlib.sha256()
    while piece := file.read(_PIECE_BYTES):
        sha256.update(piece)
    return sha256.hexdigest()
