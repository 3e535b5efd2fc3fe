"""`python -m quantlab_dagster.cli`."""

from quantlab_dagster.cli.app import main

main()
