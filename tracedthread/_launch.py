"""
Running a program inside this process as the interpreter would: argv, `__main__`, sys.path, tracebacks, exit status.

Source: pymain_run_python in CPython's Modules/main.c, and its Lib/runpy.py for modules, directories and zip files.
"""

from __future__ import annotations

import os
import sys

from . import _core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any

__all__ = ["has_begun", "is_there", "program", "without_first"]


class _State:
    """Of the one program that a process runs: whether any code of it was reached."""

    def __init__(self) -> None:
        self.has_begun = False


_state = _State()


def has_begun() -> bool:
    """Whether there was a program to run: not if its file, its module or its `__main__.py` was not found."""
    return _state.has_begun


def is_there(script: str | None) -> bool:
    """Whether a program may be there; of a module (None) that is only known once the packages around it have run."""
    return script is None or script == "-" or os.access(script, os.R_OK)


def program(script: str | None, module: str | None, arguments: list[str]) -> Callable[[], int]:
    """
    Prepare a program: sys.argv, sys.path[0] and a fresh `__main__`.

    Args:
        script: A file, a directory or zip file with a `__main__.py`, or `-` for standard input.
        module: The module of `python -m`; then script is None.
    Returns:
        What runs it and returns its exit status; it raises SystemExit when the program does, and KeyboardInterrupt
        (which it has shown) for the interpreter to end as by SIGINT.
    """
    main = type(sys)("__main__")
    namespace = main.__dict__
    namespace["__builtins__"] = sys.modules["builtins"]
    if sys.version_info < (3, 14):
        namespace["__annotations__"] = {}
    if module is not None:
        sys.argv = ["-m", *arguments]
        if (folder := _current_folder()) is not None:
            _set_first_path(folder)
        execute = _module_runner(namespace, module, True)
    else:
        assert script is not None
        sys.argv = [script, *arguments]
        if script == "-":
            _set_first_path("")
            execute = _stdin_runner(namespace)
        else:
            path = _absolute(script)
            if _has_importer(path):
                _set_first_path(path, always=True)
                execute = _module_runner(namespace, "__main__", False)
            else:
                _set_first_path(os.path.dirname(os.path.realpath(path)))
                execute = _script_runner(namespace, path)
    sys.modules["__main__"] = main
    return lambda: _run(execute)


def without_first(paths: list[str]) -> list[str]:
    """
    `sys.path` without what the interpreter has put in front: the script's folder, or the current one.

    Anything may lie there, and what is imported for us is not meant to be the program's.
    """
    is_safe = sys.flags.isolated or getattr(sys.flags, "safe_path", False)
    return paths if is_safe else paths[1:]


def _run(execute: Callable[[], int | None]) -> int:
    try:
        return execute() or 0
    except SystemExit:
        raise
    except BaseException as exc:  # the program's own, to be shown as the interpreter shows it
        caught = exc
    # Not inside the handler: hooks find no exception being handled.
    _show(caught)
    if isinstance(caught, KeyboardInterrupt):
        _be_silent_once()
        raise caught
    return 1


def _script_runner(namespace: dict[str, Any], path: str) -> Callable[[], int | None]:
    from _frozen_importlib_external import SourceFileLoader, SourcelessFileLoader

    is_compiled = path.endswith(".pyc")
    namespace["__file__"] = path
    namespace["__loader__"] = (SourcelessFileLoader if is_compiled else SourceFileLoader)("__main__", path)
    if sys.version_info < (3, 15):
        namespace["__cached__"] = None

    def execute() -> int | None:
        import io

        try:
            with io.open_code(path) as file:
                source = file.read()
        except OSError as exc:
            sys.stderr.write(f"{sys.executable}: can't open file {path!r}: [Errno {exc.errno}] {exc.strerror}\n")
            return 2
        _state.has_begun = True
        if is_compiled:
            code = namespace["__loader__"].get_code("__main__")
        else:
            code = compile(source, path, "exec", dont_inherit=True)
        del source
        exec(code, namespace)
        return 0

    return execute


def _stdin_runner(namespace: dict[str, Any]) -> Callable[[], int | None]:
    from _frozen_importlib import BuiltinImporter

    namespace["__file__"] = "<stdin>"
    namespace["__loader__"] = BuiltinImporter
    if sys.version_info < (3, 15):
        namespace["__cached__"] = None

    def execute() -> int | None:
        _state.has_begun = True
        code = compile(sys.stdin.buffer.read(), "<stdin>", "exec", dont_inherit=True)
        exec(code, namespace)
        return 0

    return execute


def _module_runner(namespace: dict[str, Any], name: str, alter_argv: bool) -> Callable[[], int | None]:
    def execute() -> int | None:
        import runpy

        _state.has_begun = True  # with the packages around the module
        try:
            # What `python -m` itself calls; its frames stand in the traceback of `python -m` as well.
            runpy._run_module_as_main(name, alter_argv)  # type: ignore[attr-defined]
        except SystemExit as exc:
            # It says in `__main__` which module it runs, just before it does, or else who found none.
            found = namespace.get("__spec__") is not None
            _state.has_begun = found or not str(exc.code).startswith(f"{sys.executable}: ")
            raise
        return 0

    return execute


def _absolute(path: str) -> str:
    # As the interpreter makes `__file__` absolute: it drops a leading ./ on some versions and normalises nothing.
    folder = _current_folder()
    return path if os.path.isabs(path) or folder is None else f"{folder.rstrip('/')}/{path}"


def _current_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # removed meanwhile
        return None


def _has_importer(path: str) -> bool:
    for hook in sys.path_hooks:
        try:
            hook(path)
        except ImportError:
            continue
        return True
    return False


def _set_first_path(entry: str, *, always: bool = False) -> None:
    # The interpreter has put there the directory of our own script, or the current one for -m.
    inserted = not (sys.flags.isolated or getattr(sys.flags, "safe_path", False))
    if inserted and sys.path:
        sys.path[0] = entry
    elif inserted or always:
        sys.path.insert(0, entry)


def _show(exc: BaseException) -> None:
    traceback = exc.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == _FILE:
        traceback = traceback.tb_next
    exc.__traceback__ = traceback
    if (core := _core.loaded()) is not None:
        core.types.print_exception(exc)
    else:
        _show_without_core(exc, traceback)


def _show_without_core(exc: BaseException, traceback: TracebackType | None) -> None:
    sys.last_type, sys.last_value, sys.last_traceback = type(exc), exc, traceback
    if sys.version_info >= (3, 12):
        sys.last_exc = exc
    failure = None
    try:
        sys.excepthook(type(exc), exc, traceback)
    except SystemExit:
        raise
    except BaseException as again:  # as PyErr_Print does
        failure = again.with_traceback(again.__traceback__ and again.__traceback__.tb_next)
    if failure is not None:
        sys.stderr.write("Error in sys.excepthook:\n")
        sys.__excepthook__(type(failure), failure, failure.__traceback__)
        sys.stderr.write("\nOriginal exception was:\n")
        sys.__excepthook__(type(exc), exc, traceback)


def _be_silent_once() -> None:
    # The interpreter is going to show the exception once more, with our frames, before it ends by SIGINT.
    hook = sys.excepthook

    def silent(*_: object) -> None:
        sys.excepthook = hook

    sys.excepthook = silent


_FILE = _run.__code__.co_filename
