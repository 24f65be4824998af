"""What pyproject.toml cannot say: the extension, and examples/ as a package of the wheel."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["tracedthread", "tracedthread.*"]), "tracedthread.examples"],
    package_dir={"tracedthread.examples": "examples"},
    cffi_modules=["native/build.py:ffibuilder"],
)
