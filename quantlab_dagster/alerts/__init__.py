"""Telling people: what is news, and how it is sent. Knows nothing of lakes, nor of Dagster."""
