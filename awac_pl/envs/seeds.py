"""Who owns which episode seeds. No two purposes share one, so that nothing is evaluated on what it was trained on.

| seeds from | of |
|---|---|
| 0 | training episodes: run seed S owns those from S x ``EPISODES_PER_SEED`` on |
| ``CLONING_SEEDS`` | episodes of a cloned policy, stored as a dataset |
| ``RECORDING_SEEDS`` | episodes of a checkpoint's policy, stored as a dataset |
| ``EVALUATION_SEEDS`` | evaluations, always the same ones |
"""

#: Run seeds lie below.
RUN_SEEDS = 1000
EPISODES_PER_SEED = 1_000_000
CLONING_SEEDS = 1_000_000_000
RECORDING_SEEDS = 2_000_000_000
EVALUATION_SEEDS = 3_000_000_000
