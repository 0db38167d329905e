"""Models in which a head has a role by construction; float64, attention only, without norms.

pointer_induction   a duplicate-token head that writes where the copy is, and a head that looks one further
name_movers         indirect object identification: S-inhibition, name mover, and those that back it up or oppose it
copy_suppression    a head that finds the predicted token in the prompt, and takes it back
successor           a head that writes what comes after the token that it reads

`handmade.induction` is the classic induction head, and a retrieval head on keys and values; `planted.planted_fact` has
heads that recall facts from a subject.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.experiments.task import Task
from interp_hooks.ground_truth.handmade import blank, repetition
from interp_hooks.ground_truth.system import BOS, Edge, GroundTruth, edges, task_at_the_end, task_with_places
from interp_hooks.interventions.sites import at
from interp_hooks.model.transformer import HookedTransformer

SHARPNESS = 100.0  # the score of a match; what else is seen is below the rounding of float64


def _attention_only(n_layers: int, blocks: list[int], **fields: Any) -> tuple[HookedTransformer, tuple[Tensor, ...]]:
    """A blank model of two heads a layer with a stream of such blocks, and the dimensions of each."""
    sizes = dict(n_layers=n_layers, d_model=sum(blocks), n_heads=2, attn_only=True, attn_scale=1.0)
    model = blank(**sizes, positional_embedding_type="standard", **fields)
    return model, torch.arange(sum(blocks)).split(blocks)


def _rests_on_bos(attn: Any, head: int, one: Tensor, bos: Tensor, dim: int) -> None:
    """Let a head look at BOS, for half the score of a match, wherever nothing else matches."""
    attn.W_Q[head, one, dim], attn.W_K[head, bos, dim] = SHARPNESS / 2, 1.0


def _copies(attn: Any, head: int, read: Tensor, written: Tensor, times: float = 1.0) -> None:
    """Let a head copy one block of the stream to another."""
    eye = torch.eye(len(read), dtype=torch.float64)
    attn.W_V[head, read, : len(read)], attn.W_O[head, : len(read), written] = eye, times * eye


def _looks_at_earlier_copies(attn: Any, tok: Tensor, pos: Tensor, one: Tensor, bos: Tensor) -> None:
    """Let head 0 match tokens of the block `tok`, but not a token with itself."""
    words, places = (torch.eye(len(block), dtype=torch.float64) for block in (tok, pos))
    w, p = len(tok), len(pos)
    attn.W_Q[0, tok, :w], attn.W_K[0, tok, :w] = SHARPNESS * words, words
    attn.W_Q[0, pos, w : w + p], attn.W_K[0, pos, w : w + p] = -2 * SHARPNESS * places, places
    _rests_on_bos(attn, 0, one, bos, w + p)


@checked
def pointer_induction(d_vocab: int = 11, n_ctx: int = 12) -> GroundTruth:
    """After A B ... A comes B, found by position: the task of `handmade.induction`, done by Q-composition.

    The stream is [TOK | PTR | OUT | POS | ONE].

        0.0   looks for an earlier copy of its token (TOK to TOK, but not at its own POS), and copies POS to PTR
        1.0   looks at the position after PTR (PTR to POS), and copies TOK to OUT

    Both rest on BOS, which has no position. The keys of 1.0 depend on positions alone, its queries on 0.0.

    Raises:
        BadInput: too few tokens or positions for a prompt that repeats something.
    """
    half = min((n_ctx - 1) // 2, (d_vocab - 1) // 2)
    if half < 2:
        raise BadInput(f"pointer_induction needs d_vocab and n_ctx of at least 5, got {d_vocab} and {n_ctx}")
    blocks, width = [d_vocab, n_ctx, d_vocab, n_ctx, 1], d_vocab + n_ctx + 1
    model, (tok, ptr, out, pos, one) = _attention_only(2, blocks, n_ctx=n_ctx, d_vocab=d_vocab, d_head=width)
    places = torch.eye(n_ctx, dtype=torch.float64)
    first: Any
    second: Any
    first, second = (block.attn for block in model.blocks)
    with torch.no_grad():
        model.embed.W_E[:, tok], model.embed.W_E[:, one] = torch.eye(d_vocab, dtype=torch.float64), 1.0
        model.pos_embed.W_pos[1:, pos] = places[1:]
        _looks_at_earlier_copies(first, tok, pos, one, tok[0])
        _copies(first, 0, pos, ptr)
        second.W_Q[0, ptr, :n_ctx], second.W_K[0, pos, :n_ctx] = SHARPNESS * places.roll(1, dims=1), places
        _rests_on_bos(second, 0, one, tok[0], n_ctx)
        _copies(second, 0, tok, out)
        model.unembed.W_U[out] = torch.eye(d_vocab, dtype=torch.float64)
    words = (BOS, *(f"w{word}" for word in range(1, d_vocab)))
    return GroundTruth(
        model=model,
        vocabulary=words,
        outputs=words,
        task=repetition(half, d_vocab),
        circuit=edges(
            "input->a0.h0<q>,a0.h0<k>,a0.h0<v>,a1.h0<q>,a1.h0<k>,a1.h0<v>", "a0.h0->a1.h0<q>", "a1.h0->logits"
        ),
        patching_circuit=edges("input->a0.h0<k>,a1.h0<v>", "a0.h0->a1.h0<q>", "a1.h0->logits"),
        places={"duplicate-token head": at("z", 0, head=0), "induction head": at("z", 1, head=0)},
        notes="The two prompts of a pair end alike, so that queries of 0.0 never change.",
    )


NAMES = ("Ann", "Bob", "Cal", "Dan", "Eve", "Flo")


@checked
def name_movers(negative: bool = True, backup: bool = True, suppressor: bool = False) -> GroundTruth:
    """Indirect object identification: "<bos> Ann and Bob . Bob to" -> "Ann", in four layers of two heads.

    The stream is [TOK | DUP | INH | OUT | POS | ONE]. TOK has one dimension a word, DUP, INH and OUT one a name.

        0.0   at a name, looks for an earlier copy, and writes the name to DUP
        1.0   at "to", looks for a token with a DUP, and copies DUP to INH                                 S-inhibition
        2.0   at "to", looks for names that are not in INH, and copies them to OUT                           name mover
        2.1   looks there too, and writes minus a half of them (`negative`)                         negative name mover
        3.0   looks for names that are neither in INH nor in OUT, and copies them to OUT (`backup`)   backup name mover
        3.1   looks where 1.0 looks, and takes that name from OUT (`suppressor`)                       suppression of S

    All rest on BOS. The logit difference is 1, a half less with the negative head, and 1 more with the suppressor. The
    task has all pairs of names in both orders; in the corrupt prompt the other name comes twice.
    """
    words = (BOS, *NAMES, "and", ".", "to")
    n, n_ctx = len(NAMES), 7
    blocks = [len(words), n, n, n, n_ctx, 1]
    model, parts = _attention_only(4, blocks, n_ctx=n_ctx, d_vocab=len(words), d_head=n + n_ctx + 1)
    tok, dup, inh, out, pos, one = parts
    bos, names, to = tok[0], tok[1 : n + 1], tok[-1]
    eye = torch.eye(n, dtype=torch.float64)
    attention: list[Any] = [block.attn for block in model.blocks]
    with torch.no_grad():
        model.embed.W_E[:, tok], model.embed.W_E[:, one] = torch.eye(len(words), dtype=torch.float64), 1.0
        model.pos_embed.W_pos[:, pos] = torch.eye(n_ctx, dtype=torch.float64)
        _looks_at_earlier_copies(attention[0], names, pos, one, bos)
        _copies(attention[0], 0, names, dup)
        attention[1].W_Q[0, to, 0], attention[1].W_K[0, dup, 0] = SHARPNESS, 1.0
        _rests_on_bos(attention[1], 0, one, bos, n)
        _copies(attention[1], 0, dup, inh)
        for layer, head, times in ((2, 0, 1.0), (2, 1, -0.5 * negative), (3, 0, float(backup))):
            attn = attention[layer]
            if times:
                attn.W_Q[head, to, :n], attn.W_Q[head, inh, :n] = SHARPNESS, -2 * SHARPNESS * eye
                attn.W_K[head, names, :n] = eye
                _rests_on_bos(attn, head, one, bos, n)
                _copies(attn, head, names, out, times)
        if suppressor:
            attention[3].W_Q[1, to, 0], attention[3].W_K[1, dup, 0] = SHARPNESS, 1.0
            _rests_on_bos(attention[3], 1, one, bos, n)
            _copies(attention[3], 1, names, out, -1.0)
        if backup:
            attention[3].W_Q[0, out, :n] = -2 * SHARPNESS * eye
        model.unembed.W_U[out, 1 : n + 1] = eye
    circuit, patching_circuit = _names_circuits(negative, backup, suppressor)
    return GroundTruth(
        model=model,
        vocabulary=words,
        outputs=words,
        task=_names_task(),
        circuit=circuit,
        patching_circuit=patching_circuit,
        places={
            "duplicate-token head": at("z", 0, head=0),
            "S-inhibition head": at("z", 1, head=0),
            "name mover": at("z", 2, head=0),
            "negative name mover": at("z", 2, head=1),
            "backup name mover": at("z", 3, head=0),
            "suppression of S": at("z", 3, head=1),
        },
        notes="The backup head writes nothing unless the name mover is silent. It makes up for values that the name "
        "mover does not get; with the negative head also for wrong keys.",
    )


def _names_circuits(negative: bool, backup: bool, suppressor: bool) -> tuple[frozenset[Edge], frozenset[Edge]]:
    """The edges that matter for `name_movers`, if they carry nothing, and if they carry the corrupt run."""
    circuit = edges(
        "input->a0.h0<q>,a0.h0<k>,a0.h0<v>,a2.h0<q>,a2.h0<k>,a2.h0<v>",
        *("a0.h0->a1.h0<k>,a1.h0<v>", "a1.h0->a2.h0<q>", "a2.h0->logits"),
    )
    patching = edges("input->a0.h0<q>,a2.h0<k>", "a0.h0->a1.h0<v>", "a1.h0->a2.h0<q>", "a2.h0->logits")
    if negative:
        circuit |= edges("input->a2.h1<q>,a2.h1<k>,a2.h1<v>", "a1.h0->a2.h1<q>", "a2.h1->logits")
        patching |= edges("input->a2.h1<k>", "a1.h0->a2.h1<q>", "a2.h1->logits")
    if backup:
        circuit |= edges("input->a1.h0<q>,a3.h0<k>", "a1.h0->a3.h0<q>", "a2.h0->a3.h0<q>")
        circuit -= edges("input->a2.h0<v>")
        patching |= edges("a1.h0->a3.h0<q>", "a2.h0->a3.h0<q>")
        patching -= edges("input->a2.h0<k>") if negative else frozenset()
    if suppressor:
        circuit |= edges("input->a3.h1<q>,a3.h1<v>", "a0.h0->a3.h1<k>", "a3.h1->logits")
        patching |= edges("input->a3.h1<v>", "a3.h1->logits")
    return circuit, patching


def _names_task() -> Task:
    rows, corrupt, answers, wrongs, io_first = [], [], [], [], []
    for (io, s), first in itertools.product(itertools.permutations(range(1, len(NAMES) + 1), 2), (True, False)):
        a, b = (io, s) if first else (s, io)
        together, full_stop, to = (len(NAMES) + place for place in (1, 2, 3))
        rows.append([0, a, together, b, full_stop, s, to])
        corrupt.append([0, a, together, b, full_stop, io, to])
        answers.append(io)
        wrongs.append(s)
        io_first.append(first)
    answer, wrong, before = torch.tensor(answers), torch.tensor(wrongs), torch.tensor(io_first)
    places = dict(IO=torch.where(before, 1, 3), S1=torch.where(before, 3, 1))
    places |= {"S2": torch.full_like(answer, 5), "end": torch.full_like(answer, 6)}
    return task_with_places("names", rows, corrupt, answer, wrong, places)


@checked
def copy_suppression(d_vocab: int = 12, n_ctx: Count = 10) -> GroundTruth:
    """Each word predicts the next of the vocabulary, and head 0.0 takes that back twice over if it has come before.

    The stream is [TOK | OUT | ONE]: the embedding of word i writes i to TOK and i + 1 (after the last: word 1) to OUT.
    Head 0.0 looks for the token that OUT predicts (OUT to TOK), else at BOS, and writes -2 times it to OUT. In the
    task's clean prompts the prediction has come before, in the corrupt ones it has not.
    """
    blocks = [d_vocab, d_vocab, 1]
    model, (tok, out, one) = _attention_only(1, blocks, n_ctx=n_ctx, d_vocab=d_vocab, d_head=d_vocab + 1)
    words = torch.eye(d_vocab, dtype=torch.float64)
    attn: Any = model.blocks[0].attn
    following = torch.cat((torch.arange(2, d_vocab), torch.tensor([1])))
    with torch.no_grad():
        model.embed.W_E[:, tok], model.embed.W_E[:, one] = words, 1.0
        model.embed.W_E[1:, out] = words[following]
        attn.W_Q[0, out, :d_vocab], attn.W_K[0, tok, :d_vocab] = SHARPNESS * words, words
        _rests_on_bos(attn, 0, one, tok[0], d_vocab)
        _copies(attn, 0, tok, out, -2.0)
        model.unembed.W_U[out] = words
    last = torch.arange(1, d_vocab)
    then, other, another = (last.roll(-by) for by in (1, 3, 5))
    clean, corrupt = (torch.stack((torch.zeros_like(last), first, another, last), dim=1) for first in (then, other))
    names = (BOS, *(f"w{word}" for word in range(1, d_vocab)))
    circuit = edges("input->a0.h0<q>,a0.h0<k>,a0.h0<v>", "a0.h0->logits")
    return GroundTruth(
        model=model,
        vocabulary=names,
        outputs=names,
        task=task_at_the_end("copy-suppression", clean, corrupt, other, then),
        circuit=circuit | edges("input->logits"),
        patching_circuit=edges("input->a0.h0<k>,a0.h0<v>", "a0.h0->logits"),
        places={"copy suppression head": at("z", 0, head=0)},
        notes="The metric is minus the logit of the predicted token: 1 where it was taken back, -1 where it was not.",
    )


@checked
def successor(n_items: int = 12) -> GroundTruth:
    """A head that looks at its own token and writes the next of the vocabulary: "<bos> 7 3 5" -> "6".

    The stream is [TOK | OUT | POS]; head 0.0 looks at its own position, and copies TOK to OUT, one further.

    Raises:
        BadInput: fewer items than prompts with three of them need.
    """
    if n_items < 4:
        raise BadInput(f"successor needs at least 4 items, got {n_items}")
    d_vocab, n_ctx = n_items + 1, 4
    blocks = [d_vocab, d_vocab, n_ctx]
    model, (tok, out, pos) = _attention_only(1, blocks, n_ctx=n_ctx, d_vocab=d_vocab, d_head=d_vocab)
    words, places = (torch.eye(size, dtype=torch.float64) for size in (d_vocab, n_ctx))
    attn: Any = model.blocks[0].attn
    with torch.no_grad():
        model.embed.W_E[:, tok], model.pos_embed.W_pos[:, pos] = words, places
        attn.W_Q[0, pos, :n_ctx], attn.W_K[0, pos, :n_ctx] = SHARPNESS * places, places
        attn.W_V[0, tok, :d_vocab], attn.W_O[0, :-1, out[1:]] = words, words[1:, 1:]
        model.unembed.W_U[out] = words
    item = torch.arange(1, n_items)
    other = item.roll(2)
    clean, corrupt = (
        torch.stack((torch.zeros_like(item), item.roll(3), item.roll(5), last), dim=1) for last in (item, other)
    )
    end = torch.full_like(item, 3)
    names = (BOS, *map(str, range(1, d_vocab)))
    return GroundTruth(
        model=model,
        vocabulary=names,
        outputs=names,
        task=task_with_places("successor", clean, corrupt, item + 1, other + 1, {"item": end, "end": end}),
        circuit=edges("input->a0.h0<q>,a0.h0<k>,a0.h0<v>", "a0.h0->logits"),
        patching_circuit=edges("input->a0.h0<v>", "a0.h0->logits"),
        places={"successor head": at("z", 0, head=0)},
        notes="The last item has no successor, and is not asked for.",
    )
