"""The quality gate."""
