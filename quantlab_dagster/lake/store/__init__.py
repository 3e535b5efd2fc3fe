"""One narrow interface to an object store: a bucket prefix on S3, or a local directory.

`base` says what callers see, `s3` and `local` are the two kinds, `opening` chooses between them by URL, and `objects`
holds the plain values that go in and out. The engine is obstore. What it has no words for, uploads that become visible
later and deletes on condition, is in `multipart` for S3 and in `local`.

Nothing is imported here, so that who needs the plain values only loads no engine.
"""
