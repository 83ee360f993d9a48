"""Command line `merit-ecg`, one command per module of `commands`: a thin layer over the library.

Exit codes: 0 all well; 1 some of several files failed (they are listed); 2 a file or the command was refused.

No file is replaced without `--overwrite`. What files say is printed with control characters escaped.
"""

import sys
import warnings
from typing import Any

from modeling_merit import __version__

from .commands import classify, convert, embed, explain, export, index, inspect, probe, report, search
from .commands.common import REFUSALS, Parser, message_of, print_json, shared_options
from .inspection import printable
from .record import DISCLAIMER

COMMANDS = (inspect, convert, embed, classify, explain, export, report, probe, index, search)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv (`list[str]`, *optional*): Arguments; those of the process when absent.

    Example:

    >>> main(["inspect", "absent.edf", "--json"])  # doctest: +ELLIPSIS
    {"error": {"type": "EcgFormatError", "message": "There is no file 'absent.edf'..."}}
    2
    """
    args = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return args.run(args)
        except REFUSALS as error:
            message = message_of(error)
            if getattr(args, "json", False):
                print_json({"error": {"type": type(error).__name__, "message": message}})
            else:
                print(f"merit-ecg: {message}", file=sys.stderr)
            return 2


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    print(f"merit-ecg: warning: {printable(str(message))}", file=sys.stderr)


def _parser() -> Parser:
    parser = Parser(prog="merit-ecg", description=f"ECG-text foundation models. {DISCLAIMER}")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands, shared = parser.add_subparsers(required=True, metavar="COMMAND"), shared_options()
    for command in COMMANDS:
        command.add(commands, shared)
    return parser


if __name__ == "__main__":
    sys.exit(main())
