"""Programs become transformers that say the same as the interpreter, with weights and edges that are known.

The residual stream is a block of dimensions for each variable, one-hot or a single number, which one node writes:

    input   what stands at BOS, at a word (`one`), which word, which index        BOS, at position 0, has no index
    head    an Aggregate, or 1 / (1 + width) of a SelectorWidth
    MLP     maps: a neuron for each value or pair of values; two for each step from one number to the next

Scores are 100 for a selected key and 50 for BOS, so that a query that selects nothing looks at BOS, where every
variable is zero; what is seen beyond that is below the rounding of float64. To count, a head looks at BOS always. There
is no norm. (After Lindner et al. 2023, arxiv.org/abs/2301.05062.)
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput, nearest
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.ground_truth.rasp import (
    INDICES,
    TOKENS,
    Aggregate,
    Given,
    LinearMap,
    Map,
    Select,
    SelectorWidth,
    SequenceMap,
    Value,
    Variable,
    domains,
    in_order,
)
from interp_hooks.ground_truth.system import Edge
from interp_hooks.model.config import HookedTransformerConfig
from interp_hooks.model.transformer import HookedTransformer


@dataclass(frozen=True, kw_only=True, eq=False)
class Compiled:
    """A program as a model, which reads BOS (token 0) and then words (1, 2, ... in the order of `vocabulary`).

    The logits of a categorical program are those of `outputs`, one-hot or all zero for no value; a numerical program
    writes its number to logit 0, beside a logit 1 that is always 0. `edges` are those that matter at a word, with the
    variables that they carry (none: what is the same for all sequences, or of no consequence). Removing one changes
    what the model says about some sequence, unless the program computes something that it does not use. `writers`
    are the nodes that compute the variables.
    """

    model: HookedTransformer
    program: Variable
    vocabulary: tuple[Value, ...]
    outputs: tuple[Any, ...]
    edges: Mapping[Edge, frozenset[Variable]]
    writers: Mapping[Variable, str]

    @property
    def circuit(self) -> frozenset[Edge]:
        return frozenset(self.edges)

    def encode(self, *sequences: Sequence[Value]) -> Int[Tensor, "batch pos"]:
        """Token ids, BOS first, of sequences of the same length.

        Raises:
            BadInput: an unknown word, unequal lengths, or more words than the model has positions for.
        """
        ids = {word: id + 1 for id, word in enumerate(self.vocabulary)}
        longest = self.model.cfg.n_ctx - 1
        if len({*map(len, sequences)}) != 1 or not 1 <= len(sequences[0]) <= longest:
            lengths = sorted({*map(len, sequences)})
            raise BadInput(f"expected sequences of one length, of 1 to {longest} words, got lengths {lengths}")
        if unknown := [word for words in sequences for word in words if word not in ids]:
            near = nearest(str(unknown[0]), map(str, ids))
            raise BadInput(f"{unknown[0]!r} is not in the vocabulary {self.vocabulary}.{near}")
        return torch.tensor([[0, *(ids[word] for word in words)] for words in sequences])

    def decode(self, logits: Float[Tensor, "batch pos d_vocab_out"]) -> list[list[Any]]:
        """What the model says at every word: a number, or the value (None: no value) that the logits are closest to."""
        if self.program.numerical:
            return logits[:, 1:, 0].tolist()
        top, place = logits[:, 1:].max(-1)
        rows = zip(top.tolist(), place.tolist(), strict=True)
        return [[self.outputs[i] if high > 0.5 else None for high, i in zip(*row, strict=True)] for row in rows]


SHARPNESS = 100.0
SAME = 1e-9  # numbers that are closer than this are one value
Attention = Aggregate | SelectorWidth


@checked
def compile_program(program: Variable, vocabulary: str | Sequence[Value], max_length: Count) -> Compiled:
    """The program as a model for sequences of up to `max_length` words of the vocabulary, in float64.

    Raises:
        BadInput: no or repeated words, no position, a variable that can have no value, or one that is mapped and can
            have too many.
    """
    if not vocabulary or len(set(vocabulary)) < len(vocabulary) or max_length < 1:
        raise BadInput(f"expected different words and at least 1 position, got {list(vocabulary)} and {max_length}")
    return _Compilation(program, tuple(vocabulary), max_length).compiled()


class _Neurons:
    """The neurons of one MLP: what each reads, its bias, and what it writes."""

    def __init__(self, d_model: int) -> None:
        self.d_model = d_model
        self.rows: list[tuple[Tensor, float, Tensor]] = []

    def add(self, reads: Mapping[int, float], writes: Tensor, bias: float = 0.0) -> None:
        row = torch.zeros(self.d_model, dtype=torch.float64)
        for dim, weight in reads.items():
            row[dim] += weight
        self.rows.append((row, bias, writes))


class _Compilation:
    """One program on its way to a model: when each variable is computed, where it stands, what reads it.

    Times count sublayers: attention of layer l at 2 l, its MLP at 2 l + 1; what is given is there at -1.
    """

    def __init__(self, program: Variable, vocabulary: tuple[Value, ...], max_length: int) -> None:
        self.program, self.vocabulary, self.max_length = program, vocabulary, max_length
        self.order = in_order(program)
        self.domains = domains(program, vocabulary, max_length)
        self.times: dict[Variable, int] = {TOKENS: -1, INDICES: -1}
        for variable in self.order:
            ready = max(self.times[read] for read in variable.reads)
            slot = ready + 1 + (ready % 2 == (0 if isinstance(variable, Attention) else 1))
            self.times[variable] = slot + isinstance(variable, SelectorWidth)
        self.n_layers = max(max(self.times[variable] for variable in [program, *self.order]) // 2 + 1, 1)
        self._lay_out()
        self.heads: dict[int, list[Attention]] = defaultdict(list)
        for variable in self.order:
            if isinstance(variable, Attention):
                self.heads[self.times[variable] // 2].append(variable)
        self.neurons = defaultdict[int, _Neurons](lambda: _Neurons(self.d_model))
        self.edges: dict[Edge, set[Variable]] = defaultdict(set)

    def _lay_out(self) -> None:
        """Which dimensions each variable has, and which the share of each SelectorWidth."""
        self.bos, self.one, self.d_model = 0, 1, 2
        self.block: dict[Variable, range] = {}
        self.share: dict[Variable, int] = {}
        for variable in [TOKENS, INDICES, *self.order]:
            width = 1 if variable.numerical else len(self.domains[variable])
            if not width:
                raise BadInput(f"a {type(variable).__name__} of the program never has a value")
            self.block[variable] = range(self.d_model, self.d_model + width)
            self.d_model += width
            if isinstance(variable, SelectorWidth):
                self.share[variable] = self.d_model
                self.d_model += 1

    def compiled(self) -> Compiled:
        for variable in self.order:
            self._map(variable)
        self._reads("logits", self.program)
        model = self._model()
        numerical = self.program.numerical
        with torch.no_grad():
            for weight in model.parameters():
                weight.zero_()
            self._embed(model)
            for layer, heads in self.heads.items():
                for head, variable in enumerate(heads):
                    self._attend(model, layer, head, variable)
            for layer, neurons in self.neurons.items():
                mlp: Any = model.blocks[layer].mlp
                for neuron, (reads, bias, writes) in enumerate(neurons.rows):
                    mlp.W_in[:, neuron], mlp.b_in[neuron], mlp.W_out[neuron] = reads, bias, writes
            for output, dim in enumerate(self.block[self.program]):
                model.unembed.W_U[dim, output] = 1.0
        return Compiled(
            model=model,
            program=self.program,
            vocabulary=self.vocabulary,
            outputs=("number", "nothing") if numerical else self.domains[self.program],
            edges={edge: frozenset(carried) for edge, carried in self.edges.items()},
            writers={variable: self._writer(variable) for variable in [TOKENS, INDICES, *self.order]},
        )

    def _model(self) -> HookedTransformer:
        attended = [variable for heads in self.heads.values() for variable in heads]
        widths = [len(self.domains[variable.selector.queries]) + 1 for variable in attended]
        widths += [len(self.block[one.values]) for one in attended if isinstance(one, Aggregate)]
        d_mlp = max((len(neurons.rows) for neurons in self.neurons.values()), default=0)
        mlps = dict(d_mlp=d_mlp, act_fn="relu") if d_mlp else dict(attn_only=True)
        fields = dict(
            n_layers=self.n_layers,
            d_model=self.d_model,
            n_ctx=self.max_length + 1,
            d_vocab=len(self.vocabulary) + 1,
            d_vocab_out=2 if self.program.numerical else len(self.block[self.program]),
            n_heads=max(map(len, self.heads.values()), default=1),
            d_head=max(widths, default=1),
            attn_scale=1.0,
            attention_dir="bidirectional",
            normalization_type=None,
            dtype=torch.float64,
            seed=0,
            **mlps,
        )
        return HookedTransformer(HookedTransformerConfig.from_dict(fields))

    def _embed(self, model: HookedTransformer) -> None:
        model.embed.W_E[0, self.bos], model.embed.W_E[1:, self.one] = 1.0, 1.0
        for id, dim in enumerate(self.block[TOKENS]):
            model.embed.W_E[id + 1, dim] = 1.0
        for index, dim in enumerate(self.block[INDICES]):
            model.pos_embed.W_pos[index + 1, dim] = 1.0

    # ---------------------------------------------------------------------------------------------------------- edges

    def _writer(self, variable: Variable) -> str:
        if isinstance(variable, Given):
            return "input"
        return self._head(variable) if isinstance(variable, Aggregate) else self._mlp(variable)

    def _head(self, variable: Attention) -> str:
        layer = self.times[variable] // 2
        return f"a{layer}.h{self.heads[layer].index(variable)}"

    def _mlp(self, variable: Variable) -> str:
        return f"m{self.times[variable] // 2}"

    def _reads(self, reader: str, variable: Variable) -> None:
        self.edges[self._writer(variable), reader].add(variable)

    def _reads_input(self, reader: str) -> None:
        """BOS or `one`, which are the same for all sequences."""
        self.edges["input", reader].update(())

    # ------------------------------------------------------------------------------------------------------ attention

    def _attend(self, model: HookedTransformer, layer: int, head: int, variable: Attention) -> None:
        attn: Any = model.blocks[layer].attn
        selector, name = variable.selector, f"a{layer}.h{head}"
        counts = isinstance(variable, SelectorWidth)
        if not (counts and self._all(selector)):  # else attention is uniform, BOS included
            self._match(attn, name, head, selector, SHARPNESS if counts else SHARPNESS / 2)
            if self._bos_counts(variable):
                self._reads_input(f"{name}<k>")
        if counts:
            attn.W_V[head, self.bos, 0] = attn.W_O[head, 0, self.share[variable]] = 1.0
            self._reads_input(f"{name}<v>")
            return
        for place, (source, target) in enumerate(zip(self.block[variable.values], self.block[variable], strict=True)):
            attn.W_V[head, source, place] = attn.W_O[head, place, target] = 1.0
        self._reads(f"{name}<v>", variable.values)

    def _match(self, attn: Any, name: str, head: int, selector: Select, at_bos: float) -> None:
        """Queries and keys that score `SHARPNESS` where the predicate holds, and `at_bos` at BOS."""
        keys, queries = self.domains[selector.keys], self.domains[selector.queries]
        holds = torch.tensor([[bool(selector.predicate(key, query)) for query in queries] for key in keys])
        for i, dim in enumerate(self.block[selector.queries]):
            attn.W_Q[head, dim, i] = SHARPNESS
        for j, dim in enumerate(self.block[selector.keys]):
            attn.W_K[head, dim, : len(queries)] = holds[j].double()
        attn.b_Q[head, len(queries)] = at_bos
        attn.W_K[head, self.bos, len(queries)] = 1.0
        for reader, variable, differs in (
            ("q", selector.queries, (holds != holds[:, :1]).any()),
            ("k", selector.keys, (holds != holds[:1]).any()),
        ):
            self.edges[self._writer(variable), f"{name}<{reader}>"].update([variable] if differs else [])

    def _all(self, selector: Select) -> bool:
        """Whether every position selects every position."""
        keys, queries = selector.keys, selector.queries
        given = isinstance(keys, Given) and isinstance(queries, Given)
        return given and all(
            selector.predicate(key, query) for key in self.domains[keys] for query in self.domains[queries]
        )

    def _bos_counts(self, variable: Attention) -> bool:
        """Whether it matters that a head can look at BOS: to count, to find nothing, or to keep BOS empty itself."""
        if isinstance(variable, SelectorWidth) or not variable.selector.always:
            return True
        finding_nothing = [one for one in self.order if isinstance(one, Aggregate) and not one.selector.always]
        return any(variable in in_order(one.values) for one in finding_nothing)

    # ----------------------------------------------------------------------------------------------------------- maps

    def _map(self, variable: Variable) -> None:
        if isinstance(variable, SelectorWidth):
            shares = {1 / (1 + width): width for width in range(self.max_length, -1, -1)}
            self._steps(variable, self.share[variable], {0.0: None, **shares})
            self.edges[self._head(variable), self._mlp(variable)].add(variable)
        elif isinstance(variable, Map) and variable.x.numerical:
            values = sorted(self.domains[variable.x])
            apart = [value for i, value in enumerate(values) if i == 0 or value - values[i - 1] > SAME]
            images = {value: variable.function(value) for value in apart}
            self._steps(variable, self.block[variable.x][0], images)
            self._reads(self._mlp(variable), variable.x)
        elif isinstance(variable, Map):
            self._lookup(variable, [({i: 1.0}, (value,)) for i, value in self._values(variable.x)], bias=0.0)
        elif isinstance(variable, SequenceMap):
            pairs = [
                ({i: 1.0, j: 1.0} if i != j else {i: 2.0}, (x, y))
                for i, x in self._values(variable.x)
                for j, y in self._values(variable.y)
            ]
            self._lookup(variable, pairs, bias=-1.0)
        elif isinstance(variable, LinearMap):
            for read, weight in ((variable.x, variable.a), (variable.y, variable.b)):
                for sign in (1.0, -1.0):
                    written = sign * weight * self._axis(self.block[variable][0])
                    self.neurons[self.times[variable] // 2].add({self.block[read][0]: sign}, written)
                self._reads(self._mlp(variable), read)

    def _values(self, variable: Variable) -> Iterator[tuple[int, Any]]:
        """Each value of a categorical variable, with its dimension."""
        return zip(self.block[variable], self.domains[variable], strict=True)

    def _axis(self, dim: int) -> Tensor:
        return torch.eye(self.d_model, dtype=torch.float64)[dim]

    def _written(self, variable: Variable, value: Any) -> Tensor:
        """What the stream gains where a variable has this value: nothing for None."""
        if value is None:
            return torch.zeros(self.d_model, dtype=torch.float64)
        if variable.numerical:
            return float(value) * self._axis(self.block[variable][0])
        return self._axis(self.block[variable][self.domains[variable].index(value)])

    def _lookup(
        self, variable: Map | SequenceMap, units: Sequence[tuple[dict[int, float], tuple[Any, ...]]], bias: float
    ) -> None:
        """A neuron for each value, or pair of values, that is 1 there and 0 elsewhere."""
        layer = self.times[variable] // 2
        for reads, values in units:
            self.neurons[layer].add(reads, self._written(variable, variable.function(*values)), bias)
        for read in variable.reads:
            self._reads(self._mlp(variable), read)

    def _steps(self, variable: Variable, source: int, images: Mapping[float, Any]) -> None:
        """A function of a number with finitely many values, in ascending order, by steps halfway between them.

        A step is relu(s (x - t) + 1) - relu(s (x - t)), which rises within a quarter of the way. What is constant comes
        from `one`, so that at BOS all cancels and the variable stays zero.
        """
        neurons = self.neurons[self.times[variable] // 2]
        self._reads_input(self._mlp(variable))
        known = list(images)
        before = self._written(variable, images[known[0]])
        neurons.add({self.one: 1.0}, before)
        for low, high in itertools.pairwise(known):
            after = self._written(variable, images[high])
            steepness, middle = 4 / (high - low), (low + high) / 2
            if not torch.equal(before, after):
                neurons.add({source: steepness, self.one: 1 - steepness * middle}, after - before)
                neurons.add({source: steepness, self.one: -steepness * middle}, before - after)
            before = after
