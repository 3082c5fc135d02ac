"""A webhook receiver in Python, to the recipe of each scheme:

    SCHEME=rsa-sha256 PUBLIC_KEY_FILE=vendor_pub.pem python receiver.py
    SCHEME=standard WEBHOOK_SECRET=whsec_... python receiver.py

It listens on a free loopback port, prints "listening <port>" and answers 200 ok,
400 stale, 401 invalid. Unsigned or malformed requests are invalid. Only rsa-sha256
and standard-ed25519 need the package cryptography (requirements.txt).
"""

import base64
import hashlib
import hmac
import os
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WINDOW_SECONDS = 300
MAX_BODY = 9 * 1024 * 1024


class Invalid(Exception):
    """The request is unsigned, malformed or signed by somebody else."""


def number(text):
    # int() would also take "+1", " 1 " and "1_000".
    if not re.fullmatch(r"[1-9][0-9]{0,13}", text or "", re.ASCII):
        raise Invalid
    return int(text)


def required(headers, name):
    values = headers.get_all(name)
    if not values or len(values) > 1:
        raise Invalid
    return values[0]


def same(computed, given):
    return hmac.compare_digest(computed.encode(), given.encode())


def sha256_hmac(key, content):
    return hmac.new(key, content, hashlib.sha256)


def timestamp_hmac(secret):
    key = secret.encode()

    def check(headers, raw):
        stamp = required(headers, "x-timestamp")
        signature = required(headers, "x-signature")
        good = lambda: same(sha256_hmac(key, stamp.encode() + b"." + raw).hexdigest(), signature)
        return number(stamp), good

    return check


def standard_content(headers, raw):
    stamp = required(headers, "webhook-timestamp")
    content = f"{required(headers, 'webhook-id')}.{stamp}.".encode() + raw
    # A list during a rotation: one good signature is enough.
    return number(stamp), content, required(headers, "webhook-signature").split(" ")


def standard(secret):
    key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)

    def check(headers, raw):
        at, content, items = standard_content(headers, raw)

        def good():
            want = "v1," + base64.b64encode(sha256_hmac(key, content).digest()).decode()
            return any([same(want, item) for item in items])

        return at, good

    return check


def standard_ed25519(public_text):
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw_key = base64.b64decode(public_text.removeprefix("whpk_"), validate=True)
    public_key = Ed25519PublicKey.from_public_bytes(raw_key)

    def check(headers, raw):
        at, content, items = standard_content(headers, raw)

        def good():
            for item in items:
                version, _, encoded = item.partition(",")
                if version != "v1a":
                    continue
                try:
                    public_key.verify(base64.b64decode(encoded, validate=True), content)
                    return True
                except (InvalidSignature, ValueError):
                    continue
            return False

        return at, good

    return check


def rsa_sha256(pem):
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding

    public_key = serialization.load_pem_public_key(pem.encode())

    def check(headers, raw):
        at = number(required(headers, "x-timestamp"))
        encoded = required(headers, "x-signature")

        def good():
            try:
                signature = base64.b64decode(encoded, validate=True)
                content = at.to_bytes(8, "big") + raw
                public_key.verify(signature, content, padding.PKCS1v15(), hashes.SHA256())
                return True
            except (InvalidSignature, ValueError):
                return False

        return at, good

    return check


RECIPES = {
    "timestamp-hmac": timestamp_hmac,
    "standard": standard,
    "standard-ed25519": standard_ed25519,
    "rsa-sha256": rsa_sha256,
}


def answer(check, headers, raw):
    try:
        at, good = check(headers, raw)
        if abs(time.time() - at) > WINDOW_SECONDS:
            return 400, "stale"
        return (200, "ok") if good() else (401, "invalid")
    except (Invalid, UnicodeEncodeError):
        return 401, "invalid"


def handler(check):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            length = self.headers.get("content-length", "")
            if not length.isdecimal() or int(length) > MAX_BODY:
                self.close_connection = True
                return self.reply(411, "length required")
            # The bytes as they came: a body that was parsed and written again has another signature.
            raw = self.rfile.read(int(length))
            self.reply(*answer(check, self.headers, raw))

        def reply(self, status, text):
            self.send_response(status)
            self.send_header("content-type", "text/plain")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    return Handler


def main():
    make = RECIPES.get(os.environ.get("SCHEME", ""))
    key = os.environ.get("WEBHOOK_SECRET", "")
    if not key and os.environ.get("PUBLIC_KEY_FILE"):
        with open(os.environ["PUBLIC_KEY_FILE"], encoding="ascii") as file:
            key = file.read().strip()
    if make is None or not key:
        sys.exit(f"usage: SCHEME={'|'.join(RECIPES)} WEBHOOK_SECRET=... or PUBLIC_KEY_FILE=... python receiver.py")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(make(key)))
    print("listening", server.server_address[1], flush=True)
    server.serve_forever()


main()
