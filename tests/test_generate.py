"""Greedy decoding is a loop of full passes, whatever it saves on the way."""

from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, HookPoint
from interp_hooks.errors import BadInput, NoTokenizer, TokenError
from tests.tiny import assert_close, build, hooked, random_tokens, unchecked_types

# Attention over the same keys in another kernel: sums of a dozen float64 numbers in another order.
EXACT = 1e-11

TOKENS = random_tokens(batch=3, pos=4, d_vocab=19)
REAL = torch.arange(4) >= torch.tensor([0, 2, 1])[:, None]
CAUSAL = ["gpt2", "neox", "llama", "alibi-windows", "sinks-capped", "output-norms", "shared-norm", "experts", "latent"]


@pytest.fixture(scope="module")
def bundled() -> HookedTransformer:
    return HookedTransformer.from_pretrained("ioi-tiny")


@torch.no_grad()
def by_hand(model: HookedTransformer, tokens: Tensor, steps: int, real: Tensor | None = None) -> Tensor:
    """The most likely token of a full pass, `steps` times."""
    for _ in range(steps):
        chosen = model(tokens, attention_mask=real)[:, -1].argmax(-1)
        tokens = torch.cat((tokens, chosen[:, None]), dim=1)
        real = None if real is None else torch.cat((real, torch.ones(len(real), 1, dtype=torch.bool)), dim=1)
    return tokens


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("real", [None, REAL], ids=["whole", "padded"])
@pytest.mark.parametrize("architecture", CAUSAL)
def test_it_is_a_loop_of_full_passes(architecture: str, real: Tensor | None, use_cache: bool) -> None:
    """The same tokens, from the same logits."""
    model, logits = hooked(architecture), []
    with model.hooks([("unembed.hook_out", lambda value, hook: logits.append(value))]):
        generated = model.generate(TOKENS, 5, attention_mask=real, use_past_kv_cache=use_cache)
    assert torch.equal(generated, by_hand(model, TOKENS, 5, real))
    mask = None if real is None else torch.cat((real, torch.ones(3, 5, dtype=torch.bool)), dim=1)
    with torch.no_grad():
        expected = model(generated, attention_mask=mask)[:, 3:-1]
    assert_close(torch.cat(logits, dim=1), expected, EXACT)


def test_one_row_without_batch_axis_is_one_row() -> None:
    model = hooked("gpt2")
    assert torch.equal(model.generate(TOKENS[0], 3), model.generate(TOKENS[:1], 3))


def test_nothing_is_differentiated() -> None:
    seen: list[bool] = []
    with hooked("gpt2").hooks([("hook_embed", lambda value, hook: seen.append(value.requires_grad))]):
        hooked("gpt2").generate(TOKENS, 2)
    assert seen == [False, False]


# ---------------------------------------------------------------------------------------------------------------- text

PROMPTS = ["When Mary and John went to the store, John gave a drink to", "John and Mary", "Then, Anna"]


def test_texts_of_different_lengths_are_continued_as_each_alone(bundled: HookedTransformer) -> None:
    together = bundled.generate(PROMPTS, 6)
    assert isinstance(together, list)
    assert together == [bundled.generate(prompt, 6) for prompt in PROMPTS]
    for prompt, text in zip(PROMPTS, together, strict=True):
        assert prompt in text
        assert len(text) > len(prompt)


def test_the_return_type(bundled: HookedTransformer) -> None:
    """A string gives a string, a list a list, tokens tokens; and each can be asked for."""
    prompt = PROMPTS[0]
    tokens = bundled.to_tokens(prompt)
    text, continued = bundled.generate(prompt, 3), bundled.generate(tokens, 3)
    assert isinstance(text, str)
    assert isinstance(continued, Tensor)
    assert torch.equal(bundled.generate(prompt, 3, return_type="tokens"), continued)
    assert bundled.generate(tokens, 3, return_type="str") == [text]
    assert bundled.generate([prompt], 3) == [text]
    assert bundled.generate([prompt], 3, return_type="str") == [text]
    assert text == bundled.to_string(continued[0])


def test_prepend_bos(bundled: HookedTransformer) -> None:
    for prepend in (True, False):
        generated = bundled.generate(PROMPTS[1], 2, prepend_bos=prepend, return_type="tokens")
        prompt = bundled.to_tokens(PROMPTS[1], prepend_bos=prepend)
        assert torch.equal(generated, by_hand(bundled, prompt, generated.shape[1] - prompt.shape[1]))


def test_text_needs_a_tokenizer() -> None:
    with pytest.raises(NoTokenizer):
        hooked("gpt2").generate("hello", 2)
    with pytest.raises(NoTokenizer):
        hooked("gpt2").generate(TOKENS, 2, return_type="str")


def test_no_texts_at_all(bundled: HookedTransformer) -> None:
    with pytest.raises(TokenError, match="at least one string"):
        bundled.generate([], 2)


# ----------------------------------------------------------------------------------------------------------------- end


def ended(free: Tensor, prompt: int, ends: list[int]) -> Tensor:
    """What a free run becomes if these tokens end a row: filled with the first of them, cut where all have ended."""
    rows, cut = free.clone(), prompt
    for row in rows:
        places = [place for place in range(prompt, len(row)) if int(row[place]) in ends]
        first = places[0] if places else len(row) - 1
        row[first + 1 :] = ends[0]
        cut = max(cut, first + 1)
    return rows[:, :cut]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("kind", ["int", "list", "unused"])
def test_an_end_fills_its_row_and_the_last_end_stops(kind: str, use_cache: bool) -> None:
    model = hooked("llama")  # the others' random weights say the same token again and again
    free = by_hand(model, TOKENS, 8)
    second = [int(row[5]) for row in free]  # what each row says second: then all have ended after two steps at most
    assert len({*second}) == 3
    unused = next(token for token in range(61) if not bool((free == token).any()))
    eos: Any = {"int": second[0], "list": second, "unused": unused}[kind]
    ends = eos if isinstance(eos, list) else [eos]
    expected = ended(free, 4, ends)
    assert torch.equal(model.generate(TOKENS, 8, eos_token_id=eos, use_past_kv_cache=use_cache), expected)
    assert (expected.shape[1] < free.shape[1]) == (kind == "list"), "there is something to stop early"
    assert torch.equal(model.generate(TOKENS, 8, stop_at_eos=False, eos_token_id=eos), free)


def test_the_end_is_the_tokenizers_own(bundled: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = bundled.to_tokens(PROMPTS[0])
    free = bundled.generate(prompt, 5, stop_at_eos=False)
    third = int(free[0, prompt.shape[1] + 2])
    monkeypatch.setattr(type(bundled.text), "eos_id", property(lambda text: third))
    assert torch.equal(bundled.generate(prompt, 5), ended(free, prompt.shape[1], [third]))


def test_without_tokenizer_nothing_ends_a_row() -> None:
    model = hooked("gpt2")
    assert model.generate(TOKENS, 7).shape == (3, 11)


# --------------------------------------------------------------------------------------------------------------- hooks


@pytest.mark.parametrize(("use_cache", "lengths"), [(True, [4, 1, 1, 1]), (False, [4, 5, 6, 7])])
def test_hooks_fire_at_every_step_and_one_row_is_unembedded(use_cache: bool, lengths: list[int]) -> None:
    seen: dict[str, list[int]] = {"blocks.1.attn.hook_q": [], "unembed.hook_out": []}

    def note(value: Tensor, hook: HookPoint) -> None:
        seen[hook.name].append(value.shape[1])

    with hooked("neox").hooks([(name, note) for name in seen]):
        hooked("neox").generate(TOKENS, 4, use_past_kv_cache=use_cache)
    assert seen == {"blocks.1.attn.hook_q": lengths, "unembed.hook_out": [1, 1, 1, 1]}


def test_an_edit_changes_what_is_generated() -> None:
    """One that forbids the likeliest token gives the second; the one that is edited is what is read next."""
    model = hooked("gpt2")
    free = model.generate(TOKENS[:1], 4)
    first = int(free[0, 4])

    def forbid(value: Tensor, hook: HookPoint) -> None:
        value[..., first] = -torch.inf

    with model.hooks([("unembed.hook_out", forbid)]):
        edited = model.generate(TOKENS[:1], 4)
    assert first not in edited[0, 4:]
    with torch.no_grad():
        assert int(edited[0, 4]) == int(model(TOKENS[:1])[0, -1].topk(2).indices[1])


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(max_new_tokens=0), "max_new_tokens must be at least 1, got 0"),
        (dict(max_new_tokens=-1), "max_new_tokens must be at least 1, got -1"),
        (dict(max_new_tokens=6), "4 tokens and 6 new ones do not fit into this model's n_ctx=9"),
        (dict(attention_mask=REAL.flip(1)), "pad on the left"),
        (dict(attention_mask=torch.ones(3, 5)), r"attention_mask must be \[batch, pos\] = \[3, 4\], got \[3, 5\]"),
        (dict(attention_mask=torch.ones(4)), r"attention_mask must be \[batch, pos\] = \[3, 4\], got \[4\]"),
        (dict(return_type="strings"), "return_type must be 'input', 'str' or 'tokens', got 'strings'"),
        (dict(input=TOKENS.float()), "integer tensor of token ids"),
        (dict(input=TOKENS + 23), r"token ids must be 0\.\.22"),
        (dict(input=TOKENS[:, :0]), "at least one token"),
    ],
    ids=str,
)
def test_mistakes_are_told_before_anything_is_computed(options: dict[str, Any], said: str) -> None:
    model, passes = build(), []
    model.add_hook("blocks.0.hook_resid_pre", lambda value, hook: passes.append(hook.name))
    arguments = dict(input=TOKENS, max_new_tokens=2) | options
    with unchecked_types(), pytest.raises(BadInput, match=said):
        model.generate(**arguments)
    assert not passes


@pytest.mark.parametrize("architecture", ["bidirectional", "post-norm"])
def test_a_model_that_reads_both_ways_generates_nothing(architecture: str) -> None:
    with pytest.raises(BadInput, match="generate needs a causal model"):
        hooked(architecture).generate(TOKENS, 2)


def test_the_context_may_be_filled_to_the_end() -> None:
    assert hooked("folded").generate(TOKENS, 5).shape == (3, 9)
