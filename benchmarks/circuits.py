"""Circuit discovery: how well methods find known circuits, and what they cost.

    python benchmarks/circuits.py [--rounds 5] [--without-speed] [--without-truth] [--without-peers] [--device cpu]

For every model whose circuit is known, the area under the ROC curve of each method's scores, by size, against the edges
along which the clean and corrupt runs differ (`patching_circuit`): 1 is a perfect ranking. Attributions are of the
task's metric, and cancel where an edge helps in one prompt and harms in another; "nodes" gives an edge the lower score
of its two ends. ACDC asks how far the logits move from those of the clean run, and ranks an edge by the largest
threshold at which it is kept.

Then, without a model, the seconds that it takes to handle circuits of the graph of 32 layers of 32 heads: to build the
graph, to score its 1,592,881 edges, to choose the top ones, and to compare and combine such circuits.

Then, on a random checkpoint of GPT-2 small's size with 8 prompts of 16 tokens, the time of EAP over all 32,491 edges
relative to a forward and backward pass, that of running a circuit relative to a forward pass, and peak memory beyond
what was in use before. Peers do the same in virtual environments of their own, and must give the same numbers; they
are slow, so that one round is all they get.
"""

import argparse
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import by_turns, checkpoint, megabytes, ratio
from peer_circuits import tasks
from peers import Peer
from torch import Tensor

from interp_hooks import Circuit, ComputationGraph, HookedTransformer, LogitDiff, Metric, Readout, acdc, eap, eap_ig
from interp_hooks.circuits import circuit_metric, node_attribution, random_circuit, roc_auc
from interp_hooks.circuits.layout import Layout
from interp_hooks.ground_truth import handmade, planted, programs
from interp_hooks.ground_truth.system import GroundTruth

KNOWN: dict[str, Callable[[], GroundTruth]] = {
    "AND gate": handmade.and_gate,
    "OR gate": lambda: handmade.token_gate("or"),
    "micro-model": handmade.micro_model,
    "induction": handmade.induction,
    "planted neuron": planted.planted_neuron,
    "planted fact": planted.planted_fact,
    **programs.PROGRAMS,
}
THEIR_EAP = {  # name: (what to install, what it is in peer_circuits.py)
    "auto-circuit 1.0.1": ("auto-circuit==1.0.1 transformer-lens==2.18.0 attrs datasets<4 pyarrow<21", "auto-circuit"),
    "TransformerLens 4.3.0": ("transformer-lens==4.3.0", "bridge"),
}
ROUNDING = 1e-12  # of the largest score
THRESHOLDS = torch.logspace(-5, 1, 13).tolist()


@dataclass(frozen=True, eq=False)
class Moved(Metric):
    """How far the logits are from these, root mean square: the answers of many known models do not depend on a mean."""

    logits: Tensor
    name = "moved"
    lower_is_better = True

    @property
    def readout(self) -> Readout:
        return Readout()

    def score(self, logits: Tensor) -> Tensor:
        return (logits - self.logits).square().mean((1, 2)).sqrt()


def by_acdc(known: GroundTruth) -> Circuit:
    """All edges, each scored by the largest threshold at which ACDC keeps it."""
    task, graph = known.task, ComputationGraph(known.model)
    scores = torch.zeros(graph.exists.shape)
    with torch.no_grad():
        metric = Moved(known.model(task.clean))
    for threshold in THRESHOLDS:
        kept = acdc(known.model, task.clean, task.corrupt, metric, threshold=threshold)
        scores[kept.kept] = threshold
    return graph.scored(scores)


def area(scored: Circuit, true: Circuit) -> float:
    """The area under the ROC curve; scores that are rounding errors, which depend on the processor, count as 0."""
    assert scored.scores is not None
    scores = scored.scores.matrix
    seen = scores.where(scores.abs() > ROUNDING * scores.abs().max(), 0.0)
    return roc_auc(scored.graph.scored(seen), true, absolute=True)


METHODS: dict[str, Callable[[GroundTruth], Circuit]] = {
    "EAP": lambda known: eap(known.model, known.task.clean, known.task.corrupt, known.task.metric),
    "EAP-IG": lambda known: eap_ig(known.model, known.task.clean, known.task.corrupt, known.task.metric, steps=10),
    "nodes": lambda known: node_attribution(known.model, known.task.clean, known.task.corrupt, known.task.metric),
    "ACDC": by_acdc,
}


def truth() -> None:
    print("| model | edges, true | " + " | ".join(METHODS) + " |\n|---|---|" + "---|" * len(METHODS))
    for name, make in KNOWN.items():
        known = make()
        graph = ComputationGraph(known.model)
        true = graph.circuit(known.patching_circuit)
        areas = [f"{area(method(known), true):.2f}" for method in METHODS.values()]
        print(f"| {name} | {len(graph)}, {len(true)} | " + " | ".join(areas) + " |", flush=True)


def handling(rounds: int) -> None:
    """Circuits of a large graph, by themselves: the least of some rounds, and how much memory they need."""
    layout = Layout(n_layers=32, n_heads=32, n_key_value_heads=32)
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, dict[str, list[float]]()

    def timed(what: str, act: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        done = act()
        seconds.setdefault(what, []).append(time.perf_counter() - start)
        return done

    for seed in range(rounds):
        graph = timed("build", lambda: ComputationGraph(layout))
        scores = torch.randn(graph.exists.shape, generator=torch.Generator().manual_seed(seed))
        circuit = timed("score", lambda graph=graph, scores=scores: graph.scored(scores))
        few = timed("top 1,000", lambda circuit=circuit: circuit.top(1000))
        many = timed("top 100,000", lambda circuit=circuit: circuit.top(100_000, absolute=True))
        timed("compare", lambda few=few, many=many: (few | many, few & many, many - few, few <= many, few == many))
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"\n{len(ComputationGraph(layout))} edges: ",
        ", ".join(f"{what} {min(taken):.3f} s" for what, taken in seconds.items()),
    )
    print(f"all together {sum(map(min, seconds.values())):.2f} s, at most {kilobytes / 1024:.0f} MB")


def speed(rounds: int, device: str, with_peers: bool) -> None:
    folder = checkpoint("gpt2-small-sized")
    model = HookedTransformer.from_pretrained(str(folder), device=device)
    (clean, corrupt), answers = tasks(model.cfg.d_vocab)
    clean, corrupt, metric = clean.to(device), corrupt.to(device), LogitDiff(*answers)
    circuit = random_circuit(ComputationGraph(model), 1000, torch.Generator().manual_seed(0))

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return model(clean)

    def backward() -> None:
        stream = model.W_E[clean].detach().requires_grad_()
        logits = model.run_with_hooks(clean, fwd_hooks=[("hook_embed", lambda value, hook: stream)])
        logits[:, -1].sum().backward()

    for weight in model.parameters():
        weight.requires_grad_(False)
    work: dict[str, Callable[[], object]] = {
        "forward": forward,
        "forward and backward": backward,
        "EAP": lambda: eap(model, clean, corrupt, metric),
        "circuit": lambda: circuit_metric(model, circuit, clean, corrupt, metric),
    }
    seconds = by_turns(work, rounds)
    print(f"EAP, all {len(ComputationGraph(model))} edges / forward and backward: ", end="")
    print(f"{ratio(seconds, 'EAP', 'forward and backward'):.1f}, {megabytes(work['EAP'], device):.0f} MB")
    print(f"a circuit of {len(circuit)} edges / forward: {ratio(seconds, 'circuit', 'forward'):.1f}")
    for name in THEIR_EAP if with_peers else ():
        against(name, folder, model, circuit, work)


def against(
    name: str, folder: Path, model: HookedTransformer, circuit: Circuit, work: dict[str, Callable[[], Any]]
) -> None:
    """How many times as long a peer takes, and that it finds the same numbers."""
    requirements, kind = THEIR_EAP[name]
    peer = Peer(requirements, "peer_circuits.py", kind, folder)
    kept: dict[str, list[str]] = {}
    for writer, reader in circuit.listed:
        kept.setdefault(reader, []).append(writer)
    for what, request in (("EAP", None), ("circuit", kept)):
        start = time.perf_counter()
        ours = work[what]()
        seconds = time.perf_counter() - start
        for_peer, theirs = peer.ask(request)
        if request is None:
            if kind == "bridge":  # from the corrupt run towards the clean one
                (clean, corrupt), answers = tasks(model.cfg.d_vocab)
                ours = eap(model, corrupt, clean, LogitDiff(*answers))
            scores = {f"{writer}->{reader}": score for (writer, reader), score in ours.scores.items()}
            assert scores.keys() == theirs.keys()
            differences = [abs(scores[edge] - theirs[edge]) for edge in scores]
        else:
            for_peer *= len(ours) / len(theirs)
            differences = [
                abs(one - another) for one, another in zip(ours.tolist()[: len(theirs)], theirs, strict=True)
            ]
        print(f"{what}: {name} takes {for_peer / seconds:.1f} times as long", end="; ")
        print(f"largest difference {max(differences):.1e}")
        assert max(differences) < 1e-3, f"{name} gives other numbers"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-speed", action="store_true")
    parser.add_argument("--without-truth", action="store_true")
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if not arguments.without_truth:
        truth()
    if not arguments.without_speed:
        handling(arguments.rounds)
        speed(arguments.rounds, arguments.device, not arguments.without_peers)
