"""Binding: schedules into the param groups of any torch optimizer, and nothing to lose on resume."""
