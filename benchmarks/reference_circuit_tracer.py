"""Writes what circuit-tracer 0.5.0 makes of a tiny random model and transcoders: tests/data/circuit_tracer.safetensors.

    python benchmarks/reference_circuit_tracer.py

Runs itself again in an environment of circuit-tracer's own. The file holds the weights of the model (in
TransformerLens' layout), those of the transcoders, the prompt, and the graph: active features (layer, position,
feature), the adjacency matrix in circuit-tracer's order, logits, and its two scores.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "tests" / "data" / "circuit_tracer.safetensors"
SIZES = dict(n_layers=3, d_model=12, n_ctx=16, d_head=4, n_heads=3, d_mlp=20, d_vocab=17)
FEATURES = 24


def main() -> None:
    import torch
    from circuit_tracer.attribution.attribute import attribute
    from circuit_tracer.graph import compute_graph_scores
    from circuit_tracer.replacement_model.replacement_model_transformerlens import TransformerLensReplacementModel
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models
    from torch.nn.functional import relu
    from transformer_lens import HookedTransformerConfig
    from transformers import PreTrainedTokenizerFast

    draw = torch.Generator().manual_seed(0)
    layers = range(SIZES["n_layers"])
    options = dict(skip_connection=True, device=torch.device("cpu"), dtype=torch.float32)
    transcoders = {layer: SingleLayerTranscoder(SIZES["d_model"], FEATURES, relu, layer, **options) for layer in layers}
    dictionary = TranscoderSet(transcoders, "mlp.hook_in", "hook_mlp_out")
    config = HookedTransformerConfig(
        **SIZES,
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        final_rms=True,
        positional_embedding_type="rotary",
        rotary_dim=4,
        device="cpu",
    )
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(SIZES["d_vocab"])}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w1", eos_token="w1", bos_token="w1")
    with tempfile.TemporaryDirectory() as folder:  # TransformerLens reads its tokenizer again from where it came
        tokenizer.save_pretrained(folder)
        model = TransformerLensReplacementModel.from_config(
            config, dictionary, tokenizer=PreTrainedTokenizerFast.from_pretrained(folder)
        )
    with torch.no_grad():
        for _, weight in sorted({**dict(model.named_parameters()), **dict(dictionary.named_parameters())}.items()):
            weight.copy_(torch.randn(weight.shape, generator=draw) * 0.5)
        for block in model.blocks:
            block.mlp.old_mlp.b_in.zero_()  # TransformerLens adds it after the product with the gate
    prompt = torch.tensor([1, 11, 5, 16, 9, 2, 7])
    graph = attribute(prompt, model, max_n_logits=5, batch_size=16)
    scores = compute_graph_scores(graph)
    weights = {f"model.{name}": one for name, one in model.state_dict().items() if "transcoders" not in name}
    weights |= {f"transcoders.{name}": one for name, one in dictionary.state_dict().items()}
    found = {
        "tokens": graph.input_tokens,
        "features": graph.active_features[graph.selected_features],
        "activations": graph.activation_values[graph.selected_features],
        "adjacency": graph.adjacency_matrix,
        "logits": graph.logit_token_ids if hasattr(graph, "logit_token_ids") else graph.logit_tokens,
        "probabilities": graph.logit_probabilities,
        "scores": torch.tensor(scores),
    }
    kept = {name: one.detach().clone().contiguous() for name, one in {**weights, **found}.items()}
    save_file(
        {name: one for name, one in kept.items() if not name.endswith((".mask", ".IGNORE", "_sin", "_cos"))}, DATA
    )
    print({name: list(one.shape) for name, one in kept.items()})


if __name__ == "__main__":
    if "inside" in sys.argv:
        main()
    else:
        from peers import environment

        subprocess.run([environment("circuit-tracer==0.5.0"), __file__, "inside"], check=True)
