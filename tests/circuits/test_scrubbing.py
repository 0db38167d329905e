"""Causal scrubbing against its definition, path by path with plain hooks, and on sums whose errors are known."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, HookedTransformerConfig, LogitDiff, Result, at
from interp_hooks.circuits.hypotheses import ANYTHING, EXACT, TOGETHER, Hypothesis, Node
from interp_hooks.circuits.scrubbing import _Sampler, scrub
from interp_hooks.errors import BadInput, UnknownHook
from interp_hooks.interventions.runs import Run
from tests.experiments.by_hand import RTOL, left_alone, model_of, word_tokenizer
from tests.tiny import CUSTOM, assert_close, build, random_tokens, unchecked_types

# ------------------------------------------------------------------------------------------------- sums of the input


def adder(*heads: Mapping[int, int]) -> HookedTransformer:
    """Reads digits at positions 0 to 2; each head adds its multiple of them to the only logit at position 3."""
    n_pos, strong = 4, 40.0
    cfg = HookedTransformerConfig(
        n_layers=1, d_model=2 + n_pos, n_ctx=n_pos, n_heads=len(heads), d_head=n_pos, d_vocab=11, d_vocab_out=1,
        attn_only=True, normalization_type=None, attn_scale=1.0, dtype="float64", device="cpu", init_weights=False,
    )  # fmt: skip
    model = HookedTransformer(cfg)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.W_E[:10, 0] = torch.arange(10.0, dtype=torch.float64)
        model.W_pos[:, 2:] = torch.eye(n_pos, dtype=torch.float64)
        model.W_U[1, 0] = 1.0
        attn = model.blocks[0].attn
        for head, factors in enumerate(heads):
            total = sum(map(abs, factors.values()))
            scores = torch.full((n_pos,), -strong, dtype=torch.float64)
            for pos, factor in factors.items():
                scores[pos] = torch.tensor(abs(factor) / total).double().log()
            attn.W_Q[head, 2:, :] = torch.eye(n_pos, dtype=torch.float64)
            attn.b_Q[head] = 0.0
            attn.W_K[head, 2:, 3] = scores
            attn.W_V[head, 0, 0] = 1.0
            attn.W_O[head, 0, 1] = total * (1 if min(factors.values()) > 0 else -1)
    return model


def digits(n: int) -> Tensor:
    drawn = torch.randint(10, (n, 3), generator=torch.Generator().manual_seed(5))
    return torch.cat((drawn, torch.full((n, 1), 10)), dim=1)


def head(which: int) -> Any:
    return at("z", 0, head=which)


X0, X1 = (lambda tokens: tokens[:, 0]), (lambda tokens: tokens[:, 1])
MEAN_DIFFERENCE = 3.3  # of two digits: E|x - x'|


@pytest.mark.parametrize(
    ("heads", "true", "nodes", "error"),
    [
        ([{0: 2}, {0: 3}], (5, 0, 0), {"a": ([0], "x0")}, 9.9),
        ([{0: 1, 2: 1}, {1: 1}, {2: -1}], (1, 1, 0), {"a": ([0], "x0"), "b": ([1, 2], "x1")}, 3.3),
        ([{0: 1, 1: 1}, {1: 1}], (1, 2, 0), {"a": ([0], "x0"), "b": ([1], EXACT)}, 3.3),
        ([{0: 2}, {1: 1}], (2, 1, 0), {"a": ([0], "x0"), "b": ([1], "x1")}, 0.0),
        ([{0: 2}, {1: 1}], (2, 1, 0), {"a": ([0], "x0"), "b": ([1], "x0")}, 3.3),
    ],
)
def test_errors_of_sums(heads: Any, true: tuple[int, ...], nodes: Any, error: float) -> None:
    """The mean error of the scrubbed output is what arithmetic says it is."""
    model, tokens = adder(*heads), digits(20000)
    labels = (tokens[:, :3] * torch.tensor(true)).sum(1).double()

    def metric(logits: Tensor) -> Tensor:
        return (logits[:, -1, 0] - labels).abs()

    with torch.no_grad():
        assert float(metric(model(tokens)).max()) < 1e-10
    claims = {name: Node(sites=[head(one) for one in which], feature=what) for name, (which, what) in nodes.items()}
    hypothesis = Hypothesis(nodes={"output": Node(children=list(claims)), **claims})
    result = scrub(model, hypothesis, tokens, metric, {"x0": X0, "x1": X1}, generator=torch.Generator().manual_seed(1))
    assert abs(result.mean.item() - error) < 0.03 * max(error, 1e-8)
    recovered = 1 - result.mean.item() / result.baselines["random"].mean().item()
    assert abs(result.recovered_fraction.item() - recovered) < 1e-10


def test_labels_that_leave_out_an_input_are_as_wrong_when_it_is_another_rows() -> None:
    """Heads 2 x0 + x1 and 3 x1, against 2 x0 + 3 x1: the first one's x1 is left over, and 4.5 on average."""
    model, tokens = adder({0: 2, 1: 1}, {1: 3}), digits(20000)
    labels = (tokens[:, :3] * torch.tensor([2, 3, 0])).sum(1).double()
    nodes = {"a": Node(sites=[head(0)], feature="x0"), "b": Node(sites=[head(1)], feature="x1")}
    hypothesis = Hypothesis(nodes={"output": Node(children=["a", "b"]), **nodes})
    errors = scrub(
        model,
        hypothesis,
        tokens,
        lambda logits: (logits[:, -1, 0] - labels).abs(),
        {"x0": X0, "x1": X1},
        generator=torch.Generator().manual_seed(1),
    )
    assert errors.mean.item() == pytest.approx(4.5, rel=0.02)
    own = errors.baselines["model"]
    assert torch.allclose(own, tokens[:, 1].double(), atol=1e-10)
    assert not torch.allclose(errors.values[0], own), "each row's is another row's x1"


# ------------------------------------------------------------------------------------------------- the definition

TOKENS = random_tokens(12, 5, 23)
FEATURES = {"first": lambda tokens: tokens[:, :1] % 3, "parity": TOKENS.sum(1) % 2}
METRIC = LogitDiff(3, 5, pos=-1)
DEEP = Hypothesis(
    nodes={
        "output": Node(children=["late", "mlp"]),
        "late": Node(sites=[at("z", 2, head=[1, 2])], feature="first", children=["early", "mlp"]),
        "mlp": Node(sites=[at("mlp_out", 1, pos=[1, 4])], feature="parity", children=["early"]),
        "early": Node(sites=[at("z", 0, head=0), at("resid_pre", 0, pos=0)], feature="parity"),
    }
)
EXCLUDING = Hypothesis(
    nodes={
        "output": Node(children=["query", "value"], excluding=[at("mlp_out", 0), at("z", 1, head=2)]),
        "query": Node(sites=[at("q", 2, head=3)], feature=TOGETHER, children=["early"]),
        "value": Node(sites=[at("v", 2, head=1)], feature="first", children=["early"], excluding=[at("mlp_out", 1)]),
        "early": Node(sites=[at("attn_out", 0)], feature=TOGETHER),
    }
)
POOLED = Hypothesis(
    nodes={
        "output": Node(children=["query", "value", "mlp"]),
        "query": Node(sites=[at("q", 2, head=3)], feature=EXACT, children=["early"]),
        "value": Node(sites=[at("v", 2, head=1)], feature=EXACT, children=["early"]),
        "mlp": Node(sites=[at("mlp_out", 2)], feature=EXACT, children=["early"]),
        "early": Node(sites=[at("attn_out", 0)], feature="parity", pool=2),
    }
)


def row_of(
    model: HookedTransformer, hypothesis: Hypothesis, name: str, tree: Any, row: int, tokens: Tensor = TOKENS
) -> dict[str, Tensor]:
    """Every activation in the pass of one row that a node's value is read from, with plain hooks."""
    other, below = tree
    node = hypothesis.nodes[name]
    hooks: list[Any] = []

    def put(site: Any, value: Tensor) -> None:
        def fn(there: Tensor, hook: Any) -> Tensor:
            index = site.index(hook, there)
            there[index] = value[index]
            return there

        hooks.append((model.points(site.hook)[0].name, fn))

    for site in node.excluding:
        put(site, all_of(model, tokens[other[row], None], [])[model.points(site.hook)[0].name])
    for child, (rows, subtree) in below:
        kept = (
            all_of(model, tokens[rows[row], None], [])
            if subtree is None
            else row_of(model, hypothesis, child, subtree, row, tokens)
        )
        for site in hypothesis.nodes[child].sites:
            put(site, kept[model.points(site.hook)[0].name])
    return all_of(model, tokens[other[row], None], hooks)


def all_of(model: HookedTransformer, tokens: Tensor, hooks: Sequence[Any]) -> dict[str, Tensor]:
    with torch.no_grad(), model.hooks(hooks):
        logits, cache = model.run_with_cache(tokens)
    return {**cache, "logits": logits}


def tree_of(sampler: _Sampler, hypothesis: Hypothesis, name: str, rows: Tensor, exact: bool = False) -> Any:
    """Which rows each node is read on, drawn in the order in which the definition names them."""
    node = hypothesis.nodes[name]
    other = sampler.draw(EXACT if exact else ANYTHING, rows)
    below = []
    for child in node.children:
        drawn = sampler.draw(hypothesis.nodes[child].feature, rows, hypothesis.nodes[child].pool)
        inner = hypothesis.nodes[child].children
        below.append((child, (drawn, tree_of(sampler, hypothesis, child, drawn, exact) if inner else None)))
    return other, below


@pytest.mark.parametrize("hypothesis", [DEEP, EXCLUDING, POOLED], ids=["deep", "excluding", "pooled"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_it_is_the_definition_path_by_path(kind: str, hypothesis: Hypothesis) -> None:
    model = model_of(kind)
    classes = {name: (one if isinstance(one, Tensor) else one(TOKENS)) for name, one in FEATURES.items()}
    classes = {name: one.unique(dim=0, return_inverse=True)[1] for name, one in classes.items()}
    sampler = _Sampler(Run(TOKENS), classes, torch.Generator().manual_seed(3))
    tree = tree_of(sampler, hypothesis, "output", torch.arange(12))
    with unchecked_types():
        logits = [row_of(model, hypothesis, "output", tree, row)["logits"][0, -1] for row in range(12)]
    expected = torch.stack([one[3] - one[5] for one in logits])
    with left_alone(model):
        ours = scrub(model, hypothesis, TOKENS, METRIC, FEATURES, generator=torch.Generator().manual_seed(3))
    assert_close(ours.values[0], expected, RTOL)
    assert list(ours.axes["hypothesis"]) == ["all"]


def test_nothing_exchanged_changes_nothing() -> None:
    """Bit by bit, each claim alone as well; the model's own score and that of shuffled answers are the ends."""
    model = model_of("gpt2")
    nodes = {name: Node(**{**vars(node), "feature": EXACT}) for name, node in DEEP.nodes.items()}
    result = scrub(model, Hypothesis(nodes=nodes), TOKENS, METRIC, each=True, generator=torch.Generator())
    with torch.no_grad():
        logits = model(TOKENS)[:, -1]
    assert_close(result.baselines["model"], logits[:, 3] - logits[:, 5], RTOL)
    assert set(result.baselines["random"].tolist()) <= set(result.baselines["model"].tolist())
    same = Hypothesis(nodes={"output": Node(children=["all"]), "all": Node(sites=[at("resid_post", 2)], feature=EXACT)})
    plain = scrub(model, same, TOKENS, METRIC)
    assert torch.equal(plain.values[0], plain.baselines["model"])


def test_a_claim_alone() -> None:
    """All other nodes, and what they read, are the row's own."""
    model = model_of("gpt2")
    result = scrub(model, DEEP, TOKENS, METRIC, FEATURES, each=True, generator=torch.Generator().manual_seed(3))
    assert list(result.axes["hypothesis"]) == ["all", "late", "mlp", "early"]
    assert not torch.equal(result.values[2], result.baselines["model"])
    embeddings = Node(sites=[at("resid_pre", 0)], feature=EXACT)
    all_that_is_read = Hypothesis(nodes={"output": Node(children=["embeddings"]), "embeddings": embeddings})
    assert_close(scrub(model, all_that_is_read, TOKENS, METRIC).values[0], result.baselines["model"], RTOL)


def test_along_directions_the_rest_is_another_rows() -> None:
    """A component along all directions is the whole; along none that the model reads, nothing."""
    model = model_of("gpt2")
    site, whole = at("resid_pre", 1), torch.eye(12, dtype=torch.float64)

    def scrubbed(along: Tensor | None) -> Tensor:
        nodes = {"output": Node(children=["part"]), "part": Node(sites=[site], feature=EXACT, along=along)}
        seed = torch.Generator().manual_seed(2)
        return scrub(model, Hypothesis(nodes=nodes), TOKENS, METRIC, generator=seed).values[0]

    assert_close(scrubbed(whole), scrubbed(None), RTOL)
    assert not torch.allclose(scrubbed(whole[:3]), scrubbed(None))


def test_into_is_seen_by_that_reader_alone() -> None:
    """With all else at the other row, one head's keys get what the embeddings of the row are."""
    model = model_of("gpt2")
    nodes = {
        "output": Node(children=["embeddings"]),
        "embeddings": Node(sites=[at("resid_pre", 0)], into=[at("k_input", 1, head=2)], feature=EXACT),
    }
    result = scrub(model, Hypothesis(nodes=nodes), TOKENS, METRIC, generator=torch.Generator().manual_seed(2))
    other = torch.randint(12, (12,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        own, theirs = (model.run_with_cache(tokens)[1]["resid_pre", 0] for tokens in (TOKENS, TOKENS[other]))

        def receive(value: Tensor, hook: Any) -> Tensor:
            value[:, :, 2] += own - theirs
            return value

        logits = model.run_with_hooks(TOKENS[other], fwd_hooks=[("blocks.1.hook_k_input", receive)])[:, -1]
    assert_close(result.values[0], logits[:, 3] - logits[:, 5], RTOL)


# ---------------------------------------------------------------------------------------------------------- sampling


def test_rows_are_drawn_within_their_class_and_evenly() -> None:
    classes = torch.tensor([0, 1, 0, 2, 0, 1])
    sampler = _Sampler(Run(random_tokens(6, 3, 5)), {"kind": classes}, torch.Generator().manual_seed(0))
    drawn = torch.stack([sampler.draw("kind") for _ in range(3000)])
    assert torch.equal(classes[drawn], classes.expand(3000, -1))
    for row, size in enumerate([3, 2, 3, 1, 3, 2]):
        counts = torch.bincount(drawn[:, row], minlength=6)[classes == classes[row]]
        assert float((counts - 3000 / size).abs().max()) < 5 * (3000 / size) ** 0.5
    anything = torch.stack([sampler.draw(ANYTHING) for _ in range(3000)])
    assert len(anything.unique()) == 6
    assert torch.equal(sampler.draw(TOGETHER), sampler.draw(TOGETHER))


def test_rows_may_be_drawn_from_other_prompts(tmp_path: Path) -> None:
    """The same as scrubbing both together and looking at the first ones, with the same draws."""
    model, n, source = model_of("gpt2"), len(TOKENS), random_tokens(20, 5, 23, seed=9)
    tokens = torch.cat((TOKENS, source))
    features = {"first": FEATURES["first"], "parity": tokens.sum(1) % 2}
    classes = {name: (one if isinstance(one, Tensor) else one(tokens)) for name, one in features.items()}
    classes = {name: one.unique(dim=0, return_inverse=True)[1] for name, one in classes.items()}
    sampler = _Sampler(Run(tokens), classes, torch.Generator().manual_seed(3), n)
    drawn = [sampler.draw(feature) for feature in (ANYTHING, "first", "parity") for _ in range(30)]
    assert all(int(rows.min()) >= n for rows in drawn)
    assert {int(row) for row in torch.cat(drawn)} == set(range(n, n + 20))
    assert all(torch.equal(classes["parity"][sampler.draw("parity")], classes["parity"][:n]) for _ in range(9))
    generator = torch.Generator().manual_seed(3)
    with left_alone(model):
        ours = scrub(model, DEEP, TOKENS, METRIC, features, source=source, generator=generator)
    expected = [row_of_both(model, tokens, classes, n, row) for row in range(n)]
    assert_close(ours.values[0], torch.stack(expected), RTOL)
    assert ours.classes["parity"].sum() == 20
    own = METRIC.on(model)(model(TOKENS)).detach()
    assert_close(ours.baselines["model"], own, RTOL)
    ours.save(tmp_path / "saved", model=model)
    assert torch.equal(Result.load(tmp_path / "saved").rerun(model).values, ours.values)


def row_of_both(model: HookedTransformer, tokens: Tensor, classes: Mapping[str, Tensor], n: int, row: int) -> Tensor:
    """The metric of one row under DEEP, path by path, drawn as `scrub` draws."""
    sampler = _Sampler(Run(tokens), classes, torch.Generator().manual_seed(3), n)
    tree = tree_of(sampler, DEEP, "output", torch.arange(n))
    with unchecked_types():
        logits = row_of(model, DEEP, "output", tree, row, tokens)["logits"][0, -1]
    return logits[3] - logits[5]


def test_a_pool_holds_so_many_draws_of_what_agrees() -> None:
    classes = torch.arange(40) % 2
    sampler = _Sampler(Run(torch.zeros(40, 1, dtype=torch.long)), {"odd": classes}, torch.Generator().manual_seed(0))
    rows = torch.arange(40)
    draws = {tuple(sampler.draw("odd", rows, pool=3).tolist()) for _ in range(50)}
    assert len(draws) == 3
    assert all(torch.equal(classes[list(draw)], classes) for draw in draws)
    others = {tuple(sampler.draw("odd", rows.flip(0), pool=3).tolist()) for _ in range(50)}
    assert len(others) == 3
    assert not draws & others, "of rows with other features"
    assert len({tuple(sampler.draw("odd", rows).tolist()) for _ in range(50)}) == 50


def test_classes_so_small_that_rows_are_drawn_for_themselves_are_told() -> None:
    model = model_of("gpt2")
    hypothesis = Hypothesis(
        nodes={"output": Node(children=["a"]), "a": Node(sites=[at("z", 1)], feature="pairs")},
    )
    pairs = torch.arange(12) // 2
    sampler = _Sampler(Run(TOKENS), {"pairs": pairs}, torch.Generator().manual_seed(0))
    drawn = torch.stack([sampler.draw("pairs") for _ in range(2000)])
    assert float((drawn == torch.arange(12)).double().mean()) == pytest.approx(0.5, abs=0.02)
    with pytest.warns(UserWarning, match="'pairs' are so small that 50% of the rows drawn"):
        result = scrub(model, hypothesis, TOKENS, METRIC, {"pairs": pairs, "unused": TOKENS})
    assert list(result.classes) == ["pairs"]
    assert result.classes["pairs"].tolist() == [2] * 6
    assert "50% of the rows drawn by it are the row itself" in result.note
    fine = scrub(model, hypothesis, TOKENS, METRIC, {"pairs": pairs // 2})
    assert fine.note == ""
    others = scrub(
        model, hypothesis, TOKENS, METRIC, {"pairs": pairs.repeat(2)}, source=random_tokens(12, 5, 23, seed=9)
    )
    assert others.note == ""


def test_it_is_data(tmp_path: Path) -> None:
    """A hypothesis goes through JSON, and a result through a folder."""
    model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
    read = Hypothesis.from_json(DEEP.to_json())
    assert read.to_json() == DEEP.to_json()
    assert read.nodes["late"].sites == DEEP.nodes["late"].sites
    assert read.nodes["mlp"].children == ["early"]
    tokens = random_tokens(12, 5, 100)
    results = [
        scrub(model, one, tokens, METRIC, {"first": tokens[:, 0] % 2, "parity": tokens[:, 1] % 2}, generator=seed)
        for one, seed in ((DEEP, torch.Generator().manual_seed(1)), (read, torch.Generator().manual_seed(1)))
    ]
    assert torch.equal(results[0].values, results[1].values)
    results[0].save(tmp_path / "scrubbed", model=model)
    again = Result.load(tmp_path / "scrubbed").rerun(model)
    assert torch.equal(again.values, results[0].values)


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ({"a": Node(sites=[head(0)])}, "no node 'output' to be the root; there are a"),
        (
            {"output": Node(children=["heads"]), "head": Node(sites=[head(0)])},
            "child 'heads', which is no node. Did you mean head",
        ),
        ({"output": Node(children=["a"]), "a": Node()}, "node 'a' has no sites"),
        ({"output": Node(sites=[head(0)])}, "the root 'output' is the model's output"),
        ({"output": Node(into=[head(0)])}, "the root 'output' is the model's output"),
        ({"output": Node(along=torch.eye(2))}, "the root 'output' is the model's output"),
        ({"output": Node(feature="parity")}, "the root 'output' is the model's output"),
        ({"output": Node(pool=2)}, "the root 'output' is the model's output"),
        ([Node()], "nodes must be a mapping from text to a Node, got list"),
        ({"output": {"children": []}}, "nodes must be a mapping from text to a Node, got dict"),
        ({"output": Node(), "a": Node(sites=[head(0)])}, "no path leads from the root 'output' to node 'a'"),
        (
            {
                "output": Node(children=["a"]),
                "a": Node(sites=[head(0)], children=["b"]),
                "b": Node(sites=[head(0)], children=["a"]),
            },
            "has a cycle: a -> b -> a",
        ),
    ],
)
def test_ill_formed_hypotheses_are_refused(nodes: Any, message: str) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=message):
        Hypothesis(nodes=nodes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(sites=["z1"]), r"sites must be a list of Sites, got list \['z1'\]"),
        (dict(sites="z1"), "sites must be a list of Sites, got 'z1'"),
        (dict(into=[3]), "into must be a list of Sites"),
        (dict(excluding=None), "excluding must be a list of Sites, got NoneType"),
        (dict(feature=None), "feature must be text, got NoneType"),
        (dict(feature=FEATURES["first"]), "feature must be text, got function"),
        (dict(along=[1.0]), "along must be a tensor"),
        (dict(pool="2"), "pool must be an int.*, got '2'"),
        (dict(pool=2.5), "pool must be an int.*, got float 2.5"),
        (dict(pool=0), "pool must be at least 1, got 0"),
        (dict(children="a"), "children must be a list of different names of nodes, got 'a'"),
        (dict(children=["a", "b", "a"]), r"children must be a list of different names .*\['a', 'b', 'a'\]"),
        (dict(sites=[head(0)], excluding=[head(1)]), "this node has no children"),
    ],
)
def test_nodes_of_other_kinds_are_refused(fields: dict[str, Any], message: str) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=message):
        Node(**fields)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"root": "output"}',
        '{"nodes": [], "root": "output"}',
        '{"nodes": {"output": {}}, "root": "output", "leaf": 1}',
        '{"nodes": {"output": {"childs": []}}}',
        '{"nodes": {"output": {"sites": [{"hok": "z"}]}}}',
        '{"nodes": {"output": {"children": ["a"]}}}',
        '{"nodes": {"output": {"along": [[1.0], [1.0, 2.0]]}}}',
    ],
)
def test_what_is_no_hypothesis_in_json_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="expected a hypothesis as to_json writes it: "):
        Hypothesis.from_json(text)


def test_what_a_node_in_json_leaves_out_is_the_default() -> None:
    text = """{"nodes": {"output": {"children": ["a"]}, "a": {"sites": [{"hook": "blocks.1.hook_mlp_out"}]}}}"""
    read = Hypothesis.from_json(text)
    assert read.root == "output"
    assert vars(read.nodes["a"]) == vars(Node(sites=[at("mlp_out", 1)]))


def test_a_single_site_is_a_list_of_one() -> None:
    site, reader = at("resid_pre", 0), at("q_input", 1)
    with unchecked_types():
        node = Node(sites=site, into=reader)  # pyright: ignore[reportArgumentType]
    assert vars(node) == vars(Node(sites=[site], into=[reader]))


@pytest.mark.parametrize(
    ("node", "features", "error", "message"),
    [
        (
            dict(feature="parities"),
            FEATURES,
            BadInput,
            "depends on 'parities', which is no feature.*Did you mean parity",
        ),
        (
            dict(feature="x"),
            {"x": TOKENS[:3]},
            BadInput,
            r"feature 'x' must be a tensor \[12\] or \[12, n\], got \[3, 5\]",
        ),
        (dict(feature="x"), {"x": lambda tokens: 3}, BadInput, "feature 'x' must be a tensor .*got int"),
        (dict(), {EXACT: TOKENS[:, 0]}, BadInput, "'exact' says how rows are drawn"),
        (dict(sites=[at("zz", 1)]), {}, UnknownHook, "zz"),
        (dict(sites=[at("z", 1, pos=torch.arange(12) % 5)]), {}, BadInput, "each prompt's own"),
        (dict(feature="x"), {"x": torch.tensor([0.0] * 11 + [float("nan")])}, BadInput, "feature 'x' must be finite"),
        (dict(feature="x"), {"x": lambda tokens: tokens / 0}, BadInput, "feature 'x' must be finite"),
        (dict(sites=[at("z", 1, pos=7)]), {}, BadInput, "pos=7 is out of range"),
    ],
)
def test_mistakes_are_told(node: dict[str, Any], features: Any, error: type[Exception], message: str) -> None:
    model = model_of("gpt2")
    fields: dict[str, Any] = {"sites": [at("z", 1)]} | node
    nodes = {"output": Node(children=["a"]), "a": Node(**fields)}
    with left_alone(model), unchecked_types(), pytest.raises(error, match=message):
        scrub(model, Hypothesis(nodes=nodes), TOKENS, METRIC, features)


@pytest.mark.parametrize(
    ("kind", "above", "below", "message"),
    [
        ("gpt2", at("z", 1), dict(sites=[at("mlp_out", 1)]), "node 'b': .*1.hook_mlp_out can reach node 'a'"),
        ("gpt2", at("z", 1), dict(sites=[at("z", 0), at("z", 2)]), "node 'b': .*blocks.2.attn.hook_z can"),
        ("gpt2", at("z", 1, head=1), dict(sites=[at("q", 1, head=0)]), "node 'b': .*blocks.1.attn.hook_q can"),
        ("gpt2", at("k", 1), dict(sites=[at("q", 1)]), "node 'b': .*blocks.1.attn.hook_q can"),
        ("gpt2", at("z", 1, pos=1), dict(sites=[at("z", 0, pos=3)]), "node 'b': .*blocks.0.attn.hook_z can"),
        ("gpt2", at("z", 1, pos=[0, 1]), dict(sites=[at("z", 0, pos=-2)]), "node 'b': .*blocks.0.attn.hook_z can"),
        ("gpt2", at("mlp_out", 1, pos=3), dict(sites=[at("z", 1, pos=1)]), "node 'b': .*blocks.1.attn.hook_z can"),
        ("gpt2", at("pattern", 1, query=2), dict(sites=[at("k", 1, pos=3)]), "node 'b': .*blocks.1.attn.hook_k can"),
        ("gpt2", at("z", 1), dict(sites=[at("z", 0)], into=[at("q_input", 2)]), "into blocks.2.hook_q_input can"),
        ("gpt2", at("z", 1), dict(sites=[at("z", 0)], into=[at("mlp_in", 1)]), "into blocks.1.hook_mlp_in can"),
        ("neox", at("mlp_out", 0), dict(sites=[at("z", 0)]), "node 'b': .*blocks.0.attn.hook_z can"),
    ],
)
def test_children_that_cannot_reach_their_node_are_refused(
    kind: str, above: Any, below: dict[str, Any], message: str
) -> None:
    """In the order of a pass, across parallel parts, heads, positions and readers."""
    model = model_of(kind)
    nodes = {"output": Node(children=["a"]), "a": Node(sites=[above], children=["b"]), "b": Node(**below)}
    with left_alone(model), pytest.raises(BadInput, match=message):
        scrub(model, Hypothesis(nodes=nodes), TOKENS, METRIC)


@pytest.mark.parametrize(
    ("kind", "above", "below"),
    [
        ("gpt2", at("z", 1, pos=3), dict(sites=[at("z", 0, pos=3)])),
        ("gpt2", at("z", 1, pos=3), dict(sites=[at("z", 0, pos=1)])),
        ("gpt2", at("z", 1, head=1), dict(sites=[at("q", 1, head=1)])),
        ("gpt2", at("pattern", 1, query=3), dict(sites=[at("k", 1, pos=3)])),
        ("gpt2", at("z", 2), dict(sites=[at("z", 0)], into=[at("mlp_in", 1)])),
        ("gpt2", at("z", 1), dict(sites=[at("resid_pre", 1)], along=torch.eye(12)[:2])),
        ("gpt2", at("z", 1), dict(sites=[at("z", 1, head=1)])),
        ("neox", at("mlp_out", 1), dict(sites=[at("z", 0)])),
        ("bidirectional", at("z", 1, pos=1), dict(sites=[at("z", 0, pos=3)])),
    ],
)
def test_children_that_reach_their_node_matter(kind: str, above: Any, below: dict[str, Any]) -> None:
    """Whether they are exact or not makes a difference."""
    model = model_of(kind)

    def scrubbed(feature: str) -> Tensor:
        a, b = Node(sites=[above], feature=EXACT, children=["b"]), Node(**below, feature=feature)
        hypothesis = Hypothesis(nodes={"output": Node(children=["a"]), "a": a, "b": b})
        metric = lambda logits: logits.square().sum((1, 2))  # noqa: E731
        return scrub(model, hypothesis, TOKENS, metric, generator=torch.Generator().manual_seed(1)).values

    assert not torch.allclose(scrubbed(EXACT), scrubbed(ANYTHING))


@pytest.mark.parametrize("kind", list(CUSTOM))
def test_ways_are_found_in_every_kind_of_model(kind: str) -> None:
    """From the embeddings, and from queries, keys and values, through attention and MLP on, unless blocked."""
    model, tokens = model_of(kind), TOKENS[:1]
    chain = (
        [at("resid_pre", 0)],
        [at(one, 1) for one in "qkv"],
        [at("z", 1)],
        [at("attn_out", 1)],
        [at("resid_post", 1)],
    )
    chain = [*chain, [at("resid_post", 2)]] if model.cfg.attn_only else [*chain, [at("mlp_out", 2)]]
    nodes = {"output": Node(children=[str(len(chain) - 1)])}
    for place, sites in enumerate(chain):
        nodes[str(place)] = Node(sites=sites, children=[str(place - 1)] if place else [], feature=EXACT)
    scrub(model, Hypothesis(nodes=nodes), tokens, METRIC)
    del nodes["1"]
    nodes["2"] = Node(sites=chain[2], children=["0"], excluding=chain[1])
    with pytest.raises(BadInput, match=r"node '0': nothing .* can reach node '2'"):
        scrub(model, Hypothesis(nodes=nodes), tokens, METRIC)


def test_excluded_parts_must_be_before_the_node_and_leave_a_way() -> None:
    model = model_of("gpt2")

    def refused(message: str, *excluding: Any) -> None:
        a = Node(sites=[at("z", 1)], children=["b"], excluding=excluding)
        nodes = {"output": Node(children=["a"]), "a": a, "b": Node(sites=[at("z", 0)])}
        with pytest.raises(BadInput, match=message):
            scrub(model, Hypothesis(nodes=nodes), TOKENS, METRIC)

    refused("excluding= of 'a': .*blocks.1.hook_mlp_out can reach node 'a'", at("mlp_out", 0), at("mlp_out", 1))
    refused("pos=9 is out of range", at("mlp_out", 0, pos=9))
    refused("node 'b': .*blocks.0.attn.hook_z can reach node 'a'", at("resid_pre", 1))


LEFT, RIGHT = torch.eye(12, dtype=torch.float64).split(6)
READER = at("q_input", 2, head=[0, 1])


@pytest.mark.parametrize(
    ("one", "two", "refused"),
    [
        (dict(sites=[at("z", 1)]), dict(sites=[at("z", 1)]), True),
        (dict(sites=[at("z", 1)]), dict(sites=[at("blocks.1.attn.hook_z", head=2)]), True),
        (dict(sites=[at("z", 1, pos=-1)]), dict(sites=[at("z", 0), at("z", 1, head=0, pos=4)]), True),
        (dict(sites=[at("z", 0)], into=[READER]), dict(sites=[at("z", 0)], into=[at("q_input", 2, head=1)]), True),
        (dict(sites=[at("resid_pre", 1)], along=LEFT), dict(sites=[at("resid_pre", 1)], along=LEFT[:2]), True),
        (dict(sites=[at("resid_pre", 1)], along=LEFT), dict(sites=[at("resid_pre", 1)]), True),
        (dict(sites=[at("z", 0), at("z", 0, head=1)]), dict(sites=[at("z", 1)]), True),
        (dict(sites=[at("resid_pre", 1)], along=LEFT), dict(sites=[at("resid_pre", 1)], along=RIGHT), False),
        (dict(sites=[at("z", 0)], into=[READER]), dict(sites=[at("z", 0)], into=[at("q_input", 2, head=2)]), False),
        (dict(sites=[at("z", 1, head=1)]), dict(sites=[at("z", 1, head=[0, 2])]), False),
        (dict(sites=[at("z", 1, pos=1)]), dict(sites=[at("z", 1, pos=-1)]), False),
    ],
)
def test_children_of_a_node_do_not_overlap(one: dict[str, Any], two: dict[str, Any], refused: bool) -> None:
    """Or the last one would win; where they don't, either order gives the same."""
    model = model_of("gpt2")

    def scrubbed(*children: str) -> Tensor:
        nodes = {"output": Node(children=children), "one": Node(**one, feature=EXACT), "two": Node(**two)}
        seed = torch.Generator().manual_seed(1)
        return scrub(model, Hypothesis(nodes=nodes), TOKENS[:1], METRIC, source=TOKENS[2:3], generator=seed).values

    if refused:
        with pytest.raises(BadInput, match="children of 'output' overlap"):
            scrubbed("one", "two")
    else:
        assert_close(scrubbed("one", "two"), scrubbed("two", "one"), RTOL)


def test_nothing_matters() -> None:
    """A root alone is the answers to other rows."""
    model = model_of("gpt2")
    seed = torch.Generator().manual_seed(2)
    result = scrub(model, Hypothesis(nodes={"output": Node()}), TOKENS, METRIC, generator=seed, each=True)
    other = torch.randint(12, (12,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = model(TOKENS[other])[:, -1]
    assert_close(result.values, (logits[:, 3] - logits[:, 5])[None], RTOL)


def test_what_changed_nothing_is_told() -> None:
    """Of a single row that can only be exchanged for itself."""
    hypothesis = Hypothesis(nodes={"output": Node(children=["a"]), "a": Node(sites=[at("z", 1)])})
    result = scrub(model_of("gpt2"), hypothesis, TOKENS[:1], METRIC)
    assert "no intervention changed anything" in result.note
    assert result.interventions()["changed"].tolist() == [False]
    other = scrub(model_of("gpt2"), hypothesis, TOKENS[:1], METRIC, source=TOKENS[1:])
    assert other.changed == [[True]]


def test_prompts_of_different_lengths_are_refused() -> None:
    model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c"))
    hypothesis = Hypothesis(nodes={"output": Node(children=["a"]), "a": Node(sites=[at("z", 1)])})
    with pytest.raises(BadInput, match="prompts of equal length"):
        scrub(model, hypothesis, ["a b", "c"], METRIC)
    with pytest.raises(BadInput, match="prompts of equal length"):
        scrub(model, hypothesis, ["a b", "b c"], METRIC, source=["a b", "c"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (random_tokens(9, 4, 23), "a source of prompts as long as the dataset's 5 tokens, got 4"),
        (torch.full((3, 5), 7), "no prompt of the source has the 'first' of prompt"),
    ],
)
def test_a_source_that_cannot_be_drawn_from_is_refused(source: Any, message: str) -> None:
    model = model_of("gpt2")
    features = FEATURES | {"parity": lambda tokens: tokens.sum(1) * 0}
    with left_alone(model), pytest.raises(BadInput, match=message):
        scrub(model, DEEP, TOKENS, METRIC, features, source=source)
