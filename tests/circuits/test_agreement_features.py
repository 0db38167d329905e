"""Features that a trained SAE finds in a trained model, of which subject-verb agreement is made."""

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from interp_hooks import HookedTransformer, HookedTransformerConfig
from interp_hooks.circuits import FeatureCircuit, feature_circuit, feature_faithfulness
from interp_hooks.dictionaries import SAE, Recipe, train_dictionaries
from interp_hooks.model.training import HookedTransformerTrainConfig, train
from interp_hooks.tasks import subject_verb_agreement
from interp_hooks.tasks.templates import NOUNS

KEPT = 8  # features of the circuit, of 128


class Trained(NamedTuple):
    model: HookedTransformer
    saes: dict[str, SAE]
    task: Any
    circuit: FeatureCircuit


def reader_of_sentences() -> HookedTransformer:
    """A model of random weights, whose vocabulary is that of the task."""
    words = [
        "The",
        " the",
        " near",
        " behind",
        " beside",
        " is",
        " are",
        *(f" {noun}{s}" for noun in NOUNS for s in ("", "s")),
    ]
    vocabulary = {word: place for place, word in enumerate(["<bos>", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<bos>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(" ?[A-Za-z]+"), "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", pad_token="<bos>")
    config = HookedTransformerConfig(
        n_layers=2, d_model=32, n_heads=2, d_head=16, d_mlp=64, n_ctx=8, act_fn="relu", d_vocab=len(vocabulary),
        normalization_type="LN", seed=0,
    )  # fmt: skip
    return HookedTransformer(config, tokenizer)


@pytest.fixture(scope="module")
def trained() -> Trained:
    model = reader_of_sentences()
    drawn = subject_verb_agreement(model, 300, seed=1)
    prompts = [*drawn.clean, *drawn.corrupt]
    verbs = torch.cat((drawn.answer, drawn.wrong[:, 0]))
    rows = torch.cat((model.to_tokens(prompts), verbs[:, None]), 1)
    config = HookedTransformerTrainConfig(
        num_epochs=25, batch_size=100, lr=5e-3, warmup_steps=10, seed=0, print_every=None
    )
    train(model, config, [*rows])
    recipe = Recipe(hook="resid_post0", n_features=64, k=6, learning_rate=3e-3)
    recipes = {"early": recipe, "late": replace(recipe, hook="resid_post1")}
    saes: Any = train_dictionaries(model, prompts, recipes, steps=150, tokens_per_step=256, progress=False)
    task = subject_verb_agreement(model, 40, seed=2)
    options: dict[str, Any] = dict(steps=5, node_threshold=0.0, edge_threshold=0.5, progress=False)
    circuit = feature_circuit(model, task.clean, task.corrupt, task.metric, saes, **options)
    return Trained(model, saes, task, circuit)


def of_features(circuit: FeatureCircuit, chosen: Tensor) -> FeatureCircuit:
    """Some nodes of a circuit, without edges."""
    nodes = {name: getattr(circuit, name)[chosen] for name in ("site", "pos", "feature", "effect")}
    return replace(circuit, **nodes, **{name: getattr(circuit, name)[:0] for name in ("source", "target", "weight")})


def test_few_features_make_the_verb_agree(trained: Trained) -> None:
    """With all others at their means over both numbers; as many at random do not, and errors are left as they are."""
    model, saes, task, circuit = trained
    features = (circuit.feature >= 0).nonzero()[:, 0]
    best = features[circuit.effect[features].abs().argsort(descending=True)]
    means = [*task.clean, *task.corrupt]

    def faithfulness(chosen: Tensor) -> float:
        some = of_features(circuit, chosen)
        return feature_faithfulness(
            model, some, saes, task.clean, task.metric, means=means, ablate_errors=False
        ).faithfulness

    drawn = [features[torch.randperm(len(features), generator=torch.Generator().manual_seed(n))] for n in range(5)]
    assert circuit.clean > 5 > -5 > circuit.corrupt
    assert faithfulness(best[:KEPT]) > 0.7
    assert max(faithfulness(order[:KEPT]) for order in drawn) < 0.5
    assert faithfulness(best[KEPT:]) < faithfulness(best[:KEPT])


def test_the_first_feature_tells_the_number_of_new_subjects(trained: Trained) -> None:
    """The area under its ROC curve, at the end of prompts that were not trained on: 1/2 for one that tells nothing."""
    model, saes, _, circuit = trained
    late = ((circuit.feature >= 0) & (circuit.site == circuit.names.index("late"))).nonzero()[:, 0]
    first = int(circuit.feature[late[circuit.effect[late].abs().argmax()]])
    task = subject_verb_agreement(model, 60, seed=3)
    prompts = [*task.clean, *task.corrupt]
    plural = torch.cat((task.answer, task.wrong[:, 0])) == model.to_single_token(" are")
    values = saes["late"].encode(model.run_with_cache(prompts)[1]["resid_post", 1][:, -1])[:, first]
    above = values[plural][:, None] - values[~plural]
    area = float((above > 0).double().mean() + (above == 0).double().mean() / 2)
    assert max(area, 1 - area) > 0.9
