"""Is this the circuit? Indirect object identification in a small model: found, measured, refuted where it can be.

    python demos/ioi_circuit.py

"When Mary and John went to the store, John gave a ring to" is answered by " Mary". GPT-2 small does it with heads that
copy names (name movers), heads that tell these whom to pass by (S-inhibition), and heads that take over when the movers
are taken out (backups; Wang et al. 2022, Interpretability in the Wild). Which of these does `ioi-tiny` have? Takes
under a minute; prints tables and writes the circuit as HTML into the current folder.
"""

from pathlib import Path

import pandas as pd
import torch

from interp_hooks import (
    ActivationCache,
    HookedTransformer,
    Result,
    at,
    circuit_figure,
    detect_head,
    direct_logit_attribution,
    eap_ig,
    faithfulness,
    path_patch,
    tasks,
)
from interp_hooks.circuits import (
    completeness,
    curve_areas,
    faithfulness_curve,
    greedy_subset,
    minimality,
    random_baseline,
    random_subsets,
)
from interp_hooks.experiments import mean_activations

PROMPTS, FEW, MANY = 64, 16, 256  # for circuits, for a greedy search, and for heads
FRACTIONS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.12, 0.16, 0.2, 0.3, 0.5, 1.0)

model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
heads = model.all_head_labels()  # "L0H0", ...
places = {label: divmod(place, model.cfg.n_heads) for place, label in enumerate(heads)}  # (layer, head)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# %% Prompts of all templates. "S2->IO" changes one name, so that the other person is the answer: what differs then is
# what tells who was named twice. "ABC" changes all three: then it is also where the names themselves are read.


def pairs(n: int, seed: int) -> dict[str, tasks.Task]:
    """The same clean prompts with either corruption."""
    return {"S2->IO": tasks.ioi(model, n, seed=seed), "ABC": tasks.ioi(model, n, corruption="ABC", seed=seed)}


task, unrelated = pairs(MANY, seed=2).values()
end, metric = task.positions["end"], task.metric
io_first = task.positions["IO"] < task.positions["S1"]
print(f"prompt: {task.clean[0]!r}\nS2->IO: {task.corrupt[0]!r}\nABC:    {unrelated.corrupt[0]!r}\n")
print(task.check(model).table(interval=0.95).round(2).to_string(index=False))

# %% Which kinds of heads are there? By what they write, where they look, and who listens to them.

words = 1 + torch.rand(16, model.cfg.d_vocab - 1, generator=seeded(0)).argsort(dim=1)[:, :30]
repeated = torch.cat((torch.zeros(16, 1, dtype=torch.long), words, words), dim=1)  # detectors score up to a half on it
_, cache = model.run_with_cache(task.clean)
each = torch.arange(MANY)


def looks(key: str) -> list[float]:
    """Attention of every head from the last token to a name, mean over prompts."""
    place = task.positions[key]
    rows = [cache["pattern", layer][each, :, end, place].mean(0) for layer in range(model.cfg.n_layers)]
    return torch.cat(rows).tolist()


def direct_effects(activations: ActivationCache) -> Result:
    """What every head writes towards the answer, "remainder" and "bias" last."""
    wrong = task.wrong[:, 0]
    return direct_logit_attribution(model, None, task.answer, wrong, unit="head", pos=end, cache=activations)


before = direct_effects(cache)
told = path_patch(
    model, task.clean, task.corrupt, metric, receivers=at("q_input", 2), direction="noise", progress=False
)
scores = {
    kind: detect_head(model, repeated, f"{kind}_head") for kind in ("previous_token", "duplicate_token", "induction")
}
table = pd.DataFrame(
    {
        "head": heads,
        "direct": before.mean[: len(heads)].tolist(),
        "IO first": before.values[: len(heads), io_first].mean(1).tolist(),
        "S first": before.values[: len(heads), ~io_first].mean(1).tolist(),
        "to movers": told.recovered_fraction.flatten().tolist(),
        **{f"end to {key}": looks(key) for key in ("IO", "S1", "S2")},
        **{kind: score.flatten().tolist() for kind, score in scores.items()},
    }
).set_index("head")
kinds = {
    "name movers": (table["direct"] > 0.1 * before.baselines["model"].mean().item())
    & (table["end to IO"] > table[["end to S1", "end to S2"]].max(axis=1)),
    "S-inhibition": table["to movers"] > 0.05,
    "duplicate token": table["duplicate_token"] > 0.25,
    "induction": table["induction"] > 0.25,
    "previous token": table["previous_token"] > 0.25,
}
classes = {kind: list(table.index[members]) for kind, members in kinds.items()}
print("\n", table.round(2).to_string(), "\n", sep="")
for kind, members in classes.items():
    print(f"{kind + ':':17}{', '.join(members) or 'none'}")

# %% The circuit: edges at positions, scored by EAP-IG on some prompts. How much of the answer do the first ones of a
# ranking keep, on these and on other prompts? And random edges?

found_on, measured_on, few = pairs(PROMPTS, seed=0), pairs(PROMPTS, seed=1), pairs(FEW, seed=2)
rankings = {
    corruption: eap_ig(model, old.clean, old.corrupt, old.metric, positions=old.positions)
    for corruption, old in found_on.items()
}
rows, circuits = [], {}
for corruption, by in (("S2->IO", "size"), ("ABC", "size"), ("ABC", "score")):
    ranking, absolute, old, new = rankings[corruption], by == "size", found_on[corruption], measured_on[corruption]
    curve = faithfulness_curve(
        model,
        ranking,
        old.clean,
        old.corrupt,
        old.metric,
        fractions=FRACTIONS,
        absolute=absolute,
        positions=old.positions,
    )
    recovered = curve.recovered_fraction
    fraction = FRACTIONS[int((recovered >= 0.9).nonzero()[0])]
    circuit = ranking.top(round(fraction * len(ranking)), absolute=absolute).pruned()
    fresh = (new.clean, new.corrupt, new.metric)
    kept = faithfulness(model, circuit, *fresh, positions=new.positions)
    low, high = (bound.item() for bound in kept.interval(recovered=True, generator=seeded(0)))
    rivals = random_baseline(model, len(circuit), *fresh, samples=5, generator=seeded(0), positions=new.positions)
    areas = curve_areas(curve)
    share = kept.recovered_fraction.item()
    highest = recovered.max().item()
    rows.append((corruption, by, areas.cpr, areas.cmd, highest, len(circuit), share, low, high, rivals.mean))
    circuits[corruption, by] = circuit
columns = ["corruption", "ranked by", "CPR", "CMD", "highest", "edges", "faithfulness", "from", "to", "random"]
print(f"\nsmallest circuits with 0.9 of the answer, of {len(ranking)} edges; measured on other prompts")
print(pd.DataFrame(rows, columns=columns).round(2).to_string(index=False))

# %% Is anything missing? F(circuit without K) - F(model without K) for sets K of the circuit's edges: of the circuit
# that agrees with the model (S2->IO), and of one that has only edges which help (ABC, by score).

node = {label: f"a{layer}.h{head}" for label, (layer, head) in places.items()}
rows = []
for corruption, by in (("S2->IO", "size"), ("ABC", "score")):
    circuit, new, some = circuits[corruption, by], measured_on[corruption], few[corruption]
    data = (model, circuit, new.clean, new.corrupt, new.metric)
    of_class = {
        kind: circuit.only(edge for head in members for edge in circuit.at_node(node[head]).edges)
        for kind, members in classes.items()
        if members
    }
    greedy = greedy_subset(model, circuit, some.clean, some.corrupt, some.metric, positions=some.positions)
    subsets = {"nothing": circuit.only([]), **of_class, **random_subsets(circuit, 10, seeded(0))}
    subsets |= {f"greedy: {name}": found for name, found in greedy.items()}
    gaps = completeness(*data, subsets=subsets, positions=new.positions).mean
    named = dict(zip(subsets, gaps.tolist(), strict=True))
    at_random = [abs(gap) for name, gap in named.items() if name.startswith("random")]
    rows += [(corruption, name, gap) for name, gap in named.items() if not name.startswith("random")]
    rows.append((corruption, "10 random halves, mean size", sum(at_random) / len(at_random)))
print("\nhow incomplete: logit difference that the circuit has without K beyond what the model has without K")
print(pd.DataFrame(rows, columns=["circuit", "K", "gap"]).round(2).to_string(index=False))

circuit = circuits["S2->IO", "size"]
new, alone = measured_on["S2->IO"], {"nothing": circuit.only([])}
needed = minimality(model, circuit, new.clean, new.corrupt, new.metric, subsets=alone, positions=new.positions)
print("\nwhat the S2->IO circuit loses without each node")
print(needed.table().round(2).to_string(index=False))

# %% Does another head take over when movers are taken out? At the last token they write 0 instead, their mean over ABC
# prompts of the same template, or what they write in the ABC prompt. A backup would have to be in a later layer.

_, elsewhere = model.run_with_cache(unrelated.corrupt)
groups = dict(groups=task.template, reference_groups=unrelated.template)
means = mean_activations(model, task.clean, "z", reference=unrelated.corrupt, per_position=True, **groups)


def without(taken_out: list[str], method: str) -> ActivationCache:
    """The activations when these heads write something else at the last token."""

    def replace(z: torch.Tensor, hook) -> torch.Tensor:
        source = {"zero": torch.zeros_like(z), "mean": means[hook.name], "resample": elsewhere[hook.name]}[method]
        for layer, head in map(places.__getitem__, taken_out):
            if layer == hook.layer():
                z[each, end, head] = source[each, end, head]
        return z

    with model.hooks(fwd_hooks=[(lambda name: name.endswith("hook_z"), replace)]):
        return model.run_with_cache(task.clean)[1]


def self_repair(after: ActivationCache, taken_out: list[str]) -> tuple[Result, Result]:
    """The logit difference, as a share of the way from what is left if nothing else changes (0) to the model's (1), and
    what every head gains.

    The final norm divides by less when less is written, so that what is left counts for more. "all" is the logit
    difference as it is, "parts" what it would be with the norm's scale of the original run; gains are with that, too.
    """
    same_scale = direct_effects(ActivationCache({**after, "ln_final.hook_scale": cache["ln_final.hook_scale"]}, model))
    gained = same_scale.values - before.values
    whole = before.baselines["model"]
    repaired = Result(
        metric="logit_diff",
        axes={"by": ["all", "parts"]},
        values=torch.stack((direct_effects(after).baselines["model"], same_scale.baselines["model"])),
        baselines={"removed": whole + gained[[heads.index(head) for head in taken_out]].sum(0), "model": whole},
        scale=("removed", "model"),
    )
    return repaired, Result(metric="logit_diff", axes={"head": heads}, values=gained[: len(heads)])


def scale(activations: ActivationCache) -> torch.Tensor:
    """What the final norm divides by at the last token, for each prompt."""
    return activations["ln_final.hook_scale"][each, end, 0]


ranked = sorted(heads, key=lambda head: -before.mean[heads.index(head)])
rows = []
for layer, n in ((2, 1), (2, 3), (1, 1), (1, 3)):
    taken_out = [head for head in ranked if places[head][0] == layer][:n]
    later = [place for place, head in enumerate(heads) if places[head][0] > layer]
    for method in ("zero", "mean", "resample"):
        after = without(taken_out, method)
        repaired, gained = self_repair(after, taken_out)
        outside = (scale(after) < scale(cache).min()).float().mean().item()
        whole, removed = (repaired.baselines[name].mean().item() for name in ("model", "removed"))
        low, high = (bound[0].item() for bound in repaired.interval(recovered=True, generator=seeded(0)))
        total, by_parts = repaired.recovered_fraction.tolist()
        best = max(later, key=lambda place: gained.mean[place], default=None)
        gain = "no later head" if best is None else f"{heads[best]} {gained.mean[best]:+.2f}"
        falls = (whole - removed, whole - repaired.mean[0].item())
        rows.append((", ".join(taken_out), method, *falls, total, low, high, by_parts, total - by_parts, outside, gain))
columns = [
    "taken out",
    "by",
    "direct effect",
    "fall",
    "self-repair",
    "from",
    "to",
    "parts",
    "norm",
    "outside",
    "gains most",
]
print("\nself-repair: 1 - fall of the logit difference / direct effect taken out; by later parts, by the norm")
print("outside: prompts whose stream is smaller then, for the final norm, than that of any original prompt")
print(pd.DataFrame(rows, columns=columns).round(2).to_string(index=False))

name = "ioi_circuit.html"
figure = circuit_figure(circuit, title=f"IOI in ioi-tiny: {len(circuit)} edges of {len(ranking)} keep the answer")
Path(name).write_text(figure.to_html(include_plotlyjs=True), encoding="utf-8")
print(f"\nfigure written to {name}")
