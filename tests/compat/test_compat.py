"""The other import name: every alias is the object that it says, and tutorial code runs under it.

Each check has a process of its own, since what is imported under a name stays so.
"""

import re
from pathlib import Path

import pytest

from interp_hooks import compat
from tests.children import run_in_a_child

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.py"))
README = Path(__file__).parents[2] / "README.md"
INSTALL = "from interp_hooks import compat; compat.install()\n"


def check(code: str) -> None:
    done = run_in_a_child(INSTALL + code)
    assert done.returncode == 0, done.stderr


def test_the_readme_tells_how() -> None:
    blocks = re.findall(r"```text\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (example,) = (block for block in blocks if "compat.install()" in block)
    done = run_in_a_child(f"{example}\nimport interp_hooks\nassert isinstance(model, interp_hooks.HookedTransformer)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_tutorial_code_runs(script: Path) -> None:
    done = run_in_a_child(INSTALL + "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')", str(script))
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
    assert "transformer_lens" in script.read_text()
    assert "interp_hooks" not in script.read_text(), "code that does not know this package"


def test_every_alias_resolves() -> None:
    check("""
import importlib
for path, table in compat.MODULES.items():
    module = importlib.import_module(f"transformer_lens.{path}" if path else "transformer_lens")
    assert set(module.__all__) <= set(dir(module))
    assert bool(module.__all__) != (path == "tools")
    for name in module.__all__:
        home, ours = (table, name) if isinstance(table, str) else table[name].split(":")
        assert getattr(module, name) is getattr(importlib.import_module(home), ours), (path, name)
""")


def test_ways_to_import() -> None:
    check("""
compat.install()
import interp_hooks
import transformer_lens
import transformer_lens as tl
import transformer_lens.utils as utils
import transformer_lens.ActivationCache as cache_module
from transformer_lens import ActivationCache, FactoredMatrix, HookedTransformer, patching
from transformer_lens.ActivationCache import ActivationCache as again
from transformer_lens.loading_from_pretrained import get_official_model_name
from transformer_lens.past_key_value_caching import HookedTransformerKeyValueCache
from transformer_lens.utils import *
assert tl is transformer_lens and tl.utils is utils and utils.get_act_name is get_act_name
assert ActivationCache is again is interp_hooks.ActivationCache is cache_module is transformer_lens.ActivationCache
assert HookedTransformer is tl.HookedTransformer and issubclass(HookedTransformer, interp_hooks.HookedTransformer)
from interp_hooks.compat.patching import get_act_patch_resid_pre
assert patching.get_act_patch_resid_pre is get_act_patch_resid_pre
assert issubclass(HookedTransformerKeyValueCache, interp_hooks.KeyValueCache)
assert get_official_model_name("gpt2-small") == "openai-community/gpt2"
assert "HookedTransformer" in dir(tl) and "utils" in dir(tl)
import inspect
inspect.getmodule(compat.install)  # asks every module for its file
""")


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (
            "import transformer_lens; transformer_lens.HookedTransfomer",
            "AttributeError",
            "Did you mean HookedTransformer",
        ),
        ("from transformer_lens import utils; utils.to_nump", "AttributeError", "Did you mean to_numpy?"),
        ("from transformer_lens import HookedTransfomer", "ImportError", "Did you mean HookedTransformer"),
        ("from transformer_lens.utils import to_nump", "ImportError", "Did you mean to_numpy?"),
        ("import transformer_lens.utls", "ImportError", "Did you mean utils"),
        (
            "from transformer_lens.model_bridge.sources import x",
            "ImportError",
            "sources: checkpoints are converted by",
        ),
        ("from transformer_lens.utils import print_gpu_mem", "ImportError", "use torch.cuda.memory_allocated()"),
        ("from transformer_lens import HookedEncoderDecoder", "ImportError", "encoder-decoders (T5) are not converted"),
    ],
)
def test_what_is_not_there(code: str, error: str, message: str) -> None:
    done = run_in_a_child(INSTALL + code)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"{error}: interp_hooks has no counterpart of transformer_lens")
    assert message in last


def test_asking_is_no_error() -> None:
    check("""
import transformer_lens
assert not hasattr(transformer_lens, "HookedEncoderDecoder")
assert getattr(transformer_lens, "lit", None) is None
""")


def test_the_real_one_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "transformer_lens.py").write_text("name = 'real'")
    done = run_in_a_child(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import transformer_lens\n{INSTALL}")
    assert done.returncode == 1
    assert "ImportError: transformer_lens itself is imported already" in done.stderr
    assert "in a fresh process, before anything imports it" in done.stderr
    check(f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import transformer_lens
assert not hasattr(transformer_lens, "name"), "one that is only installed is not imported any more"
""")


# What TransformerLens 3.9.0 has in these modules, but for what it imports from others.
EXPORTED = {
    "": """
        ActivationCache BertNextSentencePrediction FactoredMatrix HookedAudioEncoder HookedEncoder HookedEncoderDecoder
        HookedRootModule HookedTransformer HookedTransformerConfig SVDInterpreter TransformerBridgeConfig
        TransformerLensKeyValueCache TransformerLensKeyValueCacheEntry cache components config conversion_utils evals
        factories head_detector hook_points lit loading loading_from_pretrained model_bridge patching pretrained
        supported_models tools train utilities utils weight_processing
    """,
    "utils": """
        LocallyOverridenDefaults ModelWithCfg SOFTCAP_DISABLED SUPPORTED_ACTIVATIONS Slice SliceInput TypedModuleList
        USE_DEFAULT_VALUE activation_functions addmm aliases apply_softcap architectures attention attribute_utils
        calc_fan_in_and_fan_out calculate_available_device_cuda_memory check_structure clear_huggingface_cache
        components_utils composition_scores count_unique_devices defaults_utils
        determine_available_memory_for_available_devices devices download_file_from_hf exploratory_utils
        filter_dict_by_prefix find_embedding_device gelu_fast gelu_new get_act_name get_attention_mask
        get_best_available_cuda_device get_best_available_device get_corner get_cumsum_along_dim get_dataset get_device
        get_device_for_block_index get_input_with_manually_prepended_bos get_matrix_corner get_nested_attr
        get_offset_position_ids get_rotary_pct_from_config get_tokenizer_with_bos get_tokens_with_bos_removed gpu_utils
        heterogeneous_config hf_utils init_kaiming_normal_ init_kaiming_uniform_ init_xavier_normal_
        init_xavier_uniform_ initialization_utils is_library_available is_lower_triangular is_square keep_single_column
        library_utils lm_accuracy lm_cross_entropy_loss lm_utils logits_to_df logits_utils matrix
        move_to_and_update_config multi_gpu override_or_use_default_value parameter_swap print_gpu_mem quantization
        remove_batch_dim repeat_along_head_dimension resolve_device_map sample_logits select_compatible_kwargs
        set_nested_attr slice softcap_enabled solu sort_devices_based_on_available_memory temporarily_swap_parameter
        tensors test_prompt to_numpy tokenize_and_concatenate tokenize_utils transpose typed_module_list warn_if_mps
    """,
    "components": """
        AbstractAttention Attention BertBlock BertEmbed BertMLMHead BertNSPHead BertPooler Embed GatedMLP
        GroupedQueryAttention LayerNorm LayerNormPre MLP MoE PosEmbed RMSNorm RMSNormPre T5Attention T5Block
        TokenTypeEmbed TransformerBlock Unembed
    """,
    "hook_points": "HookFunction HookIntrospectionMixin HookPoint HookedRootModule LensHandle NamesFilter",
    "loading_from_pretrained": """
        MODEL_ALIASES OFFICIAL_MODEL_NAMES PYTHIA_CHECKPOINTS PYTHIA_V0_CHECKPOINTS STANFORD_CRFM_CHECKPOINTS
        get_checkpoint_labels get_num_params_of_pretrained get_official_model_name get_pretrained_model_config
        get_pretrained_state_dict make_model_alias_map
    """,
}


def test_every_name_is_there_or_says_what_to_do_instead() -> None:
    check(f"""
import importlib
there = 0
for path, names in {EXPORTED!r}.items():
    module = importlib.import_module(f"transformer_lens.{{path}}" if path else "transformer_lens")
    for name in names.split():
        try:
            getattr(module, name)
            there += 1
        except AttributeError as error:
            assert name in compat.ABSENT, name
            assert f"no counterpart of {{module.__name__}}.{{name}}: {{compat.ABSENT[name]}}" in str(error)
assert there > 50
""")


def test_names_under_their_old_paths() -> None:
    check("""
import torch
from transformer_lens import HookedTransformer
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.config import HookedTransformerConfig
from transformer_lens.hook_points import HookedRootModule, HookPoint
from transformer_lens.loading_from_pretrained import get_checkpoint_labels
from transformer_lens.utils import LocallyOverridenDefaults
model = HookedTransformer.from_pretrained("ioi-tiny")
assert isinstance(model, HookedRootModule) and isinstance(model.hook_embed, HookPoint)
assert isinstance(model.cfg, HookedTransformerConfig)
texts, bos = [" Mary", " Mary went"], model.tokenizer.bos_token_id
with LocallyOverridenDefaults(model, prepend_bos=False, padding_side="left"):
    short, long = model.to_tokens(texts)
    assert bos not in long and short[-1] == long[0]
short, long = model.to_tokens(texts)
assert short[0] == long[0] == bos and short[1] == long[1]
labels, kind = get_checkpoint_labels("pythia-70m")
assert kind == "step" and labels[-1] == 143_000 and len(labels) == 154
""")


def test_nothing_is_absent_and_there() -> None:
    there = {name for table in compat.MODULES.values() if not isinstance(table, str) for name in table}
    assert not there & set(compat.ABSENT)


def test_installing_is_asked_for() -> None:
    done = run_in_a_child(
        "import interp_hooks, sys; interp_hooks.HookedTransformer; assert 'transformer_lens' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_encoders_under_their_other_name(tmp_path: Path) -> None:
    """Logits and the words at [MASK] are HuggingFace's own."""
    check(f"""
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer
from transformer_lens import HookedEncoder, HookedTransformer
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a", "mat"]
tokenizer = BertTokenizer(vocab={{word: id for id, word in enumerate(words)}})
torch.manual_seed(0)
sizes = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20, vocab_size=len(words))
hf = BertForMaskedLM(BertConfig(**sizes, initializer_range=0.7, attn_implementation="eager")).eval()
hf.save_pretrained({str(tmp_path)!r}); tokenizer.save_pretrained({str(tmp_path)!r})
model = HookedEncoder.from_pretrained({str(tmp_path)!r})
assert isinstance(model, HookedTransformer)
batch = tokenizer([["the cat", "sat on"], ["a mat", "a"]], padding=True, return_tensors="pt")
theirs = hf(**batch).logits
ours = model(batch.input_ids, token_type_ids=batch.token_type_ids, one_zero_attention_mask=batch.attention_mask)
real = batch.attention_mask.bool()
torch.testing.assert_close(ours[real], theirs[real], rtol=1e-4, atol=1e-4)
assert model(batch.input_ids, None) is None
def at_masks(text):
    tokens = tokenizer(text, return_tensors="pt").input_ids
    return [words[id] for id in hf(tokens).logits[tokens == 4].argmax(-1)]
(word,) = at_masks("the [MASK] sat")
assert model("the [MASK] sat", return_type="predictions") == word
first, second = at_masks("the [MASK] [MASK] on")
two = ["Prediction 0: " + first, "Prediction 1: " + second]
assert model("the [MASK] [MASK] on", return_type="predictions") == two
_, cache = model.run_with_cache("the cat", return_type="logits")
assert "blocks.1.hook_normalized_resid_post" in cache
try:
    model("the cat", return_type="predictions")
except ValueError as error:
    assert "made at [MASK] tokens" in str(error)
else:
    raise AssertionError
""")


def test_norms_by_their_kinds() -> None:
    check("""
import torch
from transformer_lens import HookedTransformer
from transformer_lens.components import LayerNorm, LayerNormPre, RMSNorm, RMSNormPre
sizes = dict(n_layers=1, d_model=6, n_ctx=4, d_head=3, d_vocab=5, act_fn="relu")
model = HookedTransformer(sizes)
assert isinstance(model.ln_final, LayerNorm) and not isinstance(model.ln_final, LayerNormPre | RMSNorm)
x = torch.randn(2, 3, 6)
torch.testing.assert_close(LayerNorm(model.cfg)(x), torch.nn.functional.layer_norm(x, (6,)))
torch.testing.assert_close(RMSNorm(model.cfg, 6)(x), x / (x.pow(2).mean(-1, keepdim=True) + model.cfg.eps).sqrt())
torch.testing.assert_close(LayerNormPre(model.cfg, 3)(x[..., :3]), torch.nn.functional.layer_norm(x[..., :3], (3,)))
assert dict(RMSNormPre(model.cfg).named_parameters()) == {}
model.process_weights_(fold_ln=True)
assert isinstance(model.ln_final, LayerNormPre) and not isinstance(model.ln_final, LayerNorm)
from interp_hooks.errors import BadInput
for wrong, told in (((None,), "cfg must be"), ((model.cfg, -1), "length must be at least 1, got -1"),
                    ((model.cfg, 0), "length must be at least 1, got 0"), ((model.cfg, "6"), "length must be an int")):
    try:
        LayerNorm(*wrong)
    except BadInput as error:
        assert told in str(error), error
    else:
        raise AssertionError(wrong)
""")
