"""`python -m quantlab_dagster.cli`."""

from quantlab_dagster.cli.entry import main

main()
