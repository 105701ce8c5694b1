"""Make texts with private data and with what only looks like it, to write the masker against (English and Chinese).

`make(n, seed, language)` returns `n` pairs of a text and its spans `(start, end, kind)`.
"""

from __future__ import annotations

import random
import re
import string
import uuid
from collections.abc import Callable

from stdnum import luhn
from stdnum.cn import ric
from stdnum.iso7064 import mod_97_10

from .frames import AROUND, FILL, LEAD, TAIL

__all__ = ["make"]

Draw = random.Random
Part = tuple[str, str | None]  # a text, and its kind where it is private

_NAMES = [
    "anna.berg",
    "j.smith84",
    "zhang.wei",
    "maria_lopez",
    "o'brien.k",
    "li-na",
    "tom+news",
    "peter.k",
    "xiaoming99",
]
_HOSTS = ["example.com", "mail.example.co.uk", "qq.com", "163.com", "uni-koeln.de", "gmail.com", "corp.example.org"]
_FULL = str.maketrans(
    string.digits + string.ascii_letters + "@.-",
    "".join(chr(ord(c) + 0xFEE0) for c in string.digits + string.ascii_letters + "@.-"),
)
_ARABIC = str.maketrans(string.digits, "٠١٢٣٤٥٦٧٨٩")


def _digits(rng: Draw, n: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(n))


def _letters(rng: Draw, n: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(rng.choice(alphabet) for _ in range(n))


def _spaced(text: str, *sizes: int, by: str = " ") -> str:
    parts, position = [], 0
    for size in sizes:
        parts.append(text[position : position + size])
        position += size
    return by.join([*parts, text[position:]] if position < len(text) else parts)


def email(rng: Draw) -> str:
    text = f"{rng.choice(_NAMES)}{rng.choice(['', _digits(rng, 2)])}@{rng.choice(_HOSTS)}"
    return rng.choice(
        [text, text, text, text.upper(), text.translate(_FULL), text.replace("@", " (at) ").replace(".", " (dot) ")]
    )


def phone_en(rng: Draw) -> str:
    area, mid, last = (
        f"{rng.randint(2, 9)}{rng.randint(0, 8)}{rng.randint(2, 9)}",
        f"{rng.randint(2, 9)}{_digits(rng, 2)}",
        _digits(rng, 4),
    )
    return rng.choice(
        [
            f"({area}) {mid}-{last}",
            f"{area}-{mid}-{last}",
            f"{area}.{mid}.{last}",
            f"+1 {area} {mid} {last}",
            f"+1-{area}-{mid}-{last}",
            f"+44 20 7{_digits(rng, 3)} {_digits(rng, 4)}",
            f"+44 (0)20 7{_digits(rng, 3)} {_digits(rng, 4)}",
            f"020 7{_digits(rng, 3)} {_digits(rng, 4)}",
            f"079{_digits(rng, 2)} {_digits(rng, 6)}",
            f"+49 30 {_digits(rng, 8)}".replace("+49 30 0", "+49 30 2"),
            f"+49 (0) 151 {rng.randint(1, 9)}{_digits(rng, 7)}",
            f"030 {rng.randint(2, 9)}{_digits(rng, 7)}",
            f"+33 6 {_spaced(_digits(rng, 8), 2, 2, 2, 2)}",
            f"+{rng.choice(['86 13', '86-13'])}{_digits(rng, 1)} {_digits(rng, 4)} {_digits(rng, 4)}",
            f"+1{area}{mid}{last}",
            f"{area}\u00a0{mid}\u2011{last}",
            f"({area}) {mid}-{last}{rng.choice([' x', ' ext. ', ', ext ', ' #'])}{_digits(rng, 3)}",
            f"1-{area}-{mid}-{last}",
            f"{area} - {mid} - {last}",
            f"({area}){mid}{last}",
            f"0{rng.choice(['207', '161', '113'])} {rng.randint(200, 999)} {_digits(rng, 4)}",
            f"(020) 7{_digits(rng, 3)} {_digits(rng, 4)}",
            f"079{_digits(rng, 8)}",
            f"0044 79{_digits(rng, 2)} {_digits(rng, 6)}",
            f"{rng.choice('6789')}{_digits(rng, 4)} {_digits(rng, 5)}",
            f"+91 {rng.choice('6789')}{_digits(rng, 4)}-{_digits(rng, 5)}",
            f"0171{rng.choice(['/', ' ', '-', ' / '])}{rng.randint(1, 9)}{_digits(rng, 6)}",
            f"0151{rng.randint(1, 9)}{_digits(rng, 7)}",
        ]
    )


def bare_phone_en(rng: Draw) -> str:
    """Return ten digits in one piece, of the US or India."""
    area = rng.choice(["212", "312", "415", "512", "646", "713", "917"])
    return rng.choice([f"{area}{rng.randint(200, 999)}{_digits(rng, 4)}", f"{rng.choice('789')}{_digits(rng, 9)}"])


def phone_zh(rng: Draw) -> str:
    mobile = f"1{rng.choice('35789')}{rng.randint(0, 9)}{_digits(rng, 8)}"
    mobile = mobile.replace("154", "155").replace("174", "175").replace("179", "178")
    return rng.choice(
        [
            mobile,
            mobile,
            _spaced(mobile, 3, 4, 4),
            _spaced(mobile, 3, 4, 4, by="-"),
            f"+86 {mobile}",
            f"+86-{_spaced(mobile, 3, 4, 4, by='-')}",
            mobile.translate(_FULL),
            f"010-6{_digits(rng, 7)}",
            f"（021）5{_digits(rng, 7)}",
            f"0755-8{_digits(rng, 7)}",
            f"400-{rng.randint(600, 899)}-{_digits(rng, 4)}",
            mobile[:5] + "\u200b" + mobile[5:],
        ]
    )


def card(rng: Draw) -> str:
    head, size = rng.choice([("4", 16), ("52", 16), ("37", 15), ("6225", 16), ("62", 19), ("6011", 16), ("3530", 16)])
    text = head + _digits(rng, size - len(head) - 1)
    text += luhn.calc_check_digit(text)
    if size == 15:
        return rng.choice([text, _spaced(text, 4, 6, 5), _spaced(text, 4, 6, 5, by="-")])
    return rng.choice([text, _spaced(text, 4, 4, 4, 4), _spaced(text, 4, 4, 4, 4, by="-"), text.translate(_FULL)])


def iban(rng: Draw) -> str:
    land, form = rng.choice(
        [
            ("DE", "18d"),
            ("GB", "4u14d"),
            ("FR", "10d11d2d"),
            ("ES", "20d"),
            ("NL", "4u10d"),
            ("CH", "17d"),
            ("PL", "24d"),
        ]
    )
    bban = "".join(
        _letters(rng, int(n), string.ascii_uppercase if k == "u" else string.digits)
        for n, k in re.findall(r"(\d+)([du])", form)
    )
    text = land + mod_97_10.calc_check_digits(bban + land) + bban
    grouped = " ".join(text[i : i + 4] for i in range(0, len(text), 4))
    return rng.choice([text, grouped, grouped.replace(" ", "-"), text.lower()])


def _ric(rng: Draw) -> str:
    place = rng.choice(["110101", "310104", "440305", "330102", "510107", "420106"])
    text = f"{place}{rng.randint(1950, 2010)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}{_digits(rng, 3)}"
    return text + ric.calc_check_digit(text + "0")


def id_zh(rng: Draw) -> str:
    text = _ric(rng)
    return rng.choice([text, text, text.lower(), _spaced(text, 6, 8, 4), text.translate(_FULL)])


def id_en(rng: Draw) -> str:
    ssn = f"{rng.randint(1, 665):03d}-{rng.randint(1, 99):02d}-{rng.randint(1, 9999):04d}"
    nino = f"{rng.choice('ABCEHJ')}{rng.choice('BCEGHJ')}".replace("BG", "AB")
    return rng.choice(
        [
            ssn,
            ssn,
            f"{nino} {_spaced(_digits(rng, 6), 2, 2, 2)} {rng.choice('ABCD')}",
            f"{nino}{_digits(rng, 6)}{rng.choice('ABCD')}",
            _ric(rng),
        ]
    )


def ip(rng: Draw) -> str:
    four = f"{rng.choice([10, 172, 192, 203, 8, 85])}.{rng.randint(0, 255)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"
    six = ":".join(f"{rng.randint(0, 65535):x}" for _ in range(6))
    return rng.choice(
        [
            four,
            four,
            f"2001:db8:{six}",
            f"fe80::{rng.randint(1, 65535):x}:{rng.randint(1, 65535):x}",
            f"2001:db8::{rng.randint(1, 65535):x}",
        ]
    )


def key(rng: Draw) -> str:
    return rng.choice(
        [
            "sk-" + _letters(rng, 48),
            "ghp_" + _letters(rng, 36),
            "AKIA" + _letters(rng, 16, string.ascii_uppercase + string.digits),
            "xoxb-" + _digits(rng, 11) + "-" + _letters(rng, 24),
            "AIza" + _letters(rng, 35),
            f"eyJhbGciOiJIUzI1NiJ9.eyJ{_letters(rng, 30)}.{_letters(rng, 43)}",
            "hf_" + _letters(rng, 34),
            "LTAI" + _letters(rng, 20),
            "glpat-" + _letters(rng, 20),
            "sk_live_" + _letters(rng, 24),
        ]
    )


def decoy(rng: Draw, language: str) -> str:
    english: list[Callable[[], str]] = [
        lambda: f"Order number {_digits(rng, 12)} has shipped.",
        lambda: f"Invoice {_digits(rng, 10)} is due on {rng.randint(1, 28)}/{rng.randint(1, 12)}/2025.",
        lambda: (
            f"Upgrade to version {rng.randint(1, 20)}.{rng.randint(0, 9)}.{rng.randint(0, 99)}.{rng.randint(0, 9)} now."
        ),
        lambda: "ISBN 978-3-16-148410-0 is out of print.",
        lambda: f"The coordinates are {rng.uniform(-90, 90):.6f}, {rng.uniform(-180, 180):.6f}.",
        lambda: f"commit {_letters(rng, 40, '0123456789abcdef')} fixes it.",
        lambda: f"The colour #{_letters(rng, 6, '0123456789abcdef')} is fine.",
        lambda: f"It costs ${rng.randint(1000, 9999999)}.{_digits(rng, 2)} in total.",
        lambda: f"Between {rng.randint(1900, 1990)}-{rng.randint(1991, 2024)} prices doubled.",
        lambda: f"Tracking no. {_digits(rng, 16)} was lost.",
        lambda: f"The timestamp {rng.randint(1500000000, 1799999999)} is wrong.",
        lambda: f"uuid {uuid.UUID(int=rng.getrandbits(128), version=4)}",
        lambda: "The password is required, and the key question remains open.",
        lambda: f"Follow @user{_digits(rng, 3)} and see image@2x.png.",
        lambda: "Pi is 3.14159265358979 and e is 2.718281828.",
        lambda: f"The population was {rng.randint(10**7, 10**9)} people.",
        lambda: f"We upgraded from {_version(rng)} to {_version(rng)}.",
        lambda: f"See {rng.choice(['section', 'clause', 'appendix', 'figure'])} {_version(rng)} for more.",
        lambda: (
            f"Mozilla/5.0 Chrome/{rng.randint(90, 130)}.0.{rng.randint(0, 255)}.{rng.randint(0, 255)} Safari/537.36"
        ),
        lambda: f"pip install tool=={_version(rng)} and unpack app-{_version(rng)}.tar.gz",
        lambda: f"\n{_version(rng)} Introduction",
        lambda: f"The netmask is {rng.choice(['255.255.255.0', '255.0.0.0', '255.255.240.0'])}, the OID 1.3.6.1.",
        lambda: f"It has {rng.randint(2 * 10**9, 10**10 - 1)} views.",
        lambda: f"claim {_digits(rng, 10)} was denied, account number {_digits(rng, 10)} closed.",
        lambda: f"IMEI {_digits(rng, 15)}, a phone with 2400 mAh",
        lambda: f"Smith ({rng.randint(1990, 2024)}) {_digits(rng, 3)}-{_digits(rng, 4)}",
        lambda: "The public key is MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A, the cache key user_profile_12345.",
        lambda: "Set api_key=YOUR_API_KEY_HERE_123 and password=<your-password>.",
    ]
    chinese: list[Callable[[], str]] = [
        lambda: f"订单号{_digits(rng, 16)}已发货。",
        lambda: f"快递单号：{rng.choice(['SF', 'YT'])}{_digits(rng, 13)}。",
        lambda: f"发票号码{_digits(rng, 8)}，金额{rng.randint(100, 99999)}.50元。",
        lambda: f"版本{rng.randint(1, 20)}.{rng.randint(0, 9)}.{rng.randint(0, 9)}.{rng.randint(0, 9)}已发布。",
        lambda: f"坐标是{rng.uniform(20, 50):.6f},{rng.uniform(80, 130):.6f}。",
        lambda: f"该市人口为{rng.randint(10**6, 10**8)}人。",
        lambda: "书号ISBN 978-7-111-54742-6。",
        lambda: f"提交 {_letters(rng, 40, '0123456789abcdef')} 修复了问题。",
        lambda: f"时间戳{rng.randint(1500000000, 1799999999)}不对。",
        lambda: f"流水号 {_digits(rng, 18)} 请保存。",
        lambda: "密码不能为空，请重新输入密码。",
        lambda: f"航班CA{_digits(rng, 4)}于2024-08-{rng.randint(10, 28)} 08:{rng.randint(10, 59)}起飞。",
        lambda: f"总价{rng.randint(10**6, 10**9)}元。",
        lambda: f"从版本{_version(rng)}升级到{_version(rng)}。",
        lambda: f"见第{_version(rng)}节，子网掩码255.255.255.0。",
        lambda: "密码为8888位，密码2024年更新。",
        lambda: f"订单号是多少？\n{_digits(rng, 16)}",
    ]
    return rng.choice(english if language == "en" else chinese)()


def _version(rng: Draw) -> str:
    return f"{rng.randint(1, 28)}.{rng.randint(0, 20)}.{rng.randint(0, 20)}.{rng.randint(0, 9)}"


def make(n: int, seed: int, language: str) -> list[tuple[str, list[tuple[int, int, str]]]]:
    """Return `n` texts in "en" or "zh" with their spans."""
    rng = random.Random(f"{seed} {language}")
    kinds: dict[str, Callable[[Draw], str]] = {
        "email": email,
        "phone": phone_en if language == "en" else phone_zh,
        "card": card,
        "iban": iban,
        "national_id": id_en if language == "en" else id_zh,
        "ip": ip,
        "key": key,
    }
    made = []
    for _ in range(n):
        parts: list[Part] = []
        for _ in range(rng.randint(1, 4)):
            if rng.random() < 0.45:
                parts.append((decoy(rng, language), None))
            elif rng.random() < 0.2:
                parts.append((rng.choice(FILL[language]), None))
            else:
                kind = rng.choice([*kinds])
                before, after = rng.choice(LEAD[language][kind]), rng.choice(TAIL[language])
                if rng.random() < 0.5:
                    before, after = rng.choice(AROUND[language][kind])
                    before = f"\n{before}" if "\n" in before or before.startswith(("-", "|")) else before
                bare = language == "en" and kind == "phone" and rng.random() < 0.15
                parts += [(before, None), ((bare_phone_en if bare else kinds[kind])(rng), kind), (after, None)]
            parts.append((rng.choice([" ", " ", "\n"]) if language == "en" else rng.choice(["", "\n"]), None))
        text, spans = "", []
        for part, of in parts:
            if of is not None:
                spans.append((len(text), len(text) + len(part), of))
            text += part
        made.append((text, spans))
    return made
