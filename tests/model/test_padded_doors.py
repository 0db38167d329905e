"""Every public door gives each of several padded prompts what it gives that prompt alone, without padding.

Padding stands on either side, with a token of its own or with that which is the BOS and EOS too; prompts come as text,
as ids in which the padding has to be found, as ids with a mask, or as a run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from interp_hooks import (
    HookedTransformer,
    Intervention,
    LogitDiff,
    Loss,
    Mean,
    Run,
    ablate,
    at,
    causal_trace,
    direct_logit_attribution,
    eap,
    evaluate,
    gradient_x_input,
    integrated_gradients,
    logit_lens,
    patch,
    path_patch,
    steer,
    steering_vector,
)
from interp_hooks.experiments.ablation import mean_activations, noised_activations
from interp_hooks.experiments.attribution import attribution_patch
from interp_hooks.experiments.optimal import optimal_ablation
from interp_hooks.experiments.steering import relative_norm
from interp_hooks.interventions.runs import as_run
from interp_hooks.model.components.kv_cache import KeyValueCache
from interp_hooks.studies.heads import detect_head
from tests.experiments.by_hand import word_tokenizer
from tests.tiny import assert_close, build, hf_logits, redraw, shared_hf

WORDS = ("a", "b", "c", "d", "yes", "no")
TEXTS, OTHERS = ["a b c d", "c a"], ["d c b a", "b d"]
RIGHT, WRONG = ["yes", "no"], ["no", "yes"]
SIDES, PADS = ("left", "right"), ("own", "shared")
FORMS = ("text", "ids", "mask", "run")


@functools.cache
def model_of(side: Any, pad: str, bos: bool = True, kind: str = "standard") -> HookedTransformer:
    """A random model whose tokenizer pads with a token of its own, or, like GPT-2's, with BOS and EOS."""
    tokenizer = word_tokenizer(*WORDS)
    tokenizer.pad_token = tokenizer.eos_token = "</s>"
    tokenizer.eos_token, tokenizer.pad_token = ("<s>", "<s>") if pad == "shared" else ("no", "</s>")
    cfg = build(n_ctx=12, positional_embedding_type=kind).cfg.replace(default_prepend_bos=bos)
    model = HookedTransformer(cfg, tokenizer, default_padding_side=side)
    redraw(model, std=0.4)
    return model.eval()


class Prompts(NamedTuple):
    """Several texts in one of the forms in which doors take them, and where the real tokens of each are."""

    model: HookedTransformer
    form: str

    def of(self, texts: list[str]) -> Any:
        tokens, real = self.ids(texts), self.real(texts)
        forms = {"text": texts, "ids": tokens, "mask": Run(tokens, (), real), "run": Run(tokens)}
        return forms[self.form]

    def call(self, texts: list[str]) -> tuple[Any, dict[str, Any]]:
        """For the methods of a model, which take no runs: an input, and a mask if that is to be given."""
        tokens, mask = self.ids(texts), {"attention_mask": self.real(texts)}
        return (texts, {}) if self.form == "text" else (tokens, mask if self.form == "mask" else {})

    def ids(self, texts: list[str]) -> Tensor:
        return self.model.to_tokens(texts)

    def real(self, texts: list[str]) -> Tensor:
        """By hand, from the length of each text by itself."""
        lengths = [self.model.to_tokens(text).shape[1] for text in texts]
        rows = [torch.arange(max(lengths)) < length for length in lengths]
        left = self.model.default_padding_side == "left"
        return torch.stack([row.flip(0) if left else row for row in rows])


def forward(p: Prompts, texts: list[str]) -> list[Tensor]:
    given, mask = p.call(texts)
    return rows(p.model(given, **mask), p.real(texts))


def rows(values: Tensor, real: Tensor) -> list[Tensor]:
    return [row[there] for row, there in zip(values, real, strict=True)]


def loss(p: Prompts, texts: list[str]) -> list[Tensor]:
    given, mask = p.call(texts)
    each = p.model(given, return_type="loss", loss_per_token=True, **mask)
    real = p.real(texts)
    counted = real[:, 1:] & real[:, :-1]
    assert_close(p.model(given, return_type="loss", **mask), each.sum() / counted.sum(), 1e-12)
    return rows(each, counted)


def last_logits(p: Prompts, texts: list[str]) -> list[Tensor]:
    given, mask = p.call(texts)
    return list(p.model(given, logits_pos=[-1, -2], **mask))


def with_key_value_cache(p: Prompts, texts: list[str]) -> list[Tensor]:
    """Read in two parts, of which the second begins within a short prompt."""
    if p.form == "text" or len(texts) == 1:
        return forward(p, texts)
    tokens, mask = p.call(texts)
    cache, cut, real = KeyValueCache(), 3, p.real(texts)
    first = p.model(tokens[:, :cut], past_kv_cache=cache, **{name: one[:, :cut] for name, one in mask.items()})
    second = p.model(tokens[:, cut:], past_kv_cache=cache, **{name: one[:, cut:] for name, one in mask.items()})
    return rows(torch.cat((first, second), dim=1), real)


def started_at_a_layer(p: Prompts, texts: list[str]) -> list[Tensor]:
    tokens, given = p.ids(texts), p.call(texts)
    stream = p.model(given[0], stop_at_layer=1, **given[1])
    told = given[1] if p.form == "mask" else {"tokens": tokens}
    return rows(p.model(stream, start_at_layer=1, **told), p.real(texts))


def generated(p: Prompts, texts: list[str]) -> list[Tensor]:
    given, mask = p.call(texts)
    if p.model.default_padding_side == "right":
        given, mask = (texts, {}) if p.form == "text" else (p.model.to_tokens(texts, padding_side="left"), {})
    options: dict[str, Any] = dict(do_sample=False, stop_at_eos=False, verbose=False, return_type="tokens")
    return [row[-4:] for row in p.model.generate(given, 4, **mask, **options)]


def cached(p: Prompts, texts: list[str]) -> list[Tensor]:
    """Slices of a cache, and a cache of slices."""
    given, mask = p.call(texts)
    _, cache = p.model.run_with_cache(given, **mask)
    _, last = p.model.run_with_cache(given, pos_slice=-1, **mask)
    parts = cache.decompose_resid(pos_slice=-1, apply_ln=True)[:, :, None]
    several = cache.stack_head_results(pos_slice=[-1, -2], apply_ln=True)
    ends = cache.accumulated_resid(pos_slice=(-2, None))
    looked_at = last["pattern", 1][:, :, 0].masked_fill(~p.real(texts)[:, None], 0).amax(-1)
    looked_at = looked_at[..., None].expand(-1, -1, parts.shape[-1])
    own = torch.cat((parts[:, :, 0], several[:, :, 0], several[:, :, 1], ends[:, :, 0], ends[:, :, 1])).movedim(1, 0)
    return list(torch.cat((own, last["resid_post", 1], looked_at), dim=1))


def scores(p: Prompts, texts: list[str], metric: Any = None) -> list[Tensor]:
    metric = LogitDiff(answers(RIGHT, texts), answers(WRONG, texts)).on(p.model) if metric is None else metric
    run = p.of(texts) if p.form in ("mask", "run") else as_run(p.model, p.of(texts))
    return list(evaluate(p.model, [run], metric)[0])


def answers(every: list[str], texts: list[str]) -> list[str]:
    return [every[(TEXTS if text in TEXTS else OTHERS).index(text)] for text in texts]


def metric_of(texts: list[str]) -> LogitDiff:
    return LogitDiff(answers(RIGHT, texts), answers(WRONG, texts))


def others(texts: list[str]) -> list[str]:
    return [OTHERS[TEXTS.index(text)] for text in texts]


Door = Callable[[Prompts, list[str]], list[Tensor]]


def experiment(call: Callable[[Prompts, list[str]], Any]) -> Door:
    """A result [..., prompt], one tensor for each prompt."""
    return lambda p, texts: list(call(p, texts).values.movedim(-1, 0))


def attributed(p: Prompts, texts: list[str]) -> list[Tensor]:
    given, mask = p.call(texts)
    _, cache = p.model.run_with_cache(given, **mask)
    tokens = [answers(RIGHT, texts), answers(WRONG, texts)]
    read = direct_logit_attribution(p.model, None, *tokens, cache=cache)
    ran = direct_logit_attribution(p.model, p.of(texts), *tokens)
    assert_close(read.values, ran.values, 1e-12)
    return list(ran.values.movedim(-1, 0))


def restored(p: Prompts, texts: list[str]) -> list[Tensor]:
    """What is patched at the last positions; all of the prompt's effect passes the last one."""
    found = [
        patch(
            p.model,
            p.of(texts),
            p.of(others(texts)),
            metric_of(texts),
            "resid_post",
            over=(),
            select={"pos": pos},
            progress=False,
        )
        for pos in (-1, -2, [-1, -2], torch.tensor([-1] * len(texts)))
    ]
    after_all = found[0].values[-1]
    assert_close(after_all, found[0].baselines["clean"], 1e-9)
    return list(torch.stack([one.values for one in found]).movedim(-1, 0))


def paths(p: Prompts, texts: list[str]) -> Any:
    options: dict[str, Any] = dict(progress=False, over=("layer",))
    return path_patch(
        p.model, p.of(texts), p.of(others(texts)), metric_of(texts), "z", [at("q_input", 2, head=1, pos=-1)], **options
    )


def sent(p: Prompts, texts: list[str]) -> list[Tensor]:
    """Edges and senders at the last position."""
    run, source = (as_run(p.model, p.of(some)) for some in (texts, others(texts)))
    edge = Intervention(at("z", 0, pos=-2), source, into=at("k_input", 1, pos=-2))
    late = Intervention(at("pattern", 1, query=-1, key=-2), 0.25)
    inner = Run(run.tokens, [Intervention(at("mlp_out", 0, pos=-1), source)], run.attention_mask)
    nested = Intervention(at("resid_pre", 2, pos=[-1, -2]), inner)
    runs = [Run(run.tokens, [one], run.attention_mask) for one in (edge, late, nested)]
    return list(evaluate(p.model, runs, metric_of(texts).on(p.model)).movedim(-1, 0))


def steered(p: Prompts, texts: list[str]) -> list[Tensor]:
    given, mask = p.call(texts)
    vector = torch.linspace(-1, 1, p.model.cfg.d_model, dtype=p.model.dtype)
    with steer(p.model, vector, "resid_pre1", positions=[-1, -2]):
        return rows(p.model(given, **mask), p.real(texts))


def traced(p: Prompts, texts: list[str]) -> Any:
    generator = torch.Generator().manual_seed(0)
    last = {"last": -1, "before": -2}
    options: dict[str, Any] = dict(positions=last, samples=1, noise=0.0, generator=generator, progress=False)
    return causal_trace(p.model, p.of(texts), [-1], metric_of(texts), **options)


DOORS: dict[str, Door] = {
    "forward": forward,
    "loss": loss,
    "logits_pos": last_logits,
    "key/value cache": with_key_value_cache,
    "start_at_layer": started_at_a_layer,
    "generate": generated,
    "caches": cached,
    "metrics": scores,
    "loss as a metric": lambda p, texts: scores(p, texts, Loss()),
    "direct logit attribution": attributed,
    "logit lens": lambda p, texts: list(logit_lens(p.model, p.of(texts)).log_probs.movedim(1, 0)),
    "patch": restored,
    "path_patch": experiment(paths),
    "edges": sent,
    "ablate": experiment(
        lambda p, texts: ablate(p.model, p.of(texts), metric_of(texts), select={"pos": -1}, progress=False)
    ),
    "attribution patching": experiment(
        lambda p, texts: attribution_patch(
            p.model, p.of(texts), p.of(others(texts)), metric_of(texts), "z", over=("layer", "head")
        )
    ),
    "gradient x input": experiment(
        lambda p, texts: gradient_x_input(p.model, p.of(texts), metric_of(texts), "resid_pre1", over=())
    ),
    "integrated gradients": experiment(
        lambda p, texts: integrated_gradients(
            p.model, p.of(texts), metric_of(texts), at("resid_pre", 1, pos=-1), steps=2, over=("d_model",)
        )
    ),
    "causal tracing": experiment(traced),
    "relative norms": experiment(
        lambda p, texts: relative_norm(p.model, p.of(texts), torch.ones(p.model.cfg.d_model, dtype=p.model.dtype))
    ),
    "steer": steered,
}
"""What gives each prompt something of its own."""


METHODS = ("forward", "loss", "logits_pos", "key/value cache", "start_at_layer", "generate", "caches", "steer")
CASES = [(door, form) for door in DOORS for form in FORMS if not (form == "run" and door in METHODS)]  # these take none


@pytest.mark.parametrize("pad", PADS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("door", "form"), CASES)
def test_a_padded_prompt_gives_what_it_gives_alone(door: str, side: str, pad: str, form: str) -> None:
    together = DOORS[door](Prompts(model_of(side, pad), form), TEXTS)
    for text, found in zip(TEXTS, together, strict=True):
        assert_close(found, alone(door, side, pad, text), 1e-9)


@functools.cache
def alone(door: str, side: str, pad: str, text: str) -> Tensor:
    (found,) = DOORS[door](Prompts(model_of(side, pad), "text"), [text])
    return found


def pooled(p: Prompts) -> dict[str, Tensor]:
    """What is taken over all prompts."""
    model, given = p.model, p.of(TEXTS)
    run, metric = Run(p.ids(TEXTS), (), p.real(TEXTS)), metric_of(TEXTS).on(model)
    means = mean_activations(model, given, "mlp_out")
    found = {f"mean {name}": value[0, 0] for name, value in means.items()}
    found["vector"] = steering_vector(model, given, p.of(OTHERS), "resid_pre1")
    options: dict[str, Any] = dict(over=("layer",), progress=False)
    found["ablated"] = ablate(model, given, metric_of(TEXTS), "mlp_out", method="mean", **options).values
    found["optimal"] = optimal_ablation(model, given, Loss(), "mlp_out", steps=0, **options).values
    reference = given if isinstance(given, Run) else run
    found["as a source"] = evaluate(
        model, [Run(run.tokens, [Intervention(at("z", 0), Mean(reference))], run.attention_mask)], metric
    )
    found["heads"] = detect_head(model, given, "previous_token_head")
    found["edges"] = eap(model, given, p.of(OTHERS), metric_of(TEXTS)).scores.matrix
    generator = torch.Generator().manual_seed(0)
    noised = noised_activations(model, given, "z", generator=generator)["blocks.1.attn.hook_z"]
    found["noise"] = torch.cat(rows(noised, p.real(TEXTS))).std(0)
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pad", PADS)
def test_means_leave_padding_out(pad: str, form: str) -> None:
    """By hand, of the prompts alone; and the same on both sides."""
    left, right = (pooled(Prompts(model_of(side, pad), form)) for side in SIDES)
    model = model_of("left", pad)
    for name in left.keys() - {"noise"}:  # each place has its own
        assert_close(left[name], right[name], 1e-9)
    caches = [[model.run_with_cache(text)[1] for text in texts] for texts in (TEXTS, OTHERS)]
    values = torch.cat([cache["mlp_out", 0][0, 1:] for cache in caches[0]])  # a BOS does not count
    assert_close(left["mean blocks.0.hook_mlp_out"], values.mean(0), 1e-9)
    ends = [torch.stack([cache["resid_pre", 1][0, -1] for cache in some]).mean(0) for some in caches]
    assert_close(left["vector"], ends[0] - ends[1], 1e-9)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("cached", [True, False])
def test_a_call_says_whether_rows_begin_with_a_bos(cached: bool, bos: bool) -> None:
    """With one token for BOS and padding, in a batch in which no row is whole."""
    model = model_of("left", "shared", bos=not bos)
    tokens = F.pad(model.to_tokens(TEXTS, prepend_bos=bos), (2, 0), value=0)
    options: dict[str, Any] = dict(prepend_bos=bos)
    together = model(tokens, **options)
    written = model.generate(tokens, 3, do_sample=False, verbose=False, use_past_kv_cache=cached, **options)
    for row, text in enumerate(TEXTS):
        own = model.to_tokens(text, prepend_bos=bos)
        assert_close(together[row, -own.shape[1] :][None], model(own, attention_mask=torch.ones_like(own)), 1e-9)
        alone = model.generate(text, 3, do_sample=False, verbose=False, return_type="tokens", prepend_bos=bos)
        assert torch.equal(written[row, -3:], alone[0, -3:])


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
@pytest.mark.parametrize("side", SIDES)
def test_padding_of_ids_is_huggingfaces_with_a_mask(side: str, name: str) -> None:
    hf = shared_hf(name)
    model = HookedTransformer.from_pretrained_no_processing(
        "tiny", hf_model=hf, tokenizer=word_tokenizer(*WORDS), default_padding_side=side, dtype=hf.dtype
    )
    tokens = model.to_tokens(TEXTS)
    real = Prompts(model, "ids").real(TEXTS)
    theirs = hf_logits(hf, tokens, attention_mask=real.long(), position_ids=(real.cumsum(1) - 1).clamp(min=0))
    ours = model(tokens)
    assert_close(ours[real], theirs[real], 1e-4)
    labels = tokens.masked_fill(~real, -100)
    losses = F.cross_entropy(theirs[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
    counted = real[:, :-1] & real[:, 1:]
    assert_close(model(tokens, return_type="loss"), losses[counted].mean(), 1e-4)


@pytest.mark.parametrize("side", SIDES)
def test_an_encoder_does_not_attend_to_padding_of_ids(side: str) -> None:
    """It sees what stands behind a token, so that padding on the right changes its logits."""
    config = BertConfig(
        vocab_size=61,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=32,
    )
    hf = BertForMaskedLM(config).eval()
    redraw(hf)
    tokenizer = word_tokenizer(*WORDS)
    tokenizer.pad_token = "</s>"
    model = HookedTransformer.from_pretrained_no_processing("tiny", hf_model=hf, tokenizer=tokenizer)
    pad, row = tokenizer.pad_token_id, torch.tensor([7, 8, 9, 10, 11])
    short = row[:2]
    padded = F.pad(short, (3, 0) if side == "left" else (0, 3), value=pad)
    tokens = torch.stack((row, padded))
    real = (tokens != pad).long()
    positions = (real.cumsum(1) - 1).clamp(min=0)
    theirs = hf_logits(hf, tokens, attention_mask=real, position_ids=positions)
    assert_close(model(tokens)[real.bool()], theirs[real.bool()], 1e-4)
    assert_close(model(tokens)[1][real[1].bool()], model(short[None])[0], 1e-4)
    _, cache = model.run_with_cache(tokens, pos_slice=-1)
    assert_close(cache["resid_post", 1][1, 0], model.run_with_cache(short[None])[1]["resid_post", 1][0, -1], 1e-4)
