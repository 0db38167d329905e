"""sae-dashboard and sae-vis: what their pages of features hold, of an SAE in a model."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from client_steps import SIZES, draw, run, step, tiny

FOLDER, HOOK, FEATURES = Path(tempfile.mkdtemp()), "blocks.1.hook_resid_pre", 64
TOKENS = torch.randint(4, SIZES["d_vocab"], (64, 24), generator=torch.Generator().manual_seed(0))


def held(value: Any) -> Any:
    """All that an object holds, as numbers in dicts and lists."""
    if isinstance(value, dict):
        return {str(key): held(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [held(one) for one in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return held(vars(value)) if hasattr(value, "__dict__") else value


def tiny_pair() -> tuple[Any, Any]:
    """A tiny model, and an SAE of random weights at its hook."""
    from sae_lens import SAE, HookedSAETransformer, StandardSAEConfig

    config = StandardSAEConfig(d_in=SIZES["d_model"], d_sae=FEATURES, device="cpu", dtype="float32")
    config.metadata.hook_name = HOOK
    sae = SAE.from_dict(config.to_dict())
    draw(sae)
    return tiny(FOLDER, HookedSAETransformer), sae


@step
def imports_of_sae_dashboard() -> None:
    import sae_dashboard.sae_vis_data
    import sae_dashboard.sae_vis_runner  # noqa: F401


@step
def a_page_of_sae_dashboard() -> Any:
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner

    model, sae = tiny_pair()
    asked = SaeVisConfig(hook_point=HOOK, features=range(4), minibatch_size_features=4, minibatch_size_tokens=8)
    found = SaeVisRunner(asked).run(encoder=sae, model=model, tokens=TOKENS)
    return [held(found.feature_data_dict[feature]) for feature in range(4)]


@step
def imports_of_sae_vis() -> None:
    import sae_vis.data_storing_fns  # noqa: F401


@step
def a_page_of_sae_vis() -> Any:
    from sae_vis.data_config_classes import SaeVisConfig
    from sae_vis.data_storing_fns import SaeVisData

    model, sae = tiny_pair()
    sae.cfg.hook_name, sae.cfg.hook_layer = HOOK, 1  # where sae-vis, which is older, looks for them
    found = SaeVisData.create(sae=sae, model=model, tokens=TOKENS, cfg=SaeVisConfig(features=range(4)))
    return [held(one) for _, one in sorted(found.feature_data_dict.items())]


run()
