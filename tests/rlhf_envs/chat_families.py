"""Tokenizers with chat templates of known families, each in the form that its model card shows, written short."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOLLM2 = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are a helpful AI "
    "assistant named SmolLM, trained by Hugging Face<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ system if loop.first else '' }}"
    "{{ m['content'].strip() }} [/INST]{% else %} {{ m['content'].strip() }} {{ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }}[/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] + eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'].split('</think>')[-1].lstrip('\n') }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
COHERE = (
    "{{ bos_token }}{% for m in messages %}<|START_OF_TURN_TOKEN|>"
    "{{ {'user': '<|USER_TOKEN|>', 'system': '<|SYSTEM_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>'}[m['role']] }}"
    "{{ m['content'].strip() }}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A chat template with its control tokens.

    Attributes:
        end: the control token after what the assistant says.
        system: whether there is a role of the system.
        words: added tokens that are no control tokens.
    """

    template: str
    controls: tuple[str, ...]
    bos: str
    eos: str
    end: str
    system: bool = True
    words: tuple[str, ...] = ()
    variables: dict[str, Any] = field(default_factory=dict)


IM = ("<|im_start|>", "<|im_end|>")
HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TURNS = ("<start_of_turn>", "<end_of_turn>")
TOKENS = ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|CHATBOT_TOKEN|>")
THINK = ("<think>", "</think>")
FAMILIES = {
    "chatml": Family(CHATML, IM, "<s>", "</s>", "<|im_end|>"),
    "smollm2": Family(SMOLLM2, IM, "<|im_start|>", "<|im_end|>", "<|im_end|>"),
    "llama3": Family(LLAMA3, HEADERS, "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
    "llama2": Family(LLAMA2, (), "<s>", "</s>", "</s>"),
    "mistral": Family(MISTRAL, ("[INST]", "[/INST]"), "<s>", "</s>", "</s>", system=False),
    "gemma": Family(GEMMA, TURNS, "<bos>", "<eos>", "<end_of_turn>", system=False),
    "phi3": Family(PHI3, ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "<s>", "<|endoftext|>", "<|end|>"),
    "zephyr": Family(ZEPHYR, (), "<s>", "</s>", "</s>"),
    "qwen3": Family(QWEN3, IM, "<|endoftext|>", "<|im_end|>", "<|im_end|>", words=THINK),
    "qwen3, no thinking": Family(
        QWEN3, IM, "<|endoftext|>", "<|im_end|>", "<|im_end|>", words=THINK, variables={"enable_thinking": False}
    ),
    "cohere": Family(COHERE, TOKENS, "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
}


@cache
def family_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer of one token per byte with a family's control tokens; it puts its BOS before a text."""
    family = FAMILIES[name]
    controls = [*dict.fromkeys(["<pad>", family.bos, family.eos, *family.controls])]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*controls, *letters])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(f"{family.bos} $A", None, [(family.bos, 1)])
    tokenizer.add_tokens([AddedToken(word, special=False) for word in family.words])
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token="<pad>",
        additional_special_tokens=list(family.controls),
    )
    made.chat_template = family.template
    return made
