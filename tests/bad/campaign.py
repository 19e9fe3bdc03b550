"""``python -m tests.bad.campaign --seconds N``: damage files and draw panels for as long, each round by a new seed."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bad.campaign", description=__doc__)
    parser.add_argument("--seconds", type=int, default=600, help="begin no round after that long")
    parser.add_argument("--times", type=int, default=20, help="examples of a round, in multiples of the usual number")
    parser.add_argument("--only", default="", help="pytest -k: which of the properties")
    asked = parser.parse_args()
    began, seed = time.monotonic(), int(time.time())
    while time.monotonic() - began < asked.seconds:
        command = [sys.executable, "-m", "pytest", "-q", "--no-header", f"--hypothesis-seed={seed}", "-k", asked.only]
        command += ["tests/bad/test_any.py"]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "BAD_EXAMPLES": str(asked.times)}, check=False)
        sys.stdout.write(f"seed {seed}: {'held' if done.returncode == 0 else 'BROKEN'}\n")
        if done.returncode:
            return 1
        seed += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
