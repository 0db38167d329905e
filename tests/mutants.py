"""One-line mistakes drawn from the package's functions, and whether the tests notice them.

    python -m tests.mutants --seed 0 --count 64
    python -m tests.mutants --seed 0 --count 64 --room circuits --seconds 600

All rooms get the same number. The tests of these rooms are collected once; then each mutant has a forked process, in
which the code of one function is exchanged and tests run until one fails: those of the same name first, then those that
name its module, those of its folder, and the others. No file is written. What survives is printed for a person: it
may be equal in what it does, as a bound of memory or the order of a set is, or a test is missing.
"""

import argparse
import ast
import gc
import importlib.util
import os
import random
import signal
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TESTS = {
    "interventions": ["tests/interventions", "tests/experiments"],
    "model/components": ["tests/model", "tests/hooks", "tests/test_families.py"],
    "loading": ["tests/loading", "tests/test_families.py"],
    "circuits": ["tests/circuits"],
}
OPERATORS: dict[type[ast.AST], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "%"),
    ast.Mod: ("%", "//"),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
}
STUCK = 120  # CPU seconds of a single test, after which it has failed


@dataclass(frozen=True)
class Mutant:
    """Other words in one place of a file; `function` is the outermost function around it, by name and first line."""

    path: Path
    function: tuple[str, int]
    line: int
    start: int
    end: int
    new: str

    def source(self) -> str:
        """The file with the mistake."""
        lines = text_of(self.path).splitlines(keepends=True)
        lines[self.line - 1] = self.mistaken(lines[self.line - 1])
        return "".join(lines)

    def mistaken(self, line: str) -> str:
        as_bytes = line.encode()
        return (as_bytes[: self.start] + self.new.encode() + as_bytes[self.end :]).decode()

    def __str__(self) -> str:
        line = text_of(self.path).splitlines()[self.line - 1]
        return f"{self.path.relative_to(ROOT)}:{self.line}\n    - {line.strip()}\n    + {self.mistaken(line).strip()}"


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------- drawing


def mutants_of(path: Path) -> list[Mutant]:
    """All of a file, whose mistake lies in a function that can be exchanged."""
    tree, lines = ast.parse(text_of(path)), [line.encode() for line in text_of(path).splitlines()]
    codes = Counter(key for key, _ in functions_of(compile(tree, str(path), "exec")))
    return [
        Mutant(path, function, line, start, end, new)
        for function, body in outermost(tree)
        if codes[function] == 1
        for node in body
        for line, start, end, new in mistakes(node, lines)
    ]


def functions_of(code: types.CodeType) -> Iterator[tuple[tuple[str, int], types.CodeType]]:
    """The code of a module's functions, by name and first line, without those within them."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            if constant.co_flags & 0x2:  # its names are local: a function, and no class
                yield (constant.co_name, constant.co_firstlineno), constant
            else:
                yield from functions_of(constant)


def outermost(tree: ast.AST) -> Iterator[tuple[tuple[str, int], list[ast.AST]]]:
    """Functions that no other one has around it, and what their bodies are made of."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            first = min(one.lineno for one in (node, *node.decorator_list))
            yield (node.name, first), [one for statement in node.body for one in parts(statement)]
        elif isinstance(node, ast.Lambda):
            yield ("<lambda>", node.lineno), list(parts(node.body))
        else:
            yield from outermost(node)


def parts(node: ast.AST) -> Iterator[ast.AST]:
    """A piece of code and all within it, without annotations, errors' words and assertions."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
        return
    yield node
    for name, value in ast.iter_fields(node):
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, ast.AST) and name not in ("annotation", "returns"):
                yield from parts(one)


def mistakes(node: Any, lines: list[bytes]) -> Iterator[tuple[int, int, int, str]]:
    """Line, first and last byte in it, and what could stand there by mistake."""

    def within(one: Any, new: str) -> Iterator[tuple[int, int, int, str]]:
        if one.lineno == one.end_lineno:
            yield one.lineno, one.col_offset, one.end_col_offset, new

    def between(left: Any, right: Any, operator: ast.AST) -> Iterator[tuple[int, int, int, str]]:
        old, new = OPERATORS.get(type(operator), ("", ""))
        if old and left.end_lineno == right.lineno:
            start = lines[right.lineno - 1].find(old.encode(), left.end_col_offset, right.col_offset)
            if start >= 0:
                yield right.lineno, start, start + len(old), new

    if isinstance(node, ast.BinOp):
        yield from between(node.left, node.right, node.op)
    elif isinstance(node, ast.Compare):
        yield from between(node.left, node.comparators[0], node.ops[0])
    elif isinstance(node, ast.BoolOp):
        yield from between(node.values[0], node.values[1], node.op)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield from within(node, f"({ast.unparse(node.operand)})")
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield from within(node, str(not node.value))
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield from within(node, str(node.value + 1))
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        yield from within(node, repr(2 * node.value + (not node.value)))
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        yield from within(node.test, f"(not ({ast.unparse(node.test)}))")
    elif isinstance(node, ast.Call):
        for number, keyword in enumerate(node.keywords):
            shorter = ast.Call(node.func, node.args, node.keywords[:number] + node.keywords[number + 1 :])
            if keyword.arg:
                yield from within(node, ast.unparse(shorter))


def drawn(room: str, count: int, seed: int) -> list[Mutant]:
    """So many of a room's, all different."""
    found = [one for path in sorted((ROOT / "interp_hooks" / room).rglob("*.py")) for one in mutants_of(path)]
    draw = random.Random(f"{seed} {room}")
    draw.shuffle(found)
    chosen: list[Mutant] = []
    while found and len(chosen) < count:
        one = found.pop()
        if is_exchangeable(one):
            chosen.append(one)
    return chosen


def is_exchangeable(mutant: Mutant) -> bool:
    """Whether it is another program, of the same variables from around it."""
    before, after = (
        dict(functions_of(compile(source, str(mutant.path), "exec")))[mutant.function]
        for source in (text_of(mutant.path), mutant.source())
    )
    return before.co_freevars == after.co_freevars and before != after


# ------------------------------------------------------------------------------------------------------------- trying


class Trial:
    """A plugin for pytest: when all tests are collected, tries one mutant after the other in a process of its own."""

    def __init__(self, mutants: list[tuple[str, Mutant]], seconds: float) -> None:
        self.mutants, self.seconds = mutants, seconds
        self.survivors: list[Mutant] = []
        self.until = float("inf")
        self.failed = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        for path in {mutant.path for _, mutant in self.mutants}:  # some are imported only when they are needed
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
        gc.unfreeze()  # what is frozen is not listed; asking an object its class may warn
        functions = [one for one in gc.get_objects() if type(one) is types.FunctionType]
        gc.freeze()
        for number, (room, mutant) in enumerate(self.mutants, start=1):
            log = Path(tempfile.gettempdir()) / f"mutant-{os.getpid()}.txt"
            child = os.fork()
            if not child:
                self.become(mutant, functions, session, room, log)
                return None  # and pytest goes on to run what is left to run
            begun = time.monotonic()
            os.waitpid(child, 0)
            told = log.read_text() if log.exists() else "CAUGHT the process died"
            log.unlink(missing_ok=True)
            if not told.startswith("CAUGHT"):
                self.survivors.append(mutant)
            print(f"{number:3} {told}  ({time.monotonic() - begun:.0f} s)\n    {mutant}", flush=True)
        caught = len(self.mutants) - len(self.survivors)
        print(f"\n{caught} of {len(self.mutants)} caught; these survived, which a person has to look at:")
        print(*(f"    {one}" for one in self.survivors), sep="\n")
        return True

    def become(
        self, mutant: Mutant, functions: list[types.FunctionType], session: pytest.Session, room: str, log: Path
    ) -> None:
        """Exchange the function, and put the tests that are nearest to it first."""
        self.log = log
        code = dict(functions_of(compile(mutant.source(), str(mutant.path), "exec")))[mutant.function]
        exchanged = 0
        for one in functions:
            here = one.__code__
            if here.co_filename == code.co_filename and (here.co_name, here.co_firstlineno) == mutant.function:
                one.__code__ = code
                exchanged += 1
        if not exchanged:
            log.write_text("SURVIVED  nobody has imported that function")
            os._exit(0)
        places = [ROOT / place for place in TESTS[room]]
        here = [item for item in session.items if any(item.path.is_relative_to(place) for place in places)]
        session.items[:] = in_order(here, mutant.path)
        session.config.option.maxfail = 1
        self.until = time.process_time() + self.seconds
        signal.signal(signal.SIGPROF, _is_stuck)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        signal.setitimer(signal.ITIMER_PROF, STUCK)
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            if time.process_time() > self.until:
                item.session.shouldstop = "its time is over"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid
            self.log.write_text(f"CAUGHT    by {report.nodeid}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.until < float("inf"):
            if not self.failed:
                over = f"  within {self.seconds:.0f} CPU seconds" if session.shouldstop else ""
                self.log.write_text(f"SURVIVED{over}")
            os._exit(0)


def _is_stuck(*_: object) -> None:
    raise AssertionError(f"a test took more than {STUCK} CPU seconds")


def member_of(item: pytest.Item) -> str:
    """The tiny model that a test of families takes."""
    case = getattr(item, "callspec", None)
    return case.params.get("name", "") if case and item.path.name == "test_families.py" else ""


def in_order(items: list[pytest.Item], source: Path) -> list[pytest.Item]:
    """The nearest first, and of those that are equally near a case of each test before a second one of any."""
    cases = Counter[str]()
    keys: dict[pytest.Item, tuple[int, int]] = {}
    for item in items:
        test = item.nodeid.partition("[")[0]
        is_its_member = source.parent.name == "families" and member_of(item) in members(source.stem)
        keys[item] = (0 if is_its_member else nearness(item.path, source), cases[test])
        cases[test] += 1
    return sorted(items, key=keys.__getitem__)


@cache
def members(family: str) -> frozenset[str]:
    """The tiny models that `tests/family_configs` has for a file of families."""
    found = importlib.util.find_spec(f"tests.family_configs.{family}")
    return frozenset(importlib.import_module(found.name).CONFIGS if found else ())


@cache
def nearness(test: Path, source: Path) -> int:
    """How near a file of tests is to one of the package: 0 the nearest."""
    module = ".".join(source.relative_to(ROOT).with_suffix("").parts)
    same_folder = test.parent == ROOT / "tests" / source.relative_to(ROOT / "interp_hooks").parent
    if test.stem == f"test_{source.stem}":
        return 0
    if f"{module} " in text_of(test):
        return 1
    return 2 if same_folder else 4 if test.name == "test_families.py" else 3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=64, help="how many, of all rooms together")
    parser.add_argument("--room", choices=TESTS, action="append", help="those of these rooms alone")
    parser.add_argument("--seconds", type=float, default=300, help="CPU seconds of tests for each (%(default)s)")
    parser.add_argument("--only", type=int, nargs="*", help="those of these numbers alone")
    chosen = parser.parse_args()
    rooms = chosen.room or list(TESTS)
    each = -(-chosen.count // len(TESTS))
    mutants = [(room, one) for room in rooms for one in drawn(room, each, chosen.seed)]
    if chosen.only:
        mutants = [mutants[number - 1] for number in chosen.only]
    places = sorted({place for room in rooms for place in TESTS[room]})
    os.chdir(ROOT)
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    sys.exit(pytest.main([*options, *places], plugins=[Trial(mutants, chosen.seconds)]))


if __name__ == "__main__":
    main()
