"""WeChat Pay API v3 as its documentation describes it, on this machine: signatures, certificates, orders, bills."""

import base64
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from aiohttp import web
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

MCHID: Final = "1900000001"
APPID: Final = "wx0000000000000001"
API_KEY: Final = b"0123456789abcdef0123456789abcdef"
_HEADER: Final = re.compile(
    r'WECHATPAY2-SHA256-RSA2048 mchid="(?P<mchid>\d+)",nonce_str="(?P<nonce>\w+)",signature="(?P<signature>[^"]+)",'
    r'timestamp="(?P<timestamp>\d+)",serial_no="(?P<serial>[0-9A-F]+)"'
)
_BEIJING: Final = ZoneInfo("Asia/Shanghai")
_COLUMNS: Final = (
    "交易时间,公众账号ID,商户号,特约商户号,设备号,微信订单号,商户订单号,用户标识,交易类型,交易状态,付款银行,货币种类,应结订单金额,"
    "代金券金额,微信退款单号,商户退款单号,退款金额,充值券退款金额,退款类型,退款状态,商品名称,商户数据包,手续费,费率,订单金额,"
    "申请退款金额,费率备注"
)
# Making an RSA key takes long; the tests share a few.
_KEYS: Final = [rsa.generate_private_key(65537, 2048) for _ in range(3)]


@dataclass(frozen=True)
class Keys:
    """A certificate and its private key."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate

    @property
    def serial(self) -> str:
        return format(self.certificate.serial_number, "X")

    def sign(self, message: bytes) -> str:
        return base64.b64encode(self.key.sign(message, padding.PKCS1v15(), SHA256())).decode()


def keys(number: int, days: int = 365) -> Keys:
    """days: until it runs out, below zero when it has."""
    key = _KEYS[number]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=500)).not_valid_after(now + timedelta(days=days))
    return Keys(key, builder.sign(key, SHA256()))


@dataclass
class WechatPayServer:
    """The far side. platform: its certificates, the last of which signs. What it was paid is in `orders`."""

    merchant: Keys
    platform: list[Keys]
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    refunds: dict[str, dict[str, Any]] = field(default_factory=dict)
    nonces: set[str] = field(default_factory=set)
    refund_status: str = "SUCCESS"
    bill_ready: bool = True
    tampers: bool = False
    asked_certificates: int = 0
    base_url: str = ""

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded])
        app.router.add_get("/v3/certificates", self._certificates)
        app.router.add_post("/v3/pay/transactions/native", self._native)
        app.router.add_get("/v3/pay/transactions/out-trade-no/{number}", self._query)
        app.router.add_post("/v3/refund/domestic/refunds", self._refund)
        app.router.add_get("/v3/bill/tradebill", self._bill)
        app.router.add_get("/v3/billdownload/file", self._download)
        return app

    def pay(self, out_trade_no: str, state: str = "SUCCESS") -> None:
        """The payer scans the code and pays, or whatever else becomes of the order."""
        transaction = hashlib.sha256(out_trade_no.encode()).hexdigest()[:28]
        self.orders[out_trade_no] |= {"trade_state": state, "transaction_id": transaction}

    def notification(self, about: dict[str, Any], kind: str = "transaction") -> tuple[dict[str, str], bytes]:
        """Headers and body of the notification of an order or a refund."""
        sealed = self._sealed(json.dumps({"mchid": MCHID, **about}).encode(), kind)
        body = json.dumps({"id": "n-1", "event_type": "X", "resource": {**sealed, "original_type": kind}}).encode()
        return self._signature(body), body

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """As the documentation says: signed by the merchant's key, now, once."""
        body = await request.read()
        said = _HEADER.fullmatch(request.headers.get("Authorization", ""))
        if said is None or not self._is_merchant(said, request, body):
            return self._answer({"code": "SIGN_ERROR"}, 401)
        self.nonces.add(said["nonce"])
        try:
            answered: web.StreamResponse = await handler(request)
        except LookupError as error:
            return self._answer({"code": str(error.args[0])}, 404)
        return answered

    def _is_merchant(self, said: re.Match[str], request: web.Request, body: bytes) -> bool:
        message = f"{request.method}\n{request.path_qs}\n{said['timestamp']}\n{said['nonce']}\n".encode() + body + b"\n"
        try:
            self.merchant.key.public_key().verify(
                base64.b64decode(said["signature"]), message, padding.PKCS1v15(), SHA256()
            )
        except InvalidSignature:
            return False
        fresh = abs(int(said["timestamp"]) - time.time()) < 300 and said["nonce"] not in self.nonces
        return fresh and said["mchid"] == MCHID and said["serial"] == self.merchant.serial

    async def _certificates(self, request: web.Request) -> web.Response:
        self.asked_certificates += 1
        data = []
        for one in self.platform:
            content = one.certificate.public_bytes(serialization.Encoding.PEM)
            data.append({"serial_no": one.serial, "encrypt_certificate": self._sealed(content, "certificate")})
        return self._answer({"data": data})

    async def _native(self, request: web.Request) -> web.Response:
        order = await request.json()
        assert (order["mchid"], order["appid"]) == (MCHID, APPID)
        assert 6 <= len(order["out_trade_no"]) <= 32
        self.orders.setdefault(order["out_trade_no"], {**order, "trade_state": "NOTPAY"})
        return self._answer({"code_url": f"weixin://wxpay/bizpayurl?pr={order['out_trade_no'][:8]}"})

    async def _query(self, request: web.Request) -> web.Response:
        if request.match_info["number"] not in self.orders:
            raise LookupError("ORDER_NOT_EXIST")
        return self._answer(self.orders[request.match_info["number"]])

    async def _refund(self, request: web.Request) -> web.Response:
        asked = await request.json()
        order = self.orders[asked["out_trade_no"]]
        others = sum(
            one["amount"]["refund"]
            for number, one in self.refunds.items()
            if one["out_trade_no"] == asked["out_trade_no"] and number != asked["out_refund_no"]
        )
        if order["trade_state"] != "SUCCESS" or others + asked["amount"]["refund"] > order["amount"]["total"]:
            return self._answer({"code": "NOT_ENOUGH"}, 403)
        refund = self.refunds.setdefault(asked["out_refund_no"], {**asked, "refund_id": f"r-{len(self.refunds)}"})
        refund["status"] = self.refund_status
        return self._answer(refund)

    async def _bill(self, request: web.Request) -> web.Response:
        if not self.bill_ready:
            return self._answer({"code": "STATEMENT_CREATING"}, 400)
        content = self._csv(request.query["bill_date"])
        url = f"{self.base_url}/v3/billdownload/file?token={request.query['bill_date']}"
        digest = hashlib.sha1(content).hexdigest()
        return self._answer({"hash_type": "SHA1", "hash_value": digest, "download_url": url})

    async def _download(self, request: web.Request) -> web.Response:
        content = self._csv(request.query["token"])
        return web.Response(body=content + (b"x" if self.tampers else b""))

    def _csv(self, day: str) -> bytes:
        now = datetime.now(_BEIJING)
        rows = []
        if now.date().isoformat() == day:
            for number, order in self.orders.items():
                if order["trade_state"] == "SUCCESS":
                    rows.append(self._row(now, number, order, "SUCCESS"))
            for number, refund in self.refunds.items():
                order = self.orders[refund["out_trade_no"]]
                rows.append(self._row(now, refund["out_trade_no"], order, "REFUND", number, refund))
        summary = "总交易单数,应结订单总金额,退款总金额,充值券退款总金额,手续费总金额,订单总金额,申请退款总金额"
        return "\r\n".join(("\ufeff" + _COLUMNS, *rows, summary, "`0,`0,`0,`0,`0,`0,`0", "")).encode()

    def _row(
        self, at: datetime, number: str, order: dict[str, Any], state: str, refund_no: str = "0", refund: Any = None
    ) -> str:
        values = dict.fromkeys(_COLUMNS.split(","), "0")
        values |= {
            "交易时间": f"{at:%Y-%m-%d %H:%M:%S}",
            "商户号": MCHID,
            "微信订单号": order["transaction_id"],
            "商户订单号": number,
            "交易状态": state,
            "货币种类": "CNY",
            "商户退款单号": refund_no,
            "商户数据包": order["attach"],
            "订单金额": f"{order['amount']['total'] / 100:.2f}",
        }
        if refund is not None:
            values |= {
                "微信退款单号": refund["refund_id"],
                "申请退款金额": f"{refund['amount']['refund'] / 100:.2f}",
                "退款状态": refund["status"],
            }
        return ",".join(f"`{value}" for value in values.values())

    def _answer(self, content: Any, status: int = 200) -> web.Response:
        body = json.dumps(content).encode()
        headers = self._signature(body)
        if self.tampers:
            body += b" "
        return web.Response(body=body, status=status, headers=headers, content_type="application/json")

    def _signature(self, body: bytes) -> dict[str, str]:
        timestamp, nonce = str(int(time.time())), os.urandom(16).hex()
        signer = self.platform[-1]
        return {
            "Wechatpay-Timestamp": timestamp,
            "Wechatpay-Nonce": nonce,
            "Wechatpay-Serial": signer.serial,
            "Wechatpay-Signature": signer.sign(f"{timestamp}\n{nonce}\n".encode() + body + b"\n"),
        }

    def _sealed(self, content: bytes, associated: str) -> dict[str, str]:
        nonce = os.urandom(6).hex()
        sealed = AESGCM(API_KEY).encrypt(nonce.encode(), content, associated.encode())
        return {
            "algorithm": "AEAD_AES_256_GCM",
            "nonce": nonce,
            "associated_data": associated,
            "ciphertext": base64.b64encode(sealed).decode(),
        }
