"""Which token has to be seen from the end, and in which layer? Attention knocked out between groups of tokens.

    python demos/attention_knockout.py

In each run the last token cannot look at one of the names: the scores of these pairs are minus infinity (Geva et al.
2023, arxiv.org/abs/2304.14767). Prints what that costs, and writes a heat map as HTML into the current folder.
"""

from interp_hooks import HookedTransformer, Intervention, Run, at, heatmap, sweep, tasks

model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
task = tasks.ioi(model, 16)
tokens = model.to_tokens(task.clean)
real = tokens != model.text.pad_id  # prompts differ in length
real[:, 0] = True


def knocked_out(layer: int, group: str) -> Run:
    pairs = at("attn_scores", layer, query=task.positions["end"], key=task.positions[group])
    return Run(tokens, [Intervention(pairs, float("-inf"))], real)


grid = {"layer": range(model.cfg.n_layers), "group": ["IO", "S1", "S2"]}
baselines = {"original": Run(tokens, (), real)}
result = sweep(model, knocked_out, task.metric, over=grid, baselines=baselines, progress=False)
print(result.table().to_string(index=False))
heatmap(result).write_html("attention_knockout.html")
print("written: attention_knockout.html")
