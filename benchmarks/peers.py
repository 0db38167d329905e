"""Peers as processes, each in a virtual environment of its own that is made at the first call."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PEERS = {  # name: (what to install, which model)
    "TransformerLens 3.9.0": ("transformer-lens==3.9.0", "hooked"),
    "TransformerLens 4.3.0": ("transformer-lens==4.3.0", "bridge"),
}
TORCH = next(line for line in (HERE.parent / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))


def environment(requirement: str) -> Path:
    """The interpreter of a virtual environment that has the requirement, with the torch that the tests run with."""
    folder = HERE / "environments" / requirement.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        print(f"installing {requirement} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for wanted in (TORCH, requirement):  # torch first: what follows is content with it
            subprocess.run([python, "-m", "pip", "install", "--quiet", wanted], check=True)
        (folder / "installed").touch()
    return python


class Peer:
    """A process that computes grids on a checkpoint."""

    def __init__(self, name: str, folder: Path, prompts: int, positions: int, device: str = "cpu") -> None:
        requirement, kind = PEERS[name]
        script = HERE / "peer_transformer_lens.py"
        self.process = subprocess.Popen(
            [environment(requirement), script, kind, folder, str(prompts), str(positions), device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._line()

    def compute(self, grid: str, stride: int = 1) -> tuple[float, list[float]]:
        """Seconds for each cell, and the numbers of every stride-th one, which are all that are computed."""
        assert self.process.stdin is not None
        print(json.dumps([grid, stride]), file=self.process.stdin, flush=True)
        return tuple(self._line())

    def _line(self) -> list[float]:
        """The next JSON line; anything else that the peer prints is passed over."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
        raise RuntimeError(f"the peer ended with exit code {self.process.wait()}")
