"""circuit-tracer: a replacement model with transcoders, its graphs, scores and interventions."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from client_steps import SIZES, draw, run, step, tokenizer

FOLDER = Path(tempfile.mkdtemp())
TOKENS = torch.tensor([0, 11, 5, 16, 9, 27, 7])
MADE: dict[str, Any] = {}
GATED = dict(
    act_fn="silu", gated_mlp=True, normalization_type="RMS", final_rms=True, positional_embedding_type="rotary",
    rotary_dim=8, device="cpu", seed=0,
)  # fmt: skip


def replacement(**fields: Any) -> Any:
    from circuit_tracer.replacement_model.replacement_model_transformerlens import TransformerLensReplacementModel
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet
    from transformer_lens import HookedTransformerConfig

    options: dict[str, Any] = dict(skip_connection=True, device=torch.device("cpu"), dtype=torch.float32)
    layers = range(SIZES["n_layers"])
    transcoders = {
        layer: SingleLayerTranscoder(SIZES["d_model"], 32, torch.nn.functional.relu, layer, **options)
        for layer in layers
    }
    dictionary = TranscoderSet(transcoders, "mlp.hook_in", "hook_mlp_out")
    config = HookedTransformerConfig(**SIZES | GATED | fields)
    model = TransformerLensReplacementModel.from_config(config, dictionary, tokenizer=tokenizer(FOLDER))
    draw(model)
    draw(dictionary)
    for block in model.blocks:
        block.mlp.old_mlp.b_in.data.zero_()  # TransformerLens adds it after the product with the gate
    return model


@step
def imports() -> None:
    import circuit_tracer
    import circuit_tracer.attribution.attribute
    import circuit_tracer.graph  # noqa: F401


@step
def a_replacement_model() -> Any:
    MADE["model"] = replacement()
    with torch.no_grad():
        return MADE["model"](TOKENS)


@step
def activations_of_features() -> Any:
    return MADE["model"].get_activations(TOKENS)


@step
def a_graph() -> Any:
    from circuit_tracer.attribution.attribute import attribute

    graph = MADE["graph"] = attribute(TOKENS, MADE["model"], max_n_logits=5, batch_size=16)
    assert bool(graph.adjacency_matrix[:, -len(TOKENS) - 5 : -5].any()), "edges of tokens"
    return graph.adjacency_matrix, graph.active_features, graph.activation_values, graph.logit_probabilities


@step
def scores_of_a_graph() -> Any:
    from circuit_tracer.graph import compute_graph_scores

    return compute_graph_scores(MADE["graph"])


@step
def a_pruned_graph() -> Any:
    from circuit_tracer.graph import prune_graph

    pruned = prune_graph(MADE["graph"])
    return pruned.node_mask.int(), pruned.edge_mask.int(), pruned.cumulative_scores


@step
def a_graph_on_disk() -> Any:
    from circuit_tracer.graph import Graph

    MADE["graph"].to_pt(str(FOLDER / "graph.pt"))
    return Graph.from_pt(str(FOLDER / "graph.pt")).adjacency_matrix


def first_features() -> list[tuple[int, int, int]]:
    return [tuple(row) for row in MADE["graph"].active_features[:3].tolist()]


@step
def an_intervention_on_features() -> Any:
    changes = [(layer, pos, feature, 2.0) for layer, pos, feature in first_features()]
    return MADE["model"].feature_intervention(TOKENS, changes)


@step
def an_intervention_with_all_else_frozen() -> Any:
    changes = [(layer, pos, feature, 0.0) for layer, pos, feature in first_features()]
    return MADE["model"].feature_intervention(
        TOKENS, changes, constrained_layers=range(SIZES["n_layers"]), apply_activation_function=False
    )


@step
def an_intervention_with_free_attention() -> Any:
    changes = [(layer, pos, feature, -1.0) for layer, pos, feature in first_features()]
    return MADE["model"].feature_intervention(TOKENS, changes, freeze_attention=False)


@step
def grouped_keys_and_values() -> Any:
    from circuit_tracer.attribution.attribute import attribute

    return attribute(TOKENS, replacement(n_key_value_heads=1), max_n_logits=3, batch_size=8).adjacency_matrix


@step
def norms_and_caps_of_gemma_2() -> Any:
    from circuit_tracer.attribution.attribute import attribute

    model = replacement(
        act_fn="gelu_pytorch_tanh", use_normalization_before_and_after=True, attn_scores_soft_cap=50.0,
        output_logits_soft_cap=30.0, use_local_attn=True, attn_types=["global", "local"], window_size=4,
    )  # fmt: skip
    return model(TOKENS).detach(), attribute(TOKENS, model, max_n_logits=3, batch_size=8).adjacency_matrix


run()
