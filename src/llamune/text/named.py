"""Chat templates of common formats, for model files that bring none."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["NAMED"]

CHATML = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""

LLAMA3 = """\
{{- bos_token -}}
{%- for message in messages -%}
<|start_header_id|>{{ message.role }}<|end_header_id|>

{{ message.content | trim }}<|eot_id|>
{%- endfor -%}
{%- if add_generation_prompt -%}
<|start_header_id|>assistant<|end_header_id|>

{% endif -%}
"""

GEMMA = """\
{{- bos_token -}}
{%- for message in messages -%}
<start_of_turn>{{ "model" if message.role == "assistant" else message.role }}
{{ message.content | trim }}<end_of_turn>
{% endfor -%}
{%- if add_generation_prompt -%}
<start_of_turn>model
{% endif -%}
"""

MISTRAL = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message.role == "assistant" %} {{ message.content }}{{ eos_token }}
{%- else %}[INST] {{ message.content }} [/INST]
{%- endif -%}
{%- endfor -%}
"""

PHI3 = """\
{%- for message in messages -%}
<|{{ message.role }}|>
{{ message.content }}<|end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|assistant|>
{% endif -%}
"""

ALPACA = """\
{%- for message in messages -%}
{%- if message.role == "system" -%}
{{ message.content }}

{% elif message.role == "user" -%}
### Instruction:
{{ message.content }}

{% else -%}
### Response:
{{ message.content }}{{ eos_token }}

{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
### Response:
{% endif -%}
"""

NAMED: Mapping[str, str] = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "phi3": PHI3,
    "alpaca": ALPACA,
}
