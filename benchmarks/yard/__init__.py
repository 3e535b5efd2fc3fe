"""The parts of the yardstick (`benchmarks/yardstick.py`)."""
