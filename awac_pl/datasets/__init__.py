"""Recorded episodes: find, read, import, judge, edit and make them."""
