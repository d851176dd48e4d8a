"""Gauges: watch any training loop; what is seen becomes a Run."""
