"""Texts that are meant to break a tokenizer."""

from __future__ import annotations

from hypothesis import strategies as st

HARD_TEXTS = [
    "",
    " ",
    "   ",
    "\n\n\n \t\r\n",
    "Hello, world! It's 2024-05-06, we'll see 1234567 things.",
    "I'M we'RE DON'T he'Ll 'sT '' 't's",
    "吾輩は猫である。名前はまだ無い。「どこで生れたか」とんと見当がつかぬ…",
    "ｶﾞｷﾞｸﾞ　全角　スペース ㍿ ㌔ ①②③ ½ Ⅷ 五千円",
    "👍🏽👩‍💻🇯🇵🏴\U000e0067\U000e0062\U000e007f 🤦🏼‍♂️",
    "naïve café Ångström ŉ ǆ İstanbul ſ ß ΐ e\u0301 a\u0300\u0301\u0302",
    "Привет мир, Ελληνικά, עברית שלום, العربية ١٢٣, हिन्दी, ไทย, ខ្មែរ, 한국어 ㄱㄴ",
    "def f(x: int) -> dict[str, list[int]]:\n\treturn {'a': [x**2, x//3]}  # naïve\r\n",
    "<div class=\"a\">&nbsp;<br/></div>\n```python\nprint('hi')\n```\n",
    "a\u00a0b\u2003c\u3000d\u200be\u2028f\u0085g\u1680h\x1ci\x00j\x7f",
    "<|im_start|>user\nhi<|im_end|> <s></s><unk>[INST]<start_of_turn><|endoftext|><0x41>",
    "<|im_start|im_end|><|im_end|im_start|><|<|im_end|>|>",
    "▁▁ ▁a▁ b",
    "\ufffd\ufeff\ufdd0\uffff\U0010ffff\U0001ccf0\U00010d4a\u1c89\u0897",
    # characters that no Unicode 15.1 text has, inside the ranges that some patterns spell out
    "瞗\u0a7d 語\u3040か\u3097ゟ 豈\ufa6e\ufa6f가\ud7a4 a\u05ffb!\ufada",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa =========== hahahahaha -----------",
    "3.14159 1,000,000 0x1F 1e-9 ₀₁₂ ⅓ 九 ९९९ 12345678901234567890",
    "https://example.com/a?b=c&d=%20#e user@example.org C:\\path\\file.txt",
    "don't DON'T d'x 'dog \n\n\n a\n\n \n\nb\r\n\r\n\r\n  c ५६७८९ 一二12345",
    "\n\n\n\n",
    "it'sT it'llX",
    "x" * 300 + " " * 300 + "\n" * 50,
    "日本語" * 60,
]

PIECES = [
    *("'s", "'LL", "'re", "  ", "   ", "\n\n", "\r\n", "\t", "123", "4567", "hello", " world"),
    *("aaaa", "====", "haha", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<0x0A>"),
    *("<start_of_turn>", "<|endoftext|>", "<|eot_id|>", "▁", "▁▁", "日本", "語で", "。", "　"),
    *("👍🏽", "👩‍💻", "🇯🇵", "e\u0301", "ß", "\u00a0", "\ufffd", "\x1c", "\u0085", "½", "٣", "𝔘"),
    *("\U0001ccf0", "\u1c89", "\u0897", "-", "/", "//", "_", "``", "{", "}", "|", "~", "^", "$"),
]


def hard_text() -> st.SearchStrategy[str]:
    """Return texts of any characters that UTF-8 can hold, mixed with troublesome pieces."""
    anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    return st.lists(st.one_of(st.sampled_from(PIECES), anything), max_size=12).map("".join)
