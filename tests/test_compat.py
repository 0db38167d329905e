"""The other import name: every alias is the object that it says, and tutorial code runs under it.

Each check has a process of its own, since what is imported under a name stays so.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from interp_hooks import compat

SCRIPTS = sorted((Path(__file__).parent / "compat").glob("*.py"))
INSTALL = "from interp_hooks import compat; compat.install()\n"


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=one_thread)


def check(code: str) -> None:
    done = run(INSTALL + code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_tutorial_code_runs(script: Path) -> None:
    done = run(INSTALL + "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')", str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
    assert "transformer_lens" in script.read_text()
    assert "interp_hooks" not in script.read_text(), "code that does not know this package"


def test_every_alias_resolves() -> None:
    check("""
import importlib
for path, table in compat.MODULES.items():
    module = importlib.import_module(f"transformer_lens.{path}" if path else "transformer_lens")
    assert module.__all__ and set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        home, ours = (table, name) if isinstance(table, str) else table[name].split(":")
        assert getattr(module, name) is getattr(importlib.import_module(home), ours), (path, name)
""")


def test_ways_to_import() -> None:
    check("""
compat.install()
import interp_hooks
import transformer_lens
import transformer_lens as tl
import transformer_lens.utils as utils
import transformer_lens.ActivationCache as cache_module
from transformer_lens import ActivationCache, FactoredMatrix, HookedTransformer, patching
from transformer_lens.ActivationCache import ActivationCache as again
from transformer_lens.loading_from_pretrained import get_official_model_name
from transformer_lens.past_key_value_caching import HookedTransformerKeyValueCache
from transformer_lens.utils import *
assert tl is transformer_lens and tl.utils is utils and utils.get_act_name is get_act_name
assert ActivationCache is again is interp_hooks.ActivationCache is cache_module is transformer_lens.ActivationCache
assert HookedTransformer is interp_hooks.HookedTransformer is tl.HookedTransformer
assert patching.get_act_patch_resid_pre is __import__("interp_hooks.patching").patching.get_act_patch_resid_pre
assert HookedTransformerKeyValueCache is interp_hooks.KeyValueCache
assert get_official_model_name("gpt2-small") == "openai-community/gpt2"
assert "HookedTransformer" in dir(tl) and "utils" in dir(tl)
import inspect
inspect.getmodule(compat.install)  # asks every module for its file
""")


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (
            "import transformer_lens; transformer_lens.HookedTransfomer",
            "AttributeError",
            "Did you mean HookedTransformer",
        ),
        ("from transformer_lens import utils; utils.to_nump", "AttributeError", "Did you mean to_numpy?"),
        ("from transformer_lens import HookedTransfomer", "ImportError", "Did you mean HookedTransformer"),
        ("from transformer_lens.utils import to_nump", "ImportError", "Did you mean to_numpy?"),
        ("import transformer_lens.utls", "ImportError", "Did you mean utils"),
        ("from transformer_lens.model_bridge.sources import x", "ImportError", "transformer_lens.model_bridge."),
        ("from transformer_lens.utils import print_gpu_mem", "ImportError", "use torch.cuda.memory_allocated()"),
        ("from transformer_lens import TransformerBridge", "ImportError", "converts every family"),
    ],
)
def test_what_is_not_there(code: str, error: str, message: str) -> None:
    done = run(INSTALL + code)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"{error}: interp_hooks has no counterpart of transformer_lens")
    assert message in last


def test_asking_is_no_error() -> None:
    check("""
import transformer_lens
assert not hasattr(transformer_lens, "TransformerBridge")
assert getattr(transformer_lens, "lit", None) is None
""")


def test_the_real_one_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "transformer_lens.py").write_text("name = 'real'")
    done = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import transformer_lens\n{INSTALL}")
    assert done.returncode == 1
    assert "ImportError: transformer_lens itself is imported already" in done.stderr
    assert "in a fresh process, before anything imports it" in done.stderr
    check(f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import transformer_lens
assert not hasattr(transformer_lens, "name"), "one that is only installed is not imported any more"
""")


def test_nothing_is_absent_and_there() -> None:
    there = {name for table in compat.MODULES.values() if not isinstance(table, str) for name in table}
    assert not there & set(compat.ABSENT)


def test_installing_is_asked_for() -> None:
    done = run("import interp_hooks, sys; interp_hooks.HookedTransformer; assert 'transformer_lens' not in sys.modules")
    assert done.returncode == 0, done.stderr
