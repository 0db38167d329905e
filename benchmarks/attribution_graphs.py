"""Attribution graphs: ours beside circuit-tracer 0.5.0, on the same random model; and the graph of a long prompt.

    python benchmarks/attribution_graphs.py                    # both, in turn, each in a process of its own
    python benchmarks/attribution_graphs.py --tokens 64        # of a longer prompt
    python benchmarks/attribution_graphs.py --long             # ours of 1,000 tokens, at the sizes of SmolLM2-135M

circuit-tracer runs in an environment of its own, with the transformers that it asks for. The model has gated MLPs,
RMSNorm and rotary positions; its per-layer transcoders have about one feature in a hundred active. All active features
are traced. Told are seconds of wall and of CPU on one thread, the most memory beyond what is in use before (model and
transcoders loaded), and how far the adjacency matrices differ, as a share of the largest entry.
"""

# pyright: reportMissingImports=false
import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SIZES: dict[str, Any] = dict(n_layers=8, d_model=256, n_ctx=128, d_head=32, n_heads=8, d_mlp=1024, d_vocab=4096)
FEATURES, LOGITS = 2048, 10
PEER = "circuit-tracer==0.5.0 transformers<4.58"
LONG: dict[str, Any] = dict(
    n_layers=30, d_model=576, n_ctx=2048, d_head=64, n_heads=9, n_key_value_heads=3, d_mlp=1536, d_vocab=49152
)
LONG_FEATURES, LONG_K, LONG_TOKENS, LONG_MEMORY = 16384, 32, 1000, 2**31


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What it gives, and the seconds and memory that it takes."""

    def resident(field: str) -> float:
        return int(Path("/proc/self/status").read_text().split(field)[1].split()[0]) * 1.024e-3

    Path("/proc/self/clear_refs").write_text("5")
    before, wall, cpu = resident("VmRSS:"), time.perf_counter(), time.process_time()
    found = work()
    told = {"seconds": time.perf_counter() - wall, "seconds of CPU": time.process_time() - cpu}
    return found, told | {"MB": resident("VmHWM:") - before}


def draw(n_tokens: int) -> dict[str, Tensor]:
    """Weights of transcoders, as circuit-tracer's lie, and a prompt."""
    generator = torch.Generator().manual_seed(0)
    d, found = SIZES["d_model"], dict[str, Tensor]()
    for layer in range(SIZES["n_layers"]):
        found[f"{layer}.W_enc"] = torch.randn(FEATURES, d, generator=generator) * d**-0.5
        found[f"{layer}.W_dec"] = torch.randn(FEATURES, d, generator=generator) * d**-0.5
        found[f"{layer}.b_enc"] = torch.full((FEATURES,), -2.4)
        found[f"{layer}.b_dec"] = torch.randn(d, generator=generator) * 0.1
    found["tokens"] = torch.randint(2, SIZES["d_vocab"], (n_tokens,), generator=generator)
    found["tokens"][0] = 1  # BOS, which theirs would put before
    return found


def theirs(folder: Path) -> None:
    """Make the model, keep its weights, and trace."""
    from circuit_tracer.attribution.attribute import attribute
    from circuit_tracer.replacement_model.replacement_model_transformerlens import TransformerLensReplacementModel
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer, models
    from transformer_lens import HookedTransformerConfig
    from transformers import PreTrainedTokenizerFast

    drawn = load_file(folder / "drawn.safetensors")
    made, options = {}, dict(device=torch.device("cpu"), dtype=torch.float32)
    for layer in range(SIZES["n_layers"]):
        made[layer] = SingleLayerTranscoder(SIZES["d_model"], FEATURES, torch.nn.functional.relu, layer, **options)
        with torch.no_grad():
            for name, weight in made[layer].named_parameters():
                weight.copy_(drawn[f"{layer}.{name}"])
    config = HookedTransformerConfig(
        **SIZES, act_fn="silu", gated_mlp=True, normalization_type="RMS", final_rms=True, device="cpu", seed=0,
        positional_embedding_type="rotary", rotary_dim=SIZES["d_head"],
    )  # fmt: skip
    words = Tokenizer(models.WordLevel({f"w{one}": one for one in range(SIZES["d_vocab"])}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w1", eos_token="w1", bos_token="w1").save_pretrained(
        folder
    )
    model = TransformerLensReplacementModel.from_config(
        config,
        TranscoderSet(made, "mlp.hook_in", "hook_mlp_out"),
        tokenizer=PreTrainedTokenizerFast.from_pretrained(folder),
    )
    with torch.no_grad():  # TransformerLens leaves biases and gains as they are in a new model
        generator = torch.Generator().manual_seed(1)
        for name, weight in sorted(model.named_parameters()):
            if "transcoders" not in name and name.rpartition(".")[2] in ("w", "b_Q", "b_K", "b_V", "b_O"):
                weight += torch.randn(weight.shape, generator=generator) * 0.1
    weights = {
        name.replace("old_mlp.", "").replace("old_unembed.", ""): one.detach().clone()
        for name, one in model.state_dict().items()
        if "transcoders" not in name and not name.endswith((".mask", ".IGNORE", "_sin", "_cos"))
    }
    save_file(weights, folder / "model.safetensors")
    attribute(drawn["tokens"][:4], model, max_n_logits=LOGITS, batch_size=32)  # once, to load what it needs
    graph, told = measured(lambda: attribute(drawn["tokens"], model, max_n_logits=LOGITS, batch_size=512))
    save_file({"adjacency": graph.adjacency_matrix.contiguous()}, folder / "theirs.safetensors")
    print(json.dumps(told | {"features": len(graph.selected_features)}))


def ours(folder: Path) -> None:
    """Trace the model whose weights are there."""
    from safetensors.torch import load_file, save_file

    from interp_hooks import HookedTransformer, HookedTransformerConfig
    from interp_hooks.circuits import attribution_graph
    from interp_hooks.dictionaries import Transcoder

    drawn, weights = (load_file(folder / f"{name}.safetensors") for name in ("drawn", "model"))
    config = HookedTransformerConfig(
        **SIZES, act_fn="silu", gated_mlp=True, normalization_type="RMS",
        positional_embedding_type="rotary", rotary_dim=SIZES["d_head"],
    )  # fmt: skip
    model = HookedTransformer(config).eval()
    model.load_state_dict({name: weights.get(name, torch.zeros_like(one)) for name, one in model.state_dict().items()})
    made = []
    for layer in range(SIZES["n_layers"]):
        one = {name: drawn[f"{layer}.{name}"] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
        one["W_enc"] = weights[f"blocks.{layer}.ln2.w"][:, None] * one["W_enc"].T  # theirs read behind the gain
        made.append(
            Transcoder(hook_in=f"blocks.{layer}.ln2.hook_normalized", hook_out=f"blocks.{layer}.hook_mlp_out", **one)
        )

    def trace(tokens: Tensor) -> Any:
        return attribution_graph(model, tokens, made, max_logits=LOGITS, first_as_error=True, progress=False)

    trace(drawn["tokens"][:4])
    graph, told = measured(lambda: trace(drawn["tokens"]))
    dense = torch.zeros(len(graph), len(graph))
    dense[graph.target, graph.source] = graph.weight
    n_errors = SIZES["n_layers"] * len(drawn["tokens"])
    dense[:, len(graph.features) :][:, : n_errors : len(drawn["tokens"])] = 0.0  # errors at BOS, which theirs leave out
    save_file({"adjacency": dense}, folder / "ours.safetensors")
    print(json.dumps(told | {"features": len(graph.features)}))


def long(max_features: int) -> None:
    """The graph of a long prompt, in bounded memory."""
    from interp_hooks import HookedTransformer, HookedTransformerConfig
    from interp_hooks.circuits import attribution_graph
    from interp_hooks.dictionaries import CrossLayerTranscoder, TopK

    config = HookedTransformerConfig(
        **LONG, act_fn="silu", gated_mlp=True, normalization_type="RMS", positional_embedding_type="rotary", seed=0
    )
    model, layers = HookedTransformer(config).eval(), range(LONG["n_layers"])
    d, generator = LONG["d_model"], torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator) * d**-0.5).bfloat16()

    transcoders = CrossLayerTranscoder(
        layers_in=tuple(f"blocks.{layer}.ln2.hook_normalized" for layer in layers),
        layers_out=tuple(f"blocks.{layer}.hook_mlp_out" for layer in layers),
        W_enc=tuple(random(d, LONG_FEATURES) for _ in layers),
        b_enc=tuple(torch.zeros(LONG_FEATURES) for _ in layers),
        W_dec=tuple(random(LONG_FEATURES, 1, d) for _ in layers),
        b_dec=tuple(torch.zeros(d) for _ in layers),
        activations=(TopK(LONG_K),) * len(layers),
    )
    tokens = torch.randint(LONG["d_vocab"], (LONG_TOKENS,), generator=generator)
    graph, told = measured(
        lambda: attribution_graph(model, tokens, transcoders, max_features=max_features, max_memory=LONG_MEMORY)
    )
    small, pruning = measured(lambda: graph.pruned())
    active = LONG_TOKENS * len(layers) * LONG_K
    print(
        f"{LONG_TOKENS} tokens, {active:,} active features, {max_features} of them traced, {len(graph.weight):,} edges"
    )
    print("traced", told, "\npruned", pruning, small)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--features", type=int, default=500, help="traced features of the long prompt")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.side is not None:
        {"ours": ours, "theirs": theirs}[asked.side](asked.folder)
        return
    if asked.long:
        long(asked.features)
        return
    from peers import environment
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as folder:
        save_file(draw(asked.tokens), Path(folder) / "drawn.safetensors")
        told = {}
        for side, python in (("theirs", environment(PEER)), ("ours", sys.executable)):
            command = [python, __file__, "--side", side, "--folder", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            told[side] = json.loads(done.stdout.strip().splitlines()[-1])
        both = [load_file(Path(folder) / f"{side}.safetensors")["adjacency"] for side in told]
    for side, numbers in told.items():
        print(f"{side:7}" + "".join(f"  {what} {number:,.1f}" for what, number in numbers.items()))
    off = float((both[0] - both[1]).abs().max() / both[0].abs().max())
    print(f"largest difference of {both[0].numel():,} entries, as a share of the largest entry: {off:.1e}")


if __name__ == "__main__":
    main()
