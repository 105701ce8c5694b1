"""Find IP addresses, and tell them from versions, sections, object identifiers and masks, which look alike."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from .spans import Span, Window
from .texts import latin_edges

__all__ = ["find_ips"]

_V4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d|-\d{1,3}(?!\d*\.))")
_V6 = re.compile(
    r"(?<![\w.])(?<![0-9a-fA-F:]:)(?=[0-9a-fA-F]|::)(?:[0-9a-fA-F]{0,4}:){2,7}(?:(?:\d{1,3}\.){3}\d{1,3}|"
    r"[0-9a-fA-F]{0,4})(?![\w:]|\.\d)"
)
# "other" holds what says so of any numbers, "weak" of small ones alone.
_OTHER = (
    r"v|ver|versions?|release(?: notes)?|releases|builds?|firmware|bios|drivers?|patch|hotfix|milestone|tag|"
    r"rev(?:ision)?s?|"
    r"sections?|sect?|chapters?|clauses?|paragraphs?|para|articles?|appendix|annex|figures?|fig|tables?|equations?|eq|"
    r"exercises?|requirements?|req|theorem|lemma|oids?|snmp|§|"
    r"kernel|linux|ubuntu|windows|macos|ios|android|chrome|chromium|firefox|safari|python|java|node\.?js|"
    r"postgres(?:ql)?|mysql|oracle|photoshop|acrobat|jdk|sdk|nuget"
)
_WEAK = (
    r"see|items?|steps?|rules?|page|app|edge|opera|office|plugin|package|library|software|(?:up|down)grad(?:e|es|ed|"
    r"ing)|"
    r"updat(?:e|es|ed|ing)|releas(?:ed|ing)|install(?:ed|ing)?|patched|tagged|changelog|bump(?:ed)?|pinned|pin"
)
_ADDRESS = (
    r"ip|ips|ipv4|address(?:es)?|addr|hosts?|hostname|servers?|ping(?:ed|ing)?|dns|resolver|nameserver|gateway|"
    r"router|subnet|"
    r"network|proxy|vpn|login|logins|logged|log|signed|connect(?:ed|ion|ions|ing)?|client|remote|peer|node|machine|"
    r"ssh|https?|ftp|rdp|"
    r"telnet|curl|wget|traffic|requests?|attacks?|attempts?|blocked|banned|block|ban|firewall|whitelist|"
    r"allow(?:list)?|port|nmap|"
    r"traceroute|origin|src|dst|source|destination|endpoint|cluster|database|db"
)
_HAN_OTHER = r"版本|版|章节?|条款|小节|第|固件|附录|节"
_HAN_WEAK = r"升级|更新|升到|见|参见|表|图|步骤|微信|系统|软件|安装"
_HAN_ADDRESS = r"地址|服务器|登录|主机|网关|域名|解析|访问|连接|来自|机器|节点|来源|攻击|封禁|代理|网络|路由"
_WORD = re.compile(
    rf"(?<![A-Za-z])(?:(?P<other>{_OTHER})|(?P<weak>{_WEAK})|(?P<address>{_ADDRESS}))(?![A-Za-z0-9])|"
    rf"(?P<other_han>{_HAN_OTHER})"
    rf"|(?P<weak_han>{_HAN_WEAK})|(?P<address_han>{_HAN_ADDRESS})",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[!?。！？；\n]|(?<=[a-z0-9)])\.\s")
_JOINING = re.compile(  # what stands between "version" and its numbers
    r"(?:[\s:#.,=(\"'v-]|is|was|are|to|from|number|no|num|for|and|or|now|[号为是到至从]|\d+(?:\.\d+)+)*", re.IGNORECASE
)
_PLACED = re.compile(r"(?:\b(?:at|on|via)|@|\[|/|://)\s*\Z", re.IGNORECASE)
_MADE_OF = re.compile(  # parts of names: of packages, of products, of conditions on versions
    r"(?<!ip)[A-Za-z0-9_+)]-\Z|(?:[=~!<>]=|[<>~^]) ?\Z|[A-Z]\w*/\Z|(?:curl|wget|requests|nginx|okhttp|axios|httpx|"
    r"urllib\d?|agent|http)/\Z"
)
_VERSION_AFTER = re.compile(
    r"\s?(?:\(|is |was |版|节|章|条)?(?:the |our |a )?(?:latest |new |stable |current |old )?(?:版|节|章|条|version|"
    r"release|build|update|patch|firmware)"
    r"|[-+](?:alpha|beta|rc|dev|snapshot|[a-z]+\d)|\.(?:tar|zip|exe|dmg|deb|rpm|whl|jar|msi|apk|gz|tgz)\b",
    re.IGNORECASE,
)
_HEADING = re.compile(r"\.? [A-Z][a-z]+")
_RESOLVERS = {"1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9"}


def find_ips(window: Window) -> Iterator[Span]:
    """Yield IP addresses, but not the machine's own (127.0.0.1), nor versions and sections that look alike."""
    text = latin_edges(window.text)
    for found in _V4.finditer(text, window.begin):
        address = _address(found[0])
        if address is None or address.is_loopback or found[0].startswith(("0.", "255.")):
            continue
        if not _is_version(window, *found.span()):
            yield Span(*found.span(), "ip")
    for found in _V6.finditer(text, window.begin):
        address = _address(found[0])
        if address is None or address.is_loopback or address.is_unspecified:
            continue
        groups = [group for group in found[0].split(":") if group]
        if len(groups) == 8 and all(len(group) == 2 for group in groups):
            continue  # the bytes of an identifier of hardware
        if (
            len(groups) >= 4
            or "." in found[0]
            or (re.match(r"(?:[23]\w{3}|f[cde]\w\w|64):", found[0], re.IGNORECASE) and len(groups) >= 2)
        ):
            yield Span(*found.span(), "ip")


def _is_version(window: Window, start: int, end: int) -> bool:
    """Return whether four numbers are no address: the nearest word says so, or without a word all are small."""
    text = window.text
    left, right = text[max(0, start - 48) : start], (text[end : end + 32] + window.after)[:32]
    if _MADE_OF.search(left) or _VERSION_AFTER.match(right):
        return True
    cut = max((found.end() for found in _SENTENCE.finditer(left)), default=0)
    nearest = None
    for found in _WORD.finditer(left, cut):
        nearest = found
    numbers = [int(number) for number in text[start:end].split(".")]
    kind = str(nearest.lastgroup).removesuffix("_han") if nearest is not None else ""
    near = nearest is not None and (len(left) - nearest.end() <= 24 or _JOINING.fullmatch(left, nearest.end()))
    if (kind == "address" and near) or _PLACED.search(left):
        return False
    if kind and nearest is not None and _JOINING.fullmatch(left, nearest.end()):
        return kind == "other" or max(numbers) < 64
    if not left.strip() or left.endswith("\n"):
        return max(numbers) < 32 and _HEADING.match(right) is not None
    marked = re.match(r"[:/]\d| - - |\]", right)
    return max(numbers) < 32 and numbers[0] != 10 and text[start:end] not in _RESOLVERS and not marked


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
