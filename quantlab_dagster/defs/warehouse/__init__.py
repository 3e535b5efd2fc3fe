"""The event lake in Dagster: its asset, the job behind the schedule, and what they record."""
