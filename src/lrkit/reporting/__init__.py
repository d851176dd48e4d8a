"""Reporting: Runs, Suggestions, Diagnoses and Schedules → one self-contained HTML file, or text in a terminal. No torch."""
