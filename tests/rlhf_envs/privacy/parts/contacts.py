"""Draw e-mail addresses, phones, IP addresses and keys at random, for `held_out.py`, in the shapes that people write.

None is real. Phones are in ranges kept for fiction, or have the shape of a valid number. E-mail domains are made up.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from random import Random

from tests.rlhf_envs.privacy.parts import ids
from tests.rlhf_envs.privacy.parts.ids import ALNUM, HEX, fill, one, some, wide

NAMES = "anna ben carla dev elif femi grace hugo ines jan kofi lena marta nils omar priya quinn rosa sven tara"
SURNAMES = "okafor miller lindqvist rao haines weber duarte novak castelli price brandt iyer moreau falk sato"
NAMES_ZH = "zhangwei lina wangfang liuyang chenjing zhaolei huangmin zhoujie wuxia sunqiang"
US = "({a}) {o}-{n}|{a}-{o}-{n}|+1 {a} {o} {n}|+1-{a}-{o}-{n}|+1{a}{o}{n}|{a}.{o}.{n}|+1 ({a}) {o}-{n}|{a} {o} {n}"
US += "|({a}) {o}-{n}|{a}-{o}-{n}|1-{a}-{o}-{n}|001 {a} {o} {n}|{a}{o}{n}|({a}){o}-{n}|+1.{a}.{o}.{n}"
GB = "0{a} {e}|0{a} {e}|+44 {a} {e}|+44 (0){a} {e}|0044 {a} {e}|+44{a}{s}|0{a}{s}|(0{a}) {e}|0{a}-{s}"
IN = "+91 {h} {t}|+91-{h}{t}|+91{h}{t}|0{h}{t}|{h} {t}|{h}{t}|0091 {h} {t}|(+91) {h}{t}|{h}-{t}"
IN_LAND = "+91 22 2%## ####|011-2%######|080 4%## ####|(022) 2%## ####|+91-11-4%######"
DE = (
    "+49 {a} {e}|+49 (0){a} {e}|0{a} {e}|0{a}/{e}|0{a} / {h} {t}|0049 {a} {e}|+49{a}{e}|(0{a}) {e}|+49-{a}-{e}|0{a}-{e}"
)
DE_AREAS = (("30", "23125###"), ("40", "66969###"), ("89", "99998###"), ("171", "39200##"), ("1512", "3%#####"))
CN = "{n}|{n}|{n}|{n}|{a} {b} {c}|{a}-{b}-{c}|+86 {n}|+86{n}|+86-{n}|0086{n}|(+86){n}|+86 {a} {b} {c}|（+86）{n}"
CN_PREFIXES = "133 135 136 138 139 150 152 158 159 166 176 177 178 180 185 186 188 189 198 199"
CN_LAND = "{a}-{n}|{a}-{n}|{a} {h} {t}|（{a}）{n}|({a}){n}|{a}{n}|+86-{b}-{n}|+86 {b} {h} {t}"
TW = (
    "09##-###-###|09## ### ###|09########|+886 9## ### ###|+886-9##-###-###|(02) 2%##-####|02-2%##-####|（02）2%##-####"
)
HK = "+852 9%## ####|+852 6%## ####|+852-9%######|9%## ####|2%## ####|(852) 2%## ####"


def email(r: Random) -> str:
    name, surname = one(r, NAMES), one(r, SURNAMES)
    tagged = f"{name}.{surname}+{r.choice(['shop', 'news', 'bills'])}"
    plain = [f"{name}.{surname}", f"{name[0]}{surname}", f"{name}_{surname}{r.randrange(60, 99)}", f"{surname}.{name}"]
    local = r.choice([*plain, f"{name}{r.randrange(1000)}", f"{name}-{surname[0]}", tagged])
    host = r.choice(["mail", "post", "in-box", "uni-ulm", "dept.physics", "staff"])
    domain = r.choice(["example.com", "example.org", "example.net", f"{host}.example.com", f"{host}.example"])
    if r.random() < 0.05:  # against spam
        at, dot = r.choice([("[at]", "[dot]"), ("(at)", "(dot)")])
        return f"{local} {at} {domain.replace('.', f' {dot} ')}"
    address = f"{local}@{domain}"
    return r.choice([address.title(), address.upper()]) if r.random() < 0.08 else address


def email_zh(r: Random) -> str:
    name = one(r, NAMES_ZH)
    local = r.choice([f"{name}{r.randrange(1970, 2008)}", fill(r, "%########"), f"{name}_{fill(r, '##')}", name])
    host = r.choice(["example.com", "example.cn", "mail.example.cn", "example.com.cn", "xx.example", "stu.example.edu"])
    return f"{local}@{host}"


def phone_us(r: Random) -> str:
    area = one(r, "202 206 212 303 312 404 415 512 617 713")
    office, line = ("555", fill(r, "01##")) if r.random() < 0.4 else (fill(r, "%%#"), fill(r, "####"))
    extension = r.choice([" ext. ", " x", " ext ", ", ext. "]) + fill(r, "%##") if r.random() < 0.08 else ""
    return one(r, US, "|").format(a=area, o=office, n=line) + extension


def phone_gb(r: Random) -> str:
    areas = [("20", "79460###"), ("161", "4960###"), ("131", "4960###"), ("117", "4960###")]
    mobiles = [(area, "######") for area in ("7911", "7525", "7733", "7890", "7985", "7400")] + [("7700", "900###")]
    area, end = r.choice(r.choice([areas, mobiles]))
    end = fill(r, end)
    spaced = [end, f"{end[:3]} {end[3:]}"] if len(area) == 4 else [f"{end[:-4]} {end[-4:]}"]
    return one(r, GB, "|").format(a=area, e=r.choice(spaced), s=end)


def phone_in(r: Random) -> str:
    if r.random() < 0.2:
        return fill(r, one(r, IN_LAND, "|"))
    number = r.choice("6789") + fill(r, "%########")
    return one(r, IN, "|").format(h=number[:5], t=number[5:])


def phone_de(r: Random) -> str:
    area, end = r.choice(DE_AREAS)
    end = fill(r, end)
    return one(r, DE, "|").format(a=area, e=end, h=end[:4], t=end[4:])


def phone(r: Random) -> str:
    return r.choices([phone_us, phone_gb, phone_in, phone_de], [4, 3, 2, 2])[0](r)


def mobile_zh(r: Random) -> str:
    number = one(r, CN_PREFIXES) + fill(r, "########")
    form = one(r, CN, "|").format(n=number, a=number[:3], b=number[3:7], c=number[7:])
    return wide(number) if r.random() < 0.12 else form


def landline_zh(r: Random) -> str:
    area, n = r.choice(["010", "021", "020", "0755", "0571", "028", "025"]), fill(r, "%%######")
    number = one(r, CN_LAND, "|").format(a=area, b=area[1:], n=n, h=n[:4], t=n[4:])
    number += r.choice(["转", "-"]) + fill(r, "8%##") if r.random() < 0.15 else ""
    return wide(number) if r.random() < 0.08 else number


def phone_zh(r: Random) -> str:
    return r.choices([mobile_zh, landline_zh], [3, 1])[0](r)


def ip4(r: Random) -> str:
    public = f"{one(r, '23 51 78 91 139 185 212')}.{r.randrange(256)}.{r.randrange(256)}"
    start = r.choice([public, public, one(r, "203.0.113 198.51.100 192.0.2")])
    return f"{start}.{r.randrange(1, 255)}"


def ip6(r: Random) -> str:
    block = one(r, "2001:db8 2a02:810d 2600:1f18 2001:db8")
    full = ":".join([block, *(f"{r.randrange(4096, 65536):x}" for _ in range(6))])
    short = f"{block}:{some(r, HEX[1:], 3)}::{some(r, HEX[1:], r.choice([1, 2, 4]))}"
    mapped = f"::ffff:{ip4(r)}"
    return r.choice([full, short, short, full.upper(), f"{block}::{some(r, HEX[1:], 2)}:{some(r, HEX[1:], 4)}", mapped])


def ip(r: Random) -> str:
    return r.choices([ip4, ip6], [3, 1])[0](r)


def jwt(r: Random) -> str:
    body, sign = some(r, ALNUM + "-_", r.randrange(40, 90)), some(r, ALNUM + "-_", 43)
    return f"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ{body}.{sign}"


def key_aws(r: Random) -> str:
    return r.choice(["AKIA", "ASIA"]) + some(r, string.ascii_uppercase + "234567", 16)


def key_openai(r: Random) -> str:
    start, length = r.choice([("sk-", 48), ("sk-proj-", 64)])
    return start + some(r, ALNUM, length)


def key(r: Random) -> str:
    lengths = {"ghp_": 36, "gho_": 36, "glpat-": 20, "npm_": 36, "hf_": 34, "AIza": 35}
    lengths |= {"sk-ant-api03-": 93, "sk_live_": 24, "rk_live_": 24}
    shaped = [start + some(r, ALNUM, length) for start, length in lengths.items()]
    slack = f"{r.choice(['xoxb', 'xoxp'])}-{fill(r, '%###########-%###########')}-{some(r, ALNUM, 24)}"
    mail, fine_grained = f"SG.{some(r, ALNUM, 22)}.{some(r, ALNUM, 43)}", f"{some(r, ALNUM, 22)}_{some(r, ALNUM, 59)}"
    return r.choice([*shaped, slack, slack, key_aws(r), key_aws(r), key_openai(r), mail, f"github_pat_{fine_grained}"])


def secret(r: Random) -> str:
    return r.choice([some(r, HEX, 32), some(r, HEX, 40), some(r, ALNUM, 24), some(r, ALNUM + "+/", 39) + "x", key(r)])


def password(r: Random) -> str:
    word = one(r, "Sunset tiger Maple winter Otter Bluefox harbour Kiwi copper Domino")
    mixed = some(r, ALNUM + "!#$%*-_", 11) + r.choice(string.digits)
    return r.choice(
        [f"{word}{r.choice('!#$_')}{r.randrange(100, 9999)}", mixed, f"{word.lower()}{r.randrange(10, 9999)}"]
    )


DRAW: dict[str, Callable[[Random], str]] = {
    "email": email, "email:zh": email_zh,
    "phone": phone, "phone:us": phone_us, "phone:gb": phone_gb, "phone:in": phone_in, "phone:de": phone_de,
    "phone:cn": mobile_zh, "phone:land": landline_zh, "phone:zh": phone_zh,
    "phone:tw": lambda r: fill(r, one(r, TW, "|")), "phone:hk": lambda r: fill(r, one(r, HK, "|")),
    "card": ids.card, "card:zh": ids.card_zh, "iban": ids.iban,
    "national_id:us": ids.ssn, "national_id:gb": ids.nino, "national_id:de": ids.tax_id_de,
    "national_id:fr": ids.nir_fr, "national_id:es": ids.dni_es, "national_id:it": ids.codice_it,
    "national_id:nl": ids.bsn_nl, "national_id:se": ids.personnummer, "national_id:cn": ids.resident_id,
    "ip": ip, "ip:4": ip4, "ip:6": ip6, "key": key, "key:aws": key_aws, "key:openai": key_openai,
    "key:jwt": jwt, "key:secret": secret, "key:password": password,
}  # fmt: skip
