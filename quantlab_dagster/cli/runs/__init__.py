"""Running Dagster's own jobs in this process. Only these modules of the command line import Dagster."""
