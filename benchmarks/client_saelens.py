"""SAELens: models with SAEs and transcoders in them, stores of activations, training, evaluation, caching."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from client_steps import SIZES, draw, run, step, texts, tiny

FOLDER = Path(tempfile.mkdtemp())
HOOK, FEATURES = "blocks.1.hook_resid_pre", 24
TOKENS = torch.randint(4, SIZES["d_vocab"], (3, 9), generator=torch.Generator().manual_seed(0))
MADE: dict[str, Any] = {}


def sae(config: Any, hook: str = HOOK, **options: Any) -> Any:
    from sae_lens import SAE

    d_in = options.pop("d_in", SIZES["d_model"])
    config = config(d_in=d_in, d_sae=FEATURES, device="cpu", dtype="float32", **options)
    config.metadata.hook_name = hook
    made = SAE.from_dict(config.to_dict())
    draw(made)
    return made


def dataset() -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"text": text} for text in texts(200)])


def store(**options: Any) -> Any:
    from sae_lens import ActivationsStore

    defaults: dict[str, Any] = dict(
        model=MADE["model"], dataset=dataset(), streaming=False, hook_name=HOOK, hook_head_index=None, context_size=8,
        d_in=SIZES["d_model"], n_batches_in_buffer=4, total_training_tokens=400, store_batch_size_prompts=4,
        train_batch_size_tokens=16, prepend_bos=True, normalize_activations="none", device=torch.device("cpu"),
        dtype="float32",
    )  # fmt: skip
    return ActivationsStore(**defaults | options)


@step
def imports() -> None:
    import sae_lens
    import sae_lens.analysis.hooked_sae_transformer
    import sae_lens.cache_activations_runner
    import sae_lens.evals
    import sae_lens.llm_sae_training_runner  # noqa: F401


@step
def a_model() -> Any:
    from sae_lens import HookedSAETransformer

    MADE["model"] = tiny(FOLDER / "tokenizer", HookedSAETransformer)
    return MADE["model"](TOKENS)


@step
def an_sae_on_disk() -> Any:
    from sae_lens import SAE, StandardSAEConfig

    MADE["sae"] = sae(StandardSAEConfig)
    MADE["sae"].save_model(FOLDER / "sae")
    return SAE.load_from_disk(FOLDER / "sae").state_dict()


@step
def a_pass_with_an_sae() -> Any:
    return MADE["model"].run_with_saes(TOKENS, saes=[MADE["sae"]])


@step
def with_the_error_term_nothing_changes() -> Any:
    model = MADE["model"]
    logits = model.run_with_saes(TOKENS, saes=[MADE["sae"]], use_error_term=True)
    assert torch.allclose(logits, model(TOKENS), atol=1e-5)
    return logits


@step
def a_cache_with_an_sae() -> Any:
    _, cache = MADE["model"].run_with_cache_with_saes(TOKENS, saes=[MADE["sae"]])
    found = {name: value for name, value in cache.items() if "sae" in name or "resid" in name or "pattern" in name}
    assert f"{HOOK}.hook_sae_acts_post" in found
    return found


@step
def hooks_on_features() -> Any:
    def ablate(features: Any, hook: Any) -> Any:
        features[:, :, :5] = 0.0
        return features

    hooks = [(f"{HOOK}.hook_sae_acts_post", ablate), ("blocks.1.hook_mlp_out", lambda value, hook: value * 2)]
    return MADE["model"].run_with_hooks_with_saes(TOKENS, saes=[MADE["sae"]], fwd_hooks=hooks)


@step
def saes_that_stay_until_they_are_reset() -> Any:
    from sae_lens import TopKSAEConfig

    model, topk = MADE["model"], sae(TopKSAEConfig, "blocks.0.hook_mlp_out", k=4)
    before = model(TOKENS)
    model.add_sae(MADE["sae"])
    with model.saes([topk]):
        both = model(TOKENS)
        attached = len(model.acts_to_saes)
    one = model(TOKENS)
    model.reset_saes()
    assert torch.equal(model(TOKENS), before)
    return both, one, attached


@step
def gradients_through_features() -> Any:
    model, kept = MADE["model"], []

    def keep(features: Any, hook: Any) -> None:
        features.retain_grad()
        kept.append(features)

    with model.saes([MADE["sae"]], use_error_term=True), model.hooks([(f"{HOOK}.hook_sae_acts_post", keep)]):
        model(TOKENS, return_type="loss").backward()
    model.zero_grad()
    return kept[0].grad


@step
def special_tokens_left_alone() -> Any:
    tokens = torch.cat([torch.zeros(3, 1, dtype=torch.long), TOKENS], 1)
    return MADE["model"].run_with_saes(tokens, saes=[MADE["sae"]], exclude_special_tokens=True)


@step
def an_sae_of_heads() -> Any:
    from sae_lens import StandardSAEConfig

    heads = sae(StandardSAEConfig, "blocks.0.attn.hook_z", reshape_activations="hook_z")
    return MADE["model"].run_with_saes(TOKENS, saes=[heads])


@step
def an_sae_of_what_a_norm_gives() -> Any:
    from sae_lens import StandardSAEConfig

    return MADE["model"].run_with_saes(TOKENS, saes=[sae(StandardSAEConfig, "blocks.1.ln2.hook_normalized")])


@step
def a_transcoder() -> Any:
    from sae_lens.registry import get_sae_class

    _, config = get_sae_class("skip_transcoder")
    one = sae(config, "blocks.0.mlp.hook_in", d_out=SIZES["d_model"], apply_b_dec_to_input=False)
    one.cfg.metadata.hook_name_out = "blocks.0.hook_mlp_out"
    _, cache = MADE["model"].run_with_cache_with_saes(TOKENS, saes=[one], use_error_term=True)
    return [value for name, value in cache.items() if "sae" in name], MADE["model"].run_with_saes(TOKENS, saes=[one])


@step
def batches_of_tokens() -> Any:
    return store().get_batch_tokens(5)


@step
def activations_of_a_batch() -> Any:
    here = store()
    return here.get_activations(here.get_batch_tokens(4))


@step
def activations_of_one_head() -> Any:
    here = store(hook_name="blocks.0.attn.hook_q", hook_head_index=1, d_in=SIZES["d_head"])
    return here.get_activations(here.get_batch_tokens(4))


@step
def batches_for_training() -> Any:
    here = store(activations_mixing_fraction=0.0)
    return [here.next_batch() for _ in range(3)]


@step
def training() -> Any:
    from sae_lens import (
        LanguageModelSAERunnerConfig,
        LanguageModelSAETrainingRunner,
        LoggingConfig,
        StandardTrainingSAEConfig,
    )

    sizes = dict(d_in=SIZES["d_model"], d_sae=FEATURES, device="cpu", dtype="float32")
    runner = LanguageModelSAETrainingRunner(
        LanguageModelSAERunnerConfig(
            sae=StandardTrainingSAEConfig(**sizes, l1_coefficient=0.1),
            model_name="tiny", hook_name=HOOK, dataset_path="", streaming=False, context_size=8, prepend_bos=True,
            n_batches_in_buffer=4, training_tokens=320, store_batch_size_prompts=4, train_batch_size_tokens=16,
            device="cpu", seed=0, lr=1e-2, lr_warm_up_steps=0, n_checkpoints=0, checkpoint_path=None, output_path=None,
            activations_mixing_fraction=0.0, n_eval_batches=1, verbose=False, logger=LoggingConfig(log_to_wandb=False),
        ),
        override_dataset=dataset(), override_model=MADE["model"],
    )  # fmt: skip
    draw(runner.sae)
    return runner.run().state_dict()


@step
def evaluation() -> Any:
    from sae_lens.evals import get_eval_everything_config, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler

    config = get_eval_everything_config(
        batch_size_prompts=4, n_eval_reconstruction_batches=2, n_eval_sparsity_variance_batches=2
    )
    metrics, by_feature = run_evals(
        MADE["sae"], store(), MADE["model"], ActivationScaler(), config, exclude_special_tokens=[0]
    )
    return metrics, by_feature


@step
def activations_on_disk() -> Any:
    import sae_lens.cache_activations_runner as caching
    from sae_lens.config import CacheActivationsRunnerConfig

    caching.load_model = lambda **options: MADE["model"]
    config = CacheActivationsRunnerConfig(
        dataset_path="none", model_name="tiny", model_batch_size=4, hook_name=HOOK, d_in=SIZES["d_model"],
        training_tokens=160, context_size=8, new_cached_activations_path=str(FOLDER / "cached"), shuffle=False,
        device="cpu", buffer_size_gb=0.00001, streaming=False,
    )  # fmt: skip
    found = caching.CacheActivationsRunner(config, override_dataset=dataset()).run()
    return torch.tensor(found[:6][HOOK])


@step
def a_huggingface_model_behind_hooks() -> Any:
    from sae_lens.load_model import load_model
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50, n_positions=32, bos_token_id=0, eos_token_id=1)
    hf = GPT2LMHeadModel(config)
    draw(hf)
    hf.save_pretrained(FOLDER / "tokenizer")
    model = load_model("AutoModelForCausalLM", str(FOLDER / "tokenizer"), "cpu")
    hooks = [("transformer.h.0.mlp", lambda value, hook: value * 2)]
    _, cache = model.run_with_cache(TOKENS, names_filter=["transformer.h.0", "transformer.h.1.attn"])
    return (
        model.run_with_hooks(TOKENS, fwd_hooks=hooks),
        dict(cache),
        model.to_tokens(texts(3), prepend_bos=False, truncate=False, move_to_device=False),
    )


run()
