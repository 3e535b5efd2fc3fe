"""A cold hour of the event lake: which files to merge, and replacing them in place. Knows nothing of Dagster."""
