"""Models whose heads carry what a prompt asks for; float64, without norms.

function_vector   a head that carries from examples which function they are of, and an MLP that applies it
mixed_recall      a head that reads a subject and a relation alike, whose sum is the answer
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked
from interp_hooks.experiments.task import Task
from interp_hooks.ground_truth.handmade import blank
from interp_hooks.ground_truth.system import BOS, GroundTruth, edges, task_with_places
from interp_hooks.interventions.sites import at

SHARPNESS = 100.0  # the score of a match; what else is seen is below the rounding of float64
STEPS = (1, 2)  # the functions: the next word of a circle of words, and the next but one
SHOTS = 2


@checked
def function_vector(n_words: int = 9) -> GroundTruth:
    """A function told by two examples: "<bos> 3 4 6 7 1" -> "2", in two layers of two heads.

    Words stand in a circle; one function gives the next word, the other the next but one. The stream is
    [TOK | PREV | FUN | ASKED | OUT | POS]: the token here, the one before, the function of which the two are an
    example, the function that the examples show, the answer, the position.

        0.0   looks one position back and copies TOK to PREV
        m0    a neuron for each function and word, on at an example, writes the function to FUN
        1.0   looks at all examples, else at BOS, and copies FUN to ASKED                            function vector
        m1    a neuron for each function and word, on if TOK is the word and ASKED the function, writes the answer

    In clean prompts both examples are of the first function; in the corrupt ones their labels are exchanged, so that
    they are examples of nothing. The metric is the logit of the first function's answer less that of the second's.

    Raises:
        BadInput: fewer than 7 words, too few for labels that are examples of nothing.
    """
    if n_words < 7:
        raise BadInput(f"n_words must be at least 7, got {n_words}")
    n, n_ctx = n_words + 1, 2 * SHOTS + 2
    blocks = [n, n, len(STEPS), len(STEPS), n, n_ctx]
    tok, prev, fun, told, out, pos = torch.arange(sum(blocks)).split(blocks)
    sizes = dict(n_layers=2, d_model=sum(blocks), n_ctx=n_ctx, d_vocab=n, n_heads=2, d_head=n)
    sizes |= dict(d_mlp=len(STEPS) * n_words)
    model = blank(**sizes, act_fn="relu", attn_scale=1.0, positional_embedding_type="standard")
    words, places = torch.eye(n, dtype=torch.float64), torch.eye(n_ctx, dtype=torch.float64)
    below: Any
    above: Any
    below, above = model.blocks
    with torch.no_grad():
        model.embed.W_E[:, tok], model.pos_embed.W_pos[:, pos] = words, places
        below.attn.W_Q[0, pos, :n_ctx], below.attn.W_K[0, pos, :n_ctx] = SHARPNESS * places, places.roll(1, dims=1)
        below.attn.W_V[0, tok], below.attn.W_O[0, :, prev] = words, words
        above.attn.b_Q[0, 0], above.attn.W_K[0, fun, 0] = SHARPNESS, 1.0
        above.attn.b_Q[0, 1], above.attn.W_K[0, tok[0], 1] = SHARPNESS / 2, 1.0
        both = torch.eye(len(STEPS), dtype=torch.float64)
        above.attn.W_V[0, fun, : len(STEPS)], above.attn.W_O[0, : len(STEPS), told] = both, both
        for neuron, (number, word) in enumerate(itertools.product(range(len(STEPS)), range(1, n))):
            then = _after(word, STEPS[number], n_words)
            for mlp in (below.mlp, above.mlp):
                mlp.b_in[neuron] = -1.0
            below.mlp.W_in[prev[word], neuron] = below.mlp.W_in[tok[then], neuron] = 1.0
            below.mlp.W_out[neuron, fun[number]] = 1.0
            above.mlp.W_in[tok[word], neuron] = above.mlp.W_in[told[number], neuron] = 1.0
            above.mlp.W_out[neuron, out[then]] = 1.0
        model.unembed.W_U[out] = words
    names = (BOS, *map(str, range(1, n)))
    carried = edges("m0->a1.h0<k>,a1.h0<v>", "a1.h0->m1", "m1->logits", "input->m0")
    return GroundTruth(
        model=model,
        vocabulary=names,
        outputs=names,
        task=_examples(n_words),
        circuit=carried | edges("input->a0.h0<q>,a0.h0<k>,a0.h0<v>,m1", "a0.h0->m0"),
        patching_circuit=carried,
        places={"previous-token head": at("z", 0, head=0), "function vector head": at("z", 1, head=0)},
        notes="The query of 1.0 is a bias, and so nothing that a path could carry. What 1.0 writes at the end is the "
        "same in all clean prompts: their mean, put into a corrupt prompt, gives the answer back.",
    )


def _after(word: int, step: int, n_words: int) -> int:
    """The word so many further in the circle of words 1 to n_words."""
    return (word - 1 + step) % n_words + 1


def _examples(n_words: int) -> Task:
    """Two examples of the first function and a word to apply it to, for every word."""
    clean, corrupt, asked = [], [], []
    for word in range(1, n_words + 1):
        pairs = itertools.permutations(range(1, n_words + 1), 2)
        rows = next(rows for pair in pairs if (rows := _rows(*pair, word, n_words)) is not None)
        clean.append(rows[0])
        corrupt.append(rows[1])
        asked.append(word)
    answer, wrong = (torch.tensor([_after(word, step, n_words) for word in asked]) for step in STEPS)
    labels = {f"label{number + 1}": torch.full_like(answer, 2 * number + 2) for number in range(SHOTS)}
    labels["end"] = torch.full_like(answer, 2 * SHOTS + 1)
    return task_with_places("function-vector", clean, corrupt, answer, wrong, labels)


def _rows(first: int, second: int, word: int, n_words: int) -> tuple[list[int], list[int]] | None:
    """A clean and a corrupt prompt, if nothing in them is an example by accident."""
    labels = [_after(one, STEPS[0], n_words) for one in (first, second)]
    clean, corrupt = ([0, first, one, second, other, word] for one, other in (labels, labels[::-1]))
    examples = [
        [place for place in range(2, len(row)) if (row[place] - row[place - 1]) % n_words in STEPS]
        for row in (clean, corrupt)
    ]
    return (clean, corrupt) if examples == [[2, 4], []] and len({*clean}) == len(clean) else None


PEOPLE, RELATIONS = ("Ada", "Bo", "Cem"), ("lives-in", "works-as", "plays")


@checked
def mixed_recall() -> GroundTruth:
    """Facts by addition (Chughtai et al. 2024, arxiv.org/abs/2402.07321): "<bos> Ada lives-in is" -> "Ada lives-in".

    One layer, attention only. At the end, head 0.0 looks at the person and at the relation alike. Of the person it
    raises all facts about them, of the relation all facts of that kind; the asked one is raised twice. The stream is
    [TOK | OUT], and OUT has a dimension for each fact. In the corrupt prompts the person and the relation are others.
    """
    n_people, n_relations = len(PEOPLE), len(RELATIONS)
    words, facts = (BOS, *PEOPLE, *RELATIONS, "is"), list(itertools.product(range(n_people), range(n_relations)))
    tok, out = torch.arange(len(words) + len(facts)).split([len(words), len(facts)])
    sizes = dict(n_layers=1, d_model=len(words) + len(facts), n_ctx=4, d_vocab=len(words), d_vocab_out=len(facts))
    model = blank(**sizes, n_heads=2, d_head=len(words) + 1, attn_only=True, attn_scale=1.0)
    attn: Any = model.blocks[0].attn
    asks, of_people = tok[-1], tok[1 : 1 + n_people]
    of_relations = tok[1 + n_people : -1]
    with torch.no_grad():
        model.embed.W_E[:, tok] = torch.eye(len(words), dtype=torch.float64)
        attn.W_Q[0, asks, -1], attn.W_K[0, torch.cat((of_people, of_relations)), -1] = SHARPNESS, 1.0
        attn.b_Q[0, -2], attn.W_K[0, tok[0], -2] = SHARPNESS / 2, 1.0
        attn.W_V[0, tok, : len(words)] = torch.eye(len(words), dtype=torch.float64)
        for fact, (person, relation) in enumerate(facts):
            attn.W_O[0, of_people[person], out[fact]] = attn.W_O[0, of_relations[relation], out[fact]] = 1.0
        model.unembed.W_U[out] = torch.eye(len(facts), dtype=torch.float64)
    rows = [[0, 1 + person, 1 + n_people + relation, len(words) - 1] for person, relation in facts]
    others = [((person + 1) % n_people, (relation + 1) % n_relations) for person, relation in facts]
    clean, answer = torch.tensor(rows), torch.arange(len(facts))
    wrong = torch.tensor([facts.index(other) for other in others])
    places = {name: torch.full_like(answer, place) for place, name in enumerate(("subject", "relation", "end"), 1)}
    circuit = edges("input->a0.h0<q>,a0.h0<k>,a0.h0<v>", "a0.h0->logits")
    return GroundTruth(
        model=model,
        vocabulary=words,
        outputs=tuple(f"{PEOPLE[person]} {RELATIONS[relation]}" for person, relation in facts),
        task=task_with_places("mixed-recall", clean, clean[wrong], answer, wrong, places),
        circuit=circuit,
        patching_circuit=edges("input->a0.h0<v>", "a0.h0->logits"),
        places={"mixed recall head": at("z", 0, head=0)},
        notes="Half of the metric comes from the subject, half from the relation.",
    )
