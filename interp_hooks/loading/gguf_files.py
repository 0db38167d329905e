"""Checkpoints in GGUF, the single file that llama.cpp reads: config, tokenizer and (mostly quantised) weights in one.

The reader is transformers' own, which needs the packages gguf and accelerate. Weights are dequantised while they are
read, since a converted model computes, hooks and edits dense ones; what rounding took when the file was made is lost.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from interp_hooks.loading.files import reading

SUFFIX = ".gguf"
_FLOATS = ("F64", "F32", "F16", "BF16")


def gguf_arguments(file: str) -> dict[str, Any]:
    """What to call `from_pretrained` of transformers' models with, so that they read a file into dense weights.

    Raises:
        ImportError: a package that it takes is not installed.
    """
    import transformers

    try:
        import accelerate  # noqa: F401  # pyright: ignore[reportMissingImports]
        import gguf  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(f"{file!r} is read with gguf and accelerate: pip install 'interp-hooks[gguf]'") from error
    dense = getattr(transformers, "GgufConfig", None)  # earlier versions know no other weights
    return {"gguf_file": file} | ({} if dense is None else {"quantization_config": dense(dequantize=True)})


def what_was_lost(path: Path) -> list[str]:
    """A line for the processing report that tells in which formats a file holds its tensors, if any is quantised."""
    from gguf import GGUFReader  # pyright: ignore[reportMissingImports]

    with reading(str(path)):
        kinds = Counter(tensor.tensor_type.name for tensor in GGUFReader(str(path)).tensors)
    if all(kind in _FLOATS for kind in kinds):
        return []
    held = ", ".join(f"{count} in {kind}" for kind, count in kinds.most_common())
    return [f"weights before quantisation: skipped, {path.name} does not hold them ({held}); these are dequantised"]
