"""Forms of the operators that published implementations use: baselines of benchmarks, written from the papers."""
