"""What may import what, read from the source, and what importing the package costs."""

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import interp_hooks

PACKAGE = Path(interp_hooks.__file__).parent

# Each may import those of earlier lines, and its own package.
LAYERS = """
    errors
    arguments
    arrays losses frozen_norm tensor_files
    names slices experts_config factored sampling
    hook_points tokenization compat
    config caching decomposition
    hooks tokens direct_effects initialization
    cache components checkpoints
    generate grouping inputs weights
    switches
    model
    loading sites training
    interventions
    readout edges
    plans archive
    recording provenance
    interpreter folders
    results
    experiment
    experiments analysis
    patching known viz
    demo
    cli
"""
RANK = {name: rank for rank, line in enumerate(LAYERS.split("\n")) for name in line.split()}
ALLOWED = {
    ("checkpoints", "loading"),  # HookedTransformer.from_pretrained and kin, inside the methods
    *(("compat", home) for home in ("checkpoints", "components", "config", "initialization", "model")),  # its classes
}
WHO_LOADS = {"loading", "checkpoints", "demo", "cli"}

PANDAS = {"hooks", "results", "experiments", "analysis", "patching", "viz", "demo", "cli"}  # where tables leave
TRANSFORMERS = {"loading", "tokens", "tokenization", "checkpoints", "components/positions"}


def module_of(path: Path) -> str:
    """'loading/load' for interp_hooks/loading/load.py."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every dotted name that a file imports at any depth, and whether only for the type checker."""

    def walk(node: ast.AST, typing_only: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            typing_only = True
        if isinstance(node, ast.Import):
            yield from ((alias.name, typing_only) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from ((f"{node.module}.{alias.name}", typing_only) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, typing_only)

    return walk(ast.parse(path.read_text(encoding="utf-8")), False)


SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def check_imports_point_one_way(path: Path) -> None:
    own = module_of(path).split("/")[0]
    assert own in RANK, f"say in LAYERS where {own} stands"
    for name, _ in imports(path):
        parts = name.split(".")
        if parts[0] != "interp_hooks" or parts[1] == "__version__" or parts[1] == own:
            continue
        assert parts[1] in RANK, f"{path}: what is {name}?"
        if (own, parts[1]) not in ALLOWED:
            assert RANK[parts[1]] < RANK[own], f"{path} must not import {name}"
        if parts[1] == "loading":
            assert own in WHO_LOADS, f"{path} must not import {name}"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_point_one_way(path: Path) -> None:
    check_imports_point_one_way(path)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_big_packages_stay_where_they_are_needed(path: Path) -> None:
    module = module_of(path)
    own = module.split("/")[0]
    for name, typing_only in imports(path):
        package = name.split(".")[0]
        if package == "transformers":
            assert {own, module} & TRANSFORMERS or (module == "model" and typing_only), f"{path} imports {name}"
        elif package == "plotly":
            assert own == "viz", f"{path} imports {name}"
        elif package == "pandas":
            assert own in PANDAS, f"{path} imports {name}"


@pytest.mark.parametrize("path", [path for path in SOURCES if "loading" not in path.parts], ids=module_of)
def test_no_architecture_is_named_outside_loading(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not re.findall(r"\w+(?:ForCausalLM|LMHeadModel|ForMaskedLM|ForConditionalGeneration)\b", source)


def test_loading_is_imported_inside_the_methods_of_checkpoints_only() -> None:
    tree = ast.parse((PACKAGE / "checkpoints.py").read_text(encoding="utf-8"))
    methods = [
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and "interp_hooks.loading" in str(node.module)
    ]
    assert {"from_pretrained", "from_state_dict", "to_hf", "verify"} <= set(methods)
    assert not [node for node in tree.body if isinstance(node, ast.ImportFrom) and "loading" in str(node.module)]


@pytest.mark.parametrize(
    "source",
    [
        "from interp_hooks.model import HookedTransformer",
        "def f():\n    import interp_hooks.loading.load",
        "if TYPE_CHECKING:\n    from interp_hooks.cache import ActivationCache",
    ],
)
def test_a_wrong_import_is_found(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    path = tmp_path / "names.py"
    path.write_text("from interp_hooks.errors import BadInput\nimport re")
    check_imports_point_one_way(path)
    path.write_text(source)
    with pytest.raises(AssertionError, match="must not import"):
        check_imports_point_one_way(path)


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
    home = importlib.import_module(interp_hooks._HOME_OF[name])
    assert getattr(home, name) is value


def test_public_names_are_listed_once_and_by_dir() -> None:
    listed = [name for names in interp_hooks._HOMES.values() for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(interp_hooks.__all__) <= set(dir(interp_hooks))


def test_an_unknown_public_name_is_told() -> None:
    with pytest.raises(AttributeError, match="no attribute 'HookedTransfomer'"):
        interp_hooks.HookedTransfomer  # noqa: B018
