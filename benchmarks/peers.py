"""Peers as processes, each in a virtual environment of its own that is made at the first call."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEERS = {  # name: (what to install, which model)
    "TransformerLens 3.9.0": ("transformer-lens==3.9.0", "hooked"),
    "TransformerLens 4.3.0": ("transformer-lens==4.3.0", "bridge"),
}
LENSES = {  # name: (what to install, which lens)
    "TransformerLens 4.3.0": ("transformer-lens==4.3.0", "jacobian"),
    "tuned-lens 0.2.0": ("tuned-lens==0.2.0", "tuned"),
}
DASHBOARD = "sae-dashboard==0.8.0 pyarrow<21"  # newer pyarrows want another numpy than it does
TORCH = next(line for line in (HERE.parent / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))


def environment(requirements: str, despite_pins: str = "") -> Path:
    """The interpreter of a virtual environment that has the requirements, with the torch that the tests run with.

    Packages `despite_pins` are installed without what they ask for: other versions of it are there.
    """
    wanted, others = requirements.split(), despite_pins.split()
    folder = HERE / "environments" / (wanted[0].replace("==", "-") + "-clients" * bool(others))
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        print(f"installing {requirements} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for step in [[TORCH, *wanted], ["--no-deps", *others]][: 1 + bool(others)]:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *step], check=True)
        (folder / "installed").touch()
    return python


class Peer:
    """A script that runs in the environment of a peer and answers requests, a line of JSON each."""

    def __init__(self, requirements: str, script: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [environment(requirements), HERE / script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._line()

    def ask(self, request: object) -> Any:
        assert self.process.stdin is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._line()

    def _line(self) -> Any:
        """The next JSON line; anything else that the peer prints is passed over."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
        raise RuntimeError(f"the peer ended with exit code {self.process.wait()}")
