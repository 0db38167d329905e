"""Runs inside a peer's own environment: edge attribution patching and running a circuit, as the peer does them.

    python peer_circuits.py auto-circuit|bridge CHECKPOINT

Reads a line of JSON per request, null for attributions or the edges of a circuit, and writes one: the seconds that it
took, and the scores by edge (in the names of interp_hooks), or the logit differences of the first prompts.
"""

import json
import sys
import time

import torch
from peer_transformer_lens import load


def tasks(d_vocab):
    """Clean and corrupt prompts [8, 16], answers and wrong answers [8]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, d_vocab, (2, 8, 16), generator=generator), torch.randint(
        0, d_vocab, (2, 8), generator=generator
    )


class AutoCircuit:
    """auto-circuit 1.0.1: edges are masked in wrapped modules; EAP is the gradient of the masks at 0."""

    def __init__(self, folder):
        from auto_circuit.data import PromptDataLoader, PromptDataset
        from auto_circuit.utils.graph_utils import patchable_model

        model = load("hooked", folder, "cpu")
        model.set_use_attn_result(True)
        model.set_use_split_qkv_input(True)
        model.set_use_hook_mlp_in(True)
        for weight in model.parameters():
            weight.requires_grad_(False)
        (self.clean, self.corrupt), (self.answer, wrong) = tasks(model.cfg.d_vocab)
        self.wrong = wrong
        rows = self.clean, self.corrupt, list(self.answer[:, None]), list(wrong[:, None])
        self.data = PromptDataLoader(PromptDataset(*rows), seq_len=16, diverge_idx=0, batch_size=8, shuffle=False)
        self.model = patchable_model(model, factorized=True, slice_output="last_seq", separate_qkv=True)
        self.writers = ["input"]
        for layer in range(model.cfg.n_layers):
            self.writers += [f"a{layer}.h{head}" for head in range(model.cfg.n_heads)] + [f"m{layer}"]

    def readers(self, module):
        """What the rows of a module's mask are in the names of interp_hooks."""
        _, layer, hook = module.split(".")
        if hook == "hook_mlp_in":
            return [f"m{layer}"]
        if hook == "hook_resid_post":
            return ["logits"]
        return [f"a{layer}.h{head}<{hook[5]}>" for head in range(self.model.cfg.n_heads)]

    def attributions(self):
        from auto_circuit.prune_algos.mask_gradient import mask_gradient_prune_scores

        scores = mask_gradient_prune_scores(self.model, self.data, None, "logit", "avg_diff", mask_val=0.0)
        found = {}
        for module, mask in scores.items():
            for reader, row in zip(self.readers(module), mask.reshape(-1, mask.shape[-1]).tolist(), strict=True):
                found |= {f"{writer}->{reader}": score for writer, score in zip(self.writers, row, strict=False)}
        return found

    def circuit(self, edges):
        from auto_circuit.utils.ablation_activations import src_ablations
        from auto_circuit.utils.graph_utils import patch_mode

        with torch.no_grad(), patch_mode(self.model, src_ablations(self.model, self.corrupt)):
            for wrapper in self.model.dest_wrappers:
                mask = wrapper.patch_mask.data.view(-1, wrapper.patch_mask.shape[-1])
                mask.fill_(1.0)
                for place, reader in enumerate(self.readers(wrapper.module_name)):
                    for writer in edges.get(reader, ()):
                        mask[place, self.writers.index(writer)] = 0.0
            last = self.model(self.clean)[:, -1]
            return (last.gather(1, self.answer[:, None]) - last.gather(1, self.wrong[:, None]))[:, 0].tolist()


class Bridge:
    """TransformerLens 4.3.0: pair by pair, in eager mode on its bridge; from corrupt towards clean."""

    def __init__(self, folder):
        self.model = load("bridge", folder, "cpu").eval()
        (self.clean, self.corrupt), answers = tasks(self.model.cfg.d_vocab)
        self.answers = answers.T.tolist()

    def rows(self):
        for row, (answer, wrong) in enumerate(self.answers):
            metric = lambda logits, answer=answer, wrong=wrong: logits[0, -1, answer] - logits[0, -1, wrong]  # noqa: E731
            yield self.clean[row : row + 1], self.corrupt[row : row + 1], metric

    @staticmethod
    def named(node):
        names = {
            "embed": "input",
            "attn_head_out": "a{0}.h{1}",
            "mlp_out": "m{0}",
            "mlp_in": "m{0}",
            "logits": "logits",
        }
        letter = node.kind[0]
        return names.get(node.kind, f"a{{0}}.h{{1}}<{letter}>").format(node.layer, node.head)

    def attributions(self):
        from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

        found = {}
        for clean, corrupt, metric in self.rows():
            scores = attribution_patch(
                self.model, clean, corrupt, metric, EdgeAttributionConfig(granularity="edge")
            ).edge_scores
            for (writer, reader), score in scores.items():
                edge = f"{self.named(writer)}->{self.named(reader)}"
                found[edge] = found.get(edge, 0.0) - score / len(self.answers)
        return found

    def circuit(self, edges):
        from transformer_lens.tools.analysis.attribution_patching import faithfulness

        clean, corrupt, metric = next(self.rows())
        found = faithfulness(self.model, clean, corrupt, metric, self.nodes(edges))
        return [found.corrupt_metric + found.recovered * (found.full_metric - found.corrupt_metric)]

    def nodes(self, edges):
        """The edges in the peer's nodes; all stand at the last position."""
        if not hasattr(self, "known"):
            from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

            clean, corrupt, metric = next(self.rows())
            config = EdgeAttributionConfig(granularity="edge")
            scores = attribution_patch(self.model, clean, corrupt, metric, config).edge_scores
            self.known = {(self.named(writer), self.named(reader)): (writer, reader) for writer, reader in scores}
        return [self.known[writer, reader] for reader, writers in edges.items() for writer in writers]


def main(kind, folder):
    peer = {"auto-circuit": AutoCircuit, "bridge": Bridge}[kind](folder)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        edges = json.loads(line)
        start = time.perf_counter()
        found = peer.attributions() if edges is None else peer.circuit(edges)
        print(json.dumps([time.perf_counter() - start, found]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
