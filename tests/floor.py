"""A run of part of the tests with the lowest version of every dependency that pyproject.toml allows.

    python tests/floor.py .venv-floor                  installs them there, and runs the smoke suite
    python tests/floor.py .venv-floor torch==2.13.0    with another version of one, as where torch 2.6 is not at hand

The environment is made once; a change of pyproject.toml makes it anew. The lowest torch brings several gigabytes of
CUDA libraries where pip finds no build for CPUs.
"""

import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = ["pytest", "beartype", "hatchling"]
SMOKE = [
    *("tests/views/test_figures.py", "tests/views/test_arrays.py", "tests/views/test_circuits.py"),
    *("tests/views/test_attention.py", "tests/model/test_tokens.py", "tests/model/test_config.py"),
    *("tests/loading/test_native.py", "tests/experiments/results/test_archive.py"),
    *("tests/test_families.py::test_logits_in_float64", "tests/test_real_checkpoint.py"),
]


def floors() -> list[str]:
    """Every dependency with the lowest version that is allowed, as pip takes it; one without a floor is an error."""
    block = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M | re.S)
    assert block is not None
    allowed = re.findall(r'"([^"]+)"', block[1])
    if missing := [one for one in allowed if not re.fullmatch(r"[\w-]+>=[\d.]+", one)]:
        raise SystemExit(f"pyproject.toml gives {missing[0]!r} no lowest version")
    return [one.replace(">=", "==") for one in allowed]


def main(folder: str, *instead: str) -> int:
    """Make the environment, unless it is there with these versions, and run the smoke suite in it."""
    others = {one.partition("==")[0]: one for one in instead}
    wanted = [others.get(one.partition("==")[0], one) for one in floors()]
    python, made = Path(folder) / "bin" / "python", Path(folder) / "floors"
    if not made.exists() or made.read_text(encoding="utf-8") != "\n".join(wanted):
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted, *TOOLS], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--editable", ROOT], check=True)
        made.write_text("\n".join(wanted), encoding="utf-8")
    # Old versions warn of what they no longer are, and jaxtyping's plugin for pytest needs a later one.
    quiet = ["-o", "addopts=-q", "-o", "filterwarnings="]
    return subprocess.run([python.absolute(), "-m", "pytest", *quiet, *SMOKE], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
