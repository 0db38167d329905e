"""Reading and writing dictionaries, in the formats that `formats/` knows."""

from __future__ import annotations

from pathlib import Path

import torch

from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.formats import FORMATS, own, saelens
from interp_hooks.dictionaries.formats.reading import Asked
from interp_hooks.errors import BadInput, CheckpointError, nearest
from interp_hooks.errors.arguments import checked
from interp_hooks.loading.checkpoints import folder_of

BUNDLED = ("ioi-tiny/sae", "ioi-tiny/transcoders")
WRITERS = {"own": own.write, "saelens": saelens.write}


@checked
def load(
    path: str | Path,
    format: str | None = None,
    *,
    hook: str | None = None,
    hook_out: str | None = None,
    input_scale: float | None = None,
    dtype: torch.dtype | None = None,
) -> Dictionary:
    """The dictionary in a folder or file, on the CPU, with its weights in the dtype that they have there.

    Two of the model ioi-tiny ship with the package: "ioi-tiny/sae" and "ioi-tiny/transcoders".

    Which `format` it is shows itself: "own", "saelens" (version 6 and before), "sparsify", "dictionary_learning",
    "gemma-scope", "gemma-scope-2", "llama-scope", "qwen-scope", "goodfire", or "circuit-tracer" (sets, whose encoders
    and decoders stay on disk until rows of them are used). `hook` and `hook_out` say, or say otherwise, which
    activations are read and written; `input_scale` says by which factor these were multiplied, where a file does not.
    With a `dtype` weights are converted.

    Pickles are read as tensors and plain values only, so that no code in them runs.

    Raises:
        CheckpointError: there is no dictionary in a known format, or it is damaged; its subclass UnsupportedConfig: it
            is of a kind that is not implemented; WeightMismatch: tensors that are missing or left over.
        BadInput: weights that do not fit together or are not finite, or a hook that has to be said.

    >>> from interp_hooks import dictionaries
    >>> sae = dictionaries.load("ioi-tiny/sae")
    >>> with model.spliced(sae, error_term=True):
    ...     logits, cache = model.run_with_cache(clean)
    >>> cache["blocks.1.hook_resid_post.dictionary.hook_features"].shape
    torch.Size([4, ..., 512])
    """
    path = bundled(path)
    if format is not None and format not in FORMATS:
        raise BadInput(f"format must be one of {', '.join(FORMATS)}, got {format!r}.{nearest(format, FORMATS)}")
    try:
        there = path.exists()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"there is no dictionary at {str(path)[:300]}: {error!s:.300}") from error
    if not there:
        raise CheckpointError(f"there is no file or folder {path}")
    names = [format] if format is not None else [name for name, one in FORMATS.items() if one.recognises(path)]
    if not names:
        raise CheckpointError(f"{path} is no dictionary in a known format ({', '.join(FORMATS)})")
    found = FORMATS[names[0]].read(path, Asked(hook=hook, hook_out=hook_out, input_scale=input_scale))
    return found if dtype is None else found.to(dtype)


def bundled(path: str | Path) -> Path:
    """A path as it is, or that of a dictionary that ships with the package, by its name."""
    if str(path) not in BUNDLED or Path(path).exists():
        return Path(path)
    model, _, name = str(path).partition("/")
    return folder_of(model) / "dictionaries" / f"{name}.safetensors"


@checked
def save(dictionary: Dictionary, path: str | Path, format: str = "own") -> None:
    """Write a dictionary: as a file ("own", of any kind, losing nothing) or as a folder that SAELens loads ("saelens").

    Raises:
        BadInput: the format has no place for something of this dictionary.
        DiskError: it cannot be written; what was there still is.

    >>> from interp_hooks import dictionaries
    >>> from interp_hooks.dictionaries import SAE
    >>> weights = dict(W_enc=torch.eye(128), b_enc=torch.zeros(128), W_dec=torch.eye(128), b_dec=torch.zeros(128))
    >>> dictionaries.save(SAE(hook="resid_post1", **weights), "sae.safetensors")
    >>> dictionaries.load("sae.safetensors")
    SAE(blocks.1.hook_resid_post, d_in=128, n_features=128)
    """
    if format not in WRITERS:
        raise BadInput(f"format must be one of {', '.join(WRITERS)}, got {format!r}")
    WRITERS[format](Path(path), dictionary)
