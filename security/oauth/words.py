"""What the pages say, in English and in Chinese."""

from collections.abc import Mapping
from typing import Final

ENGLISH: Final[Mapping[str, str]] = {
    "language": "en",
    "sign_in": "Sign in",
    "asks": "asks to act for you:",
    "return": "You will return to",
    "login": "Login",
    "password": "Password",
    "second": "One-time password, if you have one",
    "allow": "Sign in and allow",
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
CHINESE: Final[Mapping[str, str]] = {
    "language": "zh",
    "sign_in": "登录",
    "asks": "请求代表您操作：",
    "return": "完成后您将返回",
    "login": "登录名",
    "password": "密码",
    "second": "一次性密码（如已启用）",
    "allow": "登录并允许",
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


def words_for(accept_language: str) -> Mapping[str, str]:
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
