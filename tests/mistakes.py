"""Mistakes that newcomers make, on the command line and in Python, each with what its message has to say.

A message names what was expected, what came instead, and, where that does not say it already, what to do: the words
beside each mistake are parts of it. `tests/stranger.py` makes them all in a fresh environment.
"""

SETTING = """
import json
from pathlib import Path

import torch

from interp_hooks import *
from interp_hooks import dictionaries, tasks
from interp_hooks.corpus import TopK, neurons, scan
from interp_hooks.studies import fit_das, head_roles, linear_probe, score_split, training_checkpoints

for folder, config in {
    "empty": None,
    "not json": "{ no",
    "bert": '{"architectures": ["BertForPreTraining"], "model_type": "bert"}',
    "t5": '{"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}',
    "no weights": '{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}',
}.items():
    Path(folder).mkdir(exist_ok=True)
    if config is not None:
        Path(folder, "config.json").write_text(config)
Path("file").write_text("no folder")
model = HookedTransformer.from_pretrained("ioi-tiny")
silent = HookedTransformer.from_pretrained("induction-2l")
task = ioi_pairs(model, 8)
text = task.clean[0]
heads = dict(site="z", over=("layer", "head"))
result = patch(model, task, **heads, progress=False)
"""

CALLS: tuple[tuple[str, ...], ...] = (
    # ------------------------------------------------------------------------------------------------- loading
    ('HookedTransformer.from_pretrained("gpt2-smal")', "'gpt2-smal'", "bundled model (", "Did you mean gpt2-small"),
    ('HookedTransformer.from_pretrained("ioi_tiny")', "'ioi_tiny'", "Did you mean ioi-tiny"),
    ('HookedTransformer.from_pretrained("gpt2")', "the hub cannot be reached", "Pass the folder of a checkpoint"),
    ('HookedTransformer.from_pretrained("")', "must be a bundled name", "got ''"),
    ("HookedTransformer.from_pretrained(None)", "must be a bundled name", "got NoneType"),
    ('HookedTransformer.from_pretrained("empty")', "no config.json", "it is empty"),
    ('HookedTransformer.from_pretrained("not json")', "cannot read the config", "not a valid JSON file"),
    ('HookedTransformer.from_pretrained("bert")', "BertForPreTraining", "hf_model=transformers.BertForMaskedLM.from"),
    ('HookedTransformer.from_pretrained("t5")', "T5ForConditionalGeneration", "`interp-hooks families` lists"),
    ('HookedTransformer.from_pretrained("no weights")', "the weights of 'no weights'", "model.safetensors"),
    ('HookedTransformer.from_pretrained("file")', "is a file", "pass the folder"),
    ('HookedTransformer.from_pretrained("./nowhere")', "there is no folder './nowhere'"),
    ('HookedTransformer.from_pretrained(Path("nowhere"))', "there is no folder 'nowhere'"),
    ('HookedTransformer.from_pretrained("a" * 500)', "nothing can be called 'aaa", "too long"),
    ('HookedTransformer.from_pretrained("ioi-tiny", devcie="cpu")', "devcie", "Did you mean device"),
    ('HookedTransformer.from_pretrained("ioi-tiny", device="gpu")', "such as 'cpu'", "got 'gpu'"),
    ('HookedTransformer.from_pretrained("ioi-tiny", dtype="float31")', "such as torch.float32", "got 'float31'"),
    ('HookedTransformer.from_pretrained("mod-add", checkpoint_value=7)', "no checkpoint of step 7", "nearest is 0"),
    ('HookedTransformer("ioi-tiny")', "must be a HookedTransformerConfig", "got 'ioi-tiny'"),
    (
        'HookedTransformerConfig(n_layers=1, d_model=8, n_ctx=9, d_vocab=9, n_heads=2, act_fn="gleu")',
        *("act_fn must be 'relu'", "got 'gleu'", "Did you mean gelu"),
    ),
    (
        'HookedTransformerConfig(n_layer=1, d_model=8, n_ctx=9, d_vocab=9, n_heads=2, act_fn="gelu")',
        *("no field 'n_layer'", "Did you mean n_layers"),
    ),
    (
        'HookedTransformerConfig(n_layers=1, d_model=8, d_vocab=9, n_heads=2, act_fn="gelu")',
        *("a config needs n_layers, d_model and n_ctx", "got none for n_ctx"),
    ),
    ('model.to("gpu")', "such as 'cpu'", "got 'gpu'"),
    # ------------------------------------------------------------------------------------------------- reading
    ('model("word " * 400)', "803 tokens", "n_ctx=128", "truncate=True"),
    ('model(text, return_typ="loss")', "forward has no argument 'return_typ'", "Did you mean return_type"),
    ("model([])", "expected text or an integer tensor", "got list []"),
    ("model(torch.zeros(1, 5))", "integer tensor of token ids [batch, pos]", "torch.float32 tensor [1, 5]"),
    ("model(torch.tensor([[9999]]))", "must be 0..813", "got 9999"),
    ('silent("text")', "no tokenizer", "pass tokenizer="),
    ('model.to_single_token("elephantine")', "6 tokens", "expected exactly one", "try ' elephantine'"),
    ("model.generate(text, max_new_tokens=1000)", "15 tokens and 1000 new ones", "n_ctx=128"),
    ("model.generate(text, 3, temperature=-1.0)", "temperature must be finite and at least 0", "got -1.0"),
    # --------------------------------------------------------------------------------------------------- hooks
    (
        'model.run_with_cache(text, name_filter="z1")',
        *("run_with_cache has no argument 'name_filter'", "nor has forward", "Did you mean names_filter"),
    ),
    ("model.run_with_hooks(text, fwd_hook=[])", "no argument 'fwd_hook'", "Did you mean fwd_hooks"),
    ('model.run_with_cache(text, names_filter="hook_patern")', "'hook_patern'", "Did you mean", "hook_table()"),
    ('model.run_with_cache(text, names_filter=["z9"])', "'z9'", "Did you mean blocks.2.attn.hook_z"),
    ("model.run_with_cache(text, names_filter=lambda name: False)", "selects none of the 75 hook points"),
    ("model.run_with_cache(text, names_filter=lambda name, hook: 1)", "function of a hook's name", "(name, hook)"),
    ('model.run_with_cache(text)[1]["patern", 0]', "('patern', 0)", "Did you mean blocks.0.attn.hook_pattern"),
    (
        'model.run_with_hooks(text, fwd_hooks=[("blocks.1.atn.hook_z", lambda z, hook: z)])',
        *("'blocks.1.atn.hook_z'", "Did you mean blocks.1.attn.hook_z"),
    ),
    (
        'model.run_with_hooks(text, fwd_hooks=[("z1", lambda z, hook: z[:, :3])])',
        *("returned shape [1, 3, 4, 32]", "expected [batch=1, pos=15, head=4, d_head=32]"),
    ),
    ('model.run_with_hooks(text, fwd_hooks=[("z1", lambda z: z)])', "function of (value, hook)", "got one of (z)"),
    ('model.run_with_hooks(text, fwd_hooks=["z1"])', "a list of (name, function)", "got an entry 'z1'"),
    (
        'model.run_with_hooks(text, fwd_hooks=[("z2", lambda z, hook: z)], stop_at_layer=1)',
        *("never came by z2", "check start_at_layer, stop_at_layer"),
    ),
    # --------------------------------------------------------------------------------------------- experiments
    ('patch(model, task, site="zz", over=("layer", "head"))', "'blocks.0.hook_zz'", "Did you mean"),
    ('patch(model, task, site="z", ovr=("layer",))', "patch has no argument 'ovr'", "Did you mean over"),
    ('patch(model, task, site="z", over=("layer", "heads"))', "'heads'", "it has layer, pos, head, d_head"),
    ('patch(model, task, "z", ("layer", "head"))', "site='z', over=...", "in place of corrupt prompts"),
    ("patch(model, task.clean, task.corrupt, **heads)", "metric is needed", "or a Task"),
    ('patch(model, task.clean, task.corrupt, "logit_diff", **heads)', "a Metric or a function", "got 'logit_diff'"),
    ("patch(model, task.clean, task.corrupt, LogitDiff, **heads)", "a Metric or a function", "the class LogitDiff"),
    (
        'patch(model, task.clean, ["too short"] * 8, task.metric, **heads)',
        *("15 tokens in clean but 7 in corrupt", "same number of tokens", "model.to_str_tokens"),
    ),
    ("patch(model, task.clean, task.corrupt[:3], task.metric, **heads)", "8 clean prompts but 3 corrupt prompts"),
    ('patch(model, task, **heads, direction="denoising")', "'denoise' or 'noise'", "got 'denoising'"),
    ("patch(model, task, **heads, layers=[7])", "layer 7 is out of range", "layers 0..2"),
    ('patch("ioi-tiny", task)', "model must be a HookedTransformer", "got 'ioi-tiny'"),
    ("patch(silent, task, **heads)", "no tokenizer", "pass tokenizer="),
    ("patch(model, task.clean, task.corrupt, lambda logits: 1.0, **heads)", "must return a tensor", "got float"),
    ("patch(model, task.clean, task.corrupt, lambda x: x, **heads)", "one number for each prompt", "[8, 15, 814]"),
    ("ioi_pairs(model, 0)", "n must be at least 1", "got 0"),
    ('tasks.ioi(model, 8, corruption="XYZ")', "corruption must be", "got 'XYZ'"),
    ('ablate(model, task, **heads, method="average")', "method must be 'zero', 'mean'", "got 'average'"),
    ('attribution_patch(model, task, **heads, rules="lrp")', "rules must be 'relp'", "got 'lrp'"),
    ('causal_trace(model, task.clean, " elephant")', "' elephant' is 0 times", "expected once"),
    ('steer(model, torch.zeros(7), "resid_pre1")', "a vector of 128 numbers", "got [7]"),
    (
        'evaluate(model, [Run(model.to_tokens(text), [Intervention(at("z", 0, head=9), 0.0)])], task.metric)',
        *("head=9 is out of range", "has 4 along head"),
    ),
    ("eap_ig(model, task).top(10**6)", "n must be 0..262", "got 1000000"),
    ('head_scores(model, "induction")', "previous_token_head", "got 'induction'", "Did you mean induction_head"),
    ('head_roles(model, task, roles=["inductions"])', "'inductions'", "Did you mean induction"),
    ('score_split(model, task, 2, 1, "end", "OI")', "no position 'OI'", "names IO, S1, S2, end"),
    ('linear_probe(model, task.clean, [0, 1], "resid_post")', "[batch] = [8]", "got [2]"),
    ('linear_probe(model, task.clean, [0] * 8, "resid_post")', "of two classes or more", "got [0]"),
    ('fit_das(model, task.corrupt, task.clean, task.answer, "resid_pre1", rank=0)', "a rank of 1..", "got 0"),
    # -------------------------------------------------------------------------------------- what lies on a disk
    ('scan(model, "nowhere.txt", {"top": TopK(neurons())})', "no file nowhere.txt", "expected a corpus file"),
    ('scan(model, text * 20, {"top": TopK(neurons())})', "expected a corpus file or folder, or a list of texts"),
    ('dictionaries.load("ioi-tiny/say")', "no file or folder ioi-tiny/say"),
    ('dictionaries.load("empty")', "empty is no dictionary", "known format (own, saelens"),
    ('training_checkpoints("empty")', "expected folders with models called step500", "found nothing"),
    ('Result.load("nowhere")', "expected a result in nowhere", "found none"),
    ('Result.load("a" * 500)', "cannot be read", "too long"),
    ('result.save("a" * 500)', "cannot be written", "too long"),
    ('result.save("file")', "is a file", "expected a folder"),
    ("result.rerun(model, metric=int)", "a Metric or a function", "the class int"),
    ("result.rerun(silent)", "the one of the result", "any_model=True"),
    ('heatmap(result, labels={"poss": []})', "the axis 'poss'", "has layer, head"),
    ("heatmap(torch.zeros(3))", "must be a Result", "torch.float32 tensor [3]"),
)

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("", "required: COMMAND"),
    ("demos", "invalid choice: 'demos'", "demo"),
    ("demo --modle gpt2", "unrecognized arguments: --modle"),
    ("demo --prompts many", "expected a whole number", "'many'"),
    ("demo --prompts 0", "at least 1", "got 0"),
    ("demo --model gpt2-smal", "'gpt2-smal'", "Did you mean gpt2-small"),
    ("demo --model empty", "no config.json", "it is empty"),
    ("demo --model induction-2l", "no tokenizer"),
    ("demo --out missing/report.html", "there is no folder", "create it first"),
    ("demo --out .", "cannot write '.'", "report.html"),
    ("verify nowhere/at/all", "there is no folder 'nowhere/at/all'"),
    ("verify ioi-tiny --dtype float31", "dtype", "got 'float31'"),
    ("verify empty", "no config.json", "it is empty"),
    ("verify bert", "BertForPreTraining", "BertForMaskedLM"),
    ("wiki ioi-tiny --corpus nowhere.txt", "no file nowhere.txt", "expected a corpus file"),
    ("wiki ioi-tiny --corpus empty", "the folder empty holds no corpus file", "expected .txt"),
    ("wiki ioi-tiny --out file", "file"),
    ("wiki ioi-tiny --length 1", "at least 2", "got 1"),
    ("training ioi-tiny", "has no checkpoints in it", "step500"),
    ("training empty", "has no checkpoints in it", "found nothing"),
    ("training induction-steps --steps 1,two", "whole number"),
    ("training induction-steps --steps 3", "3"),
    ("diff ioi-tiny", "required: other"),
    ("diff ioi-tiny nowhere/at/all", "there is no folder 'nowhere/at/all'"),
    ("diff ioi-tiny ioi-tiny --texts nowhere.txt", "no file nowhere.txt"),
    ("diff ioi-tiny ioi-tiny --prompts 1", "at least 2", "got 1"),
    ("explain ioi-tiny nowhere L1N17 --base-url http://localhost:9 --asked any", "nowhere"),
    ("explain ioi-tiny empty L1N17", "required: --base-url"),
    ("families --html", "unrecognized arguments: --html"),
)
