"""What the pages say, in English and in Chinese."""

from collections.abc import Mapping
from typing import Any, Final

ENGLISH: Final[Mapping[str, Any]] = {
    "language": "en",
    "sign_in": "Sign in",
    "asks": "asks to act for you:",
    "return": "You will return to",
    "login": "Login",
    "password": "Password",
    "second": "One-time password, if you have one",
    "to_go_on": "to go on to",
    "with_passkey": "Sign in with a passkey",
    "no_passkey": "No passkey was used. Please try again, or sign in with your password.",
    "allow_title": "Allow access?",
    "signed_in_as": "Signed in as",
    "allow": "Allow",
    "account": "Your account",
    "sessions": "Where you are signed in",
    "this_one": "here",
    "unknown_agent": "a browser",
    "sign_out": "Sign out",
    "sign_out_everywhere": "Sign out everywhere",
    "passkeys": "Passkeys",
    "add_passkey": "Add a passkey",
    "needs_script": "To add a passkey, allow this page to run scripts.",
    "remove": "Remove",
    "none": "None.",
    "consents": "What you have allowed",
    "withdraw": "Withdraw",
    "signed_out": "You are signed out.",
    "again": "Please sign in again to change this.",
    "scopes": {
        "members.read": "See your record, masked",
        "members.reveal": "See your record in full",
        "orders.read": "See your orders",
        "orders.write": "Order for you",
        "payments.read": "See your payments",
        "payments.write": "Pay for your orders",
    },
    "deny": "Deny",
    "cannot": "Cannot sign in",
    "not_followed": "The request that brought you here cannot be followed:",
    "nothing_sent": "Nothing was sent to anybody. Go back and try again; should it happen again, tell that site.",
    "connect": "Connect a device",
    "shows": "shows this code and asks to act for you:",
    "own_device": "Go on only if you see this code on your own device.",
    "code": "Code",
    "go_on": "Go on",
    "connected": "The device is connected. You can close this page.",
    "refused": "The device was refused. You can close this page.",
    "expired": "The page had expired. Please try again.",
    "wrong": "That was not right, or there were too many attempts.",
    "unknown_code": "This code is not known, or was used. Please look again.",
}
CHINESE: Final[Mapping[str, Any]] = {
    "language": "zh",
    "sign_in": "登录",
    "asks": "请求代表您操作：",
    "return": "完成后您将返回",
    "login": "登录名",
    "password": "密码",
    "second": "一次性密码（如已启用）",
    "to_go_on": "登录后将继续前往",
    "with_passkey": "使用通行密钥登录",
    "no_passkey": "未使用通行密钥。请重试，或使用密码登录。",
    "allow_title": "允许访问？",
    "signed_in_as": "当前登录：",
    "allow": "允许",
    "account": "您的账户",
    "sessions": "已登录的位置",
    "this_one": "当前",
    "unknown_agent": "浏览器",
    "sign_out": "退出登录",
    "sign_out_everywhere": "在所有位置退出登录",
    "passkeys": "通行密钥",
    "add_passkey": "添加通行密钥",
    "needs_script": "要添加通行密钥，请允许此页面运行脚本。",
    "remove": "移除",
    "none": "无。",
    "consents": "您已允许的访问",
    "withdraw": "撤回",
    "signed_out": "您已退出登录。",
    "again": "请重新登录后再更改此项。",
    "scopes": {
        "members.read": "查看您的资料（已脱敏）",
        "members.reveal": "查看您的完整资料",
        "orders.read": "查看您的订单",
        "orders.write": "代您下单",
        "payments.read": "查看您的付款",
        "payments.write": "为您的订单付款",
    },
    "deny": "拒绝",
    "cannot": "无法登录",
    "not_followed": "无法处理将您带到此页面的请求：",
    "nothing_sent": "没有向任何人发送任何信息。请返回后重试；若再次出现，请告知您来自的网站。",
    "connect": "连接设备",
    "shows": "显示了此代码，并请求代表您操作：",
    "own_device": "仅当您在自己的设备上看到此代码时才继续。",
    "code": "代码",
    "go_on": "继续",
    "connected": "设备已连接。您可以关闭此页面。",
    "refused": "设备已被拒绝。您可以关闭此页面。",
    "expired": "页面已过期，请重试。",
    "wrong": "输入有误，或尝试次数过多。",
    "unknown_code": "代码无效或已被使用，请重新核对。",
}
HEADER_LENGTH_MAX: Final = 256


def words_for(accept_language: str) -> Mapping[str, Any]:
    """The words in the language that a browser prefers (RFC 9110, section 12.5.4): Chinese, or else English."""
    weighed: list[tuple[float, int, str]] = []
    for place, each in enumerate(accept_language[:HEADER_LENGTH_MAX].split(",")):
        tag, _, weight = each.strip().partition(";q=")
        try:
            weighed.append((-float(weight or 1), place, tag.partition("-")[0].lower()))
        except ValueError:
            continue
    for _, _, tag in sorted(weighed):
        if tag in ("zh", "en"):
            return CHINESE if tag == "zh" else ENGLISH
    return ENGLISH
