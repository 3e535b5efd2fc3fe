"""The command line, `quantlab`: one module for each group of commands, and what they share."""
