"""Every Python block of docs/migrating.md runs, in order, in one namespace and in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "migrating.md"


def test_every_block_runs() -> None:
    """In a process of its own, since what is imported under another name stays so."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 4
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-c", "\n".join(blocks)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
