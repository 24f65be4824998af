"""
What one contended update of the ledger costs (native/blame.h), apart from all else that goes on while threads wait.

    python benchmarks/bench_ledger.py [--no-gate]

Method. `ledger.c` is built with the core and without Python, as the extension is (-O2). A lock is held and waited for;
a waiter comes and goes, each time one update. In turns with it the clock is read as often, which is most of an update.
Reported are medians of 15 rounds of 200,000. Needs the checkout and a C compiler.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUDGET_NS = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-gate", action="store_true", help="exit with 0 although the budget is missed")
    args = parser.parse_args()
    core = [path for path in sorted((ROOT / "native").glob("*.c")) if not path.name.startswith("py_")]
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "ledger")
        include = [f"-I{ROOT / 'native'}", f"-I{ROOT / 'tests' / 'native'}"]
        command = ["gcc", "-std=gnu11", "-O2", *include, ROOT / "benchmarks" / "ledger.c", *core, "-o", program]
        subprocess.run([*command, "-pthread"], check=True)
        output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    clock, update = (statistics.median(map(float, column)) for column in zip(*map(str.split, output.splitlines())))
    missed = update > BUDGET_NS
    print(f"load {os.getloadavg()[0]:.1f}; a reading of the clock {clock:.1f} ns")
    print(f"an update of the ledger {update:.1f} ns, budget {BUDGET_NS:.0f} ns: {'MISSED' if missed else 'ok'}")
    return 1 if missed and not args.no_gate else 0


if __name__ == "__main__":
    sys.exit(main())
