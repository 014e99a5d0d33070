"""A small model folder of each family: two layers, the fields of a published config.json, a tokenizer
with the family's special tokens and its chat template in the published form.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import (  # fmt: skip
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from svp.train.data.prompts import GLAMM

from . import FIXTURES

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN25 = CHATML.replace(
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
)
QWEN3 = """\
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' and ns.last == messages|length - 1 and not loop.first %}
        {%- set ns.last = (messages|length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role in ('user', 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif loop.last %}
        {{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + message.content.lstrip('\\n') + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>assistant\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{%- if messages[0]['role'] == 'system' %}
    {%- set instructions, messages = messages[0]['content'] | trim, messages[1:] %}
{%- else %}
    {%- set instructions = "" %}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" + instructions + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""
SMOLLM3 = """\
{%- set thinks = enable_thinking is not defined or enable_thinking %}
{{- "<|im_start|>system\\n## Metadata\\n\\nKnowledge Cutoff Date: June 2025\\n" }}
{{- "Today Date: " ~ strftime_now("%d %B %Y") ~ "\\nReasoning Mode: " ~ ("/think" if thinks else "/no_think") }}
{%- if messages[0].role == "system" %}
    {%- set instructions = messages[0].content.replace("/no_think", "").rstrip() %}
{%- endif %}
{{- "\\n\\n## Custom Instructions\\n\\n" ~ (instructions or "You are a helpful AI assistant named SmolLM.") ~ "\\n\\n<|im_end|>\\n" }}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- "<|im_start|>user\\n" + message.content + "<|im_end|>\\n" }}
    {%- elif message.role == "assistant" %}
        {%- if thinks %}
            {{- "<|im_start|>assistant\\n" + message.content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- else %}
            {{- "<|im_start|>assistant\\n<think>\\n\\n</think>\\n" + message.content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\\n" + ("" if thinks else "<think>\\n\\n</think>\\n") }}
{%- endif %}"""
PHI35 = (
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}"
    "{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}"
    "{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
    "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI4 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
GEMMA3 = """\
{{ bos_token }}
{%- set first = "" -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first, messages = messages[0]['content'] + '\\n\\n', messages[1:] -%}
{%- endif -%}
{%- for message in messages -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first if loop.first else '') }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}"""
GRANITE = """\
{%- if messages[0]['role'] == 'system' %}
    {%- set instructions, messages = messages[0]['content'], messages[1:] %}
{%- else %}
    {%- set instructions = 'Knowledge Cutoff Date: April 2024.\\nToday\\'s Date: ' + strftime_now('%B %d, %Y') + '.\\nYou are Granite, developed by IBM.' %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + instructions + '<|end_of_text|>\\n' }}
{%- for message in messages %}
    {{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\\n' }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|start_of_role|>assistant<|end_of_role|>' }}
    {%- endif %}
{%- endfor %}"""

_SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "initializer_range": 0.2, "use_cache": True,
}  # fmt: skip
_QWENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_PHI_ROPE = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


@dataclass(frozen=True)
class Small:
    """A family in small.

    fields    of config.json, less the sizes of the vocabulary; windows are short enough to matter,
              and Gemma 3's final cap is a number, where the published files have null
    words     kind of tokenizer: bytes, sentencepiece with "▁" in front or without
    tokens    special tokens by role; `plain` ones are added but not special
    spare     rows beyond the tokenizer's last id
    """

    name: str
    fields: dict[str, Any]
    template: str
    tokens: tuple[str, ...]
    words: str = "bytes"
    bos: str | None = None
    eos: str = "<|im_end|>"
    plain: tuple[str, ...] = ()
    spare: int = 0
    composite: dict[str, Any] = field(default_factory=dict)

    @property
    def tied(self) -> bool:
        return bool(self.fields["tie_word_embeddings"])


SMALL = [
    Small(
        "smollm2",
        {
            "model_type": "llama", **_SIZES, "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
            "eos_token_id": 2, "pad_token_id": 2, "hidden_act": "silu", "is_llama_config": True, "mlp_bias": False,
            "max_position_embeddings": 8192, "pretraining_tp": 1, "rope_interleaved": False, "rope_scaling": None,
            "rope_theta": 100000, "tie_word_embeddings": True, "rms_norm_eps": 1e-05,
        },
        CHATML, ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>"), bos="<|im_start|>",
    ),
    Small(
        "llama3.2",
        {
            "model_type": "llama", **_SIZES, "attention_bias": False, "attention_dropout": 0.0, "head_dim": 32,
            "hidden_act": "silu", "max_position_embeddings": 131072, "mlp_bias": False, "pretraining_tp": 1,
            "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                             "original_max_position_embeddings": 8192, "rope_type": "llama3"},
            "rope_theta": 500000.0, "tie_word_embeddings": True, "rms_norm_eps": 1e-05,
        },
        LLAMA3, ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>", eos="<|end_of_text|>",
    ),
    Small(
        "qwen2.5",
        {
            "model_type": "qwen2", **_SIZES, "attention_dropout": 0.0, "hidden_act": "silu", "max_position_embeddings": 32768,
            "max_window_layers": 21, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
            "use_sliding_window": False, "use_mrope": False,
        },
        QWEN25, _QWENS,
    ),
    Small(
        "qwen2.5-window",
        {
            "model_type": "qwen2", **_SIZES, "attention_dropout": 0.0, "hidden_act": "silu", "max_position_embeddings": 32768,
            "max_window_layers": 1, "rope_theta": 1000000.0, "sliding_window": 12, "tie_word_embeddings": False,
            "use_sliding_window": True,
        },
        QWEN25, _QWENS,
    ),
    Small(
        "qwen3",
        {
            "model_type": "qwen3", **_SIZES, "attention_bias": False, "attention_dropout": 0.0, "head_dim": 32,
            "hidden_act": "silu", "max_position_embeddings": 40960, "max_window_layers": 28, "rope_scaling": None,
            "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False,
        },
        QWEN3, _QWENS, plain=("<think>", "</think>"), spare=7,
    ),
    Small(
        "qwen3-vl",
        {
            "model_type": "qwen3_vl_text", **_SIZES, "attention_bias": False, "attention_dropout": 0.0, "head_dim": 32,
            "hidden_act": "silu", "max_position_embeddings": 262144, "rope_theta": 5000000, "tie_word_embeddings": True,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"},
        },
        QWEN3, _QWENS, plain=("<think>", "</think>"), spare=7,
        composite={
            "model_type": "qwen3_vl", "tie_word_embeddings": True,
            "vision_config": {"model_type": "qwen3_vl", "depth": 1, "hidden_size": 16, "intermediate_size": 16,
                              "num_heads": 2, "out_hidden_size": 64, "deepstack_visual_indexes": [0]},
        },
    ),
    Small(
        "smollm3",
        {
            "model_type": "smollm3", **_SIZES, "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu",
            "layer_types": ["full_attention", "full_attention"], "max_position_embeddings": 65536, "max_window_layers": 28,
            "mlp_bias": False, "no_rope_layer_interval": 4, "no_rope_layers": [1, 0], "pad_token_id": 2, "bos_token_id": 1,
            "eos_token_id": 2, "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None,
            "use_sliding_window": False, "tie_word_embeddings": True,
        },
        SMOLLM3, ("<|begin_of_text|>", "<|im_start|>", "<|im_end|>"), plain=("<think>", "</think>"), bos=None,
    ),
    Small(
        "phi3.5-mini",
        {
            "model_type": "phi3", **_SIZES, "num_key_value_heads": 4, "attention_bias": False, "attention_dropout": 0.0,
            "auto_map": {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
            "hidden_act": "silu", "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
            "rope_scaling": _PHI_ROPE, "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": False,
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        },
        PHI35, ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"), words="llama", bos="<s>",
        eos="<|endoftext|>",
    ),
    Small(
        "phi4-mini",
        {
            "model_type": "phi3", **_SIZES, "attention_bias": False, "attention_dropout": 0.0, "partial_rotary_factor": 0.75,
            "auto_map": {"AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM"}, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
            "hidden_act": "silu", "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
            "rope_scaling": {n: v if n == "type" else v[:6] for n, v in _PHI_ROPE.items()}, "rope_theta": 10000.0,
            "sliding_window": 12, "tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
        },
        PHI4, ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>"), bos="<|endoftext|>",
        eos="<|endoftext|>",
    ),
    Small(
        "gemma3",
        {
            "model_type": "gemma3_text", **_SIZES, "attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": None,
            "cache_implementation": "hybrid", "final_logit_softcapping": 3.0, "head_dim": 32, "bos_token_id": 2,
            "eos_token_id": [1, 106], "pad_token_id": 0, "hidden_activation": "gelu_pytorch_tanh", "rope_scaling": None,
            "max_position_embeddings": 32768, "query_pre_attn_scalar": 256, "rope_local_base_freq": 10000,
            "rope_theta": 1000000, "sliding_window": 12, "sliding_window_pattern": 2, "tie_word_embeddings": True,
        },
        GEMMA3, ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"), words="gemma", bos="<bos>", eos="<eos>",
    ),
    Small(
        "gemma3-4b",
        {
            "model_type": "gemma3_text", **_SIZES, "head_dim": 32, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 12, "sliding_window_pattern": 2, "tie_word_embeddings": True,
        },
        GEMMA3, ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"), words="gemma", bos="<bos>", eos="<eos>",
        composite={
            "model_type": "gemma3", "mm_tokens_per_image": 4,
            "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16, "image_size": 28,
                              "num_attention_heads": 2, "num_hidden_layers": 1, "patch_size": 14},
        },
    ),
    Small(
        "granite3",
        {
            "model_type": "granite", **_SIZES, "attention_bias": False, "attention_dropout": 0.0, "attention_multiplier": 0.015625,
            "embedding_multiplier": 12.0, "hidden_act": "silu", "logits_scaling": 8.0, "max_position_embeddings": 131072,
            "mlp_bias": False, "residual_multiplier": 0.22, "rope_scaling": None, "rope_theta": 5000000.0,
            "tie_word_embeddings": True, "rms_norm_eps": 1e-05, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
        },
        GRANITE, ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"), eos="<|end_of_text|>",
    ),
]  # fmt: skip


def write_family(small: Small, folder: Path) -> Path:
    """The model folder, with random weights in float32."""
    folder.mkdir(parents=True)
    words = _tokenizer(small)
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"bos_token": small.bos, "eos_token": small.eos, "chat_template": small.template}
        )
    )
    fields = {**small.fields, "vocab_size": words.get_vocab_size() + small.spare}
    whole = {**small.composite, "text_config": fields} if small.composite else fields
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        made: Any = _reference(whole)
        for parameter in made.parameters():
            if parameter.ndim == 1:  # norms of 1 and biases of 0 would hide a part that is left out
                torch.nn.init.normal_(parameter, parameter.mean().item(), 0.2)
        made.save_pretrained(folder)
    (folder / "config.json").write_text(
        json.dumps(whole)
    )  # as published, not as transformers 5 writes it
    return folder


def _reference(fields: dict[str, Any]) -> Any:
    """transformers' own model of config.json."""
    import transformers

    config = transformers.CONFIG_MAPPING[fields["model_type"]](**fields)
    if "text_config" in fields:
        return transformers.AutoModelForImageTextToText.from_config(config)
    return transformers.AutoModelForCausalLM.from_config(config)


def _tokenizer(small: Small) -> Tokenizer:
    """Trained on the wordings of a dialogue."""
    if small.words == "llama":
        words = Tokenizer.from_file(str(FIXTURES / "tokenizer" / "llama" / "tokenizer.json"))
    else:
        words = _trained(small.words, small.tokens)
    # Phi's tokens take the blanks that follow.
    taking = small.words == "llama"
    words.add_special_tokens(
        [AddedToken(t, special=True, normalized=False, rstrip=taking) for t in small.tokens]
    )
    words.add_tokens([AddedToken(t, special=False, normalized=False) for t in small.plain])
    return words


def _trained(kind: str, tokens: tuple[str, ...]) -> Tokenizer:
    if kind == "gemma":
        words = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        words.normalizer = normalizers.Replace(" ", "▁")
        words.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        words.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        first = [*tokens, *(f"<0x{byte:02X}>" for byte in range(256)), "\n", "\n\n"]
    else:
        words = Tokenizer(models.BPE())
        pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        words.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )  # fmt: skip
        words.decoder = decoders.ByteLevel()
        first = list(tokens)
    said = [
        *GLAMM.questions,
        *GLAMM.answers,
        GLAMM.before,
        GLAMM.after,
        "user\nassistant\nsystem\n man woman red cup left",
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=len(first) + 256 + 128, special_tokens=first, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if kind == "bytes" else [],
    )  # fmt: skip
    words.train_from_iterator(said * 4, trainer)
    made = json.loads(words.to_str())  # pieces are entries, not tokens that text is split at
    made["added_tokens"] = [t for t in made["added_tokens"] if t["content"] in tokens]
    return Tokenizer.from_str(json.dumps(made))
