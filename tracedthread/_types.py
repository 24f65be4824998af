"""Puts the second module of the extension's shared object in its own place: see _types.pyi for what is in it."""

from __future__ import annotations

import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader

# Not importlib.util, which imports threading on some versions.
from ._native import __file__ as _file

_loader = ExtensionFileLoader(__name__, _file)
_spec = ModuleSpec(__name__, _loader, origin=_file)
_spec.has_location = True
_module = _loader.create_module(_spec)
_module.__spec__, _module.__loader__, _module.__file__ = _spec, _loader, _file
_loader.exec_module(_module)
sys.modules[__name__] = _module  # which is where the import of this file looks for its result
