"""Many runs of ``awac fit`` on one machine or a cluster, through Ray Tune. Only ``awac sweep`` imports this folder."""
