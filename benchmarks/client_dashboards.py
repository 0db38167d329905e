"""sae-dashboard and sae-vis: what their pages of features hold, of an SAE in a model."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from client_steps import SIZES, draw, run, step, tiny

FOLDER, HOOK, FEATURES = Path(tempfile.mkdtemp()), "blocks.1.hook_resid_pre", 12
TOKENS = torch.randint(4, SIZES["d_vocab"], (16, 12), generator=torch.Generator().manual_seed(0))


def numbers_of(page: Any) -> Any:
    """The JSON that a page of features is made of."""
    import json

    def plain(value: Any) -> Any:
        return value if isinstance(value, (int, float, str, list, dict)) else vars(value)

    return json.loads(json.dumps(page, default=plain))


@step
def imports_of_sae_dashboard() -> None:
    import sae_dashboard.sae_vis_data
    import sae_dashboard.sae_vis_runner  # noqa: F401


@step
def a_page_of_sae_dashboard() -> Any:
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner
    from sae_lens import SAE, HookedSAETransformer, StandardSAEConfig

    model = tiny(FOLDER, HookedSAETransformer)
    config = StandardSAEConfig(d_in=SIZES["d_model"], d_sae=FEATURES, device="cpu", dtype="float32")
    config.metadata.hook_name = HOOK
    sae = SAE.from_dict(config.to_dict())
    draw(sae)
    asked = SaeVisConfig(hook_point=HOOK, features=range(4), minibatch_size_features=4, minibatch_size_tokens=8)
    found = SaeVisRunner(asked).run(encoder=sae, model=model, tokens=TOKENS)
    return [numbers_of(found.feature_data_dict[feature].to_dict()) for feature in range(4)]


@step
def imports_of_sae_vis() -> None:
    import sae_vis.data_storing_fns  # noqa: F401


@step
def a_page_of_sae_vis() -> Any:
    from sae_lens import SAE, HookedSAETransformer, StandardSAEConfig
    from sae_vis.data_config_classes import SaeVisConfig
    from sae_vis.data_storing_fns import SaeVisData

    model = tiny(FOLDER, HookedSAETransformer)
    config = StandardSAEConfig(d_in=SIZES["d_model"], d_sae=FEATURES, device="cpu", dtype="float32")
    config.metadata.hook_name = HOOK
    sae = SAE.from_dict(config.to_dict())
    draw(sae)
    sae.cfg.hook_name, sae.cfg.hook_layer = HOOK, 1  # where sae-vis, which is older, looks for them
    found = SaeVisData.create(sae=sae, model=model, tokens=TOKENS, cfg=SaeVisConfig(features=range(4)))
    return [numbers_of(one) for _, one in sorted(found.feature_data_dict.items())]


run()
