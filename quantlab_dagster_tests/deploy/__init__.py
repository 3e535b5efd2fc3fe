"""What is shipped in deploy/ beside the units: each file against the program that reads it, and against the code."""
