"""A model written by hand that makes verbs agree with their subjects, whose features are known by direction.

The stream is [NUMBER | WORD ... | SUBJECT | MOVED | SINGULAR | PLURAL]: what number a noun has (1 or -1), which word it
is, whether it stands where a subject does, and what is known at the end: the number that a head moved there, and the
two features that an MLP makes of it, of which one is active.
"""

from __future__ import annotations

from typing import Any

import torch

from interp_hooks.errors.arguments import checked, refuse_outside
from interp_hooks.ground_truth.handmade import SHARPNESS, blank
from interp_hooks.ground_truth.system import BOS, GroundTruth, edges, task_at_the_end
from interp_hooks.interventions.sites import at

NOUNS = ("key", "door", "boy", "dog", "car", "tree")
SUBJECT_AT = 2  # BOS the NOUN near the NOUN
NUMBER, MOVED, SINGULAR, PLURAL = 0, -3, -2, -1  # dimensions of the stream


@checked
def number_agreement(n_nouns: int = 4) -> GroundTruth:
    """After "the keys near the door" comes "are": the verb agrees with the subject, and not with the noun before it.

        0.0   looks at the subject's place from everywhere, and copies NUMBER there to MOVED
        MLP   SINGULAR = relu(MOVED), PLURAL = relu(-MOVED), a neuron each
        is    reads SINGULAR - PLURAL, "are" the opposite

    Prompts are all of two different nouns in all numbers; the corrupt one has the subject in its other number. Every
    feature that matters is a direction of the stream: NUMBER and its opposite at the subject, MOVED and its opposite,
    and SINGULAR and PLURAL at the end; the number of the nearer noun plays no part.

    Raises:
        BadInput: fewer than two nouns, or more than there are.
    """
    refuse_outside("n_nouns", n_nouns, 2, len(NOUNS))
    nouns = NOUNS[:n_nouns]
    words = (BOS, "the", "near", *nouns, *(f"{noun}s" for noun in nouns), "is", "are")
    model = blank(
        n_layers=1,
        d_model=n_nouns + 5,
        n_ctx=6,
        d_vocab=len(words),
        n_heads=1,
        d_head=1,
        d_mlp=2,
        act_fn="relu",
        attn_scale=1.0,
        positional_embedding_type="standard",
    )
    block: Any = model.blocks[0]
    singular, plural = torch.arange(3, 3 + n_nouns), torch.arange(3 + n_nouns, 3 + 2 * n_nouns)
    with torch.no_grad():
        for ids, number in ((singular, 1.0), (plural, -1.0)):
            model.embed.W_E[ids, NUMBER] = number
            model.embed.W_E[ids, 1 : 1 + n_nouns] = torch.eye(n_nouns, dtype=torch.float64)
        model.pos_embed.W_pos[SUBJECT_AT, 1 + n_nouns] = 1.0
        block.attn.b_Q.fill_(SHARPNESS)
        block.attn.W_K[0, 1 + n_nouns, 0] = 1.0
        block.attn.W_V[0, NUMBER, 0] = block.attn.W_O[0, 0, MOVED] = 1.0
        block.mlp.W_in[MOVED] = torch.tensor([1.0, -1.0])
        block.mlp.W_out[:, [SINGULAR, PLURAL]] = torch.eye(2, dtype=torch.float64)
        model.unembed.W_U[[SINGULAR, PLURAL], -2] = torch.tensor([1.0, -1.0], dtype=torch.float64)
        model.unembed.W_U[[SINGULAR, PLURAL], -1] = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    clean = torch.tensor(
        [
            [0, 1, subject + n_nouns * many, 2, 1, near + n_nouns * many_near]
            for subject in singular.tolist()
            for near in singular.tolist()
            if near != subject
            for many in (0, 1)
            for many_near in (0, 1)
        ]
    )
    is_singular = clean[:, SUBJECT_AT] < 3 + n_nouns
    corrupt = clean.clone()
    corrupt[:, SUBJECT_AT] += torch.where(is_singular, n_nouns, -n_nouns)
    answer, wrong = (torch.where(one, len(words) - 2, len(words) - 1) for one in (is_singular, ~is_singular))
    truth = edges("input->a0.h0<v>", "a0.h0->m0", "m0->logits")
    return GroundTruth(
        model=model,
        vocabulary=words,
        outputs=words,
        task=task_at_the_end("number-agreement", clean, corrupt, answer, wrong),
        circuit=truth | edges("input->a0.h0<k>"),
        patching_circuit=truth,
        places={"head": at("z", 0, head=0), "singular": at("post", 0, neuron=0), "plural": at("post", 0, neuron=1)},
        notes="Queries are a bias, and keys know places alone, so that patching never changes where the head looks. "
        "Without keys it would look at all positions alike, and the nearer noun's number would play a part.",
    )
