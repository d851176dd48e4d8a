"""The command line: one file a verb, each a few lines over a library call.

Exit codes: 0 all well, 1 the doctor found something (or the finder nothing), 2 the input cannot be used, 3 a bug of lrkit's. A
refusal is one sentence on stderr, never a traceback; LRKIT_TRACEBACK=1 shows the whole, for those who debug a FILE.py.
"""

import io
import os
import sys

import typer

from lrkit.cli import demo, doctor, find, report, schedule, train
from lrkit.errors import LrkitError

app = typer.Typer(
    help="The learning rate of PyTorch training: find it, shape it, adapt it, watch it, explain it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (demo, find, train, doctor, schedule, report):
    app.command(module.__name__.rpartition(".")[2])(module.command)


def main() -> None:
    """Run the command line; a refusal becomes one sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Braille shows ? instead
    try:
        app()
    except (LrkitError, OSError) as error:
        if os.environ.get("LRKIT_TRACEBACK"):
            raise
        sys.stderr.write(f"lrkit: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("lrkit: stopped\n")
        sys.exit(130)
    except Exception as error:
        if os.environ.get("LRKIT_TRACEBACK"):
            raise
        sys.stderr.write(f"lrkit: this is a bug in lrkit, not in your input: {type(error).__name__}: {error}. ")
        sys.stderr.write("LRKIT_TRACEBACK=1 shows where; please report it.\n")
        sys.exit(3)
