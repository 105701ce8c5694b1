"""Find e-mail addresses and names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .spans import Span, Window

__all__ = ["CJK", "find_mails", "find_names", "latin_edges"]

CJK = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
_LETTER = rf"[^\W_{CJK}]"  # of any alphabet: Latin with accents, Cyrillic, Arabic
_LOCAL = rf"(?:{_LETTER}|[_!#$%&'*+/=?^`{{|}}~-])(?:(?:{_LETTER}|[_.!#$%&'*+/=?^`{{|}}~-]){{0,127}})"
_LABEL = rf"{_LETTER}(?:(?:{_LETTER}|-){{0,62}})"
_MAIL = re.compile(
    rf"(?P<local>{_LOCAL})@(?P<domain>(?:{_LABEL}\.){{1,8}}(?:[^\W\d_{CJK}]{{2,63}}|xn--[a-z0-9-]{{2,59}}))"
    rf"(?![^\W_{CJK}]|[-@]|\.{_LETTER})"
)
_HAN_MAIL = re.compile(rf"[\w.{CJK}-]{{1,30}}@(?:[\w{CJK}-]{{1,30}}\.){{1,4}}[{CJK}]{{2,6}}")
_SPELT = re.compile(
    r"(?<![\w.+-])(?:[A-Za-z0-9'._+-]{1,30} ?[(\[{<] ?dot ?[)\]}>] ?){0,3}[A-Za-z0-9](?:[A-Za-z0-9'._+-]{0,63}?)"
    r"(?: ?[(\[{<] ?at ?[)\]}>] ?[A-Za-z0-9-]{1,63}(?:(?: ?[(\[{<] ?dot ?[)\]}>] ?| dot |\.)[A-Za-z0-9-]{1,63}){0,4}"
    r"(?: ?[(\[{<] ?dot ?[)\]}>] ?| dot |\.)[A-Za-z]{2,20}"
    r"| at [A-Za-z0-9-]{1,63}(?: dot [A-Za-z0-9-]{1,63}){0,3} dot [A-Za-z]{2,20})(?![\w-])",
    re.IGNORECASE,
)
_FILES = {"png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "py", "tgz", "gz", "zip", "whl", "jar"}


def find_mails(window: Window) -> Iterator[Span]:
    """Yield e-mail addresses, also with "(at)" and "(dot)". An account such as git@host:path is none."""
    text = window.text
    if "@" in text[window.begin :]:
        yield from _plain_mails(window)
    for found in _SPELT.finditer(latin_edges(text), window.begin):
        yield Span(*found.span(), "email")


def _plain_mails(window: Window) -> Iterator[Span]:
    text = window.text
    for at in (place.start() for place in re.finditer("@", text[window.begin :])):
        at += window.begin
        begin = at
        while (
            begin > window.begin
            and at - begin < 128
            and re.fullmatch(_LETTER + r"|[_.!#$%&'*+/=?^`{|}~-]", text[begin - 1])
        ):
            begin -= 1
        while begin < at and text[begin] in ".'`/=&?|{}!#^*~%$":  # quotes and what separates, before an address
            begin += 1
        # In `to=anna@x.org` and `a/anna@x.org` the address begins after the sign.
        begin = max([begin, *(text.rfind(sign, begin, at) + 1 for sign in "=/?&|{}`")])
        found = _MAIL.match(text, begin) if begin < at else None
        if found is None:
            if han := _HAN_MAIL.search(text, max(window.begin, at - 30)):
                yield Span(*han.span(), "email")
            continue
        last = found["domain"].rpartition(".")[2].lower()
        is_remote = found["local"] == "git" and text[found.end() : found.end() + 1] in (":", "/")
        if not is_remote and last not in _FILES:
            yield Span(*found.span(), "email")


def latin_edges(text: str) -> str:
    """Return the text with spaces in place of Chinese, which is no part of an address's word."""
    return text if text.isascii() else re.sub(f"[{CJK}]", " ", text)


_CAPITAL = r"[^\W\d_a-z" + CJK + r"][^\W\d_" + CJK + r"]*(?:[-'’][^\W\d_]+)*(?:(?<=\b\w)\.)?"
_FULL_NAME = rf"{_CAPITAL}(?: (?:van |von |de |der |da |bin |al-)?{_CAPITAL}){{0,3}}"
_NAMED = re.compile(
    rf"(?:\b(?i:my (?:full |first |last |real )?name is|name:|my name['’]s|i am called|signed[,:]?|sincerely,"
    r"|regards,)\s?"
    rf"|\b(?:Mrs?|Ms|Mx|Dr|Prof|Miss|Sir|Herr|Frau|Mme|Sra?)\.? )(?P<name>{_FULL_NAME})"
    rf"|\b(?i:i am|i['’]m|this is) (?P<two>{_CAPITAL} {_CAPITAL}(?: {_CAPITAL})?)"
)
_SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范金石"
    "廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤張劉陳楊黃趙吳馬鄭許馮鄧"
)
_HAN_NAME = (
    rf"(?:(?:欧阳|司马|上官|诸葛|司徒|东方|独孤|慕容)|[{_SURNAMES}])"
    r"(?:·?[\u4e00-\u9fff](?<![在来是的和有从也想去要会今住家叫先女老])){1,2}"
)
_HAN_NAMED = re.compile(
    rf"(?:我叫|我的名字[是叫]|姓名[:：是为]?|名叫|本人|联系人[:：是为]?|收件人[:：是为]?) ?(?P<name>{_HAN_NAME})"
    rf"|(?P<family>[{_SURNAMES}])(?=先生|女士|小姐|老师|医生|教授|经理|律师)"
)


def find_names(window: Window, languages: Sequence[str]) -> Iterator[Span]:
    """Yield names after words that announce one: "my name is", titles, "我叫". Others in running text are not found."""
    begin = max(0, window.begin - 40)
    for pattern in (_NAMED, *([_HAN_NAMED] if "zh" in languages else [])):
        for found in pattern.finditer(window.text, begin):
            group = str(found.lastgroup)
            start, end = found.span(group)
            if start >= window.begin:
                yield Span(start, end, "name")
