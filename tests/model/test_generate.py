"""Decoding is a loop of full passes and draws, whatever it saves on the way."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from interp_hooks import HookedTransformer, HookPoint, KeyValueCache
from interp_hooks.errors import BadInput, NoTokenizer, TokenError
from interp_hooks.model.sampling import Sampling
from interp_hooks.model.tokenization import TextInterface
from tests.tiny import CUSTOM, assert_close, build, convert, hooked, random_tokens, shared_hf, unchecked_types

# Attention over the same keys in another kernel: sums of a dozen float64 numbers in another order.
EXACT = 1e-11

TOKENS = random_tokens(batch=3, pos=4, d_vocab=19)
REAL = torch.arange(4) >= torch.tensor([0, 2, 1])[:, None]
CAUSAL = ["gpt2", "neox", "llama", "alibi-windows", "sinks-capped", "output-norms", "shared-norm", "experts", "latent"]


@pytest.fixture(scope="module")
def bundled() -> HookedTransformer:
    return HookedTransformer.from_pretrained("ioi-tiny")


def greedy(model: HookedTransformer, *args: Any, **options: Any) -> Any:
    return model.generate(*args, do_sample=False, verbose=False, **options)


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
        generated = greedy(model, TOKENS, 5, attention_mask=real, use_past_kv_cache=use_cache)
    assert torch.equal(generated, by_hand(model, TOKENS, 5, real))
    mask = None if real is None else torch.cat((real, torch.ones(3, 5, dtype=torch.bool)), dim=1)
    with torch.no_grad():
        expected = model(generated, attention_mask=mask)[:, 3:-1]
    assert_close(torch.cat(logits, dim=1), expected, EXACT)


def test_one_row_without_batch_axis_is_one_row() -> None:
    model = hooked("gpt2")
    assert torch.equal(greedy(model, TOKENS[0], 3), greedy(model, TOKENS[:1], 3))


def test_nothing_is_differentiated() -> None:
    seen: list[bool] = []
    with hooked("gpt2").hooks([("hook_embed", lambda value, hook: seen.append(value.requires_grad))]):
        greedy(hooked("gpt2"), TOKENS, 2)
    assert seen == [False, False]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_greedy_decoding_is_huggingface_s(name: str, padded: bool, use_cache: bool) -> None:
    """Token for token."""
    hf: Any = shared_hf(name)
    prompts = random_tokens(batch=3, pos=4)
    real = REAL if padded else torch.ones_like(REAL)
    theirs = hf.generate(prompts, attention_mask=real.long(), max_new_tokens=9, do_sample=False, eos_token_id=None)
    model = convert(hf)
    for sampling in (dict(do_sample=False), dict(temperature=0.0), dict(top_k=1)):
        ours = model.generate(
            prompts, 9, stop_at_eos=False, attention_mask=real, use_past_kv_cache=use_cache, verbose=False, **sampling
        )
        assert torch.equal(ours, theirs)


# ------------------------------------------------------------------------------------------------------------- sampling


@torch.no_grad()
def drawn_by_hand(model: HookedTransformer, steps: int, real: Tensor | None, generator: torch.Generator) -> Tensor:
    """Full passes; temperature 2, every earlier token lowered by 0.3 for each time, then the 5 most likely."""
    tokens, given = TOKENS, TOKENS.shape[1]
    for step in range(steps):
        mask = None if real is None else torch.cat((real, torch.ones(3, step, dtype=torch.bool)), dim=1)
        scores = model(tokens, attention_mask=mask)[:, -1] / 2
        for row, ids in enumerate(tokens.tolist()):
            padding = 0 if real is None else given - int(real[row].sum())
            for token in ids[padding:]:
                scores[row, token] -= 0.3
        fifth = scores.sort(dim=-1, descending=True).values[:, 4:5]
        probabilities = torch.where(scores >= fifth, scores, -torch.inf).float().softmax(-1)
        tokens = torch.cat((tokens, torch.multinomial(probabilities, 1, generator=generator)), dim=1)
    return tokens


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("real", [None, REAL], ids=["whole", "padded"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "alibi-windows", "latent"])
def test_sampling_is_a_loop_of_full_passes_and_draws(architecture: str, real: Tensor | None, use_cache: bool) -> None:
    model = hooked(architecture)
    ours = model.generate(
        TOKENS,
        5,
        top_k=5,
        temperature=2.0,
        freq_penalty=0.3,
        attention_mask=real,
        use_past_kv_cache=use_cache,
        verbose=False,
        generator=torch.Generator().manual_seed(1),
    )
    assert torch.equal(ours, drawn_by_hand(model, 5, real, torch.Generator().manual_seed(1)))


def test_sampling_is_the_default_and_draws_from_the_global_generator() -> None:
    model = hooked("gpt2")

    def seeded(seed: int, **options: Any) -> list[list[int]]:
        torch.manual_seed(seed)
        return model.generate(TOKENS, 8, verbose=False, **options).tolist()

    assert seeded(1) == seeded(1)
    assert seeded(1) == seeded(2, generator=torch.Generator().manual_seed(1))
    assert seeded(1) != seeded(2)


def test_the_logits_of_every_step_are_given_on_request() -> None:
    """As the model gave them, whatever was made of them for the draw."""
    model = hooked("llama")
    output = model.generate(TOKENS, 4, temperature=0.5, top_k=3, verbose=False, output_logits=True)
    assert output.sequences.shape == (3, 8)
    with torch.no_grad():
        full = model(output.sequences)
    assert_close(torch.stack(output.logits, dim=1), full[:, 3:-1], EXACT)
    bare = greedy(model, TOKENS, 4, return_dict_in_generate=True)
    assert bare.logits is None
    assert torch.equal(bare.sequences, greedy(model, TOKENS, 4))


# --------------------------------------------------------------------------------------------------------------- pieces


def streamed(model: HookedTransformer, *args: Any, **options: Any) -> list[Any]:
    return list(model.generate_stream(*args, do_sample=False, verbose=False, **options))


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(
    ("most", "lengths"), [(1, [5, 1, 1, 1, 1]), (2, [5, 2, 2]), (5, [5, 4]), (6, [6, 3]), (9, [9]), (25, [9])]
)
def test_pieces_are_what_is_generated(most: int, lengths: list[int], use_cache: bool) -> None:
    """The prompt comes with the first, and counts."""
    pieces = streamed(hooked("llama"), TOKENS, 5, most, use_past_kv_cache=use_cache)
    assert [piece.shape[1] for piece in pieces] == lengths
    assert torch.equal(torch.cat(pieces, dim=1), greedy(hooked("llama"), TOKENS, 5))


def test_the_last_piece_is_where_all_rows_have_ended() -> None:
    model = hooked("llama")
    second = [int(row[5]) for row in by_hand(model, TOKENS, 8)]
    for most in (1, 3, 25):
        pieces = torch.cat(streamed(model, TOKENS, 5, most, eos_token_id=second), dim=1)
        assert torch.equal(pieces, greedy(model, TOKENS, 5, eos_token_id=second))
        assert pieces.shape[1] == 6


def test_pieces_come_while_the_model_goes_on() -> None:
    """Nothing is computed before it is asked for, hooks of the moment fire, and gradients are off only within."""
    model, seen = hooked("neox"), []
    pieces = model.generate_stream(TOKENS, 5, 1, verbose=False)

    def note(value: Tensor, hook: HookPoint) -> None:
        seen.append((value.shape[1], value.requires_grad))

    next(pieces)
    assert torch.is_grad_enabled()
    with model.hooks([("hook_embed", note)]):
        next(pieces)
    next(pieces)
    assert seen == [(1, False)]
    pieces.close()


@pytest.mark.parametrize("most", [1, 2, 25])
def test_pieces_of_text(bundled: HookedTransformer, most: int) -> None:
    (alone,) = [streamed(bundled, PROMPTS[0], 6, most, return_type="str")]
    assert "".join(alone) == greedy(bundled, PROMPTS[0], 6)
    lists = streamed(bundled, PROMPTS, 6, most, return_type="str")
    assert ["".join(pieces) for pieces in zip(*lists, strict=True)] == greedy(bundled, PROMPTS, 6)
    ids = torch.cat(streamed(bundled, PROMPTS[0], 6, most), dim=1)
    assert torch.equal(ids, greedy(bundled, PROMPTS[0], 6, return_type="tokens"))


def test_half_a_character_waits_for_the_rest(bundled: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose other half never comes is told at the end."""
    text = "café naïve"
    ids = bundled.tokenizer.encode(text)
    assert any("\ufffd" in bundled.tokenizer.decode([id]) for id in ids), "characters of several tokens"
    forced = iter([*ids, ids[next(i for i, id in enumerate(ids) if "\ufffd" in bundled.tokenizer.decode([id]))]])
    monkeypatch.setattr(Sampling, "draw", lambda rule, logits, counts, generator: torch.tensor([next(forced)]))
    pieces = streamed(bundled, "a", len(ids) + 1, 1, return_type="str", stop_at_eos=False)
    assert "".join(pieces) == f"a{text}\ufffd"
    assert not any("\ufffd" in piece for piece in pieces[:-1])
    assert "" in pieces


def test_a_bar_shows_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    hooked("gpt2").generate(TOKENS, 5, verbose=False)
    assert capsys.readouterr().err == ""
    hooked("gpt2").generate(TOKENS, 5)
    assert "5/5" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------- text

PROMPTS = ["When Mary and John went to the store, John gave a drink to", "John and Mary", "Then, Anna"]


def test_texts_of_different_lengths_are_continued_as_each_alone(bundled: HookedTransformer) -> None:
    together = greedy(bundled, PROMPTS, 6)
    assert isinstance(together, list)
    assert together == [greedy(bundled, prompt, 6) for prompt in PROMPTS]
    for prompt, text in zip(PROMPTS, together, strict=True):
        assert prompt in text
        assert len(text) > len(prompt)


def test_the_return_type(bundled: HookedTransformer) -> None:
    """A string gives a string, a list a list, tokens tokens; and each can be asked for."""
    prompt = PROMPTS[0]
    tokens = bundled.to_tokens(prompt)
    text, continued = greedy(bundled, prompt, 3), greedy(bundled, tokens, 3)
    assert isinstance(text, str)
    assert isinstance(continued, Tensor)
    assert torch.equal(greedy(bundled, prompt, 3, return_type="tokens"), continued)
    assert greedy(bundled, tokens, 3, return_type="str") == text
    assert greedy(bundled, tokens.repeat(2, 1), 3, return_type="str") == [text, text]
    assert greedy(bundled, [prompt], 3) == [text]
    assert greedy(bundled, [prompt], 3, return_type="str") == [text]
    assert f"<|endoftext|>{text}" == bundled.to_string(continued[0]), "special tokens are left out"


def test_a_text_ends_with_its_row(bundled: HookedTransformer) -> None:
    """However long the others go on."""
    free = greedy(bundled, PROMPTS[:2], 6, stop_at_eos=False, return_type="tokens")
    new = free[:, -6:].tolist()
    place = next(place for place, token in enumerate(new[0]) if token not in new[1])
    assert place < 5, "the second row goes on for longer"
    together = greedy(bundled, PROMPTS[:2], 6, eos_token_id=new[0][place])
    written = [bundled.to_string(new[0][: place + 1]), bundled.to_string(new[1])]
    assert together == [f"{prompt}{text}" for prompt, text in zip(PROMPTS, written, strict=False)]


def test_prepend_bos(bundled: HookedTransformer) -> None:
    for prepend in (True, False):
        generated = greedy(bundled, PROMPTS[1], 2, prepend_bos=prepend, return_type="tokens")
        prompt = bundled.to_tokens(PROMPTS[1], prepend_bos=prepend)
        assert torch.equal(generated, by_hand(bundled, prompt, generated.shape[1] - prompt.shape[1]))
    assert greedy(bundled, max_new_tokens=3) == bundled.to_string(by_hand(bundled, bundled.to_tokens(""), 3)[0, 1:])


def test_text_needs_a_tokenizer() -> None:
    with pytest.raises(NoTokenizer):
        greedy(hooked("gpt2"), "hello", 2)
    with pytest.raises(NoTokenizer):
        greedy(hooked("gpt2"), TOKENS, 2, return_type="str")


def test_no_texts_at_all(bundled: HookedTransformer) -> None:
    with pytest.raises(TokenError, match="at least one string"):
        greedy(bundled, [], 2)


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
    assert torch.equal(greedy(model, TOKENS, 8, eos_token_id=eos, use_past_kv_cache=use_cache), expected)
    assert (expected.shape[1] < free.shape[1]) == (kind == "list"), "there is something to stop early"
    assert torch.equal(greedy(model, TOKENS, 8, stop_at_eos=False, eos_token_id=eos), free)


def test_the_end_is_the_tokenizers_own(bundled: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = bundled.to_tokens(PROMPTS[0])
    free = greedy(bundled, prompt, 5, stop_at_eos=False)
    third = int(free[0, prompt.shape[1] + 2])
    monkeypatch.setattr(type(bundled.text), "eos_id", property(lambda text: third))
    assert torch.equal(greedy(bundled, prompt, 5), ended(free, prompt.shape[1], [third]))


def test_without_tokenizer_nothing_ends_a_row() -> None:
    model = hooked("gpt2")
    assert greedy(model, TOKENS, 7).shape == (3, 11)


# --------------------------------------------------------------------------------------------------------------- hooks


@pytest.mark.parametrize(("use_cache", "lengths"), [(True, [4, 1, 1, 1]), (False, [4, 5, 6, 7])])
def test_hooks_fire_at_every_step_and_one_row_is_unembedded(use_cache: bool, lengths: list[int]) -> None:
    seen: dict[str, list[int]] = {"blocks.1.attn.hook_q": [], "unembed.hook_out": []}

    def note(value: Tensor, hook: HookPoint) -> None:
        seen[hook.name].append(value.shape[1])

    with hooked("neox").hooks([(name, note) for name in seen]):
        greedy(hooked("neox"), TOKENS, 4, use_past_kv_cache=use_cache)
    assert seen == {"blocks.1.attn.hook_q": lengths, "unembed.hook_out": [1, 1, 1, 1]}


def test_an_edit_changes_what_is_generated() -> None:
    """One that forbids the likeliest token gives the second; the one that is edited is what is read next."""
    model = hooked("gpt2")
    free = greedy(model, TOKENS[:1], 4)
    first = int(free[0, 4])

    def forbid(value: Tensor, hook: HookPoint) -> None:
        value[..., first] = -torch.inf

    with model.hooks([("unembed.hook_out", forbid)]):
        edited = greedy(model, TOKENS[:1], 4)
    assert first not in edited[0, 4:]
    with torch.no_grad():
        assert int(edited[0, 4]) == int(model(TOKENS[:1])[0, -1].topk(2).indices[1])


# ---------------------------------------------------------------------------------------------------------------- cost


class Copied(TorchDispatchMode):
    """Counts the numbers that operations copy."""

    OPERATIONS = frozenset({"copy_", "cat", "clone", "_to_copy", "repeat", "stack", "index_select", "gather"})

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in self.OPERATIONS:
            self.numbers += result.numel()
        return result


def copied(pieces: Iterator[Tensor]) -> int:
    """How many numbers the next step copies."""
    with Copied() as count:
        next(pieces)
    return count.numbers


def check_steps_copy_alike(architecture: str) -> None:
    """No step copies more than the first plus one layer's keys of 50 tokens: no keys but its own, perhaps a mask."""
    model = build(**CUSTOM.get(architecture, {}) | dict(n_ctx=80))
    pieces = model.generate_stream(TOKENS, 52, 1, verbose=False)
    next(pieces)
    numbers = [copied(pieces) for _ in range(51)]
    assert numbers[0] > 0, "the new keys, at least"
    assert max(numbers) - numbers[0] < 50 * len(TOKENS) * model.cfg.n_key_value_heads * model.cfg.d_head


@pytest.mark.parametrize("architecture", ["gpt2", "shared-norm", "output-norms", "alibi-windows"])
def test_a_step_copies_no_more_the_longer_the_text(architecture: str) -> None:
    check_steps_copy_alike(architecture)


@pytest.mark.parametrize("kind", ["cat", "no room", "room by doubling"])
def test_a_cache_that_is_copied_is_noticed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutants for the check above."""
    if kind == "cat":
        monkeypatch.setattr(torch, "is_grad_enabled", lambda: True)
    elif kind == "room by doubling":
        monkeypatch.setattr("interp_hooks.model.generate.KeyValueCache", lambda room: KeyValueCache())
    else:
        right = KeyValueCache.extend

        def extend(cache: KeyValueCache, layer: int, keys: Tensor, values: Tensor) -> Any:
            if cache.length:
                cache._layers[layer] = tuple(tensor.clone() for tensor in cache.at(layer))
            return right(cache, layer, keys, values)

        monkeypatch.setattr(KeyValueCache, "extend", extend)
    with pytest.raises(AssertionError):
        check_steps_copy_alike("gpt2")


def test_keys_are_rotated_once_and_stay_where_they_are() -> None:
    model, rotated, places = hooked("neox"), [], []
    cache = KeyValueCache(capacity=9)

    def note(value: Tensor, hook: HookPoint) -> None:
        rotated.append(value.shape[1])

    with torch.no_grad(), model.hooks([("blocks.1.attn.hook_rot_k", note)]):
        for part in TOKENS.repeat(1, 2).split((4, 1, 1, 1, 1), dim=1):
            model(part, past_kv_cache=cache)
            places.append([tensor.data_ptr() for tensor in cache.at(1)])
    assert rotated == [4, 1, 1, 1, 1]
    assert all(place == places[0] for place in places)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("real", [None, REAL], ids=["whole", "padded"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_half_precision(architecture: str, real: Tensor | None, dtype: torch.dtype) -> None:
    """What is read from the cache is in the model's dtype, and means what a full pass means."""
    model = convert(shared_hf(architecture), dtype=dtype)
    output = greedy(model, TOKENS, 5, attention_mask=real, output_logits=True)
    mask = None if real is None else torch.cat((real, torch.ones(3, 5, dtype=torch.bool)), dim=1)
    with torch.no_grad():
        full = model(output.sequences, attention_mask=mask)[:, 3:-1]
    assert output.logits[0].dtype == dtype
    assert_close(torch.stack(output.logits, dim=1), full, 8 * torch.finfo(dtype).eps)


# --------------------------------------------------------------------------------------------------- the cache's own


@pytest.mark.parametrize("real", [None, REAL], ids=["whole", "padded"])
def test_an_empty_cache_for_some_prompts(real: Tensor | None) -> None:
    model = hooked("llama")
    cache = KeyValueCache.init_cache(model.cfg, model.device, batch_size=3)
    with torch.no_grad():
        model(TOKENS[:, :3], past_kv_cache=cache, attention_mask=None if real is None else real[:, :3])
        last = model(TOKENS[:, 3:], past_kv_cache=cache)
        assert_close(last, model(TOKENS, attention_mask=real)[:, 3:], EXACT)


def test_a_cache_for_other_prompts_is_refused() -> None:
    model = hooked("llama")
    cache = KeyValueCache.init_cache(model.cfg, model.device)
    with pytest.raises(BadInput, match="holds 1 prompts, got 3"):
        model(TOKENS, past_kv_cache=cache)
    with pytest.raises(BadInput, match="needs a causal model"):
        KeyValueCache.init_cache(hooked("bidirectional").cfg)


def test_a_cache_in_another_dtype_is_refused() -> None:
    model, cache = build(), KeyValueCache()
    with torch.no_grad():
        model(TOKENS[:, :3], past_kv_cache=cache)
        with pytest.raises(BadInput, match=r"holds torch.float64, but this model computes in torch.bfloat16"):
            model.to(torch.bfloat16)(TOKENS[:, 3:], past_kv_cache=cache)


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
        (dict(input=TOKENS.float()), "input must be text, a list of text or a tensor"),
        (dict(input=TOKENS + 23), r"token ids must be 0\.\.22"),
        (dict(input=TOKENS[:, :0]), "at least one token"),
        (dict(top_k=0), "top_k must be at least 1, got 0"),
        (dict(temperature=-0.5), "temperature must be finite and at least 0, got -0.5"),
        (dict(freq_penalty=0.5), "greedy decoding .* would ignore it"),
    ],
    ids=str,
)
def test_mistakes_are_told_before_anything_is_computed(options: dict[str, Any], said: str) -> None:
    model, passes = build(), []
    model.add_hook("blocks.0.hook_resid_pre", lambda value, hook: passes.append(hook.name))
    arguments = dict(input=TOKENS, max_new_tokens=2) | options
    with unchecked_types(), pytest.raises(BadInput, match=said):
        greedy(model, **arguments)
    with unchecked_types(), pytest.raises(BadInput, match=said):
        model.generate_stream(**arguments, do_sample=False, verbose=False)
    assert not passes


def test_padding_on_the_right_is_refused(bundled: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in token ids."""
    with pytest.raises(BadInput, match="pad on the left"):
        greedy(bundled, PROMPTS, 2, padding_side="right")
    assert isinstance(greedy(bundled, PROMPTS[:1], 2, padding_side="right"), list)
    prompts = bundled.to_tokens(PROMPTS)
    with pytest.raises(BadInput, match="pad on the left; if these are text, say so by padding_side='left'"):
        greedy(bundled, prompts, 2)
    text = greedy(bundled, prompts, 2, padding_side="left")
    assert torch.equal(text, by_hand(bundled, prompts, 2, torch.ones_like(prompts, dtype=torch.bool)))
    tokenizer = copy.deepcopy(bundled.tokenizer)
    assert tokenizer is not None
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(7)
    monkeypatch.setattr(bundled, "_text", TextInterface(tokenizer, bundled.cfg.n_ctx))
    with pytest.raises(BadInput, match="pad on the left"):
        greedy(bundled, bundled.to_tokens(PROMPTS), 2)
    left = bundled.to_tokens(PROMPTS, padding_side="left")
    assert greedy(bundled, left, 4, return_type="str") == greedy(bundled, PROMPTS, 4)
    assert torch.equal(greedy(bundled, left, 4, padding_side="right"), greedy(bundled, left, 4)), "it is only padding"
    literal = greedy(bundled, left, 4, attention_mask=torch.ones_like(left))
    assert torch.equal(literal, by_hand(bundled, left, 4, torch.ones_like(left, dtype=torch.bool)))


def test_a_bad_length_of_pieces_is_refused() -> None:
    with pytest.raises(BadInput, match="max_tokens_per_yield must be at least 1, got 0"):
        hooked("gpt2").generate_stream(TOKENS, 2, 0)
    with pytest.raises(NoTokenizer):
        hooked("gpt2").generate_stream(TOKENS, 2, return_type="str")


@pytest.mark.parametrize("architecture", ["bidirectional", "post-norm"])
def test_a_model_that_reads_both_ways_generates_nothing(architecture: str) -> None:
    with pytest.raises(BadInput, match="generate needs a causal model"):
        greedy(hooked(architecture), TOKENS, 2)


def test_the_context_may_be_filled_to_the_end() -> None:
    assert greedy(hooked("folded"), TOKENS, 5).shape == (3, 9)
