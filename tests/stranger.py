"""What a stranger tries first, with the wheel in a fresh environment: README, commands, mistakes, notebooks.

    python -m tests.stranger .venv-stranger                   everything
    python -m tests.stranger .venv-stranger readme mistakes   these parts: readme, commands, mistakes, notebooks

Nothing of the checkout can be imported there, and no hub is asked. Each thing that is tried is a line with its time
and, if it went otherwise than it should, the reason; what it said lies in the folder that is named at the end. Commands
must leave with 0 and without a warning, mistakes with one message that has the words of `tests/mistakes.py` and no
traceback. The exit code is 1 if anything failed.
"""

import json
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from interp_hooks.cli import COMMANDS
from tests import mistakes
from tests.documents import README, code_of, read
from tests.package import CONSTRAINED, ROOT, Environment

LONGEST = 900  # characters of a message that somebody still reads
NAMES = [command.__name__.rpartition(".")[2] for command in COMMANDS]
EXAMPLES = (
    *("--version", "--help", *(f"{name} --help" for name in NAMES)),
    *("families", "families --markdown", "verify ioi-tiny", "verify ioi-tiny --json --dtype float64"),
    "demo --prompts 8 --out report.html",
    "wiki ioi-tiny --limit 64 --per-band 10",
    "training induction-steps --rows 8",
    "diff induction-1l induction-2l --limit 32 --prompts 8",
    "explain ioi-tiny wiki L1N17 --base-url http://localhost:9/v1 --asked any --dry-run",
)
# A browser that reads the page of a figure to its end, as a person's does, so that `show()` can go on.
READS = f"{shlex.quote(sys.executable)} -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1]).read()' %s &"
NO_HUB = {"HF_HUB_OFFLINE": "1", "BROWSER": READS, "no_proxy": "127.0.0.1,localhost"}

MISTAKE = """
import sys
{setting}
from interp_hooks.errors import InterpHooksError
for line in {calls!r}:
    kind, message = None, "no error"
    try:
        exec(line)
    except InterpHooksError as error:
        kind, message = type(error).__name__, str(error)
    except Exception as error:
        message = f"a bare {{type(error).__name__}}: {{error}}"
    left = sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in model.hook_points())
    print("TOLD " + json.dumps([line, kind, message, left]), flush=True)
"""
NOTEBOOK = """
import sys
from pathlib import Path

sys.path.insert(0, "notebooks")
import store

path = Path("notebooks", sys.argv[1])
store.executed(path, path.parent)
"""


@dataclass(frozen=True)
class Tried:
    """One thing that a stranger did: how long it took, what it said, and what was wrong with it."""

    name: str
    seconds: float
    said: str
    wrong: str | None = None


class Stranger:
    """Somebody with an environment and an empty folder, who keeps what everything said."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.folder = Path(tempfile.mkdtemp(prefix="stranger-"))
        self.desk = self.folder / "desk"
        self.desk.mkdir()
        self.tried: list[Tried] = []

    def does(self, name: str, judged: Callable[[CompletedProcess[str]], str | None], *command: object) -> str:
        """Run a program, judge and keep what it said, and return its output."""
        begun = time.monotonic()
        done = self.environment.run(*command, cwd=self.desk, **NO_HUB)
        self.notes(Tried(name, time.monotonic() - begun, f"{done.stdout}\n{done.stderr}", judged(done)))
        return done.stdout

    def notes(self, one: Tried) -> None:
        """Keep it, and say how it went."""
        self.tried.append(one)
        (self.folder / f"{len(self.tried):03d}.txt").write_text(f"{one.name}\n\n{one.said}\n", encoding="utf-8")
        print(
            f"{len(self.tried):03d} {one.seconds:6.1f}s {one.name[:90]}" + (f"\n    {one.wrong}" if one.wrong else "")
        )

    def readme(self) -> None:
        """Type the README, from top to bottom."""
        script = self.folder / "readme.py"
        script.write_text("\n".join(code_of(read(README))), encoding="utf-8")
        self.does("the README as it is typed", went_well, "python", script)

    def commands(self) -> None:
        """Every command with its example, first without and then with what it needs besides."""
        self.does("interp-hooks wiki ioi-tiny, without pyarrow", refused("interp-hooks[wiki]"), *typed("wiki ioi-tiny"))
        self.environment.pip(*CONSTRAINED, "pyarrow", "httpx")
        for line in EXAMPLES:
            self.does(f"interp-hooks {line}", went_well, *typed(line))

    def mistakes(self) -> None:
        """Everything that may be mistyped, in one Python for the calls, and in a process for each command."""
        self.environment.pip(*CONSTRAINED, "pyarrow", "httpx")
        calls = [line for line, *_ in mistakes.CALLS]
        code = MISTAKE.format(setting=mistakes.SETTING, calls=calls)
        begun = time.monotonic()
        out = self.does("mistakes in Python", went_well_but_warned, "python", "-c", code)
        seconds = (time.monotonic() - begun) / len(calls)
        told = [json.loads(line.removeprefix("TOLD ")) for line in out.splitlines() if line.startswith("TOLD ")]
        if len(told) < len(calls):
            self.notes(Tried("mistakes in Python", 0.0, out, f"only {len(told)} of {len(calls)} came to an end"))
        for (line, kind, message, left), (_, *words) in zip(told, mistakes.CALLS, strict=False):
            wrong = judged_message(message, words) if kind else f"expected an error of this package, got {message}"
            wrong = f"{left} hooks stayed" if wrong is None and left else wrong
            self.notes(Tried(line, seconds, f"{kind}: {message}", wrong))
        for line, *words in mistakes.COMMANDS:
            self.does(f"interp-hooks {line}", refused(*words), *typed(line))

    def notebooks(self) -> None:
        """Every notebook, from top to bottom, in a copy of their folder; exercises with their solutions."""
        self.environment.pip(*CONSTRAINED, "ipykernel", "nbclient", "nbformat", "pyarrow")
        folder = shutil.copytree(ROOT / "notebooks", self.desk / "notebooks")
        for name in sorted(path.relative_to(folder) for path in folder.rglob("*.ipynb")):
            self.does(str(name), went_well_but_warned, "python", "-c", NOTEBOOK, name)


def typed(line: str) -> Iterator[str]:
    yield from ("interp-hooks", *shlex.split(line))


def went_well_but_warned(done: CompletedProcess[str]) -> str | None:
    """What is wrong with something that should have worked; libraries may warn."""
    return None if done.returncode == 0 else f"left with {done.returncode}: {last_line(done.stderr)}"


def went_well(done: CompletedProcess[str]) -> str | None:
    """What is wrong with something that should have worked, and without a warning."""
    if (wrong := went_well_but_warned(done)) is not None:
        return wrong
    return f"warned: {last_line(done.stderr)}" if "Warning" in done.stderr else None


def refused(*words: str) -> Callable[[CompletedProcess[str]], str | None]:
    """What is wrong with a refusal of the command line, which should say these words."""

    def judged(done: CompletedProcess[str]) -> str | None:
        if done.returncode != 2:
            return f"left with {done.returncode} where 2 was expected: {last_line(done.stderr)}"
        if "Traceback" in done.stderr:
            return "showed a traceback"
        if done.stderr.count("error: ") != 1:
            return f"{done.stderr.count('error: ')} messages"
        return judged_message(done.stderr.partition("error: ")[2], words)

    return judged


def judged_message(message: str, words: tuple[str, ...] | list[str]) -> str | None:
    """What is wrong with a message that should say these words."""
    missing = [word for word in words if word not in message]
    if missing:
        return f"does not say {missing[0]!r}: {message[:300]}"
    return f"has {len(message)} characters" if len(message) > LONGEST else None


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[-1][:300]


PARTS = {
    "readme": Stranger.readme,
    "commands": Stranger.commands,
    "mistakes": Stranger.mistakes,
    "notebooks": Stranger.notebooks,
}


def main(folder: str, *parts: str) -> int:
    """Make the environment, try everything or these parts, and say what went wrong."""
    if unknown := [part for part in parts if part not in PARTS]:
        raise SystemExit(f"there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    begun = time.monotonic()
    environment = Environment.made(folder)
    wheel, _ = environment.built()
    environment.pip(*CONSTRAINED, wheel)
    print(f"    {time.monotonic() - begun:6.1f}s pip install {wheel.name}")
    stranger = Stranger(environment)
    for part in parts or PARTS:
        PARTS[part](stranger)
    failed = [one for one in stranger.tried if one.wrong]
    total = time.monotonic() - begun
    print(f"{len(stranger.tried)} tried in {total:.0f} s, {len(failed)} otherwise than they should; {stranger.folder}")
    for one in failed:
        print(f"  {one.name}\n      {one.wrong}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
