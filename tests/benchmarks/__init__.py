"""What docs/speed.md says about speed, CPU and memory is measured here, never asserted by a test.

`python -m tests.benchmarks` (`make bench`); `--only "embedded http" --rows 1000`, or `--only "training data"`, runs a
part while tuning.
"""
