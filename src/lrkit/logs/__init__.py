"""Logs: a training log on disk → Run. One reader a format, `sniff` picks; no torch."""
