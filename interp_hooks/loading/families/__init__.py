"""Every family that converts, by the `model_type` of its HuggingFace config. A new family is one more entry here."""

from interp_hooks.loading.families.bert import BERT, DISTILBERT, ROBERTA
from interp_hooks.loading.families.bloom import BLOOM, MPT
from interp_hooks.loading.families.choice_bias_moe import DOTS1, ERNIE4_5_MOE, GLM4_MOE
from interp_hooks.loading.families.cohere import COHERE, COHERE2
from interp_hooks.loading.families.deepseek import DEEPSEEK_V2, DEEPSEEK_V3
from interp_hooks.loading.families.exaone4 import EXAONE4
from interp_hooks.loading.families.falcon import FALCON
from interp_hooks.loading.families.gemma import GEMMA, GEMMA2, GEMMA3, VAULTGEMMA
from interp_hooks.loading.families.glm import GLM, GLM4
from interp_hooks.loading.families.gpt2 import GPT2, GPT_BIGCODE, OPENAI_GPT
from interp_hooks.loading.families.gpt_neo import GPT_NEO
from interp_hooks.loading.families.gpt_neox import GPT_NEOX, GPT_NEOX_JAPANESE
from interp_hooks.loading.families.gpt_oss import GPT_OSS
from interp_hooks.loading.families.gptj import CODEGEN, GPTJ
from interp_hooks.loading.families.granite import GRANITE
from interp_hooks.loading.families.granite_moe import GRANITE_MOE, GRANITE_MOE_SHARED
from interp_hooks.loading.families.llama import ARCEE, ERNIE4_5, HELIUM, LLAMA, SEED_OSS, SMOLLM3
from interp_hooks.loading.families.mistral import MINISTRAL, MINISTRAL3, MISTRAL
from interp_hooks.loading.families.mixtral import MIXTRAL, PHIMOE
from interp_hooks.loading.families.nanochat import NANOCHAT
from interp_hooks.loading.families.nemotron import APERTUS, JAIS2, NEMOTRON
from interp_hooks.loading.families.olmo import OLMO, OLMO2, OLMO3
from interp_hooks.loading.families.olmoe import FLEX_OLMO, OLMOE
from interp_hooks.loading.families.opt import BIOGPT, OPT, XGLM
from interp_hooks.loading.families.persimmon import PERSIMMON
from interp_hooks.loading.families.phi import PHI
from interp_hooks.loading.families.phi3 import PHI3
from interp_hooks.loading.families.qwen import HUNYUAN, QWEN2, QWEN3
from interp_hooks.loading.families.qwen_moe import QWEN2_MOE, QWEN3_MOE
from interp_hooks.loading.families.stablelm import STABLELM
from interp_hooks.loading.families.starcoder2 import STARCODER2
from interp_hooks.loading.guard import Family

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        GPT2,
        OPENAI_GPT,
        GPT_BIGCODE,
        GPT_NEO,
        GPTJ,
        CODEGEN,
        GPT_NEOX,
        GPT_NEOX_JAPANESE,
        OPT,
        XGLM,
        BIOGPT,
        LLAMA,
        ARCEE,
        HELIUM,
        ERNIE4_5,
        SEED_OSS,
        SMOLLM3,
        MISTRAL,
        MINISTRAL,
        MINISTRAL3,
        QWEN2,
        QWEN3,
        HUNYUAN,
        EXAONE4,
        GRANITE,
        GLM,
        GLM4,
        PHI3,
        BLOOM,
        MPT,
        FALCON,
        PERSIMMON,
        STABLELM,
        PHI,
        NEMOTRON,
        JAIS2,
        APERTUS,
        STARCODER2,
        DEEPSEEK_V2,
        DEEPSEEK_V3,
        BERT,
        ROBERTA,
        DISTILBERT,
        MIXTRAL,
        PHIMOE,
        QWEN2_MOE,
        QWEN3_MOE,
        GRANITE_MOE,
        GRANITE_MOE_SHARED,
        OLMOE,
        FLEX_OLMO,
        GPT_OSS,
        ERNIE4_5_MOE,
        DOTS1,
        GLM4_MOE,
        GEMMA,
        GEMMA2,
        GEMMA3,
        VAULTGEMMA,
        COHERE,
        COHERE2,
        OLMO,
        OLMO2,
        OLMO3,
        NANOCHAT,
    )
}
