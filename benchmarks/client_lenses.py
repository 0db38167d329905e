"""tuned-lens and CircuitsVis: a logit lens and a tuned lens of a model, views of its attention."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from client_steps import SIZES, draw, run, step, tiny

TOKENS = torch.randint(4, SIZES["d_vocab"], (3, 9), generator=torch.Generator().manual_seed(0))
MADE: dict[str, Any] = {}


@step
def a_model() -> Any:
    MADE["model"] = tiny(Path(tempfile.mkdtemp()))
    _, MADE["cache"] = MADE["model"].run_with_cache(TOKENS)
    return MADE["cache"]["resid_post", -1]


@step
def a_logit_lens() -> Any:
    from tuned_lens.nn.lenses import LogitLens

    return LogitLens.from_model(MADE["model"])(MADE["cache"]["resid_pre", 1], 1)


@step
def a_tuned_lens() -> Any:
    from tuned_lens.nn.lenses import TunedLens, TunedLensConfig
    from tuned_lens.nn.unembed import Unembed

    sizes = TunedLensConfig("tiny", d_model=SIZES["d_model"], num_hidden_layers=SIZES["n_layers"])
    lens = TunedLens(Unembed(MADE["model"]), sizes)
    draw(lens, 0.1)
    return lens(MADE["cache"]["resid_pre", 1], 0)


@step
def views_of_attention() -> Any:
    import circuitsvis as cv

    words = MADE["model"].to_str_tokens(TOKENS[0])
    made = cv.attention.attention_patterns(words, MADE["cache"]["pattern", 0][0])
    return len(str(made)) > 1000


run()
