"""What the masker finds, what it leaves alone, and what it says to bad input."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Literal

import pytest

pytest.importorskip("phonenumbers")
pytest.importorskip("stdnum")

from benchmarks.masking.__main__ import count
from rlhf_envs.privacy import KINDS, Masker, PrivacyError
from rlhf_envs.privacy import spans as spans_module
from tests.rlhf_envs.privacy.held_out import make

MASKER = Masker()

FOUND = [
    ("Write to anna.b+x@example.co.uk.", "Write to [EMAIL]."),
    ("邮箱zhang_3@qq.com吗", "邮箱[EMAIL]吗"),
    ("ｚｈａｎｇ＠ｑｑ．ｃｏｍ", "[EMAIL]"),
    ("'eve@x.org', o'brien@x.org", "'[EMAIL]', [EMAIL]"),
    ("josé@correo.es, иван@почта.рф", "[EMAIL], [EMAIL]"),
    ("john (at) example (dot) com", "[EMAIL]"),
    ("Call (415) 555-0132 or +44 (0)20 7946 0958", "Call [PHONE] or [PHONE]"),
    ("我的手机号是１３８－１２３４－５６７８。", "我的手机号是[PHONE]。"),
    ("座机（010）62551234", "座机[PHONE]"),
    ("138\u200b1234\u200b5678 \u202a+49 151 23456789\u202c", "[PHONE] \u202a[PHONE]\u202c"),
    ("رقم هاتفي ٠٥٠١٢٣٤٥٦٧ شكرا", "رقم هاتفي [PHONE] شكرا"),
    ("Handy: 0171/1234567", "Handy: [PHONE]"),
    ("4111-1111-1111-1111, 5555 5555 5555 4444", "[CARD], [CARD]"),
    ("银行卡 6222021234567890128。", "银行卡 [CARD]。"),
    ("My order was paid with 4111 1111 1111 1111", "My order was paid with [CARD]"),
    ("to de89 3704 0044 0532 0130 00 and more", "to [IBAN] and more"),
    ("账号：GB82WEST12345698765432，谢谢", "账号：[IBAN]，谢谢"),
    ("身份证11010519491231002X，", "身份证[ID]，"),
    ("１１０１０５１９４９１２３１００２Ｘ", "[ID]"),
    ("SSN 536904399 or 536-90-4399", "SSN [ID] or [ID]"),
    ("NINO AB 12 34 56 C", "NINO [ID]"),
    ("Steuer-ID 65 929 970 489, DNI 12345678Z", "Steuer-ID [ID], DNI [ID]"),
    ("RSSMRA85T10A562S; 2 55 08 14 168 025 38", "[ID]; [ID]"),
    ("BSN 111222333, PESEL 44051401359, 811228-9874", "BSN [ID], PESEL [ID], [ID]"),
    ("护照号 E12345678", "护照号 [ID]"),
    ("10.0.0.12:80 and [2001:db8::1]:443, ::ffff:192.0.2.1", "[IP]:80 and [[IP]]:443, [IP]"),
    ("登录地址：2001:db8::1aed，", "登录地址：[IP]，"),
    ("sk-" + "a1B2" * 10, "[KEY]"),
    ("AKIAIOSFODNN7EXAMPLE", "[KEY]"),
    ("Authorization: Bearer abcdef0123456789abcdef", "Authorization: Bearer [KEY]"),
    ("password: hunter2, DB_PASSWORD=s3cr3t!, 密码是abc12345，密码123456", None),
    ("https://bob:s3cr3t@host.org/x", "https://bob:[KEY]@host.org/x"),
    ('{"api_key":"9f8e7d6c5b4a39281706"}', '{"api_key":"[KEY]"}'),
    (
        "-----BEGIN PRIVATE KEY-----\n"
        + "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcw\n" * 40
        + "-----END PRIVATE KEY-----\nbye",
        "[KEY]\nbye",
    ),
    ("手机13812345678/13912345678，微信13712345678", "手机[PHONE]/[PHONE]，微信[PHONE]"),
    ("Passport No: 533401234, SIN 046 454 286", "Passport No: [ID], SIN [ID]"),
    ("foo AT bar DOT com", "[EMAIL]"),
    ("The password for the wifi is Sunshine2024! PIN 4821", "The password for the wifi is [KEY] PIN [KEY]"),
    ("API密钥：9f8e7d6c5b4a3928", "API密钥：[KEY]"),
    ("My name is Anna-Maria O'Neil. Dr. Brown came.", "My name is [NAME]. Dr. [NAME] came."),
    ("我叫王小明，张先生", "我叫[NAME]，[NAME]先生"),
    ("Best,\nAnna\n415-555-0132", "Best,\nAnna\n[PHONE]"),
    ("What's your number?\n4155550132", "What's your number?\n[PHONE]"),
    ("Agent: Your SSN, please.\nCustomer: Sure, it's 536904399", "Agent: Your SSN, please.\nCustomer: Sure, it's [ID]"),
    ("客服：请提供身份证号。\n客户：好的，110105194912310021", "客服：请提供身份证号。\n客户：好的，[ID]"),
    ("Passport number?\n533401234", "Passport number?\n[ID]"),
    ("Tel.020 7946 0958, ph#9876543210, (m) 917-555-2671", "Tel.[PHONE], ph#[PHONE], (m) [PHONE]"),
    ("([415-555-2671]) (415) 555-2671 ext. 45, 415-555-2671x9", "([[PHONE]]) [PHONE], [PHONE]"),
    ("I'm at 4155552671 most days, or 98765 43210", "I'm at [PHONE] most days, or [PHONE]"),
    ("015123456789; 0172 / 1234567; 0221 / 123456-0", "[PHONE]; [PHONE]; [PHONE]"),
    ("415 555 0132/415 555 0133, ring 0 7 9 1 1 1 2 3 4 5 6", "[PHONE]/[PHONE], ring [PHONE]"),
    ("4111 1111 1111 1111 12/26 123, 12/26 4111 1111 1111 1111", "[CARD] 12/26 123, 12/26 [CARD]"),
    ("card #4111-1111-1111-1111 $20, Visa4111111111111111exp1226", "card #[CARD] $20, Visa[CARD]exp1226"),
    ("my order with 4111/1111/1111/1111 failed", "my order with [CARD] failed"),
    ("my social is 536904399, employee 536-90-4399", "my social is [ID], employee [ID]"),
    ("943 476 5919 is my NHS number; id_number: A12345678", "[ID] is my NHS number; id_number: [ID]"),
    ("version 2 runs on 10.0.0.5; localhost/10.0.0.5:80", "version 2 runs on [IP]; localhost/[IP]:80"),
    ("build 22.6.100.4 on 10.1.2.3, DNS 8.8.8.8", "build 22.6.100.4 on [IP], DNS [IP]"),
]
LEFT = [
    "On 2024-05-17 at 14:30, 07.03.1990, 3/7/1990, 1999-2003, 2024年5月17日.",
    "It costs $1234567.89, €12,500.00 or 1 299 000 USD; 总价12345678元。",
    "Order number 758482009212, invoice 4155550132, tracking no. 4111111111111111",
    "订单号4111111111111111，快递单号：SF0148001957391，流水号 767103375562573181",
    "ISBN 978-7-111-54742-6, 9787111547426",
    "lat 37.774929, lon -122.419416; 37.774929,-122.419416",
    "version 1.2.3.4, chrome 120.0.6099.109, 版本1.2.3.4, section 4.2.1.3",
    "commit 9fceb02d0ae598e95dc970b74767f19372d61af8, #ff00aa",
    "std::vector<int> a::b dead::beef 12:34:56 aa:bb:cc:dd:ee:ff",
    "git@github.com:foo/bar.git image@2x.png @user123",
    "1699999999, IMO 9074729, EAN 4006381333931, 3.14159265358979",
    "The password is required, and the key question remains. Enter your password again. 密码不能为空",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "tracking 1Z 999 AA1 01 2345 6784, order #112-3456789-1234567, kernel 5.15.0.91, 50-50, 24/7",
    "邮编100084 学号2021310456 股票代码600519 身份证尾号4514 ￥13812345678",
    "It is refused unless you pass `trust_pickle=True`.",
    "127.0.0.1, 255.255.255.0, ::1",
    "I am Happy about Mr and Mrs, and This is Fine. 王国 是 好",
    "upgraded from 2.4.0.1 to 2.5.0.3, versions 24.1.0.3 and 24.3.0.2; clause 7.3.1.2; OID 1.3.6.1; netmask 255.0.0.0",
    "Chrome/120.0.0.0 curl/7.88.1.2 app-1.2.3.4.tar.gz pkg==1.2.3.4 00:1b:44:11:3a:b7:00:01",
    "1.2.3.4 Introduction\n升级到5.1.2.3，见第4.2.1.3节",
    "4155550132 views, max 2147483647, account number 4155550132, Smith (2020) 123-4567, 300 400 5000",
    "What is the order number?\n4155550132",
    "The phone's IMEI is 490154203237518; I used my phone.\n4155550132 records were found",
    "public key: MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A, api_key=YOUR_API_KEY_HERE_123, password: ********, 密码为8888位",
    "sort(key=itemgetter1234) api_key=settings.OPENAI_API_KEY_2 the cache key user_profile_12345_v2",
]


@pytest.mark.parametrize(("text", "masked"), [pair for pair in FOUND if pair[1] is not None])
def test_private_data_is_masked(text: str, masked: str) -> None:
    assert MASKER.mask(text) == masked


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_private_stays(text: str) -> None:
    assert MASKER.mask(text) == text


def test_passwords_beside_their_word_are_masked() -> None:
    text = "password: hunter2, DB_PASSWORD=s3cr3t!, 密码是abc12345，密码123456"
    assert [text[s.start : s.end] for s in MASKER.find(text)] == ["hunter2", "s3cr3t!", "abc12345", "123456"]


def test_pseudonyms_are_the_same_for_the_same_value_however_it_is_written() -> None:
    masker = Masker(pseudonyms=True)
    text = "a@x.org, b@x.org, A@X.ORG; call 138 1234 5678 or 13812345678"
    assert masker.mask(text) == "[EMAIL_1], [EMAIL_2], [EMAIL_1]; call [PHONE_1] or [PHONE_1]"
    assert masker.mask("b@x.org") == "[EMAIL_1]"  # each text counts for itself


def test_only_the_kinds_asked_for_are_masked() -> None:
    assert Masker(kinds=["email"]).mask("a@x.org 13812345678") == "[EMAIL] 13812345678"
    assert Masker(kinds="phone", region="US").mask("a@x.org 13812345678") == "a@x.org 13812345678"


def test_masking_twice_changes_nothing() -> None:
    once = [MASKER.mask(text) for text, _ in FOUND]
    assert [MASKER.mask(text) for text in once] == once


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ["mail"]}, "unknown kind 'mail'; did you mean 'email'"),
        ({"region": "UK"}, "unknown region 'UK'"),
        ({"languages": ["klingon"]}, "unknown language 'klingon'"),
    ],
)
def test_unknown_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Masker(**arguments)  # type: ignore[arg-type]


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(spans_module.importlib, "import_module", missing)
    with pytest.raises(PrivacyError, match=r"pip install 'rlhf-envs\[privacy\]'"):
        Masker()
    assert Masker(kinds=["email", "ip", "key", "name"]).mask("a@x.org") == "[EMAIL]"


def test_importing_it_imports_nothing_of_the_extra() -> None:
    code = "import sys, rlhf_envs.privacy; print({'phonenumbers', 'stdnum'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("text", ["\ud800 138\udfff", "\x00a@x.org\x00", "@" * 2000, "(" * 3000, "-----BEGIN " * 300])
def test_odd_texts_pass_through(text: str) -> None:
    assert MASKER.mask(text) == text.replace("a@x.org", "[EMAIL]")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_texts_that_were_held_apart_are_masked_as_well_as_is_asked(language: Literal["en", "zh"]) -> None:
    masker = Masker([kind for kind in KINDS if kind != "name"])  # the texts' names are not marked
    counts: Counter[str] = Counter()
    for text, truth in make(300, 20261130, language):
        for (_, what), number in count(text, truth, masker.find(text)).items():
            counts[what] += number
    assert counts["true"] > 300
    assert counts["hit"] >= 0.95 * counts["true"] and counts["right"] >= 0.9 * counts["found"]


def test_every_kind_is_tested() -> None:
    assert {span.kind for text, _ in FOUND for span in MASKER.find(text)} == {*KINDS}
