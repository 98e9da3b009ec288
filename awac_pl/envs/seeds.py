"""Ranges of episode seeds. They do not overlap, so that no policy is evaluated on its training episodes.

| seeds from | for |
|---|---|
| 0 | training episodes: run seed S has those from S x ``EPISODES_PER_SEED`` on |
| ``CLONING_SEEDS`` | episodes of a cloned policy, stored as a dataset |
| ``RECORDING_SEEDS`` | episodes of a checkpoint's policy, stored as a dataset |
| ``EVALUATION_SEEDS`` | evaluations, always the same seeds |
"""

#: Run seeds are below 1,000 (``RunSeed`` of ``settings``).
EPISODES_PER_SEED = 1_000_000
CLONING_SEEDS = 1_000_000_000
RECORDING_SEEDS = 2_000_000_000
EVALUATION_SEEDS = 3_000_000_000
