"""Draw what looks like private data and is none, for `held_out.py`: prices, dates, order numbers, hashes, versions.

Long numbers fail the checks of cards and of Chinese resident ids, so that none is private data by chance.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from uuid import UUID

from tests.rlhf_envs.privacy.parts.ids import ALNUM, HEX, cn_check, fill, luhn, mod97, one, some, split, wide

FLIGHTS = "LH {}|UA {}|BA{}|AI {}|FR{}|KL {}"
PLACES = "48.8584, 2.2945|40.7128° N, 74.0060° W|51.50722, -0.12750|12.9716,77.5946|52° 31' 12\" N"
MEASURES = "12.5 x 30 cm|1,500 mAh|220-240 V|5.75 kg|250 ml|3/4 inch|1080p|16 GB|-12.5 °C|37.2°C|180/75 R16|65 W"
POSTCODES = "94103|SW1A 1AA|94103-1234|10115 Berlin|400001|EC2V 7HH|560 034"
VERSES = "John 3:16-18|Psalm 119:105|Romans 8:28|Act 2, Scene 3|Genesis 1:1-2:3|Matthew 5:3-12"
STOCKS = "AAPL|BRK.B|TSLA|0700.HK|7203.T|VOW3.DE|GOOGL"
HANDLES = "@night_owl88|@data.cat|@kettle_fan|@rust_and_tea|@user4821"
URLS = "https://example.com/help/returns?id={n}|www.example.org/faq#section-4.2|http://shop.example/p/{n}"
URLS += "|https://example.net/@rosa/post/{n}"
REPOS = "git@github.com:example/tools.git|docs.example.com/v2/users/me|https://example.org/api/v1/items/{n}"
PLACEHOLDERS = "YOUR_API_KEY|<your-api-key>|********|${API_KEY}|xxxxxxxx|os.environ['API_KEY']|[REDACTED]|sk-..."
BUILDS = "v2.10.4.1|version 4.7.2.0|v1.2.3.4|version 10.0.22631.3007|v3.0.0-rc.1|Version 1.14.0|version 8.2.1.10"
CODE = "std::vector|Foo::bar()|@media (max-width: 600px)|@Override|npm i @scope/tool@2.1.3|root@web-03:~#|a::b::c"
STOCKS_ZH = "600519|000858.SZ|00700.HK|601318|300750"
MEASURES_ZH = "175cm|3.5升|500ml|16GB+512GB|40码|12V|5000mAh|180/90|20×35cm|1.5匹"
TRAINS_ZH = "G1234次|D2287次|CA1831|MU5137|K528次|3U8633|地铁10号线"


def moment(r: Random) -> datetime:
    """Return a minute between 2015 and 2026."""
    return datetime(2015, 1, 1) + timedelta(minutes=r.randrange(11 * 525_600), seconds=r.randrange(60))


def long_number(pattern: str) -> Callable[[Random], str]:
    """Return a function that draws numbers of this pattern which are no card and no Chinese resident id."""

    def draw(r: Random) -> str:
        while True:
            text = fill(r, pattern)
            digits = "".join(c for c in text if c.isdigit())
            if not luhn(digits) and not (len(digits) == 18 and cn_check(digits[:17]) == digits[-1]):
                return text

    return draw


def one_long(*patterns: str) -> Callable[[Random], str]:
    """Return a function that draws a number of one of the patterns, see `long_number`."""
    return lambda r: long_number(r.choice(patterns))(r)


def of(choices: str) -> Callable[[Random], str]:
    """Return a function that draws one of the parts between the bars, with a random number where {n} stands."""
    return lambda r: one(r, choices, "|").replace("{n}", fill(r, "%####"))


def batch(r: Random) -> str:
    """Return what is written like an IBAN and fails its check (and that of cards)."""
    while True:
        body = fill(r, "DE##################")
        if mod97(body[4:] + body[:4]) != 1 and not luhn(body[4:]):
            return split(body, [4], " ")


def isbn(r: Random) -> str:
    first = fill(r, "9780%%######")
    check = -sum(int(c) * (1 + 2 * (i % 2)) for i, c in enumerate(first)) % 10
    if luhn(f"{first}{check}"):
        return isbn(r)
    return r.choice([split(first, [3, 1, 3, 5], "-") + f"-{check}", f"{first}{check}"])


def stamp(r: Random) -> str:
    return moment(r).strftime(r.choice(["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y/%m/%d %H:%M:%S.042"]))


def day(r: Random) -> str:
    return moment(r).strftime(
        r.choice(["%Y-%m-%d", "%d/%m/%Y", "%m/%d/%y", "%d.%m.%Y", "%d %B %Y", "%B %d", "%d-%b-%Y"])
    )


def day_zh(r: Random) -> str:
    then = moment(r)
    form = r.choice(["{:%Y}年{}月{}日", "{:%Y}-{:0>2}-{:0>2}", "{:%Y}/{}/{}", "{1}月{2}日", "{:%Y}.{:0>2}.{:0>2}"])
    text = form.format(then, then.month, then.day)
    return wide(text) if r.random() < 0.15 else text


def hour(r: Random) -> str:
    return moment(r).strftime(r.choice(["%H:%M", "%I:%M %p", "%H:%M", "%H.%M"]))


def hour_zh(r: Random) -> str:
    then = moment(r)
    texts = [
        f"{then:%H:%M}",
        f"{then.hour}点{then.minute}分",
        f"下午{then.hour % 11 + 1}点半",
        f"{then.hour}时",
        f"{then:%H：%M}",
    ]
    return r.choice(texts)


def price(r: Random) -> str:
    amount = round(10 ** r.uniform(0.5, 3.7), 2)
    return r.choice(["${:,.2f}", "£{:,.2f}", "{:,.2f} EUR", "€{:.2f}", "₹{:,.0f}", "Rs. {:,.0f}", "USD {:.2f}"]).format(
        amount
    )


def price_zh(r: Random) -> str:
    amount = round(10 ** r.uniform(0.5, 4), 2)
    text = r.choice(["{:.2f}元", "¥{:.2f}", "￥{:,.2f}", "{:.0f}块", "人民币{:,.2f}元"]).format(amount)
    return wide(text) if r.random() < 0.1 else text


def ending(r: Random) -> str:
    return r.choice(["{}", "**** {}", "xxxx-xxxx-xxxx-{}", "•••• {}"]).format(fill(r, "####"))


def uuid(r: Random) -> str:
    return str(UUID(int=r.getrandbits(128), version=4))


OTHERS: dict[str, Callable[[Random], str]] = {
    "stamp": stamp, "hour_zh": hour_zh,
     "day": day, "day_zh": day_zh, "hour": hour, "price": price, "price_zh": price_zh, "isbn": isbn,
    "year": lambda r: str(r.randrange(1950, 2027)), "small": lambda r: str(r.randrange(2, 60)), "batch": batch,
    "order": one_long("#%######", "%#######", "1%#-#######-#######", "4#########", "2024-######", "INV-%####"),
    "order_zh": one_long("2024##########", "3##############", "2%################", "20240%%#############", "%#######"),
    "tracking": one_long("1Z999AA1##########", "JD00026########", "9400 1118 9922 #### #### ##", "RM######### GB"),
    "tracking_zh": one_long("SF1############", "YT#############", "JDVA###########", "7%###########", "4%############"),
    "serial": one_long("%### #### #### ####", "7%##############", "%###########", "SN-%#####", "%###-####-####-####"),
    "part": one_long("000-%#-####", "A%##-###", "%#-%###-%#", "555-%###-B", "666-%#-####"),
    "sku": of("SKU {n}-B|art. {n}|WX-{n}"),
    "expiry": lambda r: f"{r.randrange(1, 13):02d}/{r.randrange(26, 32)}", "ending": ending, "uuid": uuid,
    "percent": lambda r: f"{r.randrange(1000) / 10}%", "flight": lambda r: one(r, FLIGHTS, "|").format(fill(r, "%##")),
    "place": of(PLACES), "measure": of(MEASURES), "postcode": of(POSTCODES), "verse": of(VERSES), "stock": of(STOCKS),
    "handle": of(HANDLES), "url": of(URLS), "repo": of(REPOS),
    "placeholder": of(PLACEHOLDERS), "build": of(BUILDS), "code": of(CODE),
    "hash": lambda r: some(r, HEX, r.choice([7, 8, 40])), "sha": lambda r: f"sha256:{some(r, HEX, 64)}",
    "colour": lambda r: f"#{some(r, HEX, 6)}", "epoch": long_number("17########"), "trace": lambda r: some(r, HEX, 16),
    "port": lambda r: str(r.randrange(1024, 65_000)),
    "oid": of("1.3.6.1.4.1.311.21|2.5.29.17|1.2.840.113549.1"), "doi": of("10.1145/32{n}.33{n}|arXiv:2403.1{n}"),
    "slug": lambda r: some(r, ALNUM, 6), "code6": lambda r: some(r, string.ascii_uppercase, 6),
    "stock_zh": of(STOCKS_ZH), "measure_zh": of(MEASURES_ZH), "train_zh": of(TRAINS_ZH),
    "post_zh": of("200030|100871|510630|310012|２０００３０"), "icp": of("京ICP备120{n}号|沪ICP备190{n}号-1"),
    "credit": of("91310000MA1K{n}Q|9144030071{n}54B"), "section": of("3.2.1.4|4.1.12|2.3.1.1"),
    "book_zh": of("第3章第16节|第12页第4行|（三）第2条|卷一·25:13"),
    "chat_zh": of("@小明同学|@运营小助手|#话题2024#|群里@所有人"),
}  # fmt: skip
