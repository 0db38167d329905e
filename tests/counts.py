"""How much there is of the manual, and how large the wheel is: `python -m tests.counts`."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.documents import DOCS, README, ROOT, code_of, pages, pictures_of, read
from tests.mistakes import CALLS, COMMANDS
from tests.package import megabytes

NAMED = re.compile(r"`(interp_hooks(?:\.\w+)+)`")


def counts() -> dict[str, int]:
    """What can be counted in the files of the checkout."""
    whole = [README, *pages()]
    code = [one for page in whole for one in code_of(read(page))]
    methods = [page for page in pages() if page.parent.name == "methods" and page.stem != "index"]
    pictures = [told for page in whole for told, _ in pictures_of(read(page))]
    return {
        "pages of the manual": len(pages()),
        "methods with a page": len(methods),
        "public names that these pages begin with": len(
            {name for page in methods for name in NAMED.findall(read(page).partition("\n## ")[0])}
        ),
        "blocks of code that tests run": sum("\n" in one for one in code),
        "lines of tables that tests run": sum("\n" not in one for one in code),
        "pictures with words for who does not see them": sum(len(told.split()) >= 8 for told in pictures),
        "pictures without": sum(len(told.split()) < 8 for told in pictures),
        "notebooks": len([*(ROOT / "notebooks").rglob("*.ipynb")]),
        "demos": len([*(ROOT / "demos").glob("*.py")]),
        "mistakes whose message is judged": len(CALLS) + len(COMMANDS),
        "public names at the root": len(import_module("interp_hooks").__all__),
        "lines of the README": len(read(README).splitlines()),
    }


def wheel_size() -> float:
    """How many MB the wheel of the checkout has, built by pip."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        return megabytes(wheel)


if __name__ == "__main__":
    for name, count in counts().items():
        print(f"{count:6}  {name}")
    print(f"{sum(file.stat().st_size for file in DOCS.rglob('*.md')) / 1e3:6.0f}  kB of Markdown")
    print(f"{wheel_size():6.1f}  MB of wheel")
