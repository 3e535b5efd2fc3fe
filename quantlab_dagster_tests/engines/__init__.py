"""Which engines read what is published, exactly, and what each must set: docs/engines.md."""
