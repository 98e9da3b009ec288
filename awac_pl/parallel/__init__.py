"""What runs beside this process: training ranks, and worker processes."""
