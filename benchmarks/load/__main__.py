"""`python -m benchmarks.load` from the repository's root measures, prints the table, and fails if a bar is missed.

All traffic goes to servers on the loopback that the program starts and stops.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.load import report
from benchmarks.load.soak import soak
from benchmarks.load.speed import measure


def main() -> int:
    """Parse, measure, report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(), help="folder for load.json and load.png (default: here)")
    parser.add_argument("--turns", type=int, default=60, help="pairs measured per client; 0 leaves the ratios out")
    parser.add_argument("--turn-seconds", type=float, default=0.5, help="seconds of stepping per server and turn")
    parser.add_argument("--sessions", type=int, default=256, help="sessions at once; 0 leaves the full house out")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long the house stays full")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speeds = measure(folder, turns=options.turns, seconds=options.turn_seconds) if options.turns else []
        house = soak(folder, sessions=options.sessions, seconds=options.seconds) if options.sessions else None
    print(report.table(speeds, house))
    for path in report.write(options.out, speeds, house):
        print(f"wrote {path}")
    missed = report.problems(speeds, house)
    for problem in missed:
        print(f"MISSED: {problem}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
