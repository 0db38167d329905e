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
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LARGEST = 8  # MB
TRIED = (["--version"], ["families"], ["demo", "--out", "report.html"])
CONSTRAINED = ("--constraint", ROOT / "constraints.txt")


@dataclass(frozen=True)
class Environment:
    """A virtual environment in which nothing of the checkout can be imported."""

    place: Path

    @classmethod
    def made(cls, folder: str | Path) -> "Environment":
        """A new one in that folder, in place of what was there."""
        place = Path(folder).absolute()
        venv.create(place, clear=True, with_pip=True)
        return cls(place)

    @property
    def python(self) -> Path:
        return self.place / "bin" / "python"

    def pip(self, *arguments: object) -> None:
        """`pip install` with these arguments."""
        subprocess.run([self.python, "-m", "pip", "install", "--quiet", *map(str, arguments)], check=True)

    def built(self) -> tuple[Path, Path]:
        """The wheel and the source distribution, of the checkout as it is."""
        self.pip(*CONSTRAINED, "hatchling")
        folder = self.place / "dist"
        subprocess.run([self.python, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, check=True)
        (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        return wheel, source

    def run(self, *command: object, cwd: str | Path, **more: str) -> "subprocess.CompletedProcess[str]":
        """What a program of the environment says, in a folder, with `more` variables set."""
        outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        program, *arguments = map(str, command)
        whole = [self.place / "bin" / program, *arguments]
        return subprocess.run(whole, cwd=cwd, env=outside | more, capture_output=True, text=True)


def megabytes(file: Path) -> float:
    return file.stat().st_size / 1e6


def main(folder: str) -> None:
    """Make the environment, build, install and try."""
    environment = Environment.made(folder)
    wheel, source = environment.built()
    if megabytes(wheel) > LARGEST:
        raise SystemExit(f"{wheel.name} has {megabytes(wheel):.1f} MB, more than {LARGEST}")
    environment.pip(*CONSTRAINED, wheel)
    tried(environment)
    environment.pip("--no-deps", "--force-reinstall", source)
    tried(environment)
    print(f"{wheel.name} ({megabytes(wheel):.1f} MB) and {source.name} install, and run what they should")


def tried(environment: Environment) -> None:
    """Run the commands in an empty folder; the first that fails ends this with what it said."""
    with tempfile.TemporaryDirectory() as empty:
        for arguments in TRIED:
            done = environment.run("interp-hooks", *arguments, cwd=empty)
            if done.returncode:
                raise SystemExit(f"interp-hooks {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main(*sys.argv[1:])
