"""Bars are drawn where somebody reads them."""

import inspect
import io
import subprocess
import sys
from typing import Any

import pytest

import interp_hooks
from interp_hooks import LogitDiff, ablate, acdc, attribution_patch, eap_ig, integrated_gradients, patch, path_patch
from tests.experiments.by_hand import OTHER, TOKENS, model_of

DIFF = LogitDiff([4, 11], [7, 2])
LONG: dict[str, Any] = {
    "patch": lambda **options: patch(model_of("gpt2"), TOKENS, OTHER, DIFF, over=("layer",), **options),
    "ablate": lambda **options: ablate(model_of("gpt2"), TOKENS, DIFF, over=("layer",), **options),
    "path_patch": lambda **options: path_patch(model_of("gpt2"), TOKENS, OTHER, DIFF, **options),
    "integrated_gradients": lambda **options: integrated_gradients(model_of("gpt2"), TOKENS, DIFF, steps=2, **options),
    "attribution_patch": lambda **options: attribution_patch(
        model_of("gpt2"), TOKENS, OTHER, DIFF, grad_drop=True, **options
    ),
    "eap_ig": lambda **options: eap_ig(model_of("gpt2"), TOKENS, OTHER, DIFF, steps=2, **options),
    "acdc": lambda **options: acdc(model_of("gpt2"), TOKENS, OTHER, DIFF, threshold=1.0, **options),
}


IN_A_NOTEBOOK = """
import sys
from types import SimpleNamespace
import IPython
IPython.get_ipython = lambda: SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["ipykernel.zmqshell"] = SimpleNamespace()  # by which later versions of tqdm know a notebook
sys.modules["ipywidgets"] = None
"""


@pytest.mark.parametrize("first", ["from interp_hooks import HookedTransformer", "import tqdm"])
def test_a_notebook_without_widgets_gets_no_warning(first: str) -> None:
    """The mutant is tqdm alone: what transformers imports warns there."""
    code = f"{IN_A_NOTEBOOK}\n{first}\nfrom tqdm.auto import tqdm as bars; print(bars.__module__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("TqdmWarning" in done.stderr) == (first == "import tqdm")
    assert done.stdout == "tqdm.asyncio\n", "bars of text"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Notebook(io.StringIO):
    """What stderr is in a notebook: no terminal, but read by whoever runs the cell."""


Notebook.__module__ = "ipykernel.iostream"


@pytest.mark.parametrize("name", LONG)
def test_a_bar_is_drawn_where_somebody_reads_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, options, drawn in (
        (Terminal(), {}, True),
        (Notebook(), {}, True),
        (io.StringIO(), {}, False),
        (Terminal(), {"progress": False}, False),
    ):
        monkeypatch.setattr(sys, "stderr", stream)
        LONG[name](**options)
        assert bool(stream.getvalue()) == drawn, (type(stream).__name__, options)


QUICK = ("direct_logit_attribution", "logit_lens", "gradient_x_input", "eap", "faithfulness", "steering_vector")


def test_everything_that_takes_long_has_the_argument() -> None:
    """What makes a pass or two has no use for it."""
    names = [
        name
        for subject in ("experiments", "circuits")
        for home in interp_hooks.SUBJECTS[subject].values()
        for name in home
    ]
    calls = {name: getattr(interp_hooks, name) for name in names}
    runs = {
        name
        for name, call in calls.items()
        if inspect.isfunction(call) and "metric" in inspect.signature(call).parameters
    }
    assert {name for name in runs if "progress" not in inspect.signature(calls[name]).parameters} == runs & {*QUICK}
