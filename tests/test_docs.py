"""What the documents lead to exists: files, headings, commands, their options, modules and make targets."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(p for d in ("docs", "dashboards", "benchmarks") for p in ROOT.glob(f"{d}/**/*.md"))]
)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def text(document: Path) -> str:
    return document.read_text(encoding="utf-8")


@cache
def anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    prose = FENCE.sub("", text(document))
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dangling(document: Path) -> list[str]:
    """Links and pictures that lead nowhere; other hosts are not asked."""
    found = []
    for link in LINK.findall(FENCE.sub("", text(document))):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


def commands(document: Path) -> list[str]:
    """What somebody is to type: lines of consoles, and commands of ours in the midst of a sentence."""
    blocks = [body for kind, body in FENCE.findall(text(document)) if kind == "console"]
    lines = [line for body in blocks for line in re.findall(r"^\$ (.+)$", body, re.MULTILINE)]
    return lines + re.findall(r"`(tracedthread [^`]+)`", FENCE.sub("", text(document)))


@cache
def usage(*verb: str) -> str:
    """The help of `tracedthread VERB`; empty if there is no such verb."""
    command = [sys.executable, "-m", "tracedthread", *verb, "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return result.stdout if result.returncode == 0 else ""


def unknown(command: str) -> list[str]:
    """What in this command line does not exist."""
    wrong = []
    for verb, rest in re.findall(r"\btracedthread ([a-z]+)\b([^|;&#]*)", command):
        if not usage(verb):
            wrong.append(verb)
            continue
        if verb == "run":  # what comes after the program's name is for the program
            rest = re.split(r"\s(?:-m\s+\S+|\S+\.py)(?:\s|$)", rest)[0]
        options = re.findall(r"(?<=\s)(--?[a-z][a-z0-9-]*)", rest)
        wrong += [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", usage(verb))]
    for script in re.findall(r"\bpython3? ((?!-)\S+\.py)\b", command):
        wrong += [] if (ROOT / script).is_file() else [script]
    for module in re.findall(r"-m ((?:examples|dashboards)[\w.]*)", command):
        path = ROOT.joinpath(*module.split("."))
        wrong += [] if path.with_suffix(".py").is_file() or path.is_dir() else [module]
    if command.startswith("make "):
        targets = re.findall(r"^([a-z-]+):", text(ROOT / "Makefile"), re.MULTILINE)
        wrong += [word for word in re.findall(r"^[a-z- ]+", command)[0].split()[1:] if word not in targets]
    return wrong


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_lead_somewhere(document: Path) -> None:
    assert dangling(document) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist_with_their_options(document: Path) -> None:
    assert {command: wrong for command in commands(document) if (wrong := unknown(command))} == {}


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("# A title\n[a](#a-title) [b](#b-title) [c](missing.md) ![d](.)\n```\n[e](no-link)\n```\n")
    assert dangling(document) == ["#b-title", "missing.md"]
    assert unknown("tracedthread report app.ttc --sort x | tracedthread explain") == ["--sort", "explain"]
    assert unknown("tracedthread run -x -o f -m app --its-own") == ["-x"]
    assert unknown("python benchmarks/none.py") == ["benchmarks/none.py"]
    assert unknown("python -m examples.shop.none") == ["examples.shop.none"]
    assert unknown("make demo bnech      # a remark") == ["bnech"]


def test_the_guide_is_worth_testing() -> None:
    typed = " ".join(commands(ROOT / "docs" / "find-the-slow-lock.md"))
    for verb in ("run", "report", "dump", "diff", "check"):
        assert f"tracedthread {verb} " in typed


def test_every_picture_is_shown_and_small() -> None:
    shown = set(re.findall(r"\(pictures/([\w-]+\.png)\)", text(ROOT / "docs" / "find-the-slow-lock.md")))
    made = {path.name: path.stat().st_size for path in (ROOT / "docs" / "pictures").iterdir()}
    assert made.keys() == shown
    assert max(made.values()) < 200_000
