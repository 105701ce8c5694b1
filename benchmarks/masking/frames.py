"""List what stands around private data in the texts of `benchmarks.masking.texts`: words, labels, questions, dates."""

from __future__ import annotations

__all__ = ["AROUND", "FILL", "LEAD", "TAIL"]

LEAD: dict[str, dict[str, list[str]]] = {
    "en": {
        "email": ["Write to ", "My address is ", "cc ", "Contact: ", "<"],
        "phone": ["Call me at ", "Phone: ", "you can reach us on ", "Tel. ", "his mobile number is ", "fax "],
        "card": ["I paid with card ", "card number: ", "Visa ", "charge it to ", ""],
        "iban": ["Transfer to ", "IBAN: ", "my account is ", ""],
        "national_id": [
            "SSN: ",
            "my national insurance number is ",
            "ID number ",
            "Social Security Number ",
            "passport or id: ",
        ],
        "ip": ["ping ", "logged in from ", "The server at ", "address "],
        "key": ["api_key=", "Use the token ", "Authorization: Bearer ", "the secret is ", "key: "],
    },
    "zh": {
        "email": ["邮箱：", "请发到", "我的邮箱是", "联系 "],
        "phone": ["电话：", "我的手机号是", "请拨打", "联系方式 ", "打给我", "手机"],
        "card": ["卡号：", "我的银行卡是", "信用卡 ", "用这张卡付款："],
        "iban": ["账号：", "IBAN：", "汇到 "],
        "national_id": ["身份证号：", "身份证", "我的身份证号码是", "证件号 "],
        "ip": ["服务器 ", "登录地址：", "从", "IP是"],
        "key": ["密钥：", "token是", "api_key=", "令牌 "],
    },
}
TAIL = {
    "en": [".", ", thanks.", " please", " and more", "!", "; ok?", ") ", ", or not at all."],
    "zh": ["。", "，谢谢。", "，请查收。", " 。", "！", "；明天见。"],
}
FILL = {
    "en": [
        "The meeting is on 2024-05-17 at 14:30.",
        "We sold 1,234,567 units for $12,500.00 in 2023.",
        "Nothing else happened that day.",
    ],
    "zh": ["会议时间是2024年5月17日下午3点。", "这件商品的价格是1299.00元。", "今天天气很好，我们去公园。"],
}


AROUND: dict[
    str, dict[str, list[tuple[str, str]]]
] = {  # what stands before and after: brackets, labels, questions, dates
    "en": {
        "email": [("(", ")"), ("Email?\n", "")],
        "phone": [
            ("(", ")"),
            ("[", "]"),
            ("Best,\nAnna Berg\n", ""),
            ("T: ", ""),
            ("(m) ", " (work)"),
            ("Tel.", ""),
            ("ph.", ""),
            ("What is your number?\n", ""),
            ("Agent: Which phone can we call?\nCustomer: Sure, it's ", "."),
            ("Phone\n", ""),
            ("Tom Baker | ", " | sales"),
            ("- ", " - Tom"),
            ("My number changed, now ", ""),
            ("Customer ", " rang at 10:30."),
            ("Got a missed call from ", " on 2024-05-17"),
            ("phone=", ""),
            ("| Phone | ", " |"),
        ],
        "card": [
            ("card ", " 12/26"),
            ("", ", exp 04/27, cvv 123"),
            ("card #", ""),
            ("card no.", ""),
            ("(", ")"),
            ("charge ", " $20.00"),
            ("What is the card number?\n", ""),
            ("Agent: Your card, please.\nCustomer: ", ""),
            ("12/26 ", ""),
            ("order paid with ", ""),
            ("", "|04|27|123"),
            ("refund order 4411 to ", " today"),
        ],
        "iban": [("(", ")"), ("IBAN?\n", "")],
        "national_id": [
            ("Employee ", ""),
            ("SS# ", ""),
            ("what's your social?\n", ""),
            ("Agent: Your SSN, please.\nUser: It's ", "."),
            ("(SSN ", ")"),
        ],
        "ip": [
            ("http://", "/x"),
            ("root@", ""),
            ("version 2 runs on ", ""),
            ("[", "]"),
            ("in section two we ping ", ""),
            ("Linux box ", " is down"),
            ("X-Forwarded-For: ", ""),
        ],
        "key": [("(key ", ")"), ("'token': '", "'"), ("`", "`")],
    },
    "zh": {
        "email": [("您的邮箱？\n", "，")],
        "phone": [
            ("客服：请问您的手机号是多少？\n用户：", "。"),
            ("电话是多少？", "，"),
            ("（", "）"),
            ("张先生 ", " 收"),
        ],
        "card": [("卡号是多少？\n", "，"), ("（", "）"), ("", " 有效期12/26")],
        "iban": [("（", "）")],
        "national_id": [("客服：请提供身份证号。\n客户：好的，", "。"), ("证件号码？", "，")],
        "ip": [("来自", "的请求"), ("从", "登录"), ("网关是", "。")],
        "key": [("（密钥：", "）"), ("`", "`")],
    },
}
