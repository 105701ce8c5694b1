"""List the words beside a number that say what it is, and find the one that counts."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from .spans import Window

__all__ = ["LANGUAGES", "Cues"]

_REACH = 48  # characters before a number in which a word counts

# By kind and language. "none" holds what says that a number is private to nobody: orders, prices, versions.
_WORDS: dict[str, dict[str, str]] = {
    "phone": {
        "en": r"tele?phone|i?phone|phn|cell(?:phone)?|mobile|mob|tel|fax|call(?:ing|ed|back)?|dial|text(?: me)?|sms|"
        r"whats ?app|wa\.me|telegram|viber|facetime|signal|ring|buzz|reach(?:able| (?:me|us|him|her|them|out))?|"
        r"contact(?: (?:me|us|him|her|them))?|(?:message|msg) (?:me|us|him|her|them)|hmu|in touch|"
        r"(?:my|your|his|her|our|their|new|best|old|this|callback|daytime|emergency) (?:number|digits|no|nr|#)|"
        r"emergency(?: contact)?|caller(?:[ _]id)?|hotline|helpline|"
        r"switchboard|toll[- ]free|freephone|landline|voicemail|contact (?:number|no)|ph|"
        r"(?:[tmchwof]|tf)(?=[:)] {0,2}[+(]?$)|[tmc](?=\. {0,2}[+(]?$)",
        "zh": r"电话|手机|号码是|[我他她]的号码|联系方式|联系号码|座机|固话|传真|致电|拨|来电|打给|短信|热线|"
        r"分机|電話|手機",
        "de": r"telefon(?:nummer)?|handy(?:nummer)?|mobil|anruf(?:en)?|rückruf|durchwahl|festnetz",
        "fr": r"téléphone|portable|appel(?:ez|er)?|tél",
        "es": r"teléfono|móvil|celular|llam(?:e|a|ar|ame)|tfno",
        "it": r"telefono|cellulare|chiam(?:a|are|ami)",
        "nl": r"telefoon(?:nummer)?|mobiel|bellen",
        "pl": r"telefon(?:u)?|komórk\w+|zadzwoń",
        "sv": r"telefon(?:nummer)?|mobil(?:nummer)?",
        "ar": r"هاتف|الهاتف|جوال|الجوال|موبايل|اتصل|رقم هاتفي",
        "ja": r"電話番号?|携帯",
    },
    "card": {
        "en": r"(?:credit|debit|bank|payment|visa|amex) ?card|card|visa|master ?card|amex|american express|discover|"
        r"pan|cc",
        "zh": r"银行卡|信用卡|借记卡|储蓄卡|卡号|银联|刷卡|付款卡|尾号|銀行卡",
        "de": r"kreditkarte(?:nnummer)?|kartennummer|karte",
        "fr": r"carte(?: bancaire| bleue)?",
        "es": r"tarjeta",
        "it": r"carta(?: di credito)?",
        "nl": r"creditcard|kaartnummer",
        "pl": r"karta|karty",
        "sv": r"kort(?:nummer)?",
        "ar": r"بطاقة|البطاقة",
        "ja": r"カード番号?",
    },
    "iban": {
        "en": r"iban|bank account|account (?:number|no)",
        "zh": r"国际银行账号|账户|账号",
        "de": r"konto(?:nummer)?",
    },
    "national_id": {
        "en": r"ssn|social security(?: (?:number|no))?|social insurance|national insurance|ni(?: (?:number|no|"
        r"#))?(?= ?[:#]? ?$)|ni (?:number|no)|nino|"
        r"tax(?:payer)? (?:id|identification|file)(?: (?:number|no))?|tin|itin|tfn|sin|nhs(?: (?:number|no))?|"
        r"passport|national id(?:entity|entification)?|identity (?:card|number|no|document)|"
        r"id (?:card|number|no|document)|(?:identification|personal) (?:number|no)|"
        r"driv(?:er['’]?s?|ing) licen[cs]e|(?:my|your|his|her|their|last) social|soc(?:ial)? sec|ss(?= ?#)|"
        r"(?:aadh?aa?r|adhaar|nhs|insurance|security|pan|voter|medicare)(?: id)? card|"
        r"aadh?aa?r|adhaar|nric|ppsn?|cnic|medicare|green card|residence permit|alien number|"
        r"voter id|dl(?= ?(?:nu?[mo]|#|"
        r":))|"
        r"resident id(?:entity)?|citizen id|personnummer|bsn|pesel|dni|nie|nif|nir|"
        r"codice fiscale|steuer-?id|idnr|insee|cpf|curp|national number|my id|government id|hkid|hk id|id(?= ?#)",
        "zh": r"身份证|身分证|身份证号码?|公民身份号码|身份号码|证件号码?|证件|护照(?:号码?)?|社保号|社会保障号码?|"
        r"社会安全号码?|"
        r"税号|纳税人识别号|驾驶证|通行证|国民保险号|身份證|居民证",
        "de": r"steuer-?(?:id(?:entifikationsnummer|-?nr|-?nummer)?|identnummer|nummer)|"
        r"personalausweis\w*|ausweis\w*|reisepass\w*|"
        r"sozialversicherungsnummer|identifikationsnummer",
        "fr": r"sécurité sociale|sécu|carte d'identité|passeport|numéro fiscal",
        "es": r"documento(?: nacional)?(?: de identidad)?|pasaporte|identidad",
        "it": r"carta d'identità|passaporto|cod(?:ice)?\.? fisc(?:ale)?",
        "nl": r"burgerservicenummer|paspoort|sofinummer",
        "pl": r"dowód(?: osobisty)?|paszport|numer ewidencyjny",
        "sv": r"person(?:nummer|nr)|samordningsnummer",
        "ar": r"الهوية|رقم الهوية|جواز السفر",
        "ja": r"マイナンバー|旅券",
    },
    "none": {
        "en": r"order|invoice|receipt|tracking|parcel|shipment|ticket|case|serial|sku|part|model|item|product|batch|"
        r"lot|ref(?:erence)?|isbn|issn|doi|ean|upc|asin|version|ver|release|build|revision|commit|sha|hash|checksum|"
        r"md5|"
        r"page|pages|pp|chapter|section|figure|fig|table|row|line|port|pid|error|code|population|total|sum|price|cost|"
        r"budget|revenue|amount|usd|eur|gbp|cny|rmb|lat(?:itude)?|lon(?:gitude)?|coordinates?|timestamp|epoch|"
        r"unix time|issue|patent|transaction|txn|booking|flight|catalog(?:ue)?|article|barcode|bytes|"
        r"seed|score|user id|uid|pmid|arxiv|rfc|iso|license key|warehouse|imei|imsi|iccid|confirmation|claim|vin|meter|"
        r"zip(?: code)?|post(?:al )?code|iteration|balance|salary|votes",
        "zh": r"订单|单号|快递|运单|物流|发票|流水号?|编号|工单|序列号|型号|货号|条码|条形码|批号|批次|版本|页码?|"
        r"章节?|价格|售价|总价|金额|预算|人口|总计|合计|坐标|经度|纬度|时间戳|提交|哈希|校验|端口|错误码?|代码|书号|"
        r"期号|"
        r"学号|工号|会员号?|客户号|航班|车次|专利|商品|合同|案号|邮编|票号|訂單|编码",
        "de": r"bestell\w*|rechnung\w*|auftrag\w*|kunden\w*|artikel\w*|sendung\w*|seriennummer|vorgang\w*|preis",
        "fr": r"commande|facture|référence|réf|colis|prix",
        "es": r"pedido|factura|referencia|precio|envío",
        "it": r"ordine|fattura|riferimento|prezzo",
        "nl": r"bestelling|factuur|ordernummer|prijs",
        "pl": r"zamówieni\w+|faktur\w+|cena",
        "sv": r"ordernummer|faktura|pris",
    },
}
_WORDS["person"] = {"en": r"customer|member(?:ship)?|student|employee|policy"}  # weaker: numbers of people
LANGUAGES = tuple(sorted({language for by_language in _WORDS.values() for language in by_language}))
_CLAUSE = re.compile(r"(?i)[!?]|\.(?=\s)(?<!\b\w\.)(?<!\b\w\w\.)(?<!\b\w\w\w\.)(?<!\bcell\.)(?<!nr\.)|[。！？；;\n]")
# What may stand between a word such as "order" and its number: "my order, paid with 4111..." says nothing of it.
_JOINING = re.compile(
    r"(?:[\s:#.=(\[/\"'$-]|[号码是为编共达约第]|\d{1,3}(?=[,/-])|[A-Z]{1,4}(?=[\d-]|$)|number|no|nr|num|id|code|is|"
    r"was|of|for|the|with|has|had|"
    r"nummer|numéro|número|n°|about|are)*",
    re.IGNORECASE,
)
# What may stand between "call" and its number.
_REACHING = re.compile(
    r"(?:[^\w\n]|me|us|him|her|them|you|at|on|via|to|is|was|are|my|your|his|their|our|the|a|s|number|no|num|new|old|"
    r"direct|cell|"
    r"mobile|home|work|office|line|desk|back|now|please|or|and|phone|tel|app|contact|only|for|this|just|here|out|"
    r"directly|anytime|instead|under|it|[\u4e00-\u9fff：])*",
    re.IGNORECASE,
)
# Who speaks, in the record of a talk: no word that says what the number after it is.
_SPEAKER = (
    r"(?:user|customer|client|agent|caller|patient|student|member|employee|human|assistant|support|me|you|q|a|"
    r"客户|用户|客服|问|答|我)"
)
_SPEAKS = re.compile(rf"(?:^|[\n?!.。？！]) *[*>-]* *{_SPEAKER} *[*]*[:：]", re.IGNORECASE)
_ANSWER = re.compile(  # a question or label, and what is said before the answer
    rf"(?P<ends>[?？]|[:：,，.。!！]?[ ]*\n(?=[ *>-]*{_SPEAKER} *[*]*[:：])|[:：]?[ ]*\n(?P<label>))[\s\"'*>-]*"
    rf"(?:{_SPEAKER} *[*]*[:：][\s*]*)?"
    r"(?:(?:sure(?: thing)?|ok(?:ay)?|yes|yeah|yep|of course|certainly|thanks|thank you|hi|hello|oh|uh|um|well|so|"
    r"please|"
    r"it'?s|it is|it’s|that'?s|that’s|that is|that would be|here it is|here you go|here|this is|mine is|is|sorry|"
    r"right|absolutely|"
    r"no problem|let me see|should be|i think|好的?|是的?|可以|嗯|您好|你好|没问题|当然|稍等|这是|就是|我的是)(?![a-z])"
    r"[\s,.!:;，。！：-]*)*[(\[\"'+]*$",
    re.IGNORECASE,
)
_AFTER = (
    r"(?:\s*[(\[]\s*|\s*(?:is|was|are|是|为)\s*)"
    r"(?:(?:my|our|his|her|their|the|a|我的|他的|她的|本人|个人)\s*)?(?:[a-z]+ )?"
)


@functools.lru_cache(maxsize=64)
def _patterns(languages: Sequence[str]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    groups = []
    for kind, by_language in _WORDS.items():
        words = "|".join(by_language[language] for language in languages if language in by_language)
        groups.append(f"(?P<{kind}>{words or '(?!)'})")
    either = "|".join(groups)
    # Words of letters stand alone; Chinese and Japanese have no spaces around them.
    edge = r"(?<![^\W\d_\u3040-\u9fff])"
    word = rf"{edge}(?:{either})(?:s|'s)?(?![^\W\d_\u3040-\u9fff])|{'|'.join(_han(languages))}"
    return re.compile(word, re.IGNORECASE), re.compile(_AFTER + rf"(?:{word})", re.IGNORECASE)


def _han(languages: Sequence[str]) -> list[str]:
    """Return the groups of Chinese and Japanese words, which may stand between other letters."""
    groups = []
    for kind, by_language in _WORDS.items():
        words = "|".join(by_language[name] for name in ("zh", "ja") if name in languages and name in by_language)
        groups.append(f"(?P<{kind}_han>{words or '(?!)'})")
    return groups


class Cues:
    """Say what the words around a number make of it. Each place of the window is looked at once.

    Args:
        window: the text.
        languages: whose words count.
    """

    def __init__(self, window: Window, languages: Sequence[str]) -> None:
        self._text, self._after = window.text.replace("_", " "), window.after
        self._words_before, self._words_after = _patterns(tuple(languages))
        self._before: dict[int, str | None] = {}
        self._near: dict[int, bool] = {}
        self._reached: dict[int, bool] = {}
        self._loose: dict[int, bool] = {}
        self._behind: dict[int, str] = {}

    def __call__(self, start: int, end: int) -> str:
        """Return the kind that the nearest word of the clause gives `text[start:end]`, before it or else after it.

        Returns:
            A kind, "none" if the word says that it is private to nobody, or "" without a word.
        """
        if start not in self._before:
            self._before[start] = self._look_before(start)
        said = self._before[start]
        if said is not None:
            return said
        if end not in self._behind:
            found = self._words_after.match((self._text[end : end + _REACH] + self._after)[:_REACH])
            self._behind[end] = _kind(found) if found else ""
        return self._behind[end]

    def adjoins(self, start: int, end: int) -> bool:
        """Return whether nothing but words such as "is" and "number" stands between the word and `text[start:end]`."""
        self(start, end)
        return self._near.get(start, True)

    def numbers(self, start: int, end: int) -> bool:
        """Return whether the word names `text[start:end]` itself: "order number" does, "order paid with" does not."""
        return self.adjoins(start, end) and not self._loose.get(start, False)

    def reaches(self, start: int, end: int) -> bool:
        """Return whether nothing but words such as "me at" stands between "call" and `text[start:end]`."""
        self(start, end)
        return self._near.get(start, True) or self._reached.get(start, False)

    def _look_before(self, start: int) -> str | None:
        left = self._text[max(0, start - _REACH) : start]
        cut = max((found.end() for found in (*_CLAUSE.finditer(left), *_SPEAKS.finditer(left))), default=0)
        nearest = None
        for found in self._words_before.finditer(left, cut):
            nearest = found
        if nearest is None:
            return self._asked(start)
        kind = _kind(nearest)
        self._near[start] = _JOINING.fullmatch(left, nearest.end()) is not None
        self._loose[start] = re.search(r"(?i)\b(?:with|for|about)\b", left[nearest.end() :]) is not None
        self._reached[start] = _REACHING.fullmatch(left, nearest.end()) is not None
        return kind if kind not in ("none", "person") or self._near[start] else ""

    def _asked(self, start: int) -> str | None:
        """Return the kind that a question or a label on the line before asks for."""
        left = self._text[max(0, start - 2 * _REACH) : start]
        answer = _ANSWER.search(left)
        if answer is None:
            return None
        question = left[: answer.start()]
        if answer["label"] is not None and question.endswith((".", "。", "!", ",", "，")):
            return None
        cut = max((found.end() for found in (*_CLAUSE.finditer(question), *_SPEAKS.finditer(question))), default=0)
        nearest = None
        for found in self._words_before.finditer(question, cut):
            nearest = found
        if nearest is None or (answer["label"] is not None and not _JOINING.fullmatch(question, nearest.end())):
            return None
        self._near[start] = True
        return _kind(nearest)


def _kind(found: re.Match[str]) -> str:
    return str(found.lastgroup).removesuffix("_han")
