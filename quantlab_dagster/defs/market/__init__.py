"""The market-data lake in Dagster: its assets, the roll-up, the schedule and the sensor."""
