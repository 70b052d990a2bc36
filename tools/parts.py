"""Runs the parts of ``make test`` and says at the end what each did, in a line.

    python tools/parts.py run NAME [--junit FILE] -- COMMAND ...
    python tools/parts.py skip NAME WHY
    python tools/parts.py show NAME ...

``run`` ends with the command's exit code, ``show`` with 1 if a part failed or did not run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

FOLDER = Path(__file__).parent.parent / "build" / "parts"
COUNTED = {  # by a part's name: where its output says how much it looked at, and of what
    "lint": (r"(\d+) files? already formatted", "files"),
    "js types": (r"in (\d+) files?", "files"),
    "js tests": (r"\bpass (\d+)", "tests"),
    "mypy": (r"(\d+) source files?", "files"),
}
NAMED = 5  # failed tests that a line names; all are in pytest's own output


@dataclass(frozen=True)
class Outcome:
    """What became of a part."""

    name: str
    state: str
    seconds: float = 0.0
    details: str = ""

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        return f"{self.name:<10} {self.state:<8} {minutes:2d}:{seconds:02d}  {self.details}".rstrip()

    def keep(self) -> None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        file_of(self.name).write_text(json.dumps(asdict(self)), encoding="utf-8")


def file_of(name: str) -> Path:
    return FOLDER / f"{name.replace(' ', '-')}.json"


def run(name: str, command: list[str], junit: Path | None) -> int:
    """Run a part's command, its output as it comes, and keep what it did."""
    if junit is not None:
        junit.unlink(missing_ok=True)
    began, output = time.monotonic(), b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 1 << 16):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            output += chunk
    code, seconds = process.returncode, time.monotonic() - began
    if junit is not None and junit.is_file():
        outcome = outcome_of_tests(name, code, seconds, junit)
    else:
        pattern, unit = COUNTED.get(name, (r"(?!)", ""))  # none for tests that ended before their JUnit file
        counts = re.findall(pattern, output.decode(errors="replace"))
        details = f"{sum(map(int, counts))} {unit}" if counts else ""
        outcome = Outcome(name, "FAILED" if code else "passed", seconds, details)
    outcome.keep()
    return code


def outcome_of_tests(name: str, code: int, seconds: float, junit: Path) -> Outcome:
    """A part that pytest ran, from its JUnit file."""
    cases = ElementTree.parse(junit).getroot().findall(".//testcase")
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = Counter(mark.get("message", "") for case in cases if (mark := case.find("skipped")) is not None)
    left_out = sum(skipped.values()) == len(cases)
    details = f"{len(cases)} tests"
    if failed:
        names = [f"{case.get('classname', '').replace('.', '/')}::{case.get('name')}" for case in failed]
        details += f", {len(failed)} failed: {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}"
    if left_out:
        details = f"all {details}: {'; '.join(skipped)}"
    elif skipped:
        reasons = "; ".join(f"{count}: {why}" for why, count in skipped.most_common())
        details += f", {sum(skipped.values())} skipped ({reasons})"
    return Outcome(name, "FAILED" if code else "skipped" if left_out else "passed", seconds, details)


def show(names: list[str]) -> int:
    """Print a line for each part; gives 1 if one failed or is missing."""
    files = {name: file_of(name) for name in names}
    outcomes = [
        Outcome(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else Outcome(name, "NOT RUN")
        for name, file in files.items()
    ]
    sys.stdout.write("\n" + "".join(f"{outcome}\n" for outcome in outcomes))
    return int(any(outcome.state in ("FAILED", "NOT RUN") for outcome in outcomes))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="action", required=True)
    running = commands.add_parser("run")
    running.add_argument("name", help=f"{', '.join(COUNTED)}, or any with --junit")
    running.add_argument("--junit", type=Path, help="the JUnit file that the command writes")
    running.add_argument("command", nargs="+")
    skipping = commands.add_parser("skip")
    skipping.add_argument("name")
    skipping.add_argument("why")
    commands.add_parser("show").add_argument("names", nargs="+")
    given = parser.parse_args()
    if given.action == "run":
        return run(given.name, given.command, given.junit)
    if given.action == "show":
        return show(given.names)
    Outcome(given.name, "skipped", details=given.why).keep()
    sys.stdout.write(f"{given.name}: skipped, {given.why}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
