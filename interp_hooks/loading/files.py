"""What the files of a checkpoint are asked before anything is built from them, and what their errors become.

A config is a few hundred bytes that may claim anything: a model of 10**9 layers, or of more weights than all files
together could hold. An index may send its reader to other folders.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch

from interp_hooks.errors import CheckpointError, ConfigError, InterpHooksError
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.field_types import MOST_LAYERS

WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_attention_heads", "n_head", "num_heads")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Within the block, whatever other libraries raise about a file becomes a CheckpointError that has it as cause.

    Raises:
        CheckpointError: in place of any error but the package's own, a lack of memory, and interruptions.
    """
    try:
        yield
    except ConfigError as error:
        raise CheckpointError(f"{what} cannot be read: {error}") from error
    except (InterpHooksError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        why = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(f"{what} cannot be read ({type(error).__name__}: {why:.300})") from error


def check_counts(config: Any, name: str) -> None:
    """Raises CheckpointError for a HuggingFace config (plain data) of more layers or heads than a model can have."""
    for key, value in config.items() if isinstance(config, Mapping) else ():
        if isinstance(value, Mapping):
            check_counts(value, name)
        elif key in COUNTS and isinstance(value, int | float) and not 0 < value <= MOST_LAYERS:
            raise CheckpointError(f"the config of {name!r} says {key}={value}; it must be 1..{MOST_LAYERS}")


def check_index(folder: Path) -> None:
    """Raises CheckpointError for an index of weights that names a file outside of its folder."""
    for index in sorted(folder.glob("*.index.json")):
        with reading(str(index)):
            files = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        for file in dict.fromkeys(files):
            parts = isinstance(file, str) and {*PurePosixPath(file).parts, *PureWindowsPath(file).parts}
            if not parts or ".." in parts or PurePosixPath(file).is_absolute() or PureWindowsPath(file).anchor:
                raise CheckpointError(f"{str(index)!r} names the file {file!r}, which is not in its folder")


def check_room(cfg: HookedTransformerConfig, folder: Path, packed: bool) -> None:
    """Raises CheckpointError if a model of this config has more weights than the files in a folder can hold.

    A weight takes a byte at least, or, `packed` in a quantised file, a bit.
    """
    sizes = [file.stat().st_size for file in folder.iterdir() if file.suffix in WEIGHT_FILES]
    if sizes:
        check_weights(cfg, sum(sizes) * (8 if packed else 1), f"the files in {str(folder)!r}")


def check_weights(cfg: HookedTransformerConfig, most: int, where: str) -> None:
    """Raises CheckpointError if a model of this config has more weights than `most`."""
    learned = cfg.positional_embedding_type in ("standard", "shortformer")
    least = cfg.n_params + cfg.d_model * (cfg.d_vocab + (cfg.n_ctx if learned else 0))
    if least > most:
        raise CheckpointError(
            f"{where} hold at most {most} numbers, and the config says that the model has at least {least}: "
            f"n_layers={cfg.n_layers}, d_model={cfg.d_model}, d_vocab={cfg.d_vocab}"
        )
