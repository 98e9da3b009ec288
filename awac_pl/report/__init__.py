"""Run folders as figures, tables and a page."""
