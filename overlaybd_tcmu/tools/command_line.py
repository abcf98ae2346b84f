# SPDX-License-Identifier: Apache-2.0
"""
The command lines of the original's tools, kept as scripts know them.

Options may stand anywhere between the positional arguments, a flag may be given as --flag=false,
nothing may be abbreviated. Exit status 0 is success; the others are those of the original.
"""

import argparse
import logging
import os
import re
import signal
import sys
from typing import Callable, Dict, List, NoReturn, Optional, Sequence, Tuple, TypeVar

from .. import __version__, errors

EXIT_OK = 0
EXIT_INVALID = 105  # an argument is not what it should be
EXIT_REQUIRED = 106  # one is missing
EXIT_EXTRA = 109  # one is too many, or unknown
EXIT_FAILED = 255
EXIT_INTERRUPTED = 130

EXIT_CODES = """\
exit status:
    0  done
  105  an argument is not valid
  106  an argument is missing
  109  an argument is not known
  130  it was interrupted
  255  it failed, and left nothing half done
"""

GIGABYTES_MAX = 1 << 29  # 2^50 sectors, which is all that an index can address

_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_TRUE = ("true", "on", "yes", "1")
_FALSE = ("false", "off", "no", "0")

_Value = TypeVar("_Value")


class Parser:
    """
    argparse, told to behave like the original's parser. Positional arguments are declared by
    positional(), all before the first that may be left out.
    """

    def __init__(self, prog: str, description: str, epilog: str = EXIT_CODES) -> None:
        self._parser = _Argparse(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
        self._flags: Dict[str, str] = {}
        self._positionals: List[Tuple[str, str, bool]] = []

    def flag(self, *names: str, help: str, default: bool = False) -> None:
        """A boolean; its name in the result is that of its last name."""
        destination = names[-1].lstrip("-").replace("-", "_")
        self._parser.add_argument(
            *names, dest=destination, action="store_true", default=default, help=help
        )
        self._flags.update({name: destination for name in names})

    def option(self, *names: str, help: str, **more: object) -> None:
        """As argparse has it."""
        self._parser.add_argument(*names, help=help, **more)  # type: ignore[arg-type]

    def positional(self, name: str, help: str, required: bool = True) -> None:
        self._positionals.append((name, help, required))

    def parse(self, arguments: Optional[Sequence[str]]) -> argparse.Namespace:
        """Ends the process with the right status when the arguments are wrong."""
        given = list(sys.argv[1:] if arguments is None else arguments)
        end = given.index("--") if "--" in given else len(given)
        rest, settings = self._take_settings(given[:end])
        self._describe_positionals()
        self._parser.add_argument("positionals", nargs="*", help=argparse.SUPPRESS)
        options, unknown = self._parser.parse_known_intermixed_args(rest)
        if unknown:
            self._parser.end(EXIT_EXTRA, f"{unknown[0]}: this argument is not known")
        options.positionals += given[end + 1 :]
        for destination, value in settings.items():
            setattr(options, destination, value)
        self._name_positionals(options)
        return options

    def _describe_positionals(self) -> None:
        names = [name if needed else f"[{name}]" for name, _, needed in self._positionals]
        lines = [f"  {name:22}{text}" for name, (_, text, _) in zip(names, self._positionals)]
        self._parser.usage = " ".join(["%(prog)s [options]", *names])
        self._parser.description = "\n".join([str(self._parser.description), "", *lines])

    def _take_settings(self, given: List[str]) -> Tuple[List[str], Dict[str, bool]]:
        """Takes --flag=false and its like out, which argparse has no word for."""
        rest: List[str] = []
        settings: Dict[str, bool] = {}
        for argument in given:
            name, equals, value = argument.partition("=")
            if not equals or name not in self._flags:
                rest.append(argument)
            elif value.lower() in _TRUE + _FALSE:
                settings[self._flags[name]] = value.lower() in _TRUE
            else:
                self._parser.end(EXIT_INVALID, f"{name}: '{value}' is neither true nor false")
        return rest, settings

    def _name_positionals(self, options: argparse.Namespace) -> None:
        given = options.positionals
        for number, (name, _, needed) in enumerate(self._positionals):
            if number < len(given):
                setattr(options, name, given[number])
            elif needed:
                self._parser.end(EXIT_REQUIRED, f"{name} is required")
            else:
                setattr(options, name, None)
        if len(given) > len(self._positionals):
            extra = given[len(self._positionals)]
            self._parser.end(EXIT_EXTRA, f"{extra}: this argument was not expected")

    def checked(self, name: str, text: str, parse: Callable[[str], _Value]) -> _Value:
        """A positional argument as parse understands it."""
        try:
            return parse(text)
        except argparse.ArgumentTypeError as error:
            self._parser.end(EXIT_INVALID, f"{name}: {error}")

    def missing(self, reason: str) -> NoReturn:
        """An argument is needed beside the others."""
        self._parser.end(EXIT_REQUIRED, reason)


class _Argparse(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.end(EXIT_INVALID, message)

    def end(self, status: int, message: str) -> NoReturn:
        self.exit(status, f"{self.prog}: {message}; --help tells more\n")


def usable_uuid(option: str, text: Optional[str]) -> Optional[str]:
    """text if it is a UUID; anything else is ignored, as ever, but no longer in silence."""
    if not text:
        return None
    if _UUID.fullmatch(text):
        return text
    warn(f"{option} '{text}' is not a UUID and is ignored")
    return None


def gigabytes(text: str) -> int:
    """An argument in GiB, as bytes."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of GB")
    if int(text) > GIGABYTES_MAX:
        raise argparse.ArgumentTypeError(f"{text} GB are more than {GIGABYTES_MAX}")
    return int(text) << 30


def main(prog: str, work: Callable[[], None], failed: int = EXIT_FAILED) -> int:
    """Does the work; the exit status. A failure is one line on stderr."""
    end_in_order()
    try:
        work()
        sys.stdout.flush()
        return EXIT_OK
    except KeyboardInterrupt:
        print(f"{prog}: stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output knows; nothing must be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failed
    except (errors.Error, OSError) as error:
        print(f"{prog}: {one_line(error)}", file=sys.stderr)
        return failed


def end_in_order() -> None:
    """A plain kill is as good as Ctrl-C: what is being written is given up in order."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split("\n"))


def log_to_stderr(verbose: bool) -> None:
    """What the modules have to say while they work: warnings, or everything."""
    level = logging.DEBUG if verbose else logging.WARNING
    logging.basicConfig(stream=sys.stderr, level=level, format="%(message)s")


def warn(text: str) -> None:
    print(f"WARNING {text}", file=sys.stderr)
