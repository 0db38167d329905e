"""Models in which one thing was put at a chosen place; float64, without norms.

planted_neuron   one neuron in a model with random weights that alone decides about one logit
planted_fact     an MLP that looks facts up at the last token of a name, and heads that fetch them
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

from interp_hooks.errors import BadInput
from interp_hooks.experiments.task import Task
from interp_hooks.ground_truth.handmade import blank
from interp_hooks.ground_truth.system import BOS, GroundTruth, edges, task_at_the_end
from interp_hooks.interventions.sites import at

SHARPNESS = 100.0  # the score of a match; what else is seen is below the rounding of float64


def planted_neuron(layer: int = 1, neuron: int = 17, seed: int = 0) -> GroundTruth:
    """Random weights, and one neuron that is 1 on the words "trigger0" to "trigger3" and 0 on all others.

    The model has three layers of 4 heads and 32 neurons. Logit "answer" reads a direction that the neuron alone writes
    to, and is 2 where the neuron is on; logit "silent" is always 0. Everything else is random and touches neither.

    Raises:
        BadInput: a layer or neuron that the model does not have.
    """
    n_layers, d_model, d_mlp, d_vocab, n_ctx = 3, 24, 32, 20, 6
    if not (0 <= layer < n_layers and 0 <= neuron < d_mlp):
        raise BadInput(f"expected a layer below {n_layers} and a neuron below {d_mlp}, got {layer} and {neuron}")
    sizes = dict(n_layers=n_layers, d_model=d_model, d_mlp=d_mlp, d_vocab=d_vocab, n_ctx=n_ctx, n_heads=4)
    model = blank(**sizes, act_fn="relu", positional_embedding_type="standard")
    generator = torch.Generator().manual_seed(seed)
    trigger, answer = d_model - 2, d_model - 1
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        for name, weight in model.named_parameters():
            if name.rpartition(".")[2] in ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out"):
                weight[..., trigger:] = 0.0
        model.embed.W_E[:4, trigger] = 1.0
        mlp: Any = model.blocks[layer].mlp
        mlp.W_in[:, neuron], mlp.W_in[trigger, neuron], mlp.b_in[neuron] = 0.0, 1.0, 0.0
        mlp.W_out[neuron, answer] = 2.0
        model.unembed.W_U[:, :2], model.unembed.W_U[answer], model.unembed.b_U[:2] = 0.0, 0.0, 0.0
        model.unembed.W_U[answer, 0] = 1.0
    clean = torch.randint(4, d_vocab, (16, n_ctx), generator=generator)
    corrupt = clean.clone()
    clean[:, -1] = torch.arange(16) % 4
    truth = edges(f"input->m{layer}", f"m{layer}->logits")
    words = tuple(f"w{word}" for word in range(d_vocab))
    return GroundTruth(
        model=model,
        vocabulary=(*(f"trigger{word}" for word in range(4)), *words[4:]),
        outputs=("answer", "silent", *words[2:]),
        task=task_at_the_end("planted-neuron", clean, corrupt, 0, 1),
        circuit=truth,
        patching_circuit=truth,
        places={"neuron": at("post", layer, neuron=neuron)},
        notes=f"Neuron {neuron} of layer {layer} is on at the last position of clean prompts, and nowhere else.",
    )


FIRST, LAST, RELATIONS = ("Ada", "Bo"), ("Ito", "Kim"), ("lives-in", "works-as")
OBJECTS = (("Oslo", "Rome", "Lima", "Cairo"), ("baker", "pilot", "nurse", "poet"))


def planted_fact() -> GroundTruth:
    """Two facts about each of four people, told by first and last name: "<bos> Ada Kim lives-in" -> "Rome".

    The stream is [TOK | PREV | FACT | OUT | POS]: the token here, the one before, facts, the answer, the position.

        0.0        looks one position back and copies TOK to PREV
        m0         a neuron for each person, on if PREV is the first name and TOK the last, writes both facts to FACT
        1.0, 1.1   one head for each relation: at its relation it looks for a fact of that kind and copies it to OUT; at
                   other words it looks at BOS
    """
    words = (BOS, *FIRST, *LAST, *RELATIONS)
    n_ctx, n_facts = 4, 8
    blocks = [len(words), len(words), n_facts, n_facts, n_ctx]
    tok, prev, fact, out, pos = torch.arange(sum(blocks)).split(blocks)
    sizes = dict(n_layers=2, d_model=sum(blocks), n_ctx=n_ctx, d_vocab=len(words), d_vocab_out=n_facts, d_mlp=4)
    model = blank(
        **sizes, n_heads=2, d_head=len(words), act_fn="relu", attn_scale=1.0, positional_embedding_type="standard"
    )
    places = torch.eye(n_ctx, dtype=torch.float64)
    below: Any
    above: Any
    below, above = model.blocks
    first, second, mlp = below.attn, above.attn, below.mlp
    with torch.no_grad():
        model.embed.W_E[:, tok] = torch.eye(len(words), dtype=torch.float64)
        model.pos_embed.W_pos[:, pos] = places
        first.W_Q[0, pos, :n_ctx], first.W_K[0, pos, :n_ctx] = SHARPNESS * places, places.roll(1, dims=1)
        first.W_V[0, tok], first.W_O[0, :, prev] = torch.eye(len(words), dtype=torch.float64).expand(2, -1, -1)
        for person, (given, family) in enumerate(itertools.product((1, 2), (3, 4))):
            mlp.W_in[prev[given], person], mlp.W_in[tok[family], person], mlp.b_in[person] = 1.0, 1.0, -1.0
            mlp.W_out[person, fact[person]], mlp.W_out[person, fact[4 + person]] = 1.0, 1.0
        for head, kind in enumerate((slice(0, 4), slice(4, 8))):
            second.W_Q[head, tok[5 + head], 0], second.W_K[head, fact[kind], 0] = SHARPNESS, 1.0
            second.b_Q[head, 1], second.W_K[head, tok[0], 1] = SHARPNESS / 2, 1.0
            second.W_V[head, fact[kind], :4] = torch.eye(4, dtype=torch.float64)
            second.W_O[head, :4, out[kind]] = torch.eye(4, dtype=torch.float64)
        model.unembed.W_U[out] = torch.eye(n_facts, dtype=torch.float64)
    found = edges("m0->a1.h0<k>,a1.h0<v>,a1.h1<k>,a1.h1<v>", "a1.h0->logits", "a1.h1->logits")
    asked = edges("input->m0,a0.h0<v>,a1.h0<q>,a1.h1<q>", "a0.h0->m0")
    return GroundTruth(
        model=model,
        vocabulary=words,
        outputs=(*OBJECTS[0], *OBJECTS[1]),
        task=_facts(),
        circuit=found | asked | edges("input->a0.h0<q>,a0.h0<k>,a1.h0<k>,a1.h1<k>"),
        patching_circuit=(found | asked) - edges("m0->a1.h0<k>,a1.h1<k>"),
        places={
            "subject": at("mlp_out", 0, pos=2),
            "previous-token head": at("z", 0, head=0),
            **{relation: at("z", 1, head=head) for head, relation in enumerate(RELATIONS)},
        },
        notes="The corrupt prompt differs in the first name, the last name or the relation. Facts always stand at the "
        "last name, so that patching the keys of layer 1 never changes where its heads look.",
    )


def _facts() -> Task:
    """All 8 questions, each paired with the three that differ from it in one word."""
    clean, corrupt, answers, wrongs = [], [], [], []
    for question in itertools.product((0, 1), repeat=3):
        for changed in range(3):
            other = tuple(bit ^ (place == changed) for place, bit in enumerate(question))
            for prompts, expected, (given, family, relation) in (
                (clean, answers, question),
                (corrupt, wrongs, other),
            ):
                prompts.append([0, 1 + given, 3 + family, 5 + relation])
                expected.append(4 * relation + 2 * given + family)
    return task_at_the_end("planted-fact", *map(torch.tensor, (clean, corrupt, answers, wrongs)))
