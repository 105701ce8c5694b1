"""Draw cards, IBANs and national ids at random, for `held_out.py`, with check digits by the public rules."""

from __future__ import annotations

import string
from collections.abc import Sequence
from datetime import date, timedelta
from random import Random

ALNUM = string.ascii_letters + string.digits
HEX = "0123456789abcdef"
REGIONS = "110105 310104 440103 330106 510104 420106 320102 610113 210102 370202 350203 430102"


def fill(r: Random, pattern: str) -> str:
    """Return `pattern` with every # replaced by a digit, % by one of 2 to 8, and ? by a capital letter."""
    draw = {"#": string.digits, "%": "2345678", "?": string.ascii_uppercase}
    return "".join(r.choice(draw[c]) if c in draw else c for c in pattern)


def some(r: Random, letters: str, n: int) -> str:
    """Return `n` of `letters`."""
    return "".join(r.choices(letters, k=n))


def one(r: Random, choices: str, by: str | None = None) -> str:
    """Return one of the words in `choices`, or of its parts between `by`."""
    return r.choice(choices.split(by))


def split(text: str, sizes: Sequence[int], by: str) -> str:
    """Return `text` in groups of these sizes (the last size repeats), with `by` between them."""
    parts: list[str] = []
    at = 0
    while at < len(text):
        size = sizes[min(len(parts), len(sizes) - 1)]
        parts.append(text[at : at + size])
        at += size
    return by.join(parts)


def wide(text: str) -> str:
    """Return `text` with full-width digits, letters and signs."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def luhn(digits: str) -> bool:
    """Return whether the last digit is the Luhn check digit of the others (ISO/IEC 7812-1)."""
    doubled = [int(c) * (1 + i % 2) for i, c in enumerate(reversed(digits))]
    return sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0


def with_luhn(digits: str) -> str:
    """Return `digits` followed by their Luhn check digit."""
    return next(digits + c for c in string.digits if luhn(digits + c))


def mod97(text: str) -> int:
    """Return the remainder by 97 of letters and digits, with A as 10 and Z as 35 (ISO 7064)."""
    return int("".join(str(int(c, 36)) for c in text)) % 97


def cn_check(first17: str) -> str:
    """Return the check character of a Chinese resident id (GB 11643-1999)."""
    return "10X98765432"[sum(int(c) * (2 ** (17 - i) % 11) for i, c in enumerate(first17)) % 11]


def birthday(r: Random) -> date:
    """Return a day between 1950 and 2005."""
    return date(1950, 1, 1) + timedelta(days=r.randrange(20_000))


def card(r: Random) -> str:
    mastercard, jcb = f"5{r.randrange(1, 6)}", str(r.randrange(3528, 3589))
    starts = {
        "4": 16,
        mastercard: 16,
        str(r.randrange(2221, 2720)): 16,
        "37": 15,
        "34": 15,
        "6011": 16,
        jcb: 16,
        "36": 14,
    }
    start = r.choices(list(starts), [4, 3, 1, 1, 1, 1, 1, 1])[0]
    number = with_luhn(start + some(r, string.digits, starts[start] - len(start) - 1))
    return split(number, [4] if len(number) == 16 else [4, 6, 5], r.choice([" ", " ", "-", "", ""]))


def card_zh(r: Random) -> str:
    number = with_luhn("62" + some(r, string.digits, r.choice([13, 16, 16])))
    return wide(number) if r.random() < 0.1 else split(number, [4], r.choice([" ", "", "", "-"]))


def bban(r: Random, country: str) -> str:
    """Return an account number of a country, with its national check digits where it has any."""
    if country == "BE":
        first = fill(r, one(r, "001 210 310 734") + "#######")
        return f"{first}{int(first) % 97 or 97:02d}"
    if country == "ES":
        bank, account = fill(r, "2###0###"), fill(r, "##########")
        weighed = [11 - sum(int(c) * 2**i for i, c in enumerate(n)) % 11 for n in ("00" + bank, account)]
        return bank + "".join(str({10: 1, 11: 0}.get(n, n)) for n in weighed) + account
    if country == "FR":
        bank, branch, account = fill(r, "30###"), fill(r, "0####"), fill(r, "000########")
        return f"{bank}{branch}{account}{97 - (89 * int(bank) + 15 * int(branch) + 3 * int(account)) % 97:02d}"
    if country == "NL":
        account = "0" + fill(r, "%########")
        while sum(int(c) * (10 - i) for i, c in enumerate(account)) % 11:
            account = "0" + fill(r, "%########")
        return r.choice(["ABNA", "INGB", "RABO"]) + account
    shapes = {
        "DE": "%#################",
        "GB": "????%#############",
        "CH": "00%##############",
        "AT": "%###############",
    }
    return fill(r, shapes[country])


def iban(r: Random) -> str:
    country = one(r, "DE DE GB GB FR NL ES BE CH AT")
    account = bban(r, country)
    whole = f"{country}{98 - mod97(account + country + '00'):02d}{account}"
    return split(whole.lower() if r.random() < 0.05 else whole, [4], r.choice([" "] * 6 + [""] * 5 + ["-"]))


def ssn(r: Random) -> str:
    area, group, serial = (
        r.choice([r.randrange(1, 666), r.randrange(667, 900)]),
        r.randrange(1, 100),
        r.randrange(1, 10_000),
    )
    return split(f"{area:03d}{group:02d}{serial:04d}", [3, 2, 4], r.choice(["-"] * 7 + [" ", "", ""]))


def nino(r: Random) -> str:
    prefix = r.choice(["AB", "CE", "HJ", "JT", "LX", "MW", "PA", "SR", "WK", "YZ"])
    number = split(prefix + fill(r, "######") + r.choice("ABCD"), [2], r.choice([" ", " ", ""]))
    return number.lower() if r.random() < 0.1 else number


def tax_id_de(r: Random) -> str:
    digits = r.sample(string.digits, 9)  # nine differ, one of them comes twice
    digits.append(r.choice(digits))
    r.shuffle(digits)
    if digits[0] == "0":
        return tax_id_de(r)
    product = 10
    for digit in digits:
        product = 2 * ((int(digit) + product) % 10 or 10) % 11
    return split("".join(digits) + str((11 - product) % 10), [2, 3], r.choice([" ", " ", ""]))


def nir_fr(r: Random) -> str:
    day = birthday(r)
    first = f"{r.choice('12')}{day:%y%m}{one(r, '13 33 59 69 75')}{r.randrange(1, 400):03d}{r.randrange(400):03d}"
    whole = f"{first}{97 - int(first) % 97:02d}"
    parts = [whole[a:b] for a, b in ((0, 1), (1, 3), (3, 5), (5, 7), (7, 10), (10, 13), (13, 15))]
    return " ".join(parts) if r.random() < 0.7 else whole


def dni_es(r: Random) -> str:
    first = r.choice(["", "X", "Y", "Z"]) if r.random() < 0.4 else ""
    digits = fill(r, "%######" if first else "%#######")
    letter = "TRWAGMYFPDXBNJZSQVHLCKE"[int(str("XYZ".find(first)) + digits if first else digits) % 23]
    return r.choice(["{}{}{}", "{}{}{}", "{}{}-{}"]).format(first, digits, letter)


def codice_it(r: Random) -> str:
    day, consonants = birthday(r), "BCDFGLMNPRSTVZ"
    number = day.day + r.choice([0, 40])
    place = r.choice(["H501", "F205", "L219", "F839", "A944"])
    code = f"{some(r, consonants, 6)}{day:%y}{'ABCDEHLMPRST'[day.month - 1]}{number:02d}{place}"
    odd = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
    ranks = [int(c) if c.isdigit() else ord(c) - 65 for c in code]
    check = chr(65 + sum(n if i % 2 else odd[n] for i, n in enumerate(ranks)) % 26)
    return split(code + check, [3, 3, 5, 5], " ") if r.random() < 0.2 else code + check


def bsn_nl(r: Random) -> str:
    while True:
        digits = fill(r, "%########")
        if (sum(int(c) * (9 - i) for i, c in enumerate(digits[:8])) - int(digits[8])) % 11 == 0:
            return split(digits, [3], ".") if r.random() < 0.15 else digits


def personnummer(r: Random) -> str:
    day = birthday(r)
    number = with_luhn(f"{day:%y%m%d}{fill(r, '%##')}")
    century = day.year // 100 if r.random() < 0.4 else ""
    return f"{century}{number[:6]}-{number[6:]}"


def resident_id(r: Random) -> str:
    first = f"{one(r, REGIONS)}{birthday(r):%Y%m%d}{r.randrange(1, 400):03d}"
    whole = first + cn_check(first)
    forms = [whole] * 8 + [whole.lower(), split(whole, [6, 8, 4], " "), wide(whole)]
    return r.choice(forms)
