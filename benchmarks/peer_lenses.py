"""Runs inside a peer's own environment: fits lenses on request, as a user of that peer would.

    python peer_lenses.py jacobian|tuned CHECKPOINT THREADS

Reads a request per line and writes a JSON line: seconds, megabytes beyond what was in use, and numbers to compare.
A request is {"texts": [...], "skip_first": n, "length": n} for a Jacobian lens (of TransformerLens), and
{"rows": [[id, ...], ...], "steps": n} for a tuned lens (of the package tuned-lens, by the loop of its own trainer in
float32, all rows in every step).
"""

import json
import sys
import time

import torch
from common import megabytes


def jacobian(folder):
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools.analysis.jacobian_lens import JacobianLens

    model = TransformerBridge.boot_transformers(folder, dtype=torch.float32)
    model.eval()

    def fit(request):
        lens = JacobianLens.fit(
            model,
            request["texts"],
            corpus="random words",
            dim_batch=8,
            max_seq_len=request["length"],
            skip_first_positions=request["skip_first"],
            show_progress=False,
        )
        return [[layer, matrix[:3, :5].tolist()] for layer, matrix in lens.jacobians.items()]

    return fit


def tuned(folder):
    from transformers import AutoModelForCausalLM
    from tuned_lens import TunedLens

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)

    def fit(request):
        lens = TunedLens.from_model(model)
        optimizer = torch.optim.SGD(lens.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
        rows, losses = torch.tensor(request["rows"]), []
        for step in range(request["steps"]):
            with torch.no_grad():
                output = model(rows, output_hidden_states=True)
            labels = output.logits.log_softmax(-1)
            losses = []
            for layer, hidden in enumerate(output.hidden_states[:-1]):
                loss = torch.sum(labels.exp() * (labels - lens(hidden, idx=layer).log_softmax(-1)), dim=-1).mean()
                losses.append(loss.item())
                loss.backward()
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / request["steps"])
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
        return losses

    return fit


def main(kind, folder, threads):
    torch.set_num_threads(int(threads))
    fit = {"jacobian": jacobian, "tuned": tuned}[kind](folder)
    print(json.dumps("ready"), flush=True)
    numbers = []
    for request in map(json.loads, sys.stdin):
        start = time.perf_counter()
        used = megabytes(lambda request=request: numbers.append(fit(request)), "cpu")
        print(json.dumps([time.perf_counter() - start, used, numbers.pop()]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
