"""Dictionaries on disk: the formats of this package and of others, a file each."""

from __future__ import annotations

from collections.abc import Mapping

from interp_hooks.dictionaries.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    goodfire,
    llama_scope,
    own,
    qwen_scope,
    saelens,
    sparsify,
)
from interp_hooks.dictionaries.formats.reading import Format

FORMATS: Mapping[str, Format] = {
    one.name: one
    for one in (
        own.OWN,
        saelens.SAELENS,
        sparsify.SPARSIFY,
        dictionary_learning.DICTIONARY_LEARNING,
        gemma_scope.GEMMA_SCOPE,
        gemma_scope.GEMMA_SCOPE_2,
        llama_scope.LLAMA_SCOPE,
        qwen_scope.QWEN_SCOPE,
        goodfire.GOODFIRE,
        circuit_tracer.CIRCUIT_TRACER,
    )
}
"""By name, in the order in which a path is asked whether it is one of them."""
