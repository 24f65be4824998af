"""Replaced below by the docstring of the interpreter's own `_thread`."""

# The drop-in: every name that this interpreter's `_thread` has and nothing else, ours where we record, its own
# elsewhere. Importing it loads the native code; where that cannot be, or a switch such as TRACEDTHREAD_DISABLED is set,
# all is stock.

from . import _core, _settings
from ._original import originals as _originals
from ._original import stock as _stock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import *  # noqa: F403

# name -> its name in tracedthread._types
_OURS = {
    "LockType": "lock",
    "lock": "lock",  # 3.13
    "RLock": "RLock",
    "allocate_lock": "allocate_lock",
    "allocate": "allocate",
    "start_new_thread": "start_new_thread",
    "start_new": "start_new",
    "start_joinable_thread": "start_joinable_thread",  # 3.13
    "_ThreadHandle": "_ThreadHandle",  # 3.13
    "_make_thread_handle": "_make_thread_handle",  # 3.13
    "_shutdown": "_shutdown",  # 3.13
    "_set_sentinel": "_set_sentinel",  # up to 3.12
    "set_name": "set_name",  # 3.14
}

# One family: stock functions do not know our handles. While handles of ours are in use, unpatch() leaves in place what
# is not in _HANDLE_MAKERS.
_HANDLE_MAKERS = ("_ThreadHandle", "_make_thread_handle")
_FAMILY = (*_HANDLE_MAKERS, "_shutdown", "start_joinable_thread")

# Left to the interpreter on purpose: C code checks their exact types (_excepthook), or they are state of the
# interpreter that has one value, which our threads count in and heed as well (stack_size, _count).
_PASSED_THROUGH = (
    "TIMEOUT_MAX",
    "_ExceptHookArgs",
    "_NAME_MAXLEN",  # 3.14
    "_count",
    "_excepthook",
    "_get_main_thread_ident",  # 3.13
    "_get_name",  # 3.14
    "_is_main_interpreter",  # 3.12
    "_local",
    "daemon_threads_allowed",  # 3.12
    "error",
    "exit",
    "exit_thread",
    "get_ident",
    "get_native_id",
    "interrupt_main",
    "stack_size",
)

# Names of a newer interpreter that nobody has looked at yet: passed through, and a failing test for us.
_UNKNOWN = tuple(sorted(set(vars(_originals)) - set(_OURS) - set(_PASSED_THROUGH)))

if _settings.disabled_by() is None:
    try:
        _types = _core.load().types
    except _core.Unavailable as _exc:
        if not isinstance(_exc, _core.Subinterpreter):
            _settings.say(f"not recording: {_exc}")
        _types = _originals
else:
    _types = _originals

globals().update(vars(_originals))
if _types is not _originals:
    globals().update({_name: getattr(_types, _ours) for _name, _ours in _OURS.items() if hasattr(_originals, _name)})
__doc__ = _stock.__doc__
del TYPE_CHECKING  # `from tracedthread._thread import *` gives what `from _thread import *` gives


def __dir__() -> list[str]:
    return sorted(vars(_stock))
