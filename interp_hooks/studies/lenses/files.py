"""Lenses on disk: this package's own files, and those that published lenses are in.

    own              a safetensors file of maps and biases, with a digest and what else the lens says
    tuned lens       a folder of config.json and params.pt, as AlignmentResearch's tuned-lens writes it
    Jacobian lens    a torch file {"J": {layer: matrix}, "n_prompts", "source_layers", "d_model", "metadata"}

A map here is of the stream that enters a layer. A translator of tuned-lens is of the same stream, less the identity.
The published Jacobian of layer l is of the stream after block l, which makes it the map of layer l + 1 here; there is
none of the embeddings, and it is kept in half precision.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.model.tensor_files import on_disk, read_with_digest, replacing, write_text, write_with_digest
from interp_hooks.studies.lenses.base import Lens

Format = Literal["own", "tuned-lens", "jacobian"]
ABOUT = "lens"  # in the metadata of an own file
CONFIG, PARAMETERS = "config.json", "params.pt"


@checked
def save_lens(lens: Lens, path: str | Path, format: Format = "own") -> None:
    """Write a lens to a file: "own" loses nothing, "jacobian" is the published form; or to a folder: "tuned-lens".

    Raises:
        BadInput: the format has no place for something of this lens: a bias, the identity, or a layer.
        DiskError: it cannot be written; what was there still is.

    >>> from interp_hooks.studies import Lens, load_lens, save_lens
    >>> save_lens(Lens(maps={1: torch.eye(128)}, kind="jacobian", n_prompts=100), "lens.safetensors")
    >>> load_lens("lens.safetensors")
    Lens(kind='jacobian', layers=[1], d_model=128, n_prompts=100)
    """
    WRITERS[format](Path(path), lens)


@checked
def load_lens(path: str | Path) -> Lens:
    """The lens in a file, or in a folder of tuned-lens, on the CPU in float32 at least; which kind it is shows itself.

    Pickles are read as tensors and plain values only, so that no code in them runs. Published lenses are of the
    checkpoint's own weights, with a mean in the stream; a tuned one therefore is refused by a model whose writing
    weights were centred, and says how to load it. A Jacobian one serves both.

    Raises:
        BadInput: there is no lens, it is damaged, or it is the checkpoint of a fit.

    >>> from interp_hooks.studies import load_lens
    >>> lens = load_lens("lens/EleutherAI/pythia-160m-deduped")  # doctest: +SKIP
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _read_tuned(path)
        there = path.is_file()
    except (OSError, ValueError) as error:
        raise BadInput(f"there is no lens at {str(path)[:300]}: {error!s:.300}") from error
    if not there:
        raise BadInput(f"there is no lens at {path}")
    return _read_own(path) if path.suffix == ".safetensors" else _read_jacobian(path)


# ----------------------------------------------------------------------------------------------------------- own files


def _write_own(path: Path, lens: Lens) -> None:
    if path.suffix != ".safetensors":
        raise BadInput(f"a file of this package's own ends in .safetensors, got {path.name}")
    identities = [layer for layer, one in lens.maps.items() if one is None]
    about = {"kind": lens.kind, "n_prompts": lens.n_prompts, "of_centred": lens.of_centred, "identities": identities}
    tensors = {f"map.{layer}": one for layer, one in lens.maps.items() if one is not None}
    tensors |= {f"bias.{layer}": one for layer, one in lens.biases.items()}
    try:
        told = json.dumps({**about, "facts": dict(lens.facts)})
    except TypeError as error:
        raise BadInput(f"the lens' facts hold what JSON cannot say: {error}") from error
    write_with_digest(path, tensors or {"none": torch.zeros(1)}, {ABOUT: told})


def _read_own(path: Path) -> Lens:
    tensors = read_with_digest(path)
    with safe_open(path, "pt") as file:
        told = (file.metadata() or {}).get(ABOUT)
    if told is None:
        raise BadInput(f"{path} holds tensors, and no lens")
    about = json.loads(told)
    maps: dict[int, Tensor | None] = dict.fromkeys(about.pop("identities"))
    biases: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        what, _, layer = name.partition(".")
        if what == "map":
            maps[int(layer)] = tensor
        elif what == "bias":
            biases[int(layer)] = tensor
    return Lens(maps=dict(sorted(maps.items())), biases=biases, **about)


# ---------------------------------------------------------------------------------------------------- published lenses


def _pickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise BadInput(f"{path} cannot be read as tensors and plain values: {error!s:.300}") from error


def _precise(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _read_tuned(path: Path) -> Lens:
    """Its translator of layer i is A_i, b_i: h + A_i h + b_i."""
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        d_model, layers = int(config["d_model"]), int(config["num_hidden_layers"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} holds no tuned lens: {CONFIG} cannot be read ({error!r})") from error
    state = _pickled(path / PARAMETERS)
    expected = {f"{layer}.weight" for layer in range(layers)}
    if not isinstance(state, Mapping) or not expected <= {*state}:
        raise BadInput(f"{path / PARAMETERS} lacks translators of some of the {layers} layers that {CONFIG} names")
    maps = {layer: torch.eye(d_model) + _precise(state[f"{layer}.weight"]) for layer in range(layers)}
    biases = {layer: _precise(state[name]) for layer in range(layers) if (name := f"{layer}.bias") in state}
    return Lens(maps=maps, biases=biases, kind="tuned", of_centred=False, facts=config)


def _write_tuned(path: Path, lens: Lens) -> None:
    layers = len(lens.maps)
    if lens.layers != list(range(layers)) or lens.d_model is None:
        raise BadInput(f"tuned-lens has a translator for every layer from 0 on; this lens has layers {lens.layers}")
    if lens.of_centred:
        raise BadInput("tuned-lens reads the stream of the checkpoint's own weights, and this lens is of a centred one")
    state: dict[str, Tensor] = {}
    for layer, one in lens.maps.items():
        map = torch.zeros(lens.d_model, lens.d_model) if one is None else one - torch.eye(lens.d_model).to(one)
        state[f"{layer}.weight"] = map.cpu().contiguous()
        state[f"{layer}.bias"] = lens.biases.get(layer, torch.zeros(lens.d_model)).cpu().to(map.dtype)
    config = {
        "base_model_name_or_path": str(lens.facts.get("base_model_name_or_path", lens.facts.get("model", ""))),
        "d_model": lens.d_model,
        "num_hidden_layers": layers,
        "bias": True,
        "base_model_revision": lens.facts.get("base_model_revision"),
        "unembed_hash": lens.facts.get("unembed_hash"),
        "lens_type": "linear_tuned_lens",
    }
    with on_disk(path):
        path.mkdir(parents=True, exist_ok=True)
    with replacing(path / PARAMETERS) as partial:
        torch.save(state, partial)
    write_text(path / CONFIG, json.dumps(config, indent=2) + "\n")


def _read_jacobian(path: Path) -> Lens:
    found = _pickled(path)
    if isinstance(found, Mapping) and "jacobian_sum" in found:
        raise BadInput(f"{path} is the checkpoint of a fit that goes on, and no lens yet")
    if not isinstance(found, Mapping) or not isinstance(found.get("J"), Mapping):
        raise BadInput(f"{path} holds no Jacobian lens: there is no 'J', a matrix for each layer")
    maps = {int(layer) + 1: _precise(one) for layer, one in sorted(found["J"].items())}
    n_prompts = found.get("n_prompts")
    return Lens(
        maps=maps,
        kind="jacobian",
        n_prompts=None if n_prompts is None else int(n_prompts),
        of_centred=False,
        facts=dict(found.get("metadata") or {}),
    )


def _write_jacobian(path: Path, lens: Lens) -> None:
    if lens.kind != "jacobian" or lens.biases or lens.of_centred or None in lens.maps.values():
        raise BadInput(f"this format is for Jacobian lenses of the checkpoint's own weights, this is {lens!r}")
    maps = {layer - 1: one.cpu().half() for layer, one in lens.maps.items() if layer and one is not None}
    if overflowing := [layer for layer, one in maps.items() if not bool(one.isfinite().all())]:
        raise BadInput(f"the map of layer {overflowing[0] + 1} has numbers that half precision cannot hold")
    if not maps:
        raise BadInput("this format has no place for the embeddings, and this lens has no other layer")
    found = {
        "J": maps,
        "n_prompts": lens.n_prompts or 0,
        "source_layers": sorted(maps),
        "d_model": lens.d_model,
        "metadata": dict(lens.facts),
    }
    with replacing(path) as partial:
        torch.save(found, partial)


WRITERS: Mapping[str, Callable[[Path, Lens], None]] = {
    "own": _write_own,
    "tuned-lens": _write_tuned,
    "jacobian": _write_jacobian,
}
