"""What may import what, read from the source, and what importing the package costs."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import interp_hooks
from tests.house import EXCEPTIONS, PACKAGE, ROOMS, import_graph, imported, levels, module_of, of_rooms, sources

SOURCES = sources()
PANDAS = {"hooks", "experiments", "circuits", "studies", "ground_truth", "corpus", "compat", "views", "cli"}  # tables
TRANSFORMERS = {"loading", "model.tokens", "model.tokenization", "model.components.positions"}
TRANSFORMERS |= {"model.transformer", "model.network", "compat.model"}  # for the type checker


def check_imports_point_down(graph: dict[str, set[str]]) -> None:
    for module, others in graph.items():
        room = module.split(".")[0]
        assert room in ROOMS, f"{module}: a new room has its place in ROOMS; a new module belongs into a room"
        for other in others:
            assert ROOMS.index(other.split(".")[0]) <= ROOMS.index(room), f"{module} must not import {other}"


def test_imports_point_down_the_list_of_rooms() -> None:
    check_imports_point_down(import_graph())


def test_there_is_no_circle() -> None:
    graph = import_graph()
    levels(graph)  # which raises where there is one
    assert max(levels(of_rooms(graph)).values()) <= 12


def test_few_entries_stand_at_the_top() -> None:
    entries = {path.name for path in PACKAGE.iterdir() if not path.name.startswith("_")} - {"py.typed"}
    assert entries <= {*ROOMS}
    assert len(entries) <= 16


def test_big_packages_stay_where_they_are_needed() -> None:
    for path in SOURCES:
        module = module_of(path)
        room = module.split(".")[0]
        for name in imported(path.read_text(encoding="utf-8")):
            package = name.split(".")[0]
            if package == "transformers":
                assert {room, module} & TRANSFORMERS, f"{path} imports {name}"
            elif package == "plotly":
                assert room == "views", f"{path} imports {name}"
            elif package == "pandas":
                assert room in PANDAS, f"{path} imports {name}"


def test_no_architecture_is_named_outside_loading() -> None:
    architecture = r"\w+(?:ForCausalLM|LMHeadModel|ForMaskedLM|ForConditionalGeneration)\b"
    for path in SOURCES:
        if "loading" not in path.parts:
            assert not re.findall(architecture, path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(("module", "room"), EXCEPTIONS)
def test_the_exceptions_are_made_inside_functions_only(module: str, room: str) -> None:
    """`HookedTransformer` is imported without `loading`, `Result` without `views`."""
    path = PACKAGE / f"{module.replace('.', '/')}.py"
    assert [name for name in imported(path.read_text(encoding="utf-8")) if name.startswith(f"interp_hooks.{room}")]
    code = "import sys, interp_hooks\ninterp_hooks.HookedTransformer, interp_hooks.Result\n"
    code += f"out['loaded'] = [name for name in sys.modules if name.startswith('interp_hooks.{room}')]"
    assert in_a_fresh_process(code)["loaded"] == []


@pytest.mark.parametrize(
    "source",
    [
        "from interp_hooks.model.transformer import HookedTransformer",
        "def f():\n    import interp_hooks.loading.load",
        "if TYPE_CHECKING:\n    from interp_hooks.model.cache import ActivationCache",
    ],
)
def test_a_wrong_import_is_found(source: str, tmp_path: Path) -> None:
    for room in ("errors", "hooks", "model", "loading"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("")
    (tmp_path / "model" / "transformer.py").write_text("")
    (tmp_path / "hooks" / "names.py").write_text("from interp_hooks.errors import BadInput\nimport re")
    check_imports_point_down(import_graph(tmp_path))
    (tmp_path / "hooks" / "names.py").write_text(source)
    with pytest.raises(AssertionError, match="must not import"):
        check_imports_point_down(import_graph(tmp_path))


def test_the_order_of_hooks_is_known_in_one_place() -> None:
    """Nobody takes hook names apart but those whose business they are."""
    apart = r'(?:startswith|removeprefix)\(f?"blocks|\w\.replace\("(?:hook_|attn\.)|rpartition\("\.?hook_'
    for path in SOURCES:
        module = module_of(path)
        if module not in ("model.stream", "hooks.names", "hooks.points") and not module.startswith("loading."):
            assert not re.findall(apart, path.read_text(encoding="utf-8")), path


RUNS_THE_MODEL = r"\.run_with_(?:hooks|cache)\(\n? *[^)]"


def test_passes_beside_the_engine_say_why() -> None:
    """What runs a model itself, above the engine, says so in a sentence about the pass of its own."""
    for path in SOURCES:
        source, room = path.read_text(encoding="utf-8"), module_of(path).split(".")[0]
        if room in ("experiments", "circuits", "studies") and re.findall(RUNS_THE_MODEL, source):
            assert "pass of its own" in source, path


def test_a_circle_is_found() -> None:
    with pytest.raises(ValueError, match="a -> b -> a"):
        levels({"a": {"b"}, "b": {"a"}})


# ------------------------------------------------------------------------------------------------------- what it costs


def in_a_fresh_process(code: str) -> dict:
    script = f"import json, sys, time\nout = {{}}\n{code}\nprint(json.dumps(out))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


HEAVY = ("transformers", "plotly", "pandas", "tokenizers", "IPython")


@pytest.mark.parametrize("statement", ["import interp_hooks", "dir(__import__('interp_hooks'))"])
def test_importing_is_light(statement: str) -> None:
    found = in_a_fresh_process(f"{statement}\nout['loaded'] = [name for name in {HEAVY} if name in sys.modules]")
    assert found["loaded"] == []


def test_a_model_needs_nothing_heavy_either() -> None:
    code = f"""
from interp_hooks import HookedTransformer
cfg = dict(n_layers=1, d_model=8, n_ctx=4, d_vocab=5, n_heads=2, act_fn="relu")
import torch
HookedTransformer(cfg).run_with_cache(torch.zeros(1, 3, dtype=torch.long))
out["loaded"] = [name for name in {HEAVY} if name in sys.modules]
"""
    assert in_a_fresh_process(code)["loaded"] == []


def test_importing_is_quick() -> None:
    """0.2 s beyond torch on an idle machine; here ten times that, since tests share theirs."""
    code = """
import torch
start = time.perf_counter()
import interp_hooks
interp_hooks.HookedTransformer
out["seconds"] = time.perf_counter() - start
"""
    assert in_a_fresh_process(code)["seconds"] < 2.0


# -------------------------------------------------------------------------------------------------------- public names


@pytest.mark.parametrize("name", interp_hooks.__all__)
def test_public_names_resolve_and_are_documented(name: str) -> None:
    value = getattr(interp_hooks, name)
    documented = value if callable(value) else type(value)
    assert str(documented.__doc__).strip()
    assert not str(documented.__doc__).startswith(f"{name}("), "a docstring of its own, not the one dataclasses write"


def test_public_names_are_few_and_listed_once() -> None:
    listed = [name for homes in interp_hooks.SUBJECTS.values() for names in homes.values() for name in names]
    assert len(listed) == len(set(listed)) <= 70
    assert set(listed) == set(interp_hooks.__all__) <= set(dir(interp_hooks))


@pytest.mark.parametrize("name", interp_hooks.__all__)
def test_public_names_are_in_their_rooms_too(name: str) -> None:
    homes = {one: home for found in interp_hooks.SUBJECTS.values() for home, names in found.items() for one in names}
    room = importlib.import_module(f"interp_hooks.{homes[name].split('.')[0]}")
    assert name in room.__all__
    assert getattr(room, name) is getattr(interp_hooks, name)


@pytest.mark.parametrize("room", interp_hooks.ROOMS)
def test_rooms_are_reached_and_their_names_resolve(room: str) -> None:
    module = getattr(interp_hooks, room)
    assert module.__doc__
    for name in module.__all__ if hasattr(module, "__all__") else ():
        assert getattr(module, name).__doc__, name
        assert not inspect.ismodule(getattr(module, name)), f"{name}: its module needs another name than its function"


@pytest.mark.parametrize("name", interp_hooks.MOVED_NAMES)
def test_names_that_moved_say_where(name: str) -> None:
    room = f"interp_hooks.{interp_hooks.MOVED_NAMES[name]}"
    with pytest.warns(FutureWarning, match=f"{name} has moved: from {room} import {name}"):
        value = getattr(interp_hooks, name)
    assert value is getattr(importlib.import_module(room), name)


def test_modules_that_moved_are_the_modules_themselves() -> None:
    """Each is imported in a process in which nobody has imported what is there today: a fork of one that has torch."""
    moved = [*interp_hooks.MOVED_MODULES, "known.handmade", "experiments.tasks.symbols"]
    code = f"""
import importlib, os, warnings
import torch, interp_hooks
def imported(old, today):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        old = importlib.import_module(f"interp_hooks.{{old}}")
    new = importlib.import_module(f"interp_hooks.{{today}}")
    return old is new and new.__spec__.name == new.__name__, [str(one.message) for one in told]
for old, today in {[(old, interp_hooks.today(old)) for old in moved]}:
    reading, writing = os.pipe()
    if not os.fork():
        with os.fdopen(writing, "w") as told:
            told.write(json.dumps(imported(old, today)))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        out[old] = json.loads(told.read())
    os.wait()
"""
    for old, (same, told) in in_a_fresh_process(code).items():
        assert same, old
        assert any(f"import interp_hooks.{interp_hooks.today(old)}" in one for one in told), old


def test_an_unknown_public_name_is_told() -> None:
    with pytest.raises(AttributeError, match="no attribute 'HookedTransfomer'"):
        interp_hooks.HookedTransfomer  # noqa: B018


# ---------------------------------------------------------------------------------------------------- what models hold


def functions_that_set(attribute: str, source: str) -> list[str]:
    """The functions of a source that assign to an attribute of that name, of whatever object."""
    return [
        function.name
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef)
        and any(
            isinstance(node, ast.Attribute) and node.attr == attribute and isinstance(node.ctx, ast.Store)
            for node in ast.walk(function)
        )
    ]


def test_a_models_config_is_replaced_in_one_place() -> None:
    """Everything else that changes a model calls `_reconfigure`, so that the config cannot fall behind.

    (What old code uses as an MLP has one of its own.)
    """
    setters = {module_of(path): functions_that_set("cfg", path.read_text(encoding="utf-8")) for path in SOURCES}
    setters = {module: names for module, names in setters.items() if names}
    assert setters == {"model.network": ["__init__", "_reconfigure"], "compat.classes": ["__init__"]}
    assert functions_that_set("cfg", "def f(model):\n    model.cfg = 1\ndef g(model):\n    model.cfg.n") == ["f"]


def test_classes_that_sort_a_models_methods_keep_nothing() -> None:
    """All attributes of a model are `Network`'s; the classes on top of it hold functions and a docstring."""
    sorting = [
        node
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "Network" for base in node.bases)
    ]
    assert {node.name for node in sorting} == {"Generation", "StackedWeights", "Switches", "TextMethods"}
    for node in sorting:
        assert all(isinstance(one, ast.FunctionDef | ast.Expr) for one in node.body), node.name
        assert "__init__" not in [one.name for one in node.body if isinstance(one, ast.FunctionDef)]
