"""Finder: which rate? Live training or Task → Suggestion, and everything as it was before."""
