"""A module in the model: it is recorded, patched, decoded with, saved, and refused where numbers would be wrong."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from interp_hooks import HookedTransformer, HookPoint, Intervention, Run, at, evaluate, record, sweep
from interp_hooks.errors import BadInput, CheckpointError, HookConflict, WeightMismatch
from tests.tiny import assert_close, hooked, random_tokens

POINT, ACTS = "blocks.1.hook_mlp_out", "blocks.1.hook_mlp_out.sae.hook_acts"
TOKENS, OTHER = random_tokens(), random_tokens(seed=1)


class Dictionary(nn.Module):
    """A sparse autoencoder, as far as a model is concerned."""

    def __init__(self, width: int, features: int = 5, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.W_enc = nn.Parameter(torch.randn(width, features, generator=generator, dtype=torch.float64))
        self.W_dec = nn.Parameter(torch.randn(features, width, generator=generator, dtype=torch.float64))
        self.hook_acts = HookPoint("batch pos feature", feature=features)

    def forward(self, x: Tensor) -> Tensor:
        return self.hook_acts((x @ self.W_enc).relu()) @ self.W_dec


@pytest.fixture
def model() -> HookedTransformer:
    model = copy.deepcopy(hooked("gpt2"))
    model.splice("mlp_out1", Dictionary(model.cfg.d_model), name="sae")
    return model


def metric(logits: Tensor) -> Tensor:
    return logits[:, -1].square().sum(-1)


@torch.no_grad()
def test_its_activations_are_recorded(model: HookedTransformer) -> None:
    _, cache = model.run_with_cache(TOKENS, names_filter=[ACTS, POINT])
    assert list(cache) == [POINT, ACTS]
    recorded = record(model, Run(TOKENS), ACTS)[ACTS]
    assert torch.equal(recorded, cache[ACTS])
    assert cache[ACTS].shape == (*TOKENS.shape, 5)


@torch.no_grad()
def test_its_activations_are_swept_over(model: HookedTransformer) -> None:
    """What a sweep finds for each feature and position is what one pass with one hook finds."""
    result = sweep(
        model,
        lambda pos, feature: Run(OTHER, [Intervention(at(ACTS, pos=pos, feature=feature), Run(TOKENS))]),
        metric,
        over={"pos": range(7), "feature": range(5)},
        progress=False,
    )
    clean = model.run_with_cache(TOKENS, names_filter=ACTS)[1][ACTS]
    for pos, feature in ((0, 0), (3, 2), (6, 4)):

        def restore(value: Tensor, hook: HookPoint, pos: int = pos, feature: int = feature) -> None:
            value[:, pos, feature] = clean[:, pos, feature]

        expected = metric(model.run_with_hooks(OTHER, fwd_hooks=[(ACTS, restore)]))
        assert torch.allclose(result.values[pos, feature], expected)
    assert result.values.flatten(0, 1).std(0).min() > 0


@torch.no_grad()
def test_runs_of_other_parts_pass_through_it(model: HookedTransformer) -> None:
    """Runs that start from recorded streams go through the module as whole passes do."""
    runs = [
        Run(OTHER, [Intervention(at(name), Run(TOKENS))])
        for name in ("blocks.0.hook_mlp_out", POINT, "blocks.1.hook_resid_post", "blocks.2.attn.hook_z")
    ]
    found = evaluate(model, runs, metric, progress=False)
    for run, score in zip(runs, found, strict=True):
        (made,) = run.interventions
        value = model.run_with_cache(TOKENS, names_filter=made.site.hook)[1][made.site.hook]
        expected = metric(model.run_with_hooks(OTHER, fwd_hooks=[(made.site.hook, lambda old, hook, new=value: new)]))
        assert torch.allclose(score, expected), made.site.hook


def test_decoding_goes_through_it(model: HookedTransformer) -> None:
    options = dict(do_sample=False, verbose=False)
    written = model.generate(TOKENS, 4, **options)
    assert torch.equal(written, model.generate(TOKENS, 4, use_past_kv_cache=False, **options))
    assert torch.equal(written[:, -1], model(written[:, :-1])[:, -1].argmax(-1))
    logits = model(TOKENS, logits_pos=-1)
    assert torch.allclose(logits[:, 0], model(TOKENS)[:, -1])


def test_drawing_the_models_weights_anew_leaves_its_own(model: HookedTransformer) -> None:
    module = model.splices[POINT].module
    before, embed = copy.deepcopy(module.state_dict()), model.W_E.clone()
    model.init_weights()
    assert not torch.equal(model.W_E, embed)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# ------------------------------------------------------------------------------------------------------------- on disk


def test_a_saved_model_has_it_back(model: HookedTransformer, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    back = HookedTransformer.from_pretrained(
        str(tmp_path), device="cpu", splices={POINT: Dictionary(model.cfg.d_model, seed=3).float()}
    )
    assert_close(back(TOKENS), model(TOKENS), 1e-12)
    assert list(back.splices) == [POINT]
    assert ACTS in back.hook_dict
    assert all("the module that is spliced in" in line for line in back.processing_report() if "skipped" in line)
    back.splices[POINT].remove()
    back.save_pretrained(tmp_path)
    again = HookedTransformer.from_pretrained_no_processing(str(tmp_path), device="cpu")
    assert_close(again(TOKENS), back(TOKENS), 1e-12)


def test_a_folder_with_a_module_says_what_it_needs(model: HookedTransformer, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    load = HookedTransformer.from_pretrained
    with pytest.raises(CheckpointError, match=r"splices=\{'blocks\.1\.hook_mlp_out': a tests\.\S*\.Dictionary\}"):
        load(str(tmp_path))
    with pytest.raises(BadInput, match=r"has a module for 'hook_embed'; .* has modules at \['blocks\.1"):
        load(str(tmp_path), splices={POINT: Dictionary(model.cfg.d_model), "hook_embed": nn.Identity()})
    with pytest.raises(WeightMismatch, match=r"is not the .*Dictionary that was saved"):
        load(str(tmp_path), splices={POINT: Dictionary(model.cfg.d_model, features=4)})
    with pytest.raises(WeightMismatch, match=r"is not the .*Dictionary that was saved"):
        load(str(tmp_path), splices={POINT: nn.Identity()})
    with pytest.raises(BadInput, match=r"after loading, call model\.splice"):
        load("ioi-tiny", hf_model=model, splices={POINT: nn.Identity()})  # pyright: ignore[reportArgumentType]


# ------------------------------------------------------------------------------------------------------------- refused


def test_what_would_be_wrong_numbers_is_refused(model: HookedTransformer) -> None:
    _, cache = model.run_with_cache(TOKENS)
    for call in (cache.decompose_resid, cache.stack_head_results, cache.get_full_resid_decomposition):
        with pytest.raises(BadInput, match=r"spliced in at blocks\.1\.hook_mlp_out, .* remove\(\) it"):
            call()
    assert cache.accumulated_resid().shape[0] == model.cfg.n_layers + 1
    with pytest.raises(BadInput, match=r"first remove\(\) what is spliced in, \['blocks"):
        model.set_ungroup_grouped_query_attention(True)
    with pytest.raises(CheckpointError, match="no place for the module at blocks"):
        model.to_hf()
    before = model(TOKENS)
    model.process_weights_()
    assert torch.equal(model(TOKENS), before)
    assert model.processing_report()[0].startswith("fold_ln: skipped, the module that is spliced in")
    with pytest.raises(HookConflict):
        model.splice("mlp_out1", nn.Identity())
    model.splices[POINT].remove()
    model.process_weights_()
    assert model.processing_report()[0] == "fold_ln: applied"
    assert cache.decompose_resid().shape[0] > 1
