"""What is published: the sdist builds a wheel, and the wheel works where there is no checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from clean_environment import clean_environment

import tracedthread

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = """
import threading, time
TURN = threading.Lock()
def work():
    for _ in range(5):
        with TURN:
            time.sleep(0.01)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def run(*command: object, cwd: Path) -> str:
    """What the command printed. It sees neither the checkout nor settings of ours."""
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    # setuptools writes beside setup.py: into a copy, so that two Pythons can do this side by side.
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, folder / "checkout", ignore=ignored)
    command = [
        sys.executable,
        "-m",
        "build",
        "--sdist",
        "--no-isolation",
    ]  # setuptools and cffi are in this environment
    run(*command, "--outdir", folder, folder / "checkout", cwd=folder)
    return next(folder.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-build-isolation"]
    run(*pip, "--wheel-dir", folder, sdist, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new environment: the wheel, and this environment's packages to depend on."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder / "bin" / "python"]
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    site_packages = next((folder / "lib").glob("python3*/site-packages"))
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "dependencies.pth").write_text("".join(f"{path}\n" for path in sorted(paths)), encoding="utf-8")
    return folder / "bin"


@pytest.mark.timeout(300)
def test_the_sdist_has_all_that_is_needed_to_build_and_test(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    checkout = sdist.parent / "checkout"  # as copied: without what is hidden or made
    made = (".so", ".o", ".pyc")
    files = {path.relative_to(checkout).as_posix() for path in checkout.rglob("*") if path.is_file()}
    files = {name for name in files if not name.endswith(made) and ".egg-info/" not in name}
    assert {"LICENSE", "native/lock.c", "tests/conftest.py", "docker-compose.yml"} <= files
    assert files <= names
    assert not [name for name in names if name.endswith(made) or "__pycache__" in name]


@pytest.mark.timeout(300)
def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert f"-{version}-{version}-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata_name = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(metadata_name).decode())
    package = {name for name in names if ".dist-info/" not in name}
    python = {
        f"tracedthread/{path.relative_to(ROOT / 'tracedthread')}" for path in (ROOT / "tracedthread").rglob("*.py*")
    }
    python = {name for name in python if not name.endswith(".pyc")}
    examples = {
        f"tracedthread/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "examples").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    native = {f"tracedthread/_native{sysconfig.get_config_var('EXT_SUFFIX')}"}
    html = ROOT / "tracedthread" / "export" / "html"
    page = {
        f"tracedthread/export/html/{path.name}" for path in html.iterdir() if path.suffix in (".html", ".css", ".js")
    }
    assert "tracedthread/export/html/page.html" in page
    assert package == python | examples | native | page | {"tracedthread/py.typed"}
    assert metadata["Version"] == tracedthread.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert "instruments" in (metadata.get_all("Provides-Extra") or [])  # see pyproject.toml
    required = {
        line.split(">")[0].split("<")[0] for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line
    }
    assert required == {"cffi", "opentelemetry-api", "opentelemetry-sdk", "rich"}


@pytest.mark.timeout(300)
def test_an_installed_wheel_records_and_reports(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import tracedthread; print(tracedthread.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    (tmp_path / "app.py").write_text(PROGRAM, encoding="utf-8")
    run(installed / "tracedthread", "run", "-q", "-o", "app.ttc", "app.py", cwd=tmp_path)
    report = json.loads(run(installed / "tracedthread", "report", "app.ttc", "--format", "json", cwd=tmp_path))
    [lock] = [lock for lock in report["locks"] if "TURN" in lock["name"]]
    assert lock["acquisitions"] == 15
    assert lock["wait_s"] > 0.05
    run(installed / "tracedthread", "report", "app.ttc", "-o", "app.html", cwd=tmp_path)
    assert "TURN" in (tmp_path / "app.html").read_text(encoding="ascii")


@pytest.mark.timeout(300)
def test_extras_resolve_in_seconds_and_opentelemetry_finds_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """From the index, in an environment that has nothing: what users do first."""
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    bin_ = tmp_path / "venv" / "bin"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", bin_ / "python", "install", "-q"]
    # Where pip has to go back through all releases this does not end in the time that `run` gives it.
    run(*pip, f"tracedthread[otlp,instrumentation,prometheus,demo] @ {wheel.as_uri()}", cwd=tmp_path)
    run(*pip[:-2], "check", cwd=tmp_path)
    (tmp_path / "app.py").write_text("import tracedthread; print(tracedthread.is_patched())", encoding="utf-8")
    command = [bin_ / "opentelemetry-instrument", "--traces_exporter", "none", bin_ / "python", "app.py"]
    assert run(*command, cwd=tmp_path) == "True\n"


@pytest.mark.timeout(300)
def test_an_installed_wheel_has_its_demo(installed: Path, tmp_path: Path) -> None:
    flags = ["--fault", "report", "--seconds", "1.5", "--requests", "400", "-o", "report.html"]
    output = run(installed / "tracedthread", "demo", *flags, cwd=tmp_path)
    assert "To blame: PriceCache.slow_report, which holds PriceCache._lock." in output
    assert "PriceCache.slow_report" in (tmp_path / "report.html").read_text(encoding="ascii")
