"""Chat templates of the kinds that models have, in our own words, each with a small tokenizer that knows its tokens."""

# ruff: noqa: E501  (a line of a template is a line)
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.helpers.writers import tokenizer


@dataclass(frozen=True)
class Kind:
    """A template, the tokens that it writes, what ends a turn and a text, and the ids that its model stops at.

    `refuses`: what of a conversation it does not take.
    """

    template: str
    tokens: tuple[str, ...]
    turn_end: str
    text_end: str = "</s>"
    refuses: frozenset[str] = field(default_factory=frozenset)


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set talk = messages[1:] %}{% set lead = '<<SYS>>\\n' + messages[0].content"
    " + '\\n<</SYS>>\\n\\n' %}{% else %}{% set talk = messages %}{% set lead = '' %}{% endif %}"
    "{% for m in talk %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (lead if loop.first else '') + m.content.strip() + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if tools %}{{ 'Functions:\\n' }}{% for t in tools %}{{ t | tojson }}{{ '\\n' }}{% endfor %}"
    "{% endif %}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' }}"
    '{% if m.tool_calls %}{% for call in m.tool_calls %}{{ \'{"name": "\' + call.function.name + \'", "parameters": \' }}'
    "{{ call.function.arguments | tojson }}{{ '}' }}{% endfor %}"
    "{% elif m.role == 'tool' %}{{ m.content | tojson }}{% else %}{{ m['content'] | trim }}{% endif %}"
    "{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools and loop.index0 == ns.last %}{{ '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% elif m.role == 'assistant' and m.tool_calls %}{{ '[TOOL_CALLS][' }}{% for call in m.tool_calls %}"
    "{% if call.id is not defined or call.id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
    '{{ \'{"name": "\' + call.function.name + \'", "arguments": \' }}{{ call.function.arguments | tojson }}'
    "{{ ', \"id\": \"' + call.id + '\"}' }}{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ']' + eos_token }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS]{\"content\": ' + m.content + '}[/TOOL_RESULTS]' }}"
    "{% else %}{{ raise_exception('Only user, assistant and tool roles are supported') }}{% endif %}{% endfor %}"
)
QWEN3 = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% if tools %}{{ '<|im_start|>system\\n# Tools\\n' }}{% for t in tools %}{{ t | tojson }}"
    "{{ '\\n' }}{% endfor %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{% set content = m.content if m.content is string else '' %}"
    "{% if m.role == 'assistant' %}{% set thought = '' %}{% if m.reasoning_content is string %}"
    "{% set thought = m.reasoning_content %}{% elif '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}{{ '<|im_start|>assistant\\n' }}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}{{ '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}"
    '{% endif %}{{ content }}{% for call in m.tool_calls or [] %}{{ \'<tool_call>\\n{"name": "\' + call.function.name }}'
    '{{ \'", "arguments": \' }}{% if call.function.arguments is string %}{{ call.function.arguments }}{% else %}'
    "{{ call.function.arguments | tojson }}{% endif %}{{ '}\\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\\n' }}"
    "{% elif m.role == 'tool' %}{{ '<|im_start|>user\\n<tool_response>\\n' + content + '\\n</tool_response><|im_end|>\\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% elif m.role == 'assistant' %}{% if m.tool_calls %}{{ '<|Assistant|>' }}{% for call in m.tool_calls %}"
    "{{ '<|call|>' + call.function.name + '\\n' + call.function.arguments + '<|end|>' }}{% endfor %}{{ eos_token }}"
    "{% else %}{% set said = m.content %}{% if '</think>' in said %}{% set said = said.split('</think>')[-1] %}{% endif %}"
    "{{ '<|Assistant|>' + said + eos_token }}{% endif %}"
    "{% elif m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\\n' + m.content + eos_token }}"
    "{% elif m.role == 'system' %}{{ '<|system|>\\n' + m.content + eos_token }}"
    "{% elif m.role == 'assistant' %}{{ '<|assistant|>\\n' + m.content + eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
COHERE = (
    "{{ bos_token }}{% for m in messages %}{% set who = {'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'} %}"
    "{% if m.role not in who %}{{ raise_exception('Unknown role ' + m.role) }}{% endif %}"
    "{{ '<|START_OF_TURN_TOKEN|><|' + who[m.role] + '_TOKEN|>' + m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
GENERATION = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\\n' }}"
    "{% generation %}{{ m.content }}{% endgeneration %}{{ '<|im_end|>\\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
END_AT_LAST = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% if loop.last and not add_generation_prompt %}"
    "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
NO_END = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
IN_PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% for part in m.content %}{% if part.type == 'text' %}"
    "{{ part.text }}{% endif %}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

IM = ("<|im_start|>", "<|im_end|>")
TOOLS = frozenset({"tools"})
KINDS = {
    "chatml": Kind(CHATML, IM, "<|im_end|>", refuses=TOOLS),
    "llama-2": Kind(LLAMA2, (), "</s>", refuses=TOOLS),
    "llama-3": Kind(LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>"),
    "gemma": Kind(GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", refuses=TOOLS | {"system"}),
    "mistral": Kind(MISTRAL, ("[INST]", "[/INST]", "[TOOL_CALLS]"), "</s>", refuses=frozenset({"system"})),
    "qwen3": Kind(QWEN3, IM, "<|im_end|>"),
    "deepseek": Kind(DEEPSEEK, ("<|User|>", "<|Assistant|>", "<|call|>", "<|end|>"), "</s>", refuses=TOOLS),
    "phi-3": Kind(PHI3, ("<|user|>", "<|assistant|>", "<|end|>"), "</s>", refuses=TOOLS),
    "zephyr": Kind(ZEPHYR, ("<|user|>", "<|assistant|>"), "</s>", refuses=TOOLS),
    "cohere": Kind(COHERE, ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>"),
                   "<|END_OF_TURN_TOKEN|>", refuses=TOOLS),
    "generation": Kind(GENERATION, IM, "<|im_end|>", refuses=TOOLS),
    "end-at-last": Kind(END_AT_LAST, ("<|user|>", "<|assistant|>"), "</s>", refuses=TOOLS),
    "no-end": Kind(NO_END, (), "</s>", refuses=TOOLS),
    "in-parts": Kind(IN_PARTS, IM, "<|im_end|>", refuses=TOOLS),
}  # fmt: skip


def chat_tokenizer(kind: str) -> Any:
    """A small tokenizer with a template of this kind and its control tokens."""
    words = tokenizer(ends=False)
    words.add_special_tokens({"additional_special_tokens": list(KINDS[kind].tokens)})
    words.chat_template = KINDS[kind].template
    return words
