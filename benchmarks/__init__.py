"""Measurements of speed and memory: ``python -m benchmarks``."""

import awac_pl  # noqa: F401 - before torch: it says how torch's threads wait
