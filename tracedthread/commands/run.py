"""`tracedthread run`: runs a program, recorded."""

from __future__ import annotations

import os
import sys

from tracedthread import _core, _launch, _settings
from tracedthread.patch import is_from_an_earlier_run, is_patched, patch, pause

TYPE_CHECKING = False  # everything imported here delays the program: no typing, no argparse
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

__all__ = ["Options", "add_parser", "main", "parse", "run"]

_FLAGS = {
    "--force": "force",
    "--report": "report",
    "-q": "quiet",
    "--quiet": "quiet",
    "--follow-fork": "follow_fork",
    "--audit-trail": "audit_trail",
    "--otlp": "otlp",
}
_VALUES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "-o": ("output", str),
    "--output": ("output", str),
    "--capture-size": ("capture_size", _settings.parse_bytes),
    "--otlp-endpoint": ("otlp_endpoint", _settings.parse_url),
    "--prometheus-listen": ("prometheus_listen", _settings.parse_address),
    "--pyroscope-url": ("pyroscope_url", _settings.parse_push_url),
}


class Options:
    """What to run and how; `script` or `module` is set."""

    output: str | None = None
    capture_size: int | None = None
    otlp_endpoint: str | None = None
    prometheus_listen: str | None = None
    pyroscope_url: str | None = None
    force = report = quiet = follow_fork = audit_trail = otlp = False
    script: str | None = None
    module: str | None = None

    def __init__(self) -> None:
        self.arguments: list[str] = []

    def error(self) -> str | None:
        """Why these options make no sense, or None."""
        if self.script is None and self.module is None:
            return "what shall be run? Give a SCRIPT or -m MODULE"
        if self.follow_fork and not (self.output or self.otlp or self.otlp_endpoint or self.pyroscope_url):
            return "--follow-fork needs -o FILE, --otlp or --pyroscope-url: where the other processes record to"
        return None


def parse(arguments: list[str]) -> Options | None:
    """
    Read the command line without argparse, whose import would delay the program by 5 to 10 ms.

    Returns:
        None for anything but plain use: then argparse is to explain.
    """
    options = Options()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word in _FLAGS:
            setattr(options, _FLAGS[word], True)
        elif word == "-m" or name in _VALUES:
            if not (equals and name.startswith("--")):
                if equals or not rest:
                    return None
                value = rest.pop(0)
            if word == "-m":
                options.module, options.arguments = value, rest
                break
            attribute, read = _VALUES[name]
            try:
                setattr(options, attribute, read(value))
            except ValueError:
                return None
        elif word == "--" and rest:
            options.script, options.arguments = rest[0], rest[1:]
            break
        elif word.startswith("-") and word != "-":
            return None
        else:
            options.script, options.arguments = word, rest
            break
    return options if options.error() is None else None


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb, for its help and for what `parse` does not take."""
    import argparse

    def reader(option: str) -> Callable[[str], Any]:
        def read(text: str) -> Any:
            try:
                return _VALUES[option][1](text)
            except ValueError as exc:
                raise argparse.ArgumentTypeError(str(exc)) from None

        return read

    parser = subparsers.add_parser(
        "run",
        help="run a program, recorded",
        usage="tracedthread run [OPTIONS] (SCRIPT | -m MODULE) [ARGS ...]",
        description="Runs a Python program as `python` would, and records where its threads wait.",
        allow_abbrev=False,
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="record to this file (default: memory)")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument(
        "--report", action="store_true", help="print the report at the end, also when stderr is no terminal"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing at the end")
    parser.add_argument(
        "--follow-fork",
        action="store_true",
        help="record forked children and Python subprocesses too: to files beside FILE with their process id, by OTLP",
    )
    parser.add_argument("--audit-trail", action="store_true", help="keep who started which thread, from where and when")
    parser.add_argument(
        "--capture-size",
        type=reader("--capture-size"),
        metavar="BYTES",
        help="size of the recording, such as 512k or 64M",
    )
    parser.add_argument(
        "--otlp", action="store_true", help="export waits as spans and metrics, to where OTEL_EXPORTER_OTLP_* say"
    )
    parser.add_argument(
        "--otlp-endpoint",
        type=reader("--otlp-endpoint"),
        metavar="URL",
        help="export to there, such as http://localhost:4318",
    )
    parser.add_argument(
        "--prometheus-listen",
        type=reader("--prometheus-listen"),
        metavar="ADDR:PORT",
        help="serve metrics for Prometheus there; :PORT is on loopback only",
    )
    parser.add_argument(
        "--pyroscope-url",
        type=reader("--pyroscope-url"),
        metavar="URL",
        help="push who is to blame to there as a profile, such as http://localhost:4040",
    )
    parser.add_argument("-m", dest="module", nargs=argparse.REMAINDER, metavar="MODULE", help="run a module")
    parser.add_argument("script", nargs=argparse.REMAINDER, metavar="SCRIPT", help="a file, directory, zip file, or -")
    parser.set_defaults(main=main, parser=parser)


def main(args: argparse.Namespace) -> int:
    """Run what argparse has read; see `run`."""
    options = Options()
    for name in {*_FLAGS.values(), *(attribute for attribute, _ in _VALUES.values())}:
        setattr(options, name, getattr(args, name))
    script = args.script[1:] if args.script[:1] == ["--"] else args.script
    if args.module:
        options.module, *options.arguments = args.module
    elif script:
        options.script, *options.arguments = script
    if (error := options.error()) is not None:
        args.parser.error(error)
    return run(options)


def run(options: Options) -> int:
    """
    Run the program in this process.

    Returns:
        Its exit status, unless it ends by SystemExit, a signal, or KeyboardInterrupt.
    """
    paths = list(sys.path)
    # A name mistyped neither leaves an empty recording behind nor, with --force, replaces one that is not.
    patched = _launch.is_there(options.script) and _patch(options)
    if patched and options.follow_fork:
        _follow_subprocesses(options)
    execute = _launch.program(options.script, options.module, options.arguments)
    if patched:
        _tell(options, paths)
        import atexit

        options.output = _file_in_effect(options.output)
        atexit.register(_at_exit, options, os.getpid(), paths)
    return execute()


def _patch(options: Options) -> bool:
    if (switch := _settings.disabled_by()) is not None:
        _settings.say(f"not recording: {switch}")
        return False
    _core.launchers = (os.path.abspath(sys.argv[0]),) if os.path.basename(sys.argv[0]) == "tracedthread" else ()
    _core.program = os.path.basename(options.script) if options.script else options.module
    try:
        return patch(
            path=options.output,
            force=options.force,
            capture_bytes=options.capture_size,
            follow_fork=options.follow_fork or None,
            audit_trail=options.audit_trail or None,
        )
    except RuntimeError as exc:  # TRACEDTHREAD_ENABLE was quicker
        _settings.say(f"-o {options.output} is not used: {exc}")
        options.output = None
        return True
    except Exception as exc:  # whatever it is: the program comes first
        _settings.say(f"not recording: {exc}")
        return False


def _tell(options: Options, paths: list[str]) -> None:
    endpoint = options.otlp_endpoint or _settings.otlp_endpoint()
    otlp = options.otlp or endpoint is not None or _settings.otlp()
    address = options.prometheus_listen or _settings.prometheus_listen()
    pyroscope = options.pyroscope_url or _settings.pyroscope_url()
    if not otlp and address is None and pyroscope is None:
        return
    if pyroscope is not None and options.follow_fork:
        os.environ["TRACEDTHREAD_PYROSCOPE_URL"] = pyroscope
    if otlp and options.follow_fork:
        os.environ["TRACEDTHREAD_OTLP"] = "1"
        if endpoint is not None:
            os.environ["TRACEDTHREAD_OTLP_ENDPOINT"] = endpoint
    from tracedthread import telemetry

    telemetry.start(otlp=otlp, otlp_endpoint=endpoint, prometheus_listen=address, pyroscope_url=pyroscope, paths=paths)


def _file_in_effect(asked: str | None) -> str | None:
    """The file that is recorded to, as it was asked for if that leads to it; None for memory."""
    target = _core.load().target
    asked = asked or _settings.output()
    if target is None:
        return None
    if asked is None or "%p" in asked:
        return target.path
    try:
        return asked if _core.Target(asked).path == target.path else target.path
    except (OSError, ValueError):  # the current directory is gone
        return target.path


def _follow_subprocesses(options: Options) -> None:
    target = _core.load().target
    site = os.path.join(os.path.dirname(os.path.abspath(_core.__file__)), "_site")
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([site, others]) if others else site
    os.environ["TRACEDTHREAD_ENABLE"] = "1"
    os.environ["TRACEDTHREAD_FOLLOW_FORK"] = "1"
    if target is not None:
        os.environ["TRACEDTHREAD_OUTPUT"] = target.pattern
    if options.audit_trail:
        os.environ["TRACEDTHREAD_AUDIT_TRAIL"] = "1"
    if options.capture_size is not None:
        os.environ["TRACEDTHREAD_CAPTURE_BYTES"] = str(options.capture_size)


def _at_exit(options: Options, pid: int, paths: list[str]) -> None:
    # Threads that are no daemons have ended, and so has whatever the program registered itself.
    stream = sys.__stderr__
    if os.getpid() != pid:
        return
    if not _launch.has_begun():  # and what was wrong with its name has been said
        _remove_recording()
        return
    if stream is None or (options.quiet and not options.report):
        return
    # Imports from here on are ours: a `token.py` beside the script is not meant.
    sys.path[:] = _launch.without_first(paths)
    try:
        is_terminal = stream.isatty()
        text = _report(is_terminal) if options.report or is_terminal else ""
        _settings.write(stream, text + _next_step(options, reported=bool(text)))
    except Exception as exc:  # the program has run; its exit status must stay what it is
        _settings.say(f"no report: {type(exc).__name__}: {exc}")


def _remove_recording() -> None:
    target = _core.load().target
    if target is not None:
        try:
            os.unlink(target.path)
        except OSError as exc:
            _settings.say(f"cannot remove {target.path}, which records nothing: {exc.strerror}")


def _report(is_terminal: bool) -> str:
    import io

    pause()  # what rich and our own exporters do is not the program's
    _core.load().finish()
    from tracedthread import snapshot
    from tracedthread.export import render

    class Buffer(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    buffer = Buffer()
    render(snapshot(), "text", buffer)
    return buffer.getvalue()


def _children_files() -> list[str]:
    """The recordings that forked children and subprocesses have made so far."""
    from glob import escape, glob

    target = _core.load().target
    if target is None:
        return []
    found = glob("*".join(map(escape, target.pattern.split("%p"))))
    return sorted(path for path in found if path != target.path and not is_from_an_earlier_run(path))


def _next_step(options: Options, *, reported: bool) -> str:
    if not is_patched():  # gevent or the program itself has ended it, and that was said
        return ""
    if options.output is not None:
        from shlex import quote

        beside = _children_files() if options.follow_fork else []
        others = f" and {len(beside)} more beside it, such as {os.path.basename(beside[0])}" if beside else ""
        done = f"tracedthread: recorded to {options.output}{others}"
        return f"{done}; next: tracedthread report {quote(options.output)}\n"
    if reported:
        return ""
    return "tracedthread: recorded; add --report to see the report here, or -o FILE to keep the recording\n"
