"""Each flaw is found where it is, and not where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamune.data import Flaw, Message, Record, Source
from llamune.data.characters import (
    control_characters,
    control_pattern,
    control_tokens,
    html_residue,
    mojibake,
    repair_unicode,
    without_html,
)
from llamune.data.languages import foreign_answers, language_of
from llamune.data.personal import (
    is_my_number,
    luhn,
    personal_data,
    personal_spans,
    plain_width,
)
from llamune.data.wording import cut_answers, empty_answers, refusals

Finder = Callable[[Record], Iterator[Flaw]]


def record(answer: str, question: str = "q") -> Record:
    return Record(
        messages=(
            Message(role="user", content=question),
            Message(role="assistant", content=answer),
        ),
        source=Source(path="a.json", number=1),
    )


LONG = "This answer has a first sentence. It has a second one too. And then there is a third, "
LONG_JA = "これは一つ目の文です。二つ目の文もあります。三つ目の文は終わらないまま途中で切れて"


@pytest.mark.parametrize(
    ("find", "answer"),
    [
        (empty_answers, ""),
        (empty_answers, " \n\u3000"),
        (cut_answers, LONG + "which"),
        (cut_answers, LONG + "that never quite reaches its en"),
        (cut_answers, LONG_JA),
        (cut_answers, "Here is the code:\n```python\nprint(1)"),
        (refusals, "As an AI language model, I cannot have opinions."),
        (refusals, "I'm sorry, but I can't help with that."),
        (refusals, "I cannot assist with this request."),
        (refusals, "AI言語モデルとして、意見はありません。"),
        (refusals, "AIとして回答します。"),
        (refusals, "申し訳ございませんが、その質問にはお答えできません。"),
        (refusals, "Dear [Your Name], thank you."),
        (mojibake, "ã‚³ãƒ¼ãƒ‰ã®ä¾‹"),
        (mojibake, "cafÃ© and naÃ¯ve"),
        (mojibake, "こんにちは世界、日本語のテスト".encode().decode("cp932", errors="replace")),
        (mojibake, "broken \N{REPLACEMENT CHARACTER} here"),
        (control_characters, "a\x00b"),
        (control_characters, "a\u202eb"),
        (control_characters, "zero\u200bwidth"),
        (html_residue, "<p>Hello</p>"),
        (html_residue, "a<br/>b"),
        (html_residue, "fish &amp; chips"),
    ],
)
def test_finds(find: Finder, answer: str) -> None:
    (flaw,) = find(record(answer))
    assert flaw.field == "messages[1]"


@pytest.mark.parametrize(
    ("find", "answer"),
    [
        (empty_answers, "0"),
        (cut_answers, "billing/urgent"),
        (cut_answers, LONG + "which ends."),
        (cut_answers, LONG_JA + "いた。"),
        (cut_answers, "```python\nprint(1)\n```"),
        (cut_answers, LONG.rstrip(", ") + ":\n- one\n- two apples"),
        (cut_answers, "| a | b |\n" * 12),
        (refusals, "AIモデルの学習について説明します。"),
        (refusals, "The clerk said: sorry, we are closed."),
        (refusals, "Training an AI takes data."),
        (mojibake, "こんにちは世界。コードの例です。"),
        (mojibake, "繝の字を使う漢字の話"),
        (mojibake, "Straße, naïve café, Ångström — “quoted”"),
        (mojibake, "절대 문제없습니다. 中文也没有问题。"),
        (control_characters, "tabs\tand\nlines\r\n"),
        (control_characters, "家族 👨\u200d👩\u200d👧 絵文字"),
        (html_residue, "if a < b and c > d: pass"),
        (html_residue, "```html\n<p>Hello</p>\n```"),
        (html_residue, "use `<br>` here"),
        (html_residue, "AT&T; R&D"),
    ],
)
def test_does_not_find(find: Finder, answer: str) -> None:
    assert list(find(record(answer))) == []


def test_tool_calls_are_no_empty_answer() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    called = Record(
        messages=(Message(role="assistant", content="", tool_calls=(call,)),),
        source=Source(path="a", number=1),
    )
    assert not list(empty_answers(called))


@pytest.mark.parametrize(
    "text",
    ["Hi<|im_end|>", "[INST] x", "<start_of_turn>user", "</s>", "<｜Assistant｜>", "a<magic>b"],
)
def test_control_tokens_of_this_model_and_of_others(text: str) -> None:
    pattern = control_pattern(["<magic>"])
    assert [flaw.kind for flaw in control_tokens(record(text), pattern)] == ["control_token"]


def test_ordinary_text_holds_no_control_token() -> None:
    pattern = control_pattern(["<magic>", "the", "<s>"])
    text = "the list [1, 2] <b>, a<b>c, INST, <|> and magic"
    assert not list(control_tokens(record(text), pattern))


PERSONAL = [
    ("mail taro.yamada@mail.co.jp please", "e-mail"),
    ("電話は０９０－１２３４－５６７８です", "phone"),
    ("09012345678", "phone"),
    ("tel 03-1234-5678", "phone"),
    ("0120-123-456", "phone"),
    ("(03) 1234-5678", "phone"),
    ("050ー1234ー5678", "phone"),
    ("call +81 90-1234-5678", "phone"),
    ("call (212) 555-0123", "phone"),
    ("+44 20 7946 0958", "phone"),
    ("マイナンバーは123456789018です", "My Number"),
    ("個人番号：１２３４５６７８９０１８", "My Number"),
    ("1234-5678-9018", "My Number"),
    ("card 4111 1111 1111 1111", "card"),
    ("378282246310005", "card"),
    ("AKIAIOSFODNN7EXAMPLE", "AWS key"),
    ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "GitHub token"),
    ("sk-proj-abcDEF123ghiJKL456mnoPQR", "API key"),
    ("-----BEGIN RSA PRIVATE KEY-----", "private key"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN", "web token"),
]


@pytest.mark.parametrize(("text", "name"), PERSONAL)
def test_personal_data_is_found_by_name(text: str, name: str) -> None:
    assert [found for found, _, _ in personal_spans(text)] == [name]


@pytest.mark.parametrize(("text", "name"), PERSONAL)
def test_reports_do_not_leak_it(text: str, name: str) -> None:
    (flaw,) = personal_data(record(text))
    (_, start, end) = personal_spans(text)[0]
    assert text[start:end] not in flaw.detail
    assert flaw.detail.startswith(name)


@pytest.mark.parametrize(
    "text",
    [
        "someone@example.com",
        "a@b",
        "2024-01-15 10:30",
        "1234567890123456",
        "4111 1111 1111 1112",
        "ISBN 978-4-00-310101-8",
        "123456789018",
        "マイナンバーは123456789017です",
        "0000-0000-0000",
        "version 1.2.3.4",
        "価格は1,234,567円",
        "郵便番号 100-0001",
        "sk-aaaaaaaaaaaaaaaaaaaaaaaa",
        "スーパー１２３ー４",
    ],
)
def test_what_only_looks_like_personal_data_is_left_alone(text: str) -> None:
    assert personal_spans(text) == []


def test_the_check_digit_of_the_ordinance() -> None:
    assert is_my_number("123456789018")
    assert not is_my_number("123456789010")
    assert not is_my_number("12345678901")


@given(st.text("0123456789", min_size=11, max_size=11))
def test_exactly_one_check_digit_is_right(digits: str) -> None:
    assert sum(is_my_number(f"{digits}{last}") for last in range(10)) == 1


@given(st.text("0123456789", min_size=12, max_size=18))
def test_luhn_catches_every_single_wrong_digit(digits: str) -> None:
    (last,) = [d for d in "0123456789" if luhn(digits + d)]
    right = digits + last
    wrong = str((int(right[0]) + 1) % 10) + right[1:]
    assert not luhn(wrong)


@given(st.text())
def test_plain_width_keeps_every_place(text: str) -> None:
    assert len(plain_width(text)) == len(text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("こんにちは。", "ja"),
        ("東京都の人口は約1400万人です", "ja"),
        ("The quick brown fox jumps over the lazy dog.", "en"),
        ("Der schnelle braune Fuchs springt über den faulen Hund.", "de"),
        ("안녕하세요", "ko"),
        ("今天天气很好，我们一起去公园散步吧，然后去吃饭，晚上再看电影。", "zh"),
        ("billing/urgent", ""),
        ("42", ""),
        ("", ""),
    ],
)
def test_language(text: str, code: str) -> None:
    assert language_of(text) == code


def test_an_answer_in_another_language_is_noted() -> None:
    other = record("The weather in Kyoto is cloudy with some rain today.", "京都の天気を教えて")
    assert [flaw.detail for flaw in foreign_answers(other)] == ["asked in ja, told in en"]
    assert not list(foreign_answers(record("はい、くもりです。", "京都の天気を教えて")))


@pytest.mark.parametrize(
    "text", ["コードの例です", "cafés and naïve", "家族の話。", "Ünïcödé für alle"]
)
def test_wrong_decodings_are_undone(text: str) -> None:
    assert repair_unicode(text.encode().decode("latin-1")) == text
    assert repair_unicode(text) == text


def test_utf8_read_as_shift_jis_is_undone() -> None:
    text = "コンピュータで日本語を"
    try:
        broken = text.encode().decode("cp932")
    except UnicodeDecodeError:
        pytest.skip("this text has no CP932 reading")
    assert repair_unicode(broken) == text


def test_html_becomes_text_and_code_stays() -> None:
    text = "<p>One &amp; two<br>three</p>```html\n<p>code</p>\n```"
    assert without_html(text) == "One & two\nthree\n```html\n<p>code</p>\n```"
