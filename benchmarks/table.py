"""The table of `docs/performance.md`, measured anew: runs benchmarks, and puts the rows that they print in place.

    python benchmarks/table.py [forward patching ...] [--write] [-- --threads 1 ...]

Without names it runs all that print rows. What follows `--` is passed to each of them. A row takes the place of that
with the same first cell; one that is not there yet comes after those of the same command. Without `--write` the page
stays as it is, and what would change in it is shown.
"""

import argparse
import difflib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
MEASURED = ("forward", "overhead", "patching", "engine", "generate", "scan")


def is_row(line: str) -> bool:
    return line.startswith("| ") and line.count(" | ") == 2


def cells(row: str) -> list[str]:
    """What is measured, the ratios, and the command."""
    return row.strip().strip("|").split(" | ")


def with_rows(page: str, rows: list[str]) -> str:
    """The page with these rows in its table."""
    lines = page.splitlines()
    for row in rows:
        what, _, command = cells(row)
        table = [place for place, line in enumerate(lines) if is_row(line)]
        same = [place for place in table if cells(lines[place])[0] == what]
        if same:
            lines[same[0]] = row
            continue
        of_command = [place for place in table if cells(lines[place])[2].strip() == command.strip()]
        lines.insert((of_command or table)[-1] + 1, row)
    return "\n".join(lines) + "\n"


def printed_by(name: str, options: list[str]) -> list[str]:
    """The rows that a benchmark prints; all else that it prints is shown."""
    rows = []
    command = [sys.executable, str(HERE / f"{name}.py"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            rows += [line.rstrip("\n")] if is_row(line) else []
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return rows


def main(names: list[str], options: list[str], write: bool) -> None:
    page = PAGE.read_text()
    rows = [row for name in names for row in printed_by(name, options)]
    new = with_rows(page, rows)
    if write:
        PAGE.write_text(new)
    else:
        print(*difflib.unified_diff(page.splitlines(), new.splitlines(), lineterm="", n=0), sep="\n")


if __name__ == "__main__":
    given = sys.argv[1:]
    own, passed_on = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=MEASURED, metavar="name", help=", ".join(MEASURED))
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args(own)
    if unknown := [name for name in arguments.names if name not in MEASURED]:
        parser.error(f"{unknown[0]} prints no rows; there are {', '.join(MEASURED)}")
    main(list(arguments.names), passed_on, arguments.write)
