"""``python -m lrkit`` is ``lrkit``."""

from lrkit.cli import main

main()
