"""Which template a model is served with, and whole conversations through Go templates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamune.data import Message, Record, Source, render
from llamune.errors import UnsupportedError
from llamune.gguf import ModelFile
from llamune.store import Model, ModelName
from llamune.text import (
    ChatTemplate,
    TemplateError,
    Tokenizer,
    faults,
    prompt_ids,
    template_of,
    tokenizer_of,
)
from tests.text.go_cases import TEMPLATES
from tests.text.vocabularies import CONTROL, byte_pair_keys, write_vocabulary

SYSTEM = {"role": "system", "content": "Be brief."}
QUESTION = {"role": "user", "content": "What is it?"}
ANSWER = {"role": "assistant", "content": "It is a test."}
MORE = {"role": "user", "content": "Why?"}
LAST = {"role": "assistant", "content": "Because."}


@pytest.fixture(scope="module")
def file(starter_path: Path) -> Iterator[ModelFile]:
    with ModelFile.open(starter_path) as opened:
        yield opened


def model(file: ModelFile, **layers: Any) -> Model:
    return Model(ref="m", paths=(file.path,), **layers)


def chosen(file: ModelFile, use: str | None = None, **layers: Any) -> ChatTemplate:
    return template_of(model(file, **layers), file, tokenizer_of(file), use=use)


def test_a_path_has_the_files_own(file: ModelFile) -> None:
    found = chosen(file)
    assert (found.source, found.language) == ("gguf", "Jinja")
    assert "tokenizer.chat_template" in found.where


def test_a_layer_wins_over_the_file(file: ModelFile) -> None:
    found = chosen(file, template=TEMPLATES["chatml"])
    assert (found.source, found.language) == ("ollama", "Go")
    prompt = found.render([QUESTION], add_generation_prompt=True)
    assert prompt == "<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("use", ["gguf", "ollama", "chatml", "llama3", "gemma", "mistral", "phi3"])
def test_another_can_be_chosen(file: ModelFile, use: str) -> None:
    found = chosen(file, use, template=TEMPLATES["chatml"])
    assert "What is it?" in found.render([QUESTION], add_generation_prompt=True)


def test_an_unknown_choice_names_the_known(file: ModelFile) -> None:
    with pytest.raises(TemplateError) as caught:
        chosen(file, "nope")
    assert "chatml" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (TEMPLATES["chatml"], "Go"),
        ("{{ .System }}\n{{- .Prompt }}", "Go"),
        ("{{ range $i, $m := .Messages }}{{ json $m }}{{ end }}", "Go"),
        ("{{ messages[-1].content }}", "Jinja"),
        ("{% for m in messages %}{{ m.content ~ ' .A' }}{% endfor %}", "Jinja"),
    ],
)
def test_a_file_with_a_template_can_be_chosen(
    file: ModelFile, tmp_path: Path, text: str, language: str
) -> None:
    path = tmp_path / "own"
    path.write_text(text)
    found = chosen(file, str(path), template=TEMPLATES["chatml"], system="Layer.")
    assert (found.source, found.language) == ("named", language)
    assert (found.where, found.system) == (str(path), "Layer.")
    assert "What is it?" in found.render([QUESTION], add_generation_prompt=True)


@pytest.mark.parametrize(
    ("data", "reason"), [(b"x" * (1 << 20 | 1), "too long"), (b"a\xff", "not UTF-8 at byte 1")]
)
def test_a_file_that_holds_no_template_is_refused(
    file: ModelFile, tmp_path: Path, data: bytes, reason: str
) -> None:
    path = tmp_path / "own.jinja"
    path.write_bytes(data)
    with pytest.raises(TemplateError, match=reason) as caught:
        chosen(file, str(path))
    assert str(path) in caught.value.message


def test_a_model_tuned_with_a_chosen_template_is_served_with_it(file: ModelFile) -> None:
    text = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    config = {"chat_template": text, "renderer": "own"}
    layers: dict[str, Any] = {"template": TEMPLATES["chatml"], "config": config}
    found = chosen(file, **layers)
    assert found.source == "named"
    assert found.render([QUESTION]) == "<user>What is it?<|im_end|>"
    assert chosen(file, "ollama", **layers).source == "ollama"


def test_a_file_without_template_says_so_and_what_to_choose(tmp_path: Path) -> None:
    keys = byte_pair_keys("gpt-2", texts=["hello"], n_merges=1, special=[("<s>", CONTROL)])
    with ModelFile.open(write_vocabulary(tmp_path / "x.gguf", keys)) as bare:
        with pytest.raises(TemplateError, match="no chat template") as caught:
            chosen(bare)
        assert "chatml" in (caught.value.hint or "")
        assert chosen(bare, "chatml").render([QUESTION]).startswith("<|im_start|>user")


@pytest.mark.parametrize(
    "config", [{"renderer": "qwen3-coder"}, {"parser": "glm-4"}, {"model_family": "gptoss"}]
)
def test_models_rendered_by_code_are_refused_by_name(
    file: ModelFile, config: dict[str, str]
) -> None:
    name = "harmony" if "model_family" in config else next(iter(config.values()))
    with pytest.raises(UnsupportedError, match=name):
        chosen(file, template=TEMPLATES["chatml"], config=config)
    assert chosen(file, "gguf", template=TEMPLATES["chatml"], config=config).source == "gguf"


def test_a_file_that_can_do_more_wins_over_the_layer() -> None:
    from llamune.text.choosing import prefers_jinja

    tools = "{% for t in tools %}{% endfor %}{{ message.tool_calls }}{{ tool_response }}"
    assert prefers_jinja(tools, TEMPLATES["chatml"])
    assert not prefers_jinja("{{ messages }}", TEMPLATES["chatml"])
    assert not prefers_jinja(tools, TEMPLATES["chatml with tool calls"])
    assert prefers_jinja(tools + "<think></think>", TEMPLATES["chatml with tool calls"])


def test_text_in_parts_is_joined_and_pictures_are_refused(file: ModelFile) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    for found in (chosen(file), chosen(file, template=TEMPLATES["chatml"])):
        assert "user\none\ntwo<|im_end|>" in found.render([{"role": "user", "content": parts}])
        with pytest.raises(UnsupportedError, match="image_url"):
            found.render([{"role": "user", "content": [{"type": "image_url"}]}])
        with pytest.raises(UnsupportedError, match="'str'"):
            found.render([{"role": "user", "content": ["x"]}])


def test_system_and_messages_layers_go_first(file: ModelFile) -> None:
    opening = (MORE, LAST)
    found = chosen(file, template=TEMPLATES["chatml"], system="Be kind.", messages=opening)
    text = found.render([QUESTION], add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhy?")
    given = found.render([SYSTEM, QUESTION], add_generation_prompt=True)
    assert "Be kind." not in given
    assert "Be brief." in given


def test_earlier_thoughts_are_hidden_where_ollama_hides_them(file: ModelFile) -> None:
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}
    config = {"model_family": "qwen3"}
    found = chosen(file, template=TEMPLATES["chatml"], config=config)
    assert "hm" not in found.render([QUESTION, thought, MORE], add_generation_prompt=True)
    assert "hm" in found.render([QUESTION, thought])
    name = ModelName.parse("deepseek-r1:7b")
    assert chosen(file, template=TEMPLATES["chatml"], name=name).hides_thoughts


ENDS = {
    "chatml": "<|im_end|>",
    "chatml by rounds": "<|im_end|>",
    "headers with tools": "<|im_end|>",  # its own <|eot_id|> is no token of this vocabulary
    "instructions": "<|im_end|>",
    "chatml with tool calls": "<|im_end|>",
}


@pytest.mark.parametrize("name", ENDS)
def test_a_whole_conversation_is_a_prompt_an_answer_and_its_end(file: ModelFile, name: str) -> None:
    found = chosen(file, template=TEMPLATES[name])
    prompt = found.render([SYSTEM, QUESTION, ANSWER, MORE], add_generation_prompt=True)
    whole = found.render([SYSTEM, QUESTION, ANSWER, MORE, LAST])
    assert whole == f"{prompt}Because.{ENDS[name]}"


def test_answers_are_trained_with_their_ends(file: ModelFile) -> None:
    tokenizer = tokenizer_of(file)
    found = chosen(file, template=TEMPLATES["chatml"])
    turns = [SYSTEM, QUESTION, ANSWER, MORE, LAST]
    record = Record(
        messages=tuple(Message(role=one["role"], content=one["content"]) for one in turns),
        source=Source(path="x", number=1),
    )
    rendered = render(record, found, tokenizer)
    trained = [id_ for id_, used in zip(rendered.ids, rendered.trained, strict=True) if used]
    assert tokenizer.decode(trained) == "It is a test.<|im_end|>Because.<|im_end|>"


def bos_tokenizer(tmp_path: Path, template: str | None = None) -> tuple[ModelFile, Tokenizer]:
    special = [("<s>", CONTROL), ("</s>", CONTROL)]
    keys = byte_pair_keys("llama-bpe", texts=["hello"], n_merges=1, special=special)
    tokens = keys["tokenizer.ggml.tokens"]
    keys["tokenizer.ggml.bos_token_id"] = tokens.index("<s>")
    keys["tokenizer.ggml.eos_token_id"] = tokens.index("</s>")
    if template is not None:
        keys["tokenizer.chat_template"] = template
    opened = ModelFile.open(write_vocabulary(tmp_path / "bos.gguf", keys))
    return opened, tokenizer_of(opened)


@pytest.mark.parametrize("written", ["", "{{ bos_token }}"])
def test_bos_stands_exactly_once(tmp_path: Path, written: str) -> None:
    template = written + "{% for m in messages %}{{ m.content }}{% endfor %}"
    opened, tokenizer = bos_tokenizer(tmp_path, template)
    with opened:
        ids = prompt_ids(chosen(opened), tokenizer, [QUESTION])
    assert ids.count(tokenizer.bos_id or 0) == 1
    assert ids[0] == tokenizer.bos_id


def test_faults_are_named(tmp_path: Path) -> None:
    template = (
        "{{ bos_token }}{{ bos_token }}"
        "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    )
    opened, tokenizer = bos_tokenizer(tmp_path, template)
    with opened:
        jinja = chosen(opened)
        go = chosen(opened, "ollama", template="<s>{{ .Prompt }} {{ .Response }}</s>")
    # llama.cpp gives the system prompt to the next message where a template drops it
    found = faults(jinja, tokenizer, [SYSTEM, QUESTION, ANSWER])
    assert [fault.partition(":")[0] for fault in found] == ["double BOS", "missing end of turn"]
    found = faults(go, tokenizer, [SYSTEM, QUESTION, ANSWER])
    assert [fault.partition(":")[0] for fault in found] == ["double BOS", "lost system prompt"]
    assert faults(jinja, tokenizer, [QUESTION, ANSWER], stops=["test."]) != []
