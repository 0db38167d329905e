"""Which mixer stands in a layer."""

from interp_hooks.model.components.attention import Attention, AttentionCore
from interp_hooks.model.components.differential import DifferentialAttention
from interp_hooks.model.components.gated_convolution import GatedConvolution
from interp_hooks.model.components.gated_delta import GatedDeltaNet, KimiDelta
from interp_hooks.model.components.indexed import IndexedAttention
from interp_hooks.model.components.latent import LatentAttention
from interp_hooks.model.components.lightning import LightningAttention
from interp_hooks.model.components.mamba import Mamba
from interp_hooks.model.components.mamba2 import Mamba2
from interp_hooks.model.components.mixer import Mixer
from interp_hooks.model.components.mixture_of_heads import MixtureOfHeads
from interp_hooks.model.components.nothing import NoMixer
from interp_hooks.model.components.rg_lru import RGLRU
from interp_hooks.model.components.shared_keys import BorrowingAttention, KeyValueAttention
from interp_hooks.model.config import HookedTransformerConfig

OTHERS: dict[str, type[Mixer]] = {
    "gated_delta": GatedDeltaNet,
    "kimi_delta": KimiDelta,
    "gated_convolution": GatedConvolution,
    "mamba2": Mamba2,
    "mamba": Mamba,
    "rg_lru": RGLRU,
    "lightning": LightningAttention,
    "differential": DifferentialAttention,
    "mixture_of_heads": MixtureOfHeads,
    "none": NoMixer,
}


def mixer_beside(cfg: HookedTransformerConfig, layer: int) -> Mixer | None:
    """What mixes tokens beside attention in a layer, by the config."""
    kind = cfg.beside_attention(layer)
    return None if kind is None else OTHERS[kind](cfg, layer)


def mixer(cfg: HookedTransformerConfig, layer: int) -> Mixer:
    """What mixes tokens in a layer, by the config."""
    kind = cfg.mixer_at(layer)
    if kind == "attention":
        return attention(cfg, layer)(cfg, layer)
    return OTHERS[kind](cfg, layer)


def attention(cfg: HookedTransformerConfig, layer: int) -> type[AttentionCore]:
    """Which attention stands in a layer."""
    if cfg.kv_latent:
        return LatentAttention if cfg.indexer is None else IndexedAttention
    if cfg.source_of_keys(layer) is not None:
        return BorrowingAttention
    return KeyValueAttention if cfg.values_from_keys and cfg.values_from_keys[layer] else Attention
