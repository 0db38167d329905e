"""A notebook, or a script in cells (`# %%`): every code cell is a step, as it stands; its numbers are those of the
variables that it names.

python client_demos.py NOTEBOOK

Cells run one after the other in IPython, as their own tests run them (`GITHUB_ACTIONS`: without what those leave out),
each with the same seed. Nothing is installed, downloaded or shown, and a device other than CUDA is the CPU. Of a tensor
some 200 numbers are told, at even distances, and the sum of squares; of a list as many entries. Cells that their own
tests skip, as too slow, are none.
"""

import ast
import contextlib
import io
import json
import os
import random
import re
import shutil
import sys
import webbrowser
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import MagicMock

import client_othello
import huggingface_hub
import matplotlib
import numpy as np
import plotly.io
import torch
import transformers
from client_steps import STEPS, let_draws_be_alone, run
from IPython.core.interactiveshell import InteractiveShell
from peer_suite_hub import cached_files

os.environ["GITHUB_ACTIONS"] = "true"
SKIPPED = "NBVAL_SKIP"
NUMBERS = 200
ATTENTION_ONLY = "attn_only_2L_half.pth"  # a model of two layers of attention, which ARENA 1.2 downloads
ONLY_TO_LOAD_OR_DRAW = ("gdown", "neel_plotly")  # packages of which a course uses nothing else


def told(value: Any) -> Any:
    """What of a variable is compared: numbers, in tensors and arrays, in lists, tuples and dicts."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, torch.Tensor) and not value.is_sparse:
        flat = (torch.view_as_real(value) if value.is_complex() else value).detach().double().flatten()
        return [*flat[:: max(1, len(flat) // NUMBERS)].tolist(), float(flat.square().sum())]
    if isinstance(value, dict):
        value = [one for _, one in sorted(value.items(), key=lambda item: str(item[0]))]
    if isinstance(value, (list, tuple)):
        return [told(one) for one in value[:: max(1, len(value) // NUMBERS)]]
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def names_in(source: str) -> list[str]:
    """The names that a cell reads or assigns outside of its functions' bodies, in order."""
    tree = ast.parse(source)
    return sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})


def cell_step(shell: InteractiveShell, source: str) -> Any:
    """A step that runs one cell.

    Raises:
        Exception: whatever the cell raises.
    """

    def cell() -> Any:
        random.seed(0)
        np.random.seed(0)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            done = shell.run_cell(source)
        if done.error_before_exec or done.error_in_exec:
            raise done.error_before_exec or done.error_in_exec
        names = [name for name in names_in(shell.transform_cell(source)) if name in shell.user_ns]
        return told([done.result, *(shell.user_ns[name] for name in names)])

    return cell


def cells_of(file: Path) -> list[str]:
    """The sources of the code cells, in order."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        return re.split(r"^# %%.*$", text, flags=re.MULTILINE)[1:]
    return ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]


def fill_attention_only(file: Path, width: int = 768, heads: int = 12, n_ctx: int = 2048, d_vocab: int = 50278) -> None:
    """Write the state dict of that model, with random weights, as `HookedTransformer` kept it when it was trained."""
    sizes: dict[str, tuple[int, ...]] = {"embed.W_E": (d_vocab, width), "pos_embed.W_pos": (n_ctx, width)}
    masks = dict[str, torch.Tensor]()
    for at in ("blocks.0.attn", "blocks.1.attn"):
        sizes |= {f"{at}.W_{name}": (heads, width, width // heads) for name in "QKV"}
        sizes |= {f"{at}.b_{name}": (heads, width // heads) for name in "QKV"}
        sizes |= {f"{at}.W_O": (heads, width // heads, width), f"{at}.b_O": (width,)}
        masks |= {f"{at}.mask": torch.ones(n_ctx, n_ctx, dtype=torch.bool).tril(), f"{at}.IGNORE": torch.tensor(-1e5)}
    sizes |= {"unembed.W_U": (width, d_vocab), "unembed.b_U": (d_vocab,)}
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(size, generator=generator) * 0.1 for name, size in sizes.items()}
    torch.save(weights | masks, file)


def on_the_cpu(script: Path, folder: Path) -> Path:
    """The same script in a copy of its course, all of which takes the CPU where it would take MPS.

    Its folder becomes the current one, from which the course's tests find it.
    """
    course = shutil.copytree(script.parents[1], folder / script.parents[2].name / script.parents[1].name)
    for copied in course.rglob("*.py"):
        copied.write_text(copied.read_text(encoding="utf-8").replace('"mps"', '"cpu"'), encoding="utf-8")
    os.chdir(course / script.parent.name)
    return Path(script.name).resolve()


def main(file: Path) -> None:
    matplotlib.use("agg")
    plotly.io.show = lambda figure, *args, **options: None
    webbrowser.open = lambda *args, **options: False
    sys.modules.update({name: MagicMock() for name in ONLY_TO_LOAD_OR_DRAW})
    sys.modules["transformers.models.gpt2.tokenization_gpt2_fast"] = transformers  # where it was before version 5
    huggingface_hub.HfApi.list_repo_files = cached_files
    let_draws_be_alone()
    torch.load = partial(torch.load, map_location="cpu")
    shell = InteractiveShell.instance()
    shell.register_magic_function(lambda line: None, "line", "pip")
    shell.system = shell.getoutput = lambda command, **options: None
    if "othello" in file.parent.name:
        client_othello.fill(file.parent)
    if ATTENTION_ONLY in file.read_text(encoding="utf-8"):
        fill_attention_only(file.with_name(ATTENTION_ONLY))
    shell.user_ns["__file__"] = str(file)
    for number, source in enumerate(cells_of(file)):
        if SKIPPED not in source:
            function = cell_step(shell, source)
            function.__name__ = f"cell {number}"
            STEPS.append(function)
    run()


with TemporaryDirectory() as place:
    given = Path(sys.argv[1])
    main(on_the_cpu(given, Path(place)) if given.suffix == ".py" else given)
