"""The mask holds exactly what the model writes, whatever the template."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamune.data import DataError, Message, Record, Source, render
from tests.data.fakes import CHATML, SPECIAL, TEMPLATES, ByteTokens, JinjaTemplate

SOURCE = Source(path="a.json", number=1)
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "京都"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


def conversation(*turns: tuple[str, str], tools: tuple[dict[str, object], ...] = ()) -> Record:
    messages = tuple(Message(role=role, content=content) for role, content in turns)
    return Record(messages=messages, source=SOURCE, tools=tools)


def written(record: Record, template: JinjaTemplate, train_on: str = "answers") -> list[str]:
    """Return the runs of trained tokens as texts."""
    tokens = ByteTokens()
    ready = render(record, template, tokens, train_on=train_on)
    runs: list[list[int]] = []
    before = False
    for token, trained in zip(ready.ids, ready.trained, strict=True):
        if trained and not before:
            runs.append([])
        if trained:
            runs[-1].append(token)
        before = trained
    return [tokens.spell(run) for run in runs]


TWO_TURNS = conversation(
    ("user", "東京は？"), ("assistant", "晴れ。"), ("user", "And Oslo?"), ("assistant", "Snow.")
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chatml", ["晴れ。<|im_end|>", "Snow.<|im_end|>"]),
        ("headers", ["晴れ。<|eot|>", "Snow.<|eot|>"]),
        ("turns", ["晴れ。<end_of_turn>", "Snow.<end_of_turn>"]),
        ("brackets", [" 晴れ。</s>", " Snow.</s>"]),
        ("thinking", ["晴れ。<|im_end|>", "<think>\n\n</think>\n\nSnow.<|im_end|>"]),
        ("ended", ["晴れ。\n<|end|>", "Snow.\n<|end|>"]),
        ("open", ["晴れ。", "Snow.</s>"]),
    ],
)
def test_trains_each_answer_and_the_token_that_ends_it(name: str, expected: list[str]) -> None:
    assert written(TWO_TURNS, TEMPLATES[name]) == expected


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_the_last_answer_alone_on_request(name: str) -> None:
    (run,) = written(TWO_TURNS, TEMPLATES[name], "last")
    assert "Snow." in run


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_every_token_on_request(name: str) -> None:
    (run,) = written(TWO_TURNS, TEMPLATES[name], "all")
    assert run == TEMPLATES[name].render([m.for_template() for m in TWO_TURNS.messages])


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"turns"}))
def test_tool_calls_are_trained_and_tool_results_are_not(name: str) -> None:
    record = Record(
        source=SOURCE,
        tools=(TOOL,),
        messages=(
            Message(role="user", content="京都の天気は？"),
            Message(role="assistant", content="", tool_calls=(CALL,)),
            Message(role="tool", content="cloudy"),
            Message(role="assistant", content="くもりです。"),
        ),
    )
    first, last = written(record, TEMPLATES[name])
    assert '"weather"' in first
    assert "cloudy" not in first + last
    assert "くもりです。" in last


def test_a_template_that_drops_tool_calls_is_refused() -> None:
    record = Record(
        source=SOURCE,
        messages=(
            Message(role="user", content="京都の天気は？"),
            Message(role="assistant", content="見ます。", tool_calls=(CALL,)),
        ),
    )
    with pytest.raises(DataError, match="leaves out the call of 'weather' in turn 2"):
        render(record, TEMPLATES["turns"], ByteTokens())


def test_a_turn_that_the_file_marks_is_not_trained() -> None:
    record = Record(
        source=SOURCE,
        messages=(
            Message(role="user", content="a"),
            Message(role="assistant", content="wrong", train=False),
            Message(role="user", content="b"),
            Message(role="assistant", content="right"),
        ),
    )
    assert written(record, CHATML) == ["right<|im_end|>"]


def test_same_words_in_question_and_answer_are_told_apart() -> None:
    record = conversation(("user", "echo"), ("assistant", "echo"))
    assert written(record, CHATML) == ["echo<|im_end|>"]


def test_a_token_across_the_border_is_not_trained() -> None:
    record = conversation(("user", "hi"), ("assistant", "\nyes"))
    tokens = ByteTokens(merges=["\n\n"])
    ready = render(record, CHATML, tokens)
    trained = [i for i, kept in zip(ready.ids, ready.trained, strict=True) if kept]
    assert tokens.spell(trained) == "yes<|im_end|>"


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_bos_is_there_exactly_once(name: str) -> None:
    tokens = ByteTokens(adds_bos=True)
    ids = render(TWO_TURNS, TEMPLATES[name], tokens).ids
    assert ids[0] == tokens.bos_id
    assert ids.count(tokens.bos_id) == 1


def test_cut_records_keep_their_start_and_say_so() -> None:
    whole = render(TWO_TURNS, CHATML, ByteTokens())
    cut = render(TWO_TURNS, CHATML, ByteTokens(), max_length=20)
    assert (cut.ids, cut.trained) == (whole.ids[:20], whole.trained[:20])
    assert cut.cut
    assert cut.n_whole == len(whole.ids)
    assert not whole.cut


def test_a_template_that_drops_a_turn_is_refused() -> None:
    last_only = JinjaTemplate("{{ messages[-1].content }}</s>")
    with pytest.raises(DataError, match=r"leaves out turn 2 \(assistant\)"):
        render(TWO_TURNS, last_only, ByteTokens())


def test_a_tokenizer_that_changes_the_text_is_refused() -> None:
    class Lowering(ByteTokens):
        def encode(self, text: str, *, parse_special: bool = True) -> list[int]:
            return super().encode(text.lower(), parse_special=parse_special)

    with pytest.raises(DataError, match="do not spell"):
        render(TWO_TURNS, CHATML, Lowering())


def test_plain_text_is_trained_whole_and_ended() -> None:
    tokens = ByteTokens(adds_bos=True)
    ready = render(Record(source=SOURCE, text="Once <|im_end|>"), CHATML, tokens)
    assert tokens.spell(ready.ids) == "<s>Once <|im_end|></s>"
    assert tokens.specials["<|im_end|>"] not in ready.ids
    assert all(ready.trained)


words = st.text(st.characters(exclude_categories=["Cs", "Co"]), min_size=1, max_size=20).filter(
    lambda text: text == text.strip() and not any(special in text for special in SPECIAL)
)


@settings(max_examples=60)
@given(
    turns=st.lists(st.tuples(words, words), min_size=1, max_size=3),
    system=st.none() | words,
    name=st.sampled_from(sorted(set(TEMPLATES) - {"thinking"})),
)
def test_trained_text_is_the_answers_and_the_prompt_is_what_the_engine_gets(
    turns: list[tuple[str, str]], system: str | None, name: str
) -> None:
    template, tokens = TEMPLATES[name], ByteTokens(adds_bos=True)
    said = [("system", system)] if system is not None else []
    for question, answer in turns:
        said += [("user", question), ("assistant", answer)]
    record = conversation(*said)
    ready = render(record, template, tokens)
    trained = tokens.spell([i for i, kept in zip(ready.ids, ready.trained, strict=True) if kept])
    bare = trained
    for special in ("</s>", "<|im_end|>", "<|eot|>", "<end_of_turn>", "<|end|>"):
        bare = bare.replace(special, "")
    assert "".join(bare.split()) == "".join("".join(answer.split()) for _, answer in turns)

    before = [message.for_template() for message in record.messages[:-1]]
    prompt = template.render(before, add_generation_prompt=True)
    ids = tokens.encode(prompt)
    ids = ids if ids[:1] == [tokens.bos_id] else [tokens.bos_id, *ids]
    only_last = render(record, template, tokens, train_on="last")
    assert only_last.trained.index(True) == len(ids)
    assert only_last.ids[: len(ids)] == ids
