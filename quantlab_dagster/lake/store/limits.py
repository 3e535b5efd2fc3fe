"""Sizes and times that the engine, our own threads and our own repeats obey.

Read as `limits.NAME` when they are used, so that a test sets one in one place.
"""

from __future__ import annotations

LIST_PAGE = 1000
# Above this size a file goes up in parts; one atomic request or a completed multipart upload, never anything between.
MULTIPART_BYTES = 64 << 20
PART_BYTES = 16 << 20
UPLOADS_AT_ONCE = 4
STREAM_BYTES = 4 << 20
# How often something is sent that arrives damaged.
SENDINGS = 3
THREADS = 32
# Objects that one request deletes, and how many such requests, or single deletes, are under way at once. Servers delete
# one after the other; more requests at once gain nothing (500 objects on SeaweedFS: 1 request 314 ms, 2 190, 8 230).
BULK_DELETES = 250
BULKS_AT_ONCE = 4
DELETES_AT_ONCE = 32
# For everything that is repeated: by the engine where it does so itself, else by us.
FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 10.0
RETRY_SECONDS = 120.0
CONNECT_SECONDS = 5.0
# A body that goes on may take as long as it takes; one of which no byte comes for so long is asked for again.
READ_SECONDS = 30.0
TOTAL_SECONDS = 3600.0
