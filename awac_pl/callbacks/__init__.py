"""Callbacks: acting, writing the run folder, progress, videos."""
