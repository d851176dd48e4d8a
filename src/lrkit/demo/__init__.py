"""The demo: the whole promise on real data, in one command."""
