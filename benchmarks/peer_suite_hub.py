"""A HuggingFace cache of tiny random models and of tokenizers, under the names that `peer_suite.py`'s tests ask for."""

import json
import os
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from transformers import AutoTokenizer, PreTrainedTokenizerBase

GPT2_TOKENIZER = Path(__file__).parents[2] / "shared" / "tokenizers" / "gpt2"
COMMIT = "0" * 40
GPT2 = dict(n_embd=48, n_head=12, n_positions=1024, n_ctx=1024, vocab_size=50257)
NEOX = dict(hidden_size=32, num_attention_heads=4, intermediate_size=64, max_position_embeddings=2048, vocab_size=50304)
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz",
    *"ABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?'",
]
WORDS += [f"##{letter}" for letter in WORDS[5:]] + ["The", "the", "sun", "rises", "in", "east", "is", "of", "capital"]
SOLU = dict(d_model=64, d_head=16, n_heads=4, n_ctx=1024, d_vocab=50257, act_fn="solu_ln", attn_only=False, d_mlp=256)


def fill(home: Path, std: float | None = None) -> None:
    """Write the cache; everything in it is random but the tokenizers.

    With `std`, HuggingFace's models have weights of that size, which say more than those that training begins with.
    """
    torch.manual_seed(0)
    bpe = AutoTokenizer.from_pretrained(GPT2_TOKENIZER)
    bert = hf.BertTokenizer(vocab={word: id for id, word in enumerate(WORDS)}, do_lower_case=False)
    special = dict(bos_token="</s>", eos_token="</s>", pad_token="<pad>", add_bos_token=True)
    opt = AutoTokenizer.from_pretrained(GPT2_TOKENIZER, **special)
    for name, config in {
        "gpt2": hf.GPT2Config(n_layer=12, **GPT2),
        "openai-community/gpt2": hf.GPT2Config(n_layer=12, **GPT2),
        "distilgpt2": hf.GPT2Config(n_layer=6, **GPT2),
        "distilbert/distilgpt2": hf.GPT2Config(n_layer=6, **GPT2),
        "gpt2-medium": hf.GPT2Config(n_layer=24, **GPT2),
        "openai-community/gpt2-medium": hf.GPT2Config(n_layer=24, **GPT2),
        "sshleifer/tiny-gpt2": hf.GPT2Config(n_layer=2, **GPT2),
        "EleutherAI/pythia-14m": hf.GPTNeoXConfig(num_hidden_layers=6, **NEOX),
        "EleutherAI/pythia-70m": hf.GPTNeoXConfig(num_hidden_layers=6, **NEOX),
        "EleutherAI/gpt-neox-20b": None,
        "NeelNanda/gpt-neox-tokenizer-digits": None,
        "roneneldan/TinyStories-1M": _neo(8),
        "roneneldan/TinyStories-33M": _neo(4),
    }.items():
        torch.manual_seed(0)  # so that two names of one checkpoint are one
        _write(home, name, bpe, config and _model(hf.AutoModelForCausalLM, config, std))
    sizes = dict(hidden_size=48, num_attention_heads=4, ffn_dim=96, word_embed_proj_dim=48, vocab_size=len(opt))
    _write(
        home, "facebook/opt-125m", opt, _model(hf.AutoModelForCausalLM, hf.OPTConfig(num_hidden_layers=3, **sizes), std)
    )
    sizes = dict(hidden_size=48, num_attention_heads=12, intermediate_size=96, vocab_size=len(WORDS))
    for name in ("bert-base-cased", "google-bert/bert-base-cased"):
        config = hf.BertConfig(num_hidden_layers=12, **sizes)
        _write(home, name, bert, _model(hf.BertForPreTraining, config, std))
        said = _snapshot(home, name) / "config.json"  # on the hub it names one of the two heads that the files hold
        said.write_text(said.read_text().replace("BertForPreTraining", "BertForMaskedLM"))
    for n_layers in (1, 2, 3, 4):
        _write_neel(home, f"NeelNanda/SoLU_{n_layers}L512W_C4_Code", n_layers=n_layers, **SOLU)
        attn_only = SOLU | dict(attn_only=True, d_mlp=-1, act_fn="gelu")
        _write_neel(home, f"NeelNanda/Attn_Only_{n_layers}L512W_C4_Code", n_layers=n_layers, **attn_only)
    _write_othello(home)


def _neo(n_layers: int) -> hf.GPTNeoConfig:
    kinds = [[["global", "local"], n_layers // 2]]
    sizes = dict(hidden_size=64, num_heads=16, max_position_embeddings=2048, window_size=256, vocab_size=50257)
    return hf.GPTNeoConfig(num_layers=n_layers, attention_types=kinds, intermediate_size=256, **sizes)


def _model(kind: Any, config: hf.PretrainedConfig, std: float | None) -> hf.PreTrainedModel:
    model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    for weight in model.parameters() if std is not None else ():
        torch.nn.init.normal_(weight, 0.0 if weight.ndim > 1 else weight.mean().item(), std)
    return model


def _snapshot(home: Path, name: str) -> Path:
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (folder := repository / "snapshots" / COMMIT).mkdir(parents=True, exist_ok=True)
    return folder


def _write(home: Path, name: str, tokenizer: PreTrainedTokenizerBase, model: hf.PreTrainedModel | None) -> None:
    folder = _snapshot(home, name)
    tokenizer.save_pretrained(folder)
    if model is None:
        (folder / "config.json").write_text('{"model_type": "gpt_neox"}')
    else:
        model.save_pretrained(folder)


def _write_neel(home: Path, name: str, **config: Any) -> None:
    """A checkpoint as HookedTransformer's author kept those that he trained: a config and a state dict."""
    from interp_hooks import HookedTransformer

    folder = _snapshot(home, name)
    more = dict(normalization_type="LN", tokenizer_name="NeelNanda/gpt-neox-tokenizer-digits")
    (folder / "config.json").write_text(json.dumps(config | more))
    model = HookedTransformer(
        {k: v for k, v in config.items() if v != -1 and not (config["attn_only"] and k == "act_fn")}
    )
    torch.save(model.state_dict(), folder / "model_final.pth")


def _write_othello(home: Path) -> None:
    """The state dict of a model of Othello, alone in its repository, with the masks that older ones have."""
    from interp_hooks import HookedTransformer

    sizes = dict(n_layers=8, d_model=512, d_head=64, n_heads=8, d_mlp=2048, d_vocab=61, n_ctx=59)
    model = HookedTransformer(sizes | dict(act_fn="gelu", normalization_type="LNPre"))
    seen = torch.ones(sizes["n_ctx"], sizes["n_ctx"], dtype=torch.bool).tril()
    masks = {f"blocks.{layer}.attn.mask": seen for layer in range(sizes["n_layers"])}
    ignored = {f"blocks.{layer}.attn.IGNORE": torch.tensor(-1e5) for layer in range(sizes["n_layers"])}
    file = _snapshot(home, "NeelNanda/Othello-GPT-Transformer-Lens") / "synthetic_model.pth"
    torch.save(model.state_dict() | masks | ignored, file)


def cached_files(api: object, repo_id: str, **options: object) -> list[str]:
    """The files of a repository, which only the hub itself could tell: here, those that are in the cache."""
    folder = Path(os.environ["HF_HOME"]) / "hub" / f"models--{repo_id.replace('/', '--')}" / "snapshots"
    return [file.name for file in folder.glob("*/*")]
