"""Where hooks stand, what writes to the stream and what reads it."""

from interp_hooks.model.stream import Stream
from tests.experiments.by_hand import model_of


def test_what_enters_a_layer_has_a_hook() -> None:
    gpt2, bert = Stream(model_of("gpt2")), Stream(model_of("post-norm"))
    assert [gpt2.entering(layer) for layer in (0, 2)] == ["blocks.0.hook_resid_pre", "blocks.2.hook_resid_pre"]
    assert gpt2.entering(3) == "blocks.2.hook_resid_post"
    assert bert.entering(3) == "blocks.2.hook_normalized_resid_post"
    assert gpt2.shows("z", 1) == "blocks.1.attn.hook_z"
    assert gpt2.shows("mlp_out", 1) == "blocks.1.hook_mlp_out"
