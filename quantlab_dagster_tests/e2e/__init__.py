"""From end to end: the real `dagster dev`, a real browser, a real S3 server."""
