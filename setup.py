"""What pyproject.toml cannot say: the extension, and examples/ as a package of the wheel."""

from setuptools import find_namespace_packages, setup

EXAMPLES = {"tracedthread.examples": "examples", "tracedthread.examples.shop": "examples/shop"}

setup(
    packages=[*find_namespace_packages(include=["tracedthread", "tracedthread.*"]), *EXAMPLES],
    package_dir=EXAMPLES,
    cffi_modules=["native/build.py:ffibuilder"],
)
