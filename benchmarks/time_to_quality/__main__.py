"""Run `benchmarks.time_to_quality.compare`."""

from .compare import main

if __name__ == "__main__":
    main()
