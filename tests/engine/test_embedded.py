"""Answers from the embedded llama.cpp, its adapters, and the port that it opens."""

from __future__ import annotations

import http.client
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from llamune.engine import EmbeddedEngine, EngineError, GenerateOptions, LoadedAdapter, open_engine
from llamune.gguf import Entry, GgufError, ModelFile, NewTensor, quant_type, write_gguf
from llamune.store import resolve
from tests.concurrency import PATIENCE_SECONDS, at_once

GREEDY = GenerateOptions(max_tokens=12, temperature=0)
QUESTION = [{"role": "user", "content": "Tell me a story about a fox."}]


def write_random_adapter(path: Path, base: Path, *, seed: int) -> Path:
    """Write an adapter on every attention output of the base that changes what it says."""
    random = np.random.default_rng(seed)
    f32 = quant_type("F32")
    tensors = []
    with ModelFile.open(base) as file:
        for name, info in file.tensors.items():
            if not name.endswith("attn_output.weight"):
                continue
            rows, columns = info.shape
            a = random.normal(size=(4, columns)).astype(np.float32)
            b = random.normal(size=(rows, 4), scale=0.3).astype(np.float32)
            tensors.append(NewTensor(f"{name}.lora_a", a.shape, f32, lambda a=a: [a]))
            tensors.append(NewTensor(f"{name}.lora_b", b.shape, f32, lambda b=b: [b]))
    metadata = {
        "general.type": Entry.of("adapter"),
        "general.architecture": Entry.of("llama"),
        "adapter.type": Entry.of("lora"),
        "adapter.lora.alpha": Entry.of(4.0),
    }
    write_gguf(path, metadata=metadata, tensors=tensors)
    return path


@pytest.fixture(scope="module")
def engine(
    starter_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedEngine]:
    folder = tmp_path_factory.mktemp("adapters")
    adapters = [
        LoadedAdapter(name=name, path=write_random_adapter(folder / name, starter_path, seed=seed))
        for seed, name in enumerate(("one.gguf", "two.gguf"))
    ]
    # a shell that starts us in the background has SIGINT ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with open_engine(
        resolve(str(starter_path)), adapters=adapters, n_ctx=512, n_parallel=2, n_threads=1
    ) as opened:
        yield opened
    signal.signal(signal.SIGINT, before)


def test_a_greedy_answer_is_the_same_each_time(engine: EmbeddedEngine):
    first, second = (engine.answer(QUESTION, GREEDY, scales={}) for _ in range(2))
    assert first.text == second.text != ""
    assert first.n_answer_tokens == 12
    assert first.finish_reason == "length"
    assert first.n_prompt_tokens == len(engine.tokenize(engine.render(QUESTION)))


def test_adapters_act_a_request_at_a_time(engine: EmbeddedEngine):
    def text(**scales: float) -> str:
        named = {f"{name}.gguf": scale for name, scale in scales.items()}
        return engine.answer(QUESTION, GREEDY, scales=named).text

    bare = text()
    assert len({bare, text(one=1.0), text(two=1.0)}) == 3
    assert text(one=0.0) == bare
    assert text() == bare
    assert engine.answer(QUESTION, GREEDY).text not in {bare, text(one=1.0)}  # both act by default


def test_an_unknown_adapter_is_refused_by_name(engine: EmbeddedEngine):
    with pytest.raises(EngineError, match="three"):
        engine.answer(QUESTION, GREEDY, scales={"three": 1.0})


def test_requests_from_threads_get_their_own_answers(engine: EmbeddedEngine):
    def bare() -> str:
        return engine.answer(QUESTION, GREEDY, scales={}).text

    def adapted() -> str:
        return engine.answer(QUESTION, GREEDY, scales={"one.gguf": 1.0}).text

    assert at_once(bare, adapted) == [bare(), adapted()]


def test_closing_the_iterator_stops_the_work(engine: EmbeddedEngine):
    before = set(threading.enumerate())
    pieces = engine.generate("Once upon a time", GenerateOptions(max_tokens=400), scales={})
    next(pieces)
    started = set(threading.enumerate()) - before
    assert started
    pieces.close()
    assert not any(thread.is_alive() for thread in started)
    assert engine.answer(QUESTION, GREEDY, scales={}).text  # the slot is free again


def test_log_probabilities_come_with_alternatives(engine: EmbeddedEngine):
    options = GenerateOptions(max_tokens=2, temperature=0, n_log_probabilities=3)
    answer = engine.answer(QUESTION, options, scales={})
    assert [len(token.alternatives) for token in answer.log_probabilities] == [3, 3]
    for token in answer.log_probabilities:
        assert token.alternatives[0] == (token.token, token.log_probability)


def test_stop_texts_end_an_answer(engine: EmbeddedEngine):
    whole = engine.answer(QUESTION, GREEDY, scales={}).text
    stop = whole.split()[1]
    options = GenerateOptions(max_tokens=12, temperature=0, stop=(stop,))
    answer = engine.answer(QUESTION, options, scales={})
    assert answer.text == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"


def test_a_schema_shapes_the_answer(engine: EmbeddedEngine):
    import json

    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Tokyo", "Kyoto"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    options = GenerateOptions(max_tokens=40, temperature=0, json_schema=schema)
    assert (
        json.loads(engine.answer(QUESTION, options, scales={}).text)["city"]
        in schema["properties"]["city"]["enum"]
    )


def test_a_prompt_longer_than_the_context_is_refused(engine: EmbeddedEngine):
    with pytest.raises(EngineError, match="exceeds the available context"):
        engine.answer([{"role": "user", "content": "word " * 1000}], GREEDY, scales={})


def test_a_model_of_the_same_base_answers_from_the_same_weights(
    engine: EmbeddedEngine, starter_path: Path
):
    from dataclasses import replace

    shouting = replace(
        resolve(str(starter_path)), system="Answer in French.", parameters={"num_predict": 5}
    )
    view = engine.as_model(shouting)
    answer = view.answer(QUESTION, GenerateOptions(temperature=0, max_tokens=1024))
    asked = [{"role": "system", "content": "Answer in French."}, *QUESTION]
    direct = engine.answer(asked, GenerateOptions(temperature=0, max_tokens=5), scales={})
    assert (answer.text, answer.n_answer_tokens) == (direct.text, 5)
    view.close()
    assert engine.answer(QUESTION, GREEDY, scales={}).text


def test_a_models_layers_reach_its_prompt(starter_path: Path):
    """The store's Go template and system prompt, and the file's own template with them."""
    from dataclasses import replace

    plain = replace(resolve(str(starter_path)), system="Answer in French.")
    with_layer = replace(
        plain,
        template="{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
        "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n",
    )
    with open_engine(plain, n_ctx=256, n_threads=1) as engine:
        prompt = engine.render(QUESTION)
        assert "Answer in French." in prompt
        view = engine.as_model(with_layer)
        assert not view.persona.is_rendered_by_llama_cpp
        assert engine.persona.is_rendered_by_llama_cpp
        assert view.persona.prompts.ids(QUESTION, ()) == engine.tokenize(prompt)
        assert view.answer(QUESTION, GREEDY).text == engine.answer(QUESTION, GREEDY).text
        other = [{"role": "system", "content": "Answer in German."}, *QUESTION]
        assert "French" not in engine.render(other)


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/completion", "/tokenize", "/props", "/slots", "/metrics"]
)
@pytest.mark.parametrize("key", [None, "", "guess", "Bearer"])
def test_the_inner_port_answers_nobody_without_its_key(
    engine: EmbeddedEngine, path: str, key: str | None
):
    parts = urlsplit(engine.address)
    assert parts.hostname == "127.0.0.1"
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE_SECONDS)
    headers = {"Origin": "http://evil.example", "Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    connection.request("POST", path, '{"prompt": "hi", "content": "hi"}', headers)
    answer = connection.getresponse()
    assert answer.status in {401, 404}
    assert answer.getheader("Access-Control-Allow-Origin") in {None, ""}
    connection.close()


def test_ctrl_c_still_reaches_python(engine: EmbeddedEngine):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_closed_engine_says_so(starter_path: Path):
    opened = open_engine(resolve(str(starter_path)), n_ctx=256, n_threads=1)
    opened.close()
    opened.close()
    with pytest.raises(EngineError, match="closed"):
        opened.answer(QUESTION, GREEDY)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(GgufError, match=r"broken\.gguf, byte 4: .*rule: version"):
        open_engine(resolve(str(path)), n_threads=1)
