"""The wheel and the source distribution, built, installed into a clean environment, and tried there.

    python tests/package.py .venv-package

Both are built from the files of the checkout. In an empty folder, where nothing of the checkout can be imported, each
must run the commands of `TRIED`; the wheel must be smaller than `LARGEST`.
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
LARGEST = 8  # MB
TRIED = (["--version"], ["families"], ["demo", "--out", "report.html"])


def main(folder: str) -> None:
    """Make the environment, build, install and try."""
    place = Path(folder).absolute()
    venv.create(place, clear=True, with_pip=True)
    python = place / "bin" / "python"

    def pip(*arguments: object) -> None:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *map(str, arguments)], check=True)

    constrained = ("--constraint", ROOT / "constraints.txt")
    pip(*constrained, "hatchling")
    built = place / "dist"
    subprocess.run([python, "-m", "hatchling", "build", "-d", built], cwd=ROOT, check=True)
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    size = wheel.stat().st_size / 1e6
    if size > LARGEST:
        raise SystemExit(f"{wheel.name} has {size:.1f} MB, more than {LARGEST}")
    pip(*constrained, wheel)
    tried(place)
    pip("--no-deps", "--force-reinstall", source)
    tried(place)
    print(f"{wheel.name} ({size:.1f} MB) and {source.name} install, and run what they should")


def tried(place: Path) -> None:
    """Run the commands in an empty folder; the first that fails ends this with what it said."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as empty:
        for arguments in TRIED:
            command = [place / "bin" / "interp-hooks", *arguments]
            done = subprocess.run(command, cwd=empty, env=outside, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"interp-hooks {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main(*sys.argv[1:])
