r"""How text is cut into words before byte-pair merging, one row for each `tokenizer.ggml.pre`.

The patterns are llama.cpp's, not those of the model's first tokenizer: what is served is what
counts. Where its engine knows less than a full one (`\p{Lu}` is any letter to it, `[^a-z]`
leaves out ASCII letters only), the pattern here says the same thing openly.

Each pattern splits what the one before it left, and what a pattern does not match stays a word
of its own. A name that is not in this table is refused: a near guess trains on other tokens
than are served.

Source: llama.cpp, `llm_tokenizer_bpe` and `llama_vocab::impl::load` (src/llama-vocab.cpp),
`unicode_regex_split` (src/unicode.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import regex

from llamune.errors import UnsupportedError
from llamune.text.unicode import WHITE_SPACE, as_of_15_1, white_space_as_tab

__all__ = ["PRE_TOKENIZERS", "PreTokenizer", "pre_tokenizer"]


@dataclass(frozen=True)
class PreTokenizer:
    r"""How one family's text is cut before merging, and what llama.cpp sets by its name.

    Attributes:
        steps: the patterns in order; `<s>` stands for white space in a class, `<S>` for its
            opposite. One that starts with `(?#narrow)` sees white space beyond ASCII as `\v`.
        whole_words: whether a word that is a token is taken as it is, without merging.
        adds_bos: whether a prompt starts with BOS where the file does not say.
        always_bos: whether it does so even where the file says no.
        no_default_bos: whether there is no BOS where the file names none.
        escapes_spaces: whether spaces become `▁` and letters stay letters (no byte alphabet).
        newlines_whole: whether a run of line ends that is a token is taken as it is.
    """

    steps: tuple[str, ...]
    whole_words: bool = False
    adds_bos: bool = False
    always_bos: bool = False
    no_default_bos: bool = False
    escapes_spaces: bool = False
    newlines_whole: bool = False

    def words(self, text: str) -> list[str]:
        """Return the words of `text`, which make it up without a gap."""
        hides = as_of_15_1(text) is not text
        words = [text]
        for step in self.steps:
            words = [part for word in words for part in parts(step, word, hides=hides)]
        return words


def parts(step: str, word: str, *, hides: bool) -> list[str]:
    """Return what one pattern matches in a word, and what lies between, in order.

    Args:
        step: the pattern.
        word: the text.
        hides: whether characters that Unicode 15.1 leaves unassigned are hidden from patterns
            that name categories; those that name characters see what is there.
    """
    if step.startswith(NARROW):
        seen = white_space_as_tab(word)
    elif hides:
        seen = as_of_15_1(word)
        if HAN in step:  # named by its characters beside categories
            pairs = zip(word, seen, strict=True)
            seen = "".join(one if ONE_HAN.match(one) else hidden for one, hidden in pairs)
    else:
        seen = word
    found = list(filter(None, splitter(step).split(seen)))
    return found if seen is word else cut_like(word, found)


def cut_like(text: str, words: list[str]) -> list[str]:
    """Return `text` cut at the places where `words`, of the same length in all, are cut."""
    cut, position = [], 0
    for word in words:
        cut.append(text[position : position + len(word)])
        position += len(word)
    return cut


@cache
def splitter(step: str) -> regex.Pattern[str]:
    """Return a pattern whose `split` keeps what it matches."""
    body = step.replace("<s>", WHITE_SPACE).replace("<S>", f"[^{WHITE_SPACE}]")
    return regex.compile(f"({body})", flags=regex.V1)


NARROW = "(?#narrow)"
CONTRACTION = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
SPACES = r"[<s>]*[\r\n]+|[<s>]+(?!<S>)|[<s>]+"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
MARKED_WORD = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
SIGNS = r" ?[^<s>\p{L}\p{N}]+"
DIGIT = r"\p{N}"
THREE_DIGITS = r"\p{N}{1,3}"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^<s>\p{L}\p{N}]+|[<s>]+(?!<S>)|[<s>]+"
LLAMA3 = rf"{CONTRACTION}|{WORD}|{THREE_DIGITS}|{SIGNS}[\r\n]*|{SPACES}"
QWEN2 = rf"{CONTRACTION}|{WORD}|{DIGIT}|{SIGNS}[\r\n]*|{SPACES}"
QWEN35 = rf"{CONTRACTION}|{MARKED_WORD}|{DIGIT}| ?[^<s>\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{SPACES}"

# words that may start in capitals and go on in small letters, where only ASCII has a case
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]*[\p{L}--[A-Z]]+{end}"
    r"|[^\r\n\p{L}\p{N}]?[\p{L}--[a-z]]+[\p{L}--[A-Z]]*{end}"
)
CASED_MARKED = CASED.replace(r"[\p{L}--", r"[[\p{L}\p{M}]--")
SIGNS_AND_SLASHES = rf"{SIGNS}[\r\n/]*"
TEKKEN = rf"{CASED.replace('{end}', '')}|{DIGIT}|{SIGNS_AND_SLASHES}|{SPACES}"
GPT4O = (
    rf"{CASED.replace('{end}', f'(?:{CONTRACTION})?')}"
    rf"|{THREE_DIGITS}|{SIGNS_AND_SLASHES}|{SPACES}"
)
GRANITE_MULTI = (
    rf"{CASED_MARKED.replace('{end}', f'(?:{CONTRACTION})?')}"
    rf"|{THREE_DIGITS}|{SIGNS_AND_SLASHES}|{SPACES}"
)
MARKED_CONTRACTED = rf"{MARKED_WORD}(?:{CONTRACTION})?"

ASCII_SIGNS = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]\^_`\{\|\}~]"
DEEPSEEK_WORD = rf"{ASCII_SIGNS}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
HAN_AND_KANA = NARROW + r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
DEEPSEEK_V3 = rf"{DEEPSEEK_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{SPACES}"
LINE_END = r"[\r\n]"
OLD_CJK = NARROW + r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
LETTERS_WITH_CASE = (  # the letters of alphabets that know capitals, as DeepSeek LLM lists them
    r"A-Za-z\xb5\xc0-\xd6\xd8-\xf6\xf8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    r"\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    r"\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5"
    r"\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    r"\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    r"\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3"
    r"\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115"
    r"\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f"
    r"\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    r"\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    r"\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    r"\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    r"\U000118a0-\U000118df\U0001e900-\U0001e943"
)
BLOOM = NARROW + r" ?[^(<s>|.,!?…。，、।۔،)]+"
# digits in threes from the right; the text before a run of them stays with its first group
THREES_FROM_RIGHT = r"\P{N}*\p{N}{1,2}(?=(?:\p{N}{3})*(?!\p{N}))|\P{N}*\p{N}{3}"
HAN = (
    r"\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f"
    r"\U0002b740-\U0002b81f\U0002b820-\U0002ceaf\U0002ceb0-\U0002ebef\uf900-\ufaff"
    r"\U0002f800-\U0002fa1f"
)
ONE_HAN = regex.compile(f"[{HAN}]")
KIMI_K2 = (
    rf"[{HAN}]+|[^\r\n\p{{L}}\p{{N}}{HAN}]?[\p{{L}}--[{HAN}]]+(?:{CONTRACTION})?"
    rf"|{THREE_DIGITS}|{SIGNS}[\r\n]*|{SPACES}"
)
ASIAN_SCRIPTS = (
    r"\u4e00-\u9fff\u3400-\u4dbf\u8c48-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf"
    r"\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff"
    r"\uac00-\ud7af\u1100-\u11ff"
)
LINES = r"[^\n]+|\n+"

# plain tables: each family is a pattern list and what llama.cpp sets beside it
WITHOUT_EXTRAS: dict[str, tuple[str, ...]] = {
    "bailingmoe": (
        rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{WORD}|{DIGIT}|{SIGNS}[\r\n]*"
        rf"|[<s>]*[\r\n]|[<s>]+(?!<S>)|[<s>]+",
    ),
    "bloom": (BLOOM,),
    "command-r": (DIGIT, GPT2),
    "dbrx": (LLAMA3,),
    "deepseek-coder": (LINE_END, r"[<s>]?\p{L}+", r"[<s>]?\p{P}+", OLD_CJK, DIGIT),
    "deepseek-llm": (
        LINE_END,
        NARROW + rf"[<s>]?[{LETTERS_WITH_CASE}]+",
        NARROW + r"[<s>]?[!-/:-\~！-／：-～‘-‟\u3000-。]+",
        NARROW + r"[<s>]+\Z",
        OLD_CJK,
        r"\p{N}+",
    ),
    "deepseek-v3": (THREE_DIGITS, HAN_AND_KANA, DEEPSEEK_V3),
    "default": (r"[\p{P}\$\+<=>\^\~\|]+", GPT2, r"\p{N}+", r"[0-9]{3}"),
    "exaone-moe": (
        rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|{DIGIT}"
        rf"|{SIGNS}[\r\n/]?|[<s>]*[\r\n]|[<s>]+(?!<S>)|[<s>]+",
    ),
    "falcon": (r"[\p{P}\$\+<=>\^\~\|`]+", GPT2, r"[0-9]{3}"),
    "gpt-2": (GPT2,),
    "gpt-4o": (GPT4O,),
    "jais-2": (
        rf"{CONTRACTION}|{WORD}|{THREE_DIGITS}|{SIGNS}[\r\n]*|[<s>]*[\r\n]+"
        + "".join(rf"|[<s>]{{{n}}}(?!<S>)" for n in (512, 256, 128, 64, 32, 16, 8, 4))
        + r"|[<s>]{1,2}(?!<S>)|[<s>]",
    ),
    "laguna": (LINES, QWEN2),
    "qwen2": (QWEN2,),
    "qwen35": (QWEN35,),
    "seed-coder": (
        rf"{CONTRACTION}|{WORD}|{DIGIT}| ?[^<s>\p{{L}}\p{{N}}\r\n]+|[<s>]*[\r\n]+"
        rf"|[<s>]+(?!<S>)|[<s>]+",
    ),
    "spark2_5": (
        THREE_DIGITS,
        HAN_AND_KANA,
        rf"{DEEPSEEK_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|[<s>]+(?!<S>)|[<s>]+",
        DIGIT,
    ),
    "superbpe": (r"\p{N}+", r"(?=(?:[0-9]{3})+(?![0-9]))"),
    "tiny_aya": (
        THREES_FROM_RIGHT,
        rf"{MARKED_CONTRACTED}|{THREE_DIGITS}|{SIGNS_AND_SLASHES}|{SPACES}",
    ),
    "ufakzeka": (rf"{WORD}|{DIGIT}|{SIGNS}[\r\n]*|{SPACES}",),
    "viking": (BLOOM, DIGIT),
    "afmoe": (THREES_FROM_RIGHT, NARROW + rf"[{ASIAN_SCRIPTS}]+", DEEPSEEK_V3),
    "kimi-k2": (KIMI_K2,),
}
ALIASES: dict[str, tuple[str, ...]] = {
    "bailingmoe": ("bailingmoe2", "llada-moe"),
    "bloom": ("poro-chat", "gpt3-finnish"),
    "command-r": ("starcoder", "refact", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"),
    "dbrx": ("smaug-bpe",),
    "deepseek-v3": ("hunyuan-dense", "joyai-llm", "hy_v4"),
    "gpt-2": (
        *("phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "gigachat", "a.x-4.0"),
        *("mellum", "modern-bert", "mpt", "olmo", "jais", "trillion", "granite-docling"),
        *("exaone4", "jina-v1-en", "jina-v2-code", "roberta-bpe"),
    ),
    "gpt-4o": ("llama4", "kanana2", "talkie", "minimax-m2"),
    "qwen2": (
        *("deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan"),
        *("solar-open", "grok-2"),
    ),
    "tiny_aya": ("cohere2moe",),
}
LLAMA3_NAMES = (
    *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    "jina-v5-nano",
)


def table() -> dict[str, PreTokenizer]:
    """Return every pre-tokenizer by its name in the file."""
    found = {name: PreTokenizer(steps) for name, steps in WITHOUT_EXTRAS.items()}
    for name, others in ALIASES.items():
        found.update(dict.fromkeys(others, found[name]))
    llama3 = PreTokenizer((LLAMA3,), whole_words=True, adds_bos=True)
    found.update(dict.fromkeys(LLAMA3_NAMES, llama3))
    lines = PreTokenizer((LINES,), escapes_spaces=True)
    gemma4 = PreTokenizer((LINES,), escapes_spaces=True, always_bos=True, newlines_whole=True)
    glm4 = PreTokenizer((LLAMA3,), whole_words=True, no_default_bos=True)
    return found | {
        "chameleon": PreTokenizer(CHAMELEON, adds_bos=True),
        "chatglm-bpe": PreTokenizer((LLAMA3,), no_default_bos=True),
        "gemma4": gemma4,
        "glm4": glm4,
        "glm5": glm4,
        "granite-embed-multi-311m": gemma4,
        "granite-embed-multi-97m": PreTokenizer((GRANITE_MULTI,), whole_words=True),
        "minicpm5": PreTokenizer(
            (THREE_DIGITS, rf"{CONTRACTION}|{WORD}|\p{{N}}+|{SIGNS}[\r\n]*|{SPACES}"),
            whole_words=True,
        ),
        "sarvam-moe": lines,
        "tekken": PreTokenizer((TEKKEN,), whole_words=True, adds_bos=True),
        "youtu": PreTokenizer(YOUTU, whole_words=True),
    }


CHAMELEON = (
    r"<sentinel:[0-9]+>",
    r"IMGIMG[A-I]{1,4}Z",
    r"[\t\n]|    |  ",
    DIGIT,
    r"[\p{P}!-/:-@\[-`\{-\~]",
    GPT2,
)
YOUTU = (
    NARROW + r"[\uac00-\ud7a3\u3131-\u318e]+|[！…“”‘’—：；，\u3001-\u303f\ufe30-\ufe4f]+"
    r"|[\u3105-\u312f]+|[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    rf"{MARKED_CONTRACTED}|{DIGIT}|{SIGNS_AND_SLASHES}|{SPACES}",
)
PRE_TOKENIZERS = table()


def pre_tokenizer(name: str, *, where: Path) -> PreTokenizer:
    """Return the pre-tokenizer of a name.

    Args:
        name: the value of `tokenizer.ggml.pre`.
        where: the model file, for the message.

    Raises:
        UnsupportedError: the name is not one that we reproduce exactly.
    """
    found = PRE_TOKENIZERS.get(name)
    if found is None:
        raise UnsupportedError(
            f"{where}: pre-tokenizer {name!r} (tokenizer.ggml.pre) is not one that llamune knows",
            hint="a newer llamune may know it; a guess would train on other tokens than are served",
        )
    return found
