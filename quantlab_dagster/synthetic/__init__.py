"""Made-up data of both lakes, for the demo, the tests and the benchmarks."""
