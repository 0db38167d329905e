"""The rooms of the package, who imports whom, and how many modules a call passes through.

    python -m tests.house            rooms with their lines, levels, circles, and what calls pass through
    python -m tests.house --calls    the modules that each of these calls passes through, by name

Imports are read from the source at any depth, those inside functions and for the type checker included.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import interp_hooks

PACKAGE = Path(interp_hooks.__file__).parent

# From the bottom up: each may import those before it, and itself.
ROOMS = (
    *("errors", "hooks", "model", "loading", "corpus", "interventions", "experiments", "tasks", "ground_truth"),
    *("dictionaries", "circuits", "studies", "views", "compat", "cli", "__main__"),
)
# The two exceptions, imported when they are called. Methods that users type (from_pretrained, to_hf, verify, ...) call
# `loading`, which knows every architecture; results ask `views` for their picture when a notebook shows them.
EXCEPTIONS = (("model.transformer", "loading"), ("experiments.results.shown", "views"))


def module_of(path: Path, package: Path = PACKAGE) -> str:
    """ "loading.load" for interp_hooks/loading/load.py, "loading" for its __init__.py."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(package: Path = PACKAGE) -> list[Path]:
    """All files of code but the one at the root, which imports nothing by itself."""
    return [path for path in sorted(package.rglob("*.py")) if path != package / "__init__.py"]


def imported(source: str) -> Iterator[str]:
    """Every dotted name that a source imports, at any depth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def import_graph(package: Path = PACKAGE) -> dict[str, set[str]]:
    """For every module of the package those that it imports, but for `EXCEPTIONS`."""
    files = {module_of(path, package): path for path in sources(package)}
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        graph[module] = set()
        for name in imported(path.read_text(encoding="utf-8")):
            root, _, inside = name.partition(".")
            while root == PACKAGE.name and inside and inside not in files:
                inside = inside.rpartition(".")[0]
            excepted = (module, inside.split(".")[0]) in EXCEPTIONS
            if root == PACKAGE.name and inside and inside != module and not excepted:
                graph[module].add(inside)
    return graph


def levels(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """How high each module stands: one above the highest of those that it imports, 1 if it imports none.

    Raises:
        ValueError: a circle; the message shows it.
    """
    found: dict[str, int] = {}

    def level(module: str, above: tuple[str, ...]) -> int:
        if module in above:
            raise ValueError(" -> ".join([*above[above.index(module) :], module]))
        if module not in found:
            found[module] = 1 + max((level(other, (*above, module)) for other in graph[module]), default=0)
        return found[module]

    for module in graph:
        level(module, ())
    return found


def of_rooms(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same graph with whole rooms in the place of their modules."""
    rooms: dict[str, set[str]] = {module.split(".")[0]: set() for module in graph}
    for module, others in graph.items():
        room = module.split(".")[0]
        rooms[room] |= {other.split(".")[0] for other in others} - {room}
    return rooms


def code_lines(path: Path) -> int:
    """Lines that hold code: neither blank, nor comments, nor docstrings."""
    source = path.read_text(encoding="utf-8")
    kinds = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in kinds:
            held.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                held.difference_update(range(value.lineno, (value.end_lineno or value.lineno) + 1))
    return len(held)


def passed_through(call: Callable[[], Any]) -> list[str]:
    """The modules of the package in which a call runs code."""
    seen: set[str] = set()

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            seen.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    inside = [Path(name) for name in seen if name.startswith(str(PACKAGE))]
    return sorted(module_of(path) for path in inside if path != PACKAGE / "__init__.py")


def calls() -> dict[str, Callable[[], Any]]:
    """Calls whose way through the package is counted; the second time, when nothing is left to import."""
    from interp_hooks import HookedTransformer, LogitDiff, eap, ioi_pairs, patch

    model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    pairs = ioi_pairs(model, 2)
    metric = LogitDiff(pairs.answer, pairs.wrong)
    clean, corrupt = pairs.clean, pairs.corrupt
    return {
        "patch": lambda: patch(model, clean, corrupt, metric, "z", over=("layer",), layers=[1], progress=False),
        "eap": lambda: eap(model, clean, corrupt, metric),
        "from_pretrained": lambda: HookedTransformer.from_pretrained("ioi-tiny", device="cpu"),
    }


def main(show_calls: bool) -> None:
    graph = import_graph()
    of_modules, by_room = levels(graph), levels(of_rooms(graph))
    files = sources()
    print(f"{'level':>5}  {'files':>5}  {'code':>6}  room")
    for room in sorted(by_room, key=by_room.__getitem__):
        paths = [path for path in files if module_of(path).split(".")[0] == room]
        print(f"{by_room[room]:>5}  {len(paths):>5}  {sum(map(code_lines, paths)):>6}  {room}")
    total = sum(map(code_lines, [*files, PACKAGE / "__init__.py"]))
    print(
        f"{len(by_room)} rooms on {max(by_room.values())} levels, no circle; {len(files)} modules, {total} code lines"
    )
    print(f"the longest chain of imports has {max(of_modules.values())} modules")
    for name, call in calls().items():
        call()
        through = passed_through(call)
        print(f"{name} passes through {len(through)} modules" + (": " + ", ".join(through) if show_calls else ""))


if __name__ == "__main__":
    main("--calls" in sys.argv)
