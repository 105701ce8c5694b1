"""Find keys, tokens and passwords: by their prefixes, by their form, and by the words beside them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from .spans import Span, Window

__all__ = ["find_keys"]

_EDGE = r"(?<![A-Za-z0-9_])"
_PREFIXED = re.compile(
    _EDGE + r"(?:"
    r"(?:AKIA|ASIA|AGPA|AIDA|AROA|AIPA|ANPA|ANVA|ABIA|ACCA)[A-Z0-9]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{20,255}|github_pat_\w{20,255}"
    r"|gl(?:pat|ptt|dt|rt|cbt|oas|soat|ft|imt|agent)-[\w.-]{20,64}"
    r"|xox[abeoprs]-[\w-]{10,250}|xapp-\d-[\w-]{10,200}"  # Slack
    r"|(?:sk|pk|rk)_(?:live|test|prod)_\w{10,250}|whsec_[\w+/=]{16,120}"  # Stripe
    r"|sk-(?:proj-|ant-|or-|svcacct-|admin-)?[\w-]{16,250}"  # OpenAI, Anthropic and others
    r"|AIza[\w-]{30,40}|ya29\.[\w.-]{20,250}|GOCSPX-[\w-]{20,40}|1//0[\w-]{30,120}"  # Google
    r"|hf_[A-Za-z0-9]{20,60}|api_org_[A-Za-z0-9]{20,60}"
    r"|npm_[A-Za-z0-9]{30,60}|pypi-[\w-]{16,250}|rubygems_[0-9a-f]{32,64}|dckr_pat_[\w-]{20,60}|crates?io[\w]{30,40}"
    r"|SG\.[\w-]{16,64}\.[\w-]{16,64}|key-[0-9a-f]{32}|(?:SK|AC)[0-9a-f]{32}"  # SendGrid, Mailgun, Twilio
    r"|do[opr]_v1_[0-9a-f]{64}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|sq0[a-z]{3}-[\w-]{22,60}|EAAA[\w-]{50,80}"
    r"|\d{8,10}:[A-Za-z0-9_-]{35}"  # Telegram
    r"|dapi[0-9a-f]{32}|LTAI[A-Za-z0-9]{12,30}|AKID[A-Za-z0-9]{13,64}"  # Databricks, Alibaba, Tencent
    r"|lin_api_\w{30,60}|ntn_\w{30,60}|secret_[A-Za-z0-9]{40,50}|r8_[A-Za-z0-9]{30,50}|gsk_[A-Za-z0-9]{30,80}"
    r"|xai-[A-Za-z0-9]{40,120}|pplx-[A-Za-z0-9]{30,80}|nvapi-[\w-]{40,100}|tskey-[\w-]{16,80}|"
    r"dp\.[a-z]{2}\.[\w.-]{30,80}"
    r"|hv[sbr]\.[\w-]{20,250}|[A-Za-z0-9]{14}\.atlasv1\.[\w-]{60,80}|AGE-SECRET-KEY-1[A-Z0-9]{50,64}|sbp_[0-9a-f]{40}"
    r"|[MNO][A-Za-z0-9_-]{23,27}\.[\w-]{6}\.[\w-]{27,45}"  # Discord
    r"|eyJ[\w-]{8,2000}\.[\w-]{8,8000}(?:\.[\w-]{0,2000}){0,3}"  # JWT, JWE
    r")(?![A-Za-z0-9_])"
)
_PEM = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
    r"(?>(?>[A-Za-z0-9+/=\s\\]+|(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset): [^\n]{0,200})*+)"
    r"(?P<end>-----END [A-Z0-9 ]{0,60}-----)?"
)
_LONG = re.compile(r"[A-Za-z0-9+/=]{40}")
_HOOK = re.compile(r"(?<=hooks\.slack\.com/services/)[\w/]{20,100}|(?<=discord\.com/api/webhooks/)\d+/[\w-]{40,90}")
_URL_PASSWORD = re.compile(r"(?<=://)[^\s/:@\"'<>]{0,64}:(?P<value>[^\s/@\"'<>]{3,128})@")
_HEADER = re.compile(
    r"\b(?:bearer|basic|token|apikey)[ :=]{1,3}[\"']?(?P<value>[A-Za-z0-9][\w.~+/=-]{14,4000})", re.IGNORECASE
)
_SECRETS = (
    r"(?:(?:api|access|secret|private|auth|app|client|session|refresh|account|storage|encryption|signing|master|"
    r"service|"
    r"license|shared|aws|bot)[ _-]?){0,3}(?:key|secret|token|credential)s?(?:[ _-]?(?:id|key|value))?"
    r"|apikey|appsecret"
    r"|密钥|秘钥|令牌|口令牌|访问令牌|私钥|凭证|授权码"
)
_PASSWORDS = (
    r"pass(?:word|code|phrase|wd)?s?|pwd|pw|passwd|pin|passwort|kennwort|mot de passe|contraseña"
    r"|wachtwoord|hasło|lösenord"
    r"|密码|口令|密碼|كلمة المرور|パスワード"
)
_GAP = (
    r"(?:(?<=[\u4e00-\u9fff])(?=[A-Za-z0-9])"
    r"|[\"'`]?(?: ?(?:[:=]|=>|:=|->|是|为|设为|设置为|改为| -) ?"
    r"| (?:is|was|are|to)(?: now| set to| still)?:? | )[\"'`“「]?)"
)
_HAN = r"\u4e00-\u9fff"
_BESIDE = re.compile(
    rf"(?:(?<![A-Za-z])(?:[A-Za-z0-9]{{0,20}}[_-])?|(?=[{_HAN}]))"
    rf"(?:(?P<secret>{_SECRETS})|(?P<password>{_PASSWORDS}))(?:(?<=[{_HAN}])|(?![A-Za-z]))"
    rf"(?: ?\([^)\n]{{0,20}}\)| (?:for|to|of|on)(?: [\w.'-]{{1,20}}){{1,4}}(?= (?:is|was)\b))?(?P<gap>{_GAP})"
    rf"(?P<value>[^\s\"'`“”「」,，。；;、<>(){{}}\u2e80-\u9fff]{{4,512}})",
    re.IGNORECASE,
)
_NO_SECRET = re.compile(r"(?:https?:|[*•x.]{3,}$|\$\{|<|%[sd]|\{\{|\d{4}-\d\d-\d\d|v?\d+(?:\.\d+)+$)", re.IGNORECASE)
_NOT_SECRET = re.compile(  # keys that open nothing
    r"(?:public|cache|primary|foreign|partition|sort(?:ing)?|idempotency|dedup(?:e|lication)?|lookup|dictionary|dict|"
    r"object|map|"
    r"hash|index|composite|unique|gpg|pgp|translation|row|json|公|主)[ _-]?\Z",
    re.IGNORECASE,
)
_PLAIN = re.compile(  # words joined by signs and counted, names in code, what stands for a value, hashes
    r"[a-z]+(?:[_-][a-z]+)*[_-]?\d*(?:[_-](?:v?\d+|[a-z]+))*|[A-Za-z_]\w{0,23}(?:\.[A-Za-z_]\w{0,23})+|"
    r"[A-Z]+(?:_[A-Z]+)+(?:_\d+)?|(?:sha\d+|md5)[:=-].*",
)
_PLACEHOLDER = re.compile(r"(?:your|insert|replace|enter)[_-]|[A-Z]+(?:_[A-Z]+)+$|[A-Z]+(?:_[A-Z]+)*_HERE", re.ASCII)
_COUNT_AFTER = re.compile(
    r" ?(?:年|月|日|位|个|次|天|条|分钟|秒|小时|字|元|遍|-?(?:char(?:acter)?s?|days?|times|digits?|bits?|hours?|"
    r"minutes?|attempts|"
    r"letters|seconds|users|years?|symbols)\b)"
)
_STATES = {
    "required",
    "optional",
    "incorrect",
    "protected",
    "forgotten",
    "disabled",
    "password",
    "mismatch",
    "unchanged",
}
_MIN_ENTROPY = 3.0  # bits a character; the words and numbers of prose of this length have less


def find_keys(window: Window) -> Iterator[Span]:
    """Yield keys, tokens, passwords in addresses and passwords after their word. Public keys and hashes are none."""
    text, begin = window.text, window.begin
    for found in _PEM.finditer(text, begin):
        if found["end"] or _LONG.search(found[0]):
            trailing = len(found[0]) - len(found[0].rstrip())
            yield Span(found.start(), found.end() - trailing, "key")
    for found in [*_PREFIXED.finditer(text, begin), *_HOOK.finditer(text, begin)]:
        if not found[0].startswith("sk-") or re.search(r"\d", found[0]):
            yield Span(*found.span(), "key")
    for found in _URL_PASSWORD.finditer(text, begin):
        yield Span(*found.span("value"), "key")
    yield from _beside_words(window)


def _beside_words(window: Window) -> Iterator[Span]:
    for pattern in (_HEADER, _BESIDE):
        position = 0
        while found := pattern.search(window.text, position):
            password = pattern is _BESIDE and found["password"] is not None
            value = found["value"].rstrip(".?:…" if password else ".!?:…")
            start = found.start("value")
            position = start if start > position else found.end()
            if start < window.begin or not value or _NO_SECRET.match(value):
                continue
            if (
                pattern is _BESIDE
                and found["secret"]
                and _NOT_SECRET.search(window.text[: found.start("secret")][-24:])
            ):
                continue
            if _PLACEHOLDER.match(value) or (value.isdigit() and _COUNT_AFTER.match(window.text, start + len(value))):
                continue
            explicit = pattern is _BESIDE and re.search(r"[:=：是为]|is|^$| -", found["gap"]) is not None
            alone = re.search(r"[:=：]", found.groupdict().get("gap") or "") and re.match(
                r"\s*$|[\n\"'`,;]", window.text[start + len(value) :]
            )
            if password and not explicit and found["password"].lower() == "pass":
                continue  # the verb
            bare = password and found["password"].lower() in ("pin", "passcode")  # often without "is"
            word = alone and password and len(value) >= 8 and value.lower() not in _STATES
            if word or (_is_password(value, explicit, bare) if password else _is_random(value, explicit)):
                yield Span(start, start + len(value), "key")


def _is_random(value: str, explicit: bool) -> bool:
    """Return whether a value looks drawn at random: long, of letters and digits, of high entropy."""
    if len(value) < (12 if explicit else 16) or _PLAIN.fullmatch(value) or not re.search(r"[A-Za-z]", value):
        return False
    mixed = re.search(r"\d", value) or (re.search(r"[a-z][A-Z].*[a-z][A-Z]", value) and len(value) >= 20)
    return bool(mixed) and _entropy(value) >= _MIN_ENTROPY


def _is_password(value: str, explicit: bool, bare: bool) -> bool:
    """Return whether a value may be a password: no plain word, but letters with digits or signs, or digits alone."""
    if _NO_SECRET.match(value):
        return False
    kinds = sum(bool(re.search(kind, value)) for kind in (r"[a-z]", r"[A-Z]", r"\d", r"[^\w\s./:-]"))
    if not explicit:
        return (len(value) >= 8 and kinds >= 3) or (bare and value.isdigit() and 4 <= len(value) <= 8)
    return (len(value) >= 6 and kinds >= 2 and not re.fullmatch(r"[A-Z]?[a-z]+|[a-z]+(?:-[a-z]+)*[!?]*", value)) or (
        value.isdigit() and 4 <= len(value) <= 12
    )


def _entropy(text: str) -> float:
    """Return the entropy of a text's characters, in bits a character."""
    counts = Counter(text)
    return -sum(n / len(text) * math.log2(n / len(text)) for n in counts.values())
