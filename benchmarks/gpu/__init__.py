"""Check that a GPU computes what the CPU computes, and measure how fast it is: `python -m benchmarks.gpu`."""
