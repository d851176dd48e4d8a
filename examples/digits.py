"""The demo's task as a file for the command line: ``lrkit find examples/digits.py``, ``lrkit train examples/digits.py``."""

from lrkit.demo.digits import task

__all__ = ["task"]

if __name__ == "__main__":
    import lrkit

    lrkit.train(task(), lr=0.01, echo=print)
