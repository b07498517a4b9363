"""The official clients against a real server: the starter model with two adapters on it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ollama
import openai
import pytest

from llamune.gguf import Entry, ModelFile, NewTensor, quant_type, write_gguf
from llamune.store import publish_adapter, publish_model
from tests.serve.real import MAIN, Running, running_server


def random_adapter(base: Path, out: Path, seed: int) -> Path:
    """Write a LoRA of rank 2 on every value projection, strong enough to change answers."""
    rng = np.random.default_rng(seed)
    tensors = []
    with ModelFile.open(base) as file:
        for info in file.tensors.values():
            if not info.name.endswith("attn_v.weight"):
                continue
            rows, columns = info.shape
            for name, shape in (("lora_a", (2, columns)), ("lora_b", (rows, 2))):
                data = rng.normal(0, 0.3, shape).astype(np.float32).tobytes()
                tensors.append(
                    NewTensor(
                        f"{info.name}.{name}", shape, quant_type("F32"), lambda data=data: [data]
                    )
                )
    metadata = {
        "general.architecture": Entry.of("llama"),
        "general.type": Entry.of("adapter"),
        "adapter.type": Entry.of("lora"),
        "adapter.lora.alpha": Entry.of(2.0),
    }
    write_gguf(out, metadata=metadata, tensors=tensors)
    return out


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, starter_path: Path) -> Iterator[Running]:
    """Run `llamune serve` over a library with the starter and two adapters."""
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMUNE_HOME", str(folder / "home"))
        base = publish_model("starter", starter_path)
        for seed, name in enumerate(("first", "second")):
            adapter = random_adapter(starter_path, folder / f"{name}.gguf", seed)
            publish_adapter(name, base, adapter)
        with running_server("--context", "512") as running:
            yield running


@pytest.fixture
def openai_client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def ollama_client(server: Running) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as client:
        yield client


QUESTION: list[Any] = [{"role": "user", "content": "Name a colour."}]


def test_openai_lists_and_chats(openai_client: openai.OpenAI) -> None:
    names = {model.id for model in openai_client.models.list()}
    assert names == {"starter:latest", "first:latest", "second:latest"}
    answer = openai_client.chat.completions.create(
        model="starter", messages=QUESTION, temperature=0, max_tokens=8
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 8
    stream = openai_client.chat.completions.create(
        model="starter", messages=QUESTION, temperature=0, max_tokens=8, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == answer.choices[0].message.content


def test_each_adapter_is_a_model_that_answers_its_own_way(openai_client: openai.OpenAI) -> None:
    answers = {
        name: openai_client.chat.completions.create(
            model=name, messages=QUESTION, temperature=0, max_tokens=8
        )
        .choices[0]
        .message.content
        for name in ("starter", "first", "second")
    }
    assert len(set(answers.values())) == 3


def test_log_probabilities_of_an_answer(openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(
        model="starter",
        messages=QUESTION,
        temperature=0,
        max_tokens=4,
        logprobs=True,
        top_logprobs=3,
    )
    assert answer.choices[0].logprobs is not None
    tokens = answer.choices[0].logprobs.content
    assert tokens
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert math.isclose(token.top_logprobs[0].logprob, token.logprob, abs_tol=1e-4)


def test_echo_gives_true_log_probabilities_of_the_prompt(openai_client: openai.OpenAI) -> None:
    def score(text: str) -> tuple[list[str], float]:
        answer = openai_client.completions.create(
            model="starter", prompt=text, max_tokens=0, echo=True, logprobs=2
        )
        found = answer.choices[0].logprobs
        assert found is not None
        assert answer.choices[0].text == text
        values = found.token_logprobs
        assert values is not None
        assert values[0] is None
        return found.tokens or [], sum(value for value in values[1:] if value is not None)

    tokens, likely = score("The capital of France is Paris")
    _, unlikely = score("The capital of France is rabbit")
    assert "".join(tokens) == "The capital of France is Paris"
    assert likely > unlikely + 3


def test_json_schema_and_stop(openai_client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    answer = openai_client.chat.completions.create(
        model="starter",
        messages=QUESTION,
        max_tokens=32,
        response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": schema}},
    )
    assert json.loads(answer.choices[0].message.content or "")["colour"] in ("red", "green")
    counted = openai_client.completions.create(
        model="starter", prompt="1, 2, 3, 4,", max_tokens=32, temperature=0, stop=[" 7"]
    )
    assert " 7" not in counted.choices[0].text
    assert counted.choices[0].finish_reason == "stop"


def test_openai_embeddings(openai_client: openai.OpenAI) -> None:
    found = openai_client.embeddings.create(model="starter", input=["a cat", "a dog"])
    assert [len(entry.embedding) for entry in found.data] == [576, 576]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "nope"}, openai.NotFoundError),
        ({"temperature": -1.0}, openai.BadRequestError),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, openai.BadRequestError),
    ],
)
def test_openai_errors(
    openai_client: openai.OpenAI, change: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        openai_client.chat.completions.create(
            **{"model": "starter", "messages": QUESTION, "max_tokens": 4, **change}
        )


def test_ollama_lists_shows_and_answers(ollama_client: ollama.Client) -> None:
    names = {model.model for model in ollama_client.list().models}
    assert names == {"starter:latest", "first:latest", "second:latest"}
    shown = ollama_client.show("starter")
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.block_count"] == 30
    options = {"temperature": 0, "num_predict": 8}
    whole = ollama_client.chat("starter", QUESTION, options=options)
    assert whole.message.content
    assert whole.eval_count
    parts = ollama_client.chat("starter", QUESTION, options=options, stream=True)
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    generated = ollama_client.generate("first", "Name a colour.", options=options)
    assert generated.done
    assert any(model.model for model in ollama_client.ps().models)


def test_ollama_embeds(ollama_client: ollama.Client) -> None:
    found = ollama_client.embed("starter", ["a cat", "a dog"])
    assert [len(vector) for vector in found.embeddings] == [576, 576]


def test_ollama_errors(ollama_client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as refused:
        ollama_client.chat("nope", QUESTION)
    assert refused.value.status_code == 404


def test_an_adapter_is_made_used_and_removed_through_ollamas_api(
    ollama_client: ollama.Client, starter_path: Path, tmp_path: Path
) -> None:
    path = random_adapter(starter_path, tmp_path / "third.gguf", 3)
    digest = ollama_client.create_blob(path)
    made = ollama_client.create("third", from_="starter", adapters={"third.gguf": digest})
    assert made.status == "success"
    options = {"temperature": 0, "num_predict": 8}
    tuned = ollama_client.chat("third", QUESTION, options=options).message.content
    plain = ollama_client.chat("starter", QUESTION, options=options).message.content
    assert tuned != plain
    ollama_client.copy("third", "fourth")
    ollama_client.delete("third")
    assert ollama_client.chat("fourth", QUESTION, options=options).message.content == tuned
    ollama_client.delete("fourth")


def test_what_was_asked_is_counted(server: Running, openai_client: openai.OpenAI) -> None:
    answer = openai_client.chat.completions.create(model="second", messages=QUESTION, max_tokens=3)
    assert answer.usage is not None
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "usage", "--by", "model", "--csv"],
        env=server.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = {line.split(",")[0]: line.split(",") for line in done.stdout.splitlines()}
    assert int(rows["second:latest"][2]) >= answer.usage.prompt_tokens


def test_the_embedded_servers_own_port_answers_nobody(server: Running) -> None:
    """The engine opens a port of its own: it takes a random key and no foreign origin."""
    import httpx

    ours = int(server.url.rsplit(":", 1)[1])
    listening = [socket for socket in sockets_of(server.pid) if socket.status == "LISTEN"]
    inner = [socket.laddr for socket in listening if socket.laddr.port != ours]
    assert inner
    for address in inner:
        assert address.ip == "127.0.0.1"
        url = f"http://127.0.0.1:{address.port}"
        headers = {"Origin": "https://evil.example"}
        for path in ("/v1/models", "/props", "/slots", "/lora-adapters"):
            answer = httpx.get(url + path, headers=headers)
            assert "evil.example" not in answer.headers.get("access-control-allow-origin", "")
            assert answer.headers.get("access-control-allow-origin") != "*"
        chat = httpx.post(f"{url}/v1/chat/completions", json={"messages": QUESTION})
        assert chat.status_code == 401


def sockets_of(pid: int) -> list[Any]:
    """Return the sockets of a process."""
    import psutil

    return list(psutil.Process(pid).net_connections(kind="tcp"))


TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
WEATHER: list[Any] = [{"role": "user", "content": "How is the weather in Paris?"}]


TEMPLATE = """{%- if tools %}<|im_start|>system
Call functions by <tool_call>
{"name": "…", "arguments": {…}}
</tool_call>. There are: <tools>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}
</tools><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.content %}{{ message.content }}{% endif %}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def with_template(base: Path, out: Path) -> Path:
    """Write a model file that differs in its chat template only."""
    with ModelFile.open(base) as file:
        metadata = {key: file.metadata.entry(key) for key in file.metadata}
        metadata["tokenizer.chat_template"] = Entry.of(TEMPLATE)
        tensors = [
            NewTensor(one.name, one.shape, one.type, lambda one=one: [file.packed(one.name)])
            for one in file.tensors.values()
        ]
        write_gguf(out, metadata=metadata, tensors=tensors)
    return out


def test_tools_reach_the_prompt_through_both_apis(
    openai_client: openai.OpenAI,
    ollama_client: ollama.Client,
    starter_path: Path,
    tmp_path: Path,
) -> None:
    digest = ollama_client.create_blob(with_template(starter_path, tmp_path / "caller.gguf"))
    ollama_client.create("caller", files={"caller.gguf": digest})
    assert "tools" in (ollama_client.show("caller").capabilities or [])

    def n_prompt_tokens(**tools: Any) -> int:
        answer = openai_client.chat.completions.create(
            model="caller", messages=WEATHER, max_tokens=2, **tools
        )
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    plain, with_tools = n_prompt_tokens(), n_prompt_tokens(tools=[TOOL])
    assert with_tools > plain + 30
    history = [
        *WEATHER,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}},
            ],
        },
        {"role": "tool", "tool_name": "get_weather", "content": "sunny"},
    ]
    options = {"temperature": 0, "num_predict": 2}
    told = ollama_client.chat("caller", history, tools=[TOOL], options=options)
    assert told.done
    assert (told.prompt_eval_count or 0) > with_tools  # the call and its result are there too
    ollama_client.delete("caller")


def test_a_call_that_is_required_comes_parsed(
    openai_client: openai.OpenAI,
    ollama_client: ollama.Client,
    starter_path: Path,
    tmp_path: Path,
) -> None:
    digest = ollama_client.create_blob(with_template(starter_path, tmp_path / "caller.gguf"))
    ollama_client.create("caller", files={"caller.gguf": digest})
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    asked: dict[str, Any] = {"model": "caller", "messages": WEATHER, "tools": [TOOL]}
    asked |= {"max_tokens": 64, "temperature": 0}
    try:
        for choice in ("required", named):
            answer = openai_client.chat.completions.create(**asked, tool_choice=choice)
            (called,) = answer.choices[0].message.tool_calls or []
            assert called.type == "function"
            assert called.function.name == "get_weather"
            assert isinstance(json.loads(called.function.arguments)["city"], str)
            assert answer.choices[0].finish_reason == "tool_calls"
        chunks = openai_client.chat.completions.create(**asked, tool_choice=named, stream=True)
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        assert "".join(call.function.arguments for call in calls) == called.function.arguments
    finally:
        ollama_client.delete("caller")


def test_tools_that_the_prompt_would_not_mention_are_refused(
    openai_client: openai.OpenAI, ollama_client: ollama.Client
) -> None:
    with pytest.raises(openai.BadRequestError, match="does not support tools"):
        openai_client.chat.completions.create(model="starter", messages=WEATHER, tools=[TOOL])
    with pytest.raises(ollama.ResponseError, match="does not support tools") as refused:
        ollama_client.chat("starter", WEATHER, tools=[TOOL])
    assert refused.value.status_code == 400
    assert "tools" not in (ollama_client.show("starter").capabilities or [])


def test_tools_reach_a_go_template_as_ollama_writes_them(
    openai_client: openai.OpenAI, ollama_client: ollama.Client
) -> None:
    template = (
        "{{ range .Tools }}{{ .Function.Name }}{{ end }}"
        "{{ range .Messages }}Q: {{ .Content }}{{ if .ToolCalls }}<call>{{ end }}\n{{ end }}A:"
    )
    ollama_client.create("listed", from_="starter", template=template)
    try:
        assert "tools" in (ollama_client.show("listed").capabilities or [])
        by_hand = openai_client.completions.create(
            model="starter", prompt=f"get_weatherQ: {WEATHER[0]['content']}\nA:", max_tokens=1
        )
        assert by_hand.usage is not None
        told = ollama_client.chat(
            "listed", WEATHER, tools=[TOOL], options={"num_predict": 1, "temperature": 0}
        )
        assert told.prompt_eval_count == by_hand.usage.prompt_tokens
    finally:
        ollama_client.delete("listed")


def test_a_models_own_go_template_and_stops_are_honoured_in_both_apis(
    openai_client: openai.OpenAI, ollama_client: ollama.Client
) -> None:
    ollama_client.create(
        "asked",
        from_="starter",
        template="Q: {{ .Prompt }}\nA:",
        parameters={"stop": ["\n"], "temperature": 0},
    )
    try:
        by_hand = openai_client.completions.create(
            model="starter",
            prompt="Q: Name a colour.\nA:",
            max_tokens=12,
            temperature=0,
            stop=["\n"],
        )
        text = by_hand.choices[0].text
        assert by_hand.usage is not None
        whole = openai_client.chat.completions.create(
            model="asked", messages=QUESTION, max_tokens=12
        )
        assert whole.choices[0].message.content == text
        assert whole.usage is not None
        assert whole.usage.prompt_tokens == by_hand.usage.prompt_tokens
        told = ollama_client.chat("asked", QUESTION, options={"num_predict": 12})
        assert told.message.content == text
        made = ollama_client.generate("asked", "Name a colour.", options={"num_predict": 12})
        assert made.response == text
        assert "\n" not in text
    finally:
        ollama_client.delete("asked")
