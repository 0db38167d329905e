"""Processing of state dicts and of models that exist: all of it or nothing, and never another probability."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer
from interp_hooks.errors import CheckpointError, ConfigError, WeightMismatch
from interp_hooks.loading.folding import STEPS, Processing, process
from interp_hooks.loading.processing import fold_layer_norm, load_and_process, one_step
from interp_hooks.model.components.norm import Norm
from tests.tiny import CUSTOM, assert_close, build, log_probs, our_logits, random_tokens, redraw

EXACT = 1e-9  # of log-probabilities, in float64
TOKENS = random_tokens(batch=2, pos=7, d_vocab=19)
NOTHING = Processing(**dict.fromkeys(STEPS, False))

ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "layer norm": {},
    "rms": dict(normalization_type="RMS", norm_gain_offset=1.0),
    "attention only": dict(attn_only=True),
    "gated": dict(gated_mlp=True),
    "grouped": dict(n_key_value_heads=2),
    "masked-LM head": dict(mlm_head=True),
    "norm of neurons": dict(act_fn="solu_ln", norm_gain_offset=0.5),
    "shortformer": dict(positional_embedding_type="shortformer"),
} | {name: CUSTOM[name] for name in ("experts", "output-norms", "shared-norm", "latent", "bidirectional")}


def applies(model: HookedTransformer, step: str) -> bool:
    try:
        return STEPS[step].obstacle(model) is None
    except ConfigError:
        return False


def empty(model: HookedTransformer, **fields: Any) -> HookedTransformer:
    """A model of the same config with other weights."""
    other = HookedTransformer(model.cfg.replace(**fields)).eval()
    redraw(other, seed=7)
    return other


def copied(model: HookedTransformer) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def assert_same(state_dict: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    assert state_dict.keys() == before.keys()
    for name, weight in before.items():
        assert torch.equal(state_dict[name], weight), name


# ------------------------------------------------------------------------------------------------- state dict by step


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_a_processed_state_dict_loads_where_it_came_from(name: str, step: str) -> None:
    """Probabilities and keys stay as they were, and so does the state dict that was given."""
    model = build(**ARRANGEMENTS[name])
    before, expected = copied(model), log_probs(our_logits(model, TOKENS))
    given = model.state_dict()
    if not applies(model, step):
        with pytest.raises(ConfigError, match=step):
            one_step(model.cfg, given, step)
        return
    result = fold_layer_norm(model.cfg, given) if step == "fold_ln" else one_step(model.cfg, given, step)
    assert_same(given, before)
    assert result.keys() == before.keys()
    assert any(not torch.equal(result[key], before[key]) for key in before), "something was processed"
    loaded = empty(model)
    loaded.load_state_dict(result)
    assert_close(log_probs(our_logits(loaded, TOKENS)), expected, EXACT)


def test_each_step_is_its_formula() -> None:
    model = build()
    cfg, given = model.cfg, model.state_dict()
    folded = fold_layer_norm(cfg, given)
    W_Q, w, b = (given[f"blocks.1.{name}"] for name in ("attn.W_Q", "ln1.w", "ln1.b"))
    scaled = W_Q * w[:, None]
    assert_close(folded["blocks.1.attn.W_Q"], scaled - scaled.mean(1, keepdim=True), EXACT)
    assert_close(folded["blocks.1.attn.b_Q"], given["blocks.1.attn.b_Q"] + b @ W_Q, EXACT)
    W_U = given["unembed.W_U"]
    assert_close(folded["unembed.b_U"], given["unembed.b_U"] + given["ln_final.b"] @ W_U, EXACT)
    assert bool((folded["ln_final.w"] == 1).all())
    assert not folded["ln_final.b"].any()

    centred = one_step(cfg, given, "center_writing_weights")
    for name in ("embed.W_E", "pos_embed.W_pos", "blocks.2.attn.W_O", "blocks.2.mlp.W_out", "blocks.2.mlp.b_out"):
        assert_close(centred[name], given[name] - given[name].mean(-1, keepdim=True), EXACT)
    unembed = one_step(cfg, given, "center_unembed")
    assert_close(unembed["unembed.W_U"], W_U - W_U.mean(1, keepdim=True), EXACT)
    assert_close(unembed["unembed.b_U"], given["unembed.b_U"] - given["unembed.b_U"].mean(), EXACT)

    constant = one_step(cfg, given, "fold_value_biases")
    b_V, W_O, b_O = (given[f"blocks.1.attn.{name}"] for name in ("b_V", "W_O", "b_O"))
    assert_close(constant["blocks.1.attn.b_O"], b_O + sum(b_V[head] @ W_O[head] for head in range(4)), EXACT)
    assert not constant["blocks.1.attn.b_V"].any()


def test_one_step_after_the_other() -> None:
    """Steps are composed as the field does it: each works on what the one before returned."""
    model = build()
    state = fold_layer_norm(model.cfg, model.state_dict())
    for step in list(STEPS)[1:4]:
        state = one_step(model.cfg, state, step)
    processed = build()
    process(processed, Processing())
    for name, weight in processed.state_dict().items():
        assert_close(state[name] + 1, weight + 1, EXACT)  # + 1, as value biases are zero


@pytest.mark.parametrize("kind", ["LN", "RMS"])
def test_norms_without_gains_have_nothing_to_fold(kind: Any) -> None:
    """Whether norms have gains is read from the state dict, whatever the model's own config says."""
    model = build(normalization_type=kind + "Pre")
    given = model.state_dict()
    for cfg in (model.cfg, model.cfg.replace(normalization_type=kind)):
        assert_same(fold_layer_norm(cfg, given), given)


def test_gains_are_folded_for_a_model_that_has_none() -> None:
    model = build()
    result = fold_layer_norm(model.cfg.replace(normalization_type="LNPre"), model.state_dict())
    receiver = empty(model, normalization_type="LNPre")
    receiver.load_state_dict({name: weight for name, weight in result.items() if name in receiver.state_dict()})
    assert_close(our_logits(receiver, TOKENS), our_logits(model, TOKENS), EXACT)


def test_readers_of_a_layer_norm_may_keep_their_mean() -> None:
    model = build()
    given = model.state_dict()
    result = fold_layer_norm(model.cfg, given, center_weights=False)
    expected = given["blocks.1.mlp.W_in"] * given["blocks.1.ln2.w"][:, None]
    assert_close(result["blocks.1.mlp.W_in"], expected, EXACT)
    loaded = empty(model)
    loaded.load_state_dict(result)
    assert_close(our_logits(loaded, TOKENS), our_logits(model, TOKENS), EXACT)


def test_the_fields_call_for_rms_norms() -> None:
    model = build(normalization_type="RMS")
    result = fold_layer_norm(model.cfg, model.state_dict(), fold_biases=False, center_weights=False)
    assert_same(result, fold_layer_norm(model.cfg, model.state_dict()))


@pytest.mark.parametrize(
    ("kind", "options"), [("LN", dict(fold_biases=False)), ("RMS", dict(fold_biases=True, center_weights=True))]
)
def test_what_would_give_other_logits_is_refused(kind: Any, options: dict[str, bool]) -> None:
    model = build(normalization_type=kind)
    with pytest.raises(ConfigError, match=f"normalization_type='{kind}' would change what the model computes"):
        fold_layer_norm(model.cfg, model.state_dict(), **options)


def test_names_of_grouped_keys_and_what_is_no_weight_stay() -> None:
    model = build(n_key_value_heads=2, gated_mlp=True, normalization_type="RMS")
    plain, renamed = model.state_dict(), {}
    for name, weight in plain.items():
        parent, _, leaf = name.rpartition(".")
        if leaf != "b_gate":
            renamed[f"{parent}._{leaf}" if leaf in ("W_K", "W_V", "b_K", "b_V") else name] = weight
        else:
            weight.zero_()
    renamed["blocks.0.attn.mask"] = torch.ones(9, 9, dtype=torch.bool).tril()
    result = fold_layer_norm(model.cfg, renamed)
    assert result.keys() == renamed.keys()
    expected = fold_layer_norm(model.cfg, plain)
    assert torch.equal(result["blocks.1.attn._W_K"], expected["blocks.1.attn.W_K"])
    assert torch.equal(result["blocks.0.attn.mask"], renamed["blocks.0.attn.mask"])


def test_a_bias_that_folding_makes_is_there() -> None:
    """TransformerLens has no bias of gates, so that a LayerNorm's has nowhere else to go."""
    model = build(gated_mlp=True)
    for block in model.blocks:
        block.mlp.get_parameter("b_gate").data.zero_()
    given = {name: weight for name, weight in model.state_dict().items() if not name.endswith("b_gate")}
    result = fold_layer_norm(model.cfg, given)
    expected = given["blocks.2.ln2.b"] @ given["blocks.2.mlp.W_gate"]
    assert_close(result["blocks.2.mlp.b_gate"], expected, EXACT)


def test_half_precision_stays_so() -> None:
    model = build(dtype=torch.bfloat16)
    result = fold_layer_norm(model.cfg, model.state_dict())
    assert {weight.dtype for weight in result.values()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["blocks.1.attn.W_Q", "blocks.0.ln1.b"])
def test_a_state_dict_that_lacks_a_weight(name: str) -> None:
    model = build()
    given = {key: weight for key, weight in model.state_dict().items() if key != name}
    with pytest.raises(WeightMismatch, match=name.replace(".", r"\.")):
        fold_layer_norm(model.cfg, given)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no checkpoint in a known format"),
        (["transformer.h.0.ln_1.weight"], "no checkpoint in a known format"),
        (["tok_emb.weight", "pos_emb", "head.weight"], "with this package's own names"),  # minGPT's, which is known
    ],
)
def test_what_is_no_state_dict_of_ours(names: list[str], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        one_step(build().cfg, {name: torch.zeros(1) for name in names}, "center_unembed")


# ----------------------------------------------------------------------------------------------------- in place, whole


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_an_existing_model_is_processed_in_place(name: str) -> None:
    model = build(**ARRANGEMENTS[name])
    expected = log_probs(our_logits(model, TOKENS))
    places = {key: weight.data_ptr() for key, weight in model.named_parameters()}
    process(model, Processing())
    assert_close(log_probs(our_logits(model, TOKENS)), expected, EXACT)
    for key, weight in model.named_parameters():
        assert weight.data_ptr() == places[key], key


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_the_config_of_a_processed_model_builds_it_anew(name: str) -> None:
    """What was folded is folded everywhere: nothing is left over or missing."""
    model = build(**ARRANGEMENTS[name])
    process(model, Processing())
    anew = empty(model)
    anew.load_state_dict(model.state_dict())
    assert torch.equal(our_logits(anew, TOKENS), our_logits(model, TOKENS))


REFUSED: dict[str, dict[str, Any]] = {
    "rotary": dict(positional_embedding_type="rotary"),
    "grouped": dict(n_key_value_heads=2),
    "normalized": dict(qk_norm="shared", qk_norm_type="RMS"),
    "wide": dict(n_heads=1, d_head=16),
    "wide values": dict(d_value=13),
    "not finite": {},
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_step_leaves_everything_as_it_was(name: str) -> None:
    """The last step is refused before the first one changes a weight."""
    model = build(**REFUSED[name])
    if name == "not finite":
        with torch.no_grad():
            model.blocks[2].attn.W_V[0, 0, 0] = torch.inf
    before, cfg = copied(model), model.cfg
    with pytest.raises(ConfigError, match="refactor_factored_attn_matrices"):
        process(model, Processing(refactor_factored_attn_matrices=True))
    assert_same(model.state_dict(), before)
    assert model.cfg == cfg
    assert model.blocks[0].ln1.kind == "LN"
    if name != "not finite":
        with pytest.raises(ConfigError, match="refactor_factored_attn_matrices"):
            load_and_process(model, empty(model).state_dict(), Processing(refactor_factored_attn_matrices=True))
        assert_same(model.state_dict(), before)


def test_what_was_applied_before_stays_in_the_report() -> None:
    model = build()
    model._report = process(model, Processing(center_unembed=False))
    assert "center_unembed: not asked for" in model.processing_report()
    model._report = process(model, Processing(center_writing_weights=False, center_unembed=True))
    assert model.processing_report()[:4] == [f"{step}: applied" for step in list(STEPS)[:4]]


def test_training_goes_on_after_processing() -> None:
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    process(model, Processing(fold_ln=False))
    before = copied(model)
    model(TOKENS, return_type="loss").backward()
    optimizer.step()
    changed = [name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])]
    assert "embed.W_E" in changed
    assert "unembed.W_U" in changed


# ------------------------------------------------------------------------------------------------ a state dict, loaded


@pytest.mark.parametrize("processing", [Processing(), NOTHING], ids=["processed", "as it is"])
@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_a_loaded_state_dict_computes_what_it_did(name: str, processing: Processing) -> None:
    source = build(**ARRANGEMENTS[name])
    expected, given = log_probs(our_logits(source, TOKENS)), copied(source)
    state_dict = copied(source)
    model = empty(source)
    report = load_and_process(model, state_dict, processing)
    assert_same(state_dict, given)
    assert_close(log_probs(our_logits(model, TOKENS)), expected, EXACT)
    assert report == process(build(**ARRANGEMENTS[name]), processing)
    process(source, processing)
    for key, weight in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], weight), key
    assert model.cfg == source.cfg
    kinds, expected_kinds = ([part.kind for part in one.modules() if isinstance(part, Norm)] for one in (model, source))
    assert kinds == expected_kinds


@pytest.mark.parametrize("folded", [True, False])
def test_whether_there_are_gains_is_the_state_dicts_business(folded: bool) -> None:
    """The model that takes the weights has gains, or has had them folded."""
    source = build(normalization_type="LNPre" if folded else "LN")
    for own in ("LN", "LNPre"):
        for processing in (NOTHING, Processing()):
            model = empty(source, normalization_type=own)
            load_and_process(model, source.state_dict(), processing)
            assert_close(log_probs(our_logits(model, TOKENS)), log_probs(our_logits(source, TOKENS)), EXACT)
            gains = [name for name, _ in model.named_parameters() if name.endswith(".w")]
            assert bool(gains) == (not folded and processing is NOTHING)
            assert model.cfg.norm_is_folded != bool(gains)


def test_hooks_and_memory_of_the_model_stay() -> None:
    source, model, seen = build(), build(seed=1), []
    model.add_hook("blocks.1.ln1.hook_scale", lambda value, hook: seen.append(hook.name))
    places = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    load_and_process(model, source.state_dict(), Processing())
    for name, weight in model.named_parameters():
        assert weight.data_ptr() == places[name], name
    our_logits(model, TOKENS)
    assert seen == ["blocks.1.ln1.hook_scale"]


def test_half_precision_models_round_once() -> None:
    """The float32 weights that were given are processed, not copies in the model's dtype."""
    source = build(dtype=torch.float32)
    model = build(dtype=torch.bfloat16)
    load_and_process(model, source.state_dict(), Processing())
    process(source, Processing())
    for name, weight in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.bfloat16()), name


@pytest.mark.parametrize("mistake", ["missing", "left over", "other shape"])
def test_a_state_dict_that_does_not_fit_changes_nothing(mistake: str) -> None:
    model, given = build(), build(seed=1).state_dict()
    if mistake == "missing":
        del given["blocks.2.mlp.W_out"]
    elif mistake == "left over":
        given["blocks.3.mlp.W_out"] = given["blocks.2.mlp.W_out"]
    else:
        given["blocks.2.mlp.W_out"] = given["blocks.2.mlp.W_out"].T
    before = copied(model)
    with pytest.raises(WeightMismatch, match=r"mlp\.W_out"):
        load_and_process(model, given, Processing())
    assert_same(model.state_dict(), before)
