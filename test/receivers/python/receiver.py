"""A webhook receiver in Python, to the recipe of each scheme:

    SCHEME=rsa-sha256 CONFIG=folder python receiver.py

folder/keys holds the keys that it trusts, a file each: the secret, or the public key of a scheme that has one. It is
read for each request, so that a rotation is a file more and, after the overlap, a file less. folder/tolerance, where it
is there, says how many seconds a delivery may be old (300). EXTERNAL_URL is how senders reach it, where that is not
what Host says; some schemes sign the URL.

It listens on a free loopback port, prints "listening <port>" and answers 200 ok, 200 duplicate (it was handled before),
400 stale, 401 invalid. Unsigned or malformed requests are invalid. Only Ed25519 and RSA need the package cryptography
(requirements.txt).
"""

import base64
import hashlib
import hmac
import os
import pathlib
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_BODY = 9 * 1024 * 1024
MAX_REMEMBERED = 100_000


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


def mac(key, content):
    return hmac.new(key, content, hashlib.sha256)


def b64(raw):
    return base64.b64encode(raw).decode()


def unb64(text):
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise Invalid from None


def secret_of(key):
    return unb64(key.removeprefix("whsec_"))


def ed25519(key, content, signature):
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(unb64(key.removeprefix("whpk_"))).verify(signature, content)
        return True
    except InvalidSignature:
        return False


# A recipe takes the headers, the body and the URL, and gives the signed time in seconds, None where there is none, and
# what tells whether a key's signature is good. Those of SIGNED_ID sign the id too: it names the delivery. Elsewhere the
# body does. A recipe without a time cannot tell a replay from a retry.
SIGNED_ID = {"standard", "standard-ed25519", "rfc9421"}


def standard_content(headers, raw):
    stamp = required(headers, "webhook-timestamp")
    content = f"{required(headers, 'webhook-id')}.{stamp}.".encode() + raw
    # A list during a rotation: one good signature is enough.
    return number(stamp), content, required(headers, "webhook-signature").split(" ")


def standard(headers, raw, url):
    at, content, items = standard_content(headers, raw)
    return at, lambda key: any([same("v1," + b64(mac(secret_of(key), content).digest()), item) for item in items])


def standard_ed25519(headers, raw, url):
    at, content, items = standard_content(headers, raw)
    mine = [item[4:] for item in items if item.startswith("v1a,")]
    return at, lambda key: any(ed25519(key, content, unb64(item)) for item in mine)


# The signatures of RFC 9421 in the form that Sealpost gives them: members of two dictionaries under the same labels.
MEMBER = re.compile(r'([a-z-]+)=(\(([^()]*)\);created=([0-9]+);keyid="[0-9a-f]+";nonce="[A-Za-z0-9_-]+")(?:, |$)')


def rfc9421(headers, raw, url):
    digest = required(headers, "content-digest")
    if not same("sha-256=:" + b64(hashlib.sha256(raw).digest()) + ":", digest):
        raise Invalid
    # What has to be covered is ours to say: a sender who covers less has signed less.
    covered = {
        "@method": "POST",
        "@target-uri": url,
        "content-digest": digest,
        "webhook-id": required(headers, "webhook-id"),
    }
    if "sealpost-chunk" in headers:
        covered["sealpost-chunk"] = required(headers, "sealpost-chunk")
    values = dict(re.findall(r"([a-z-]+)=:([A-Za-z0-9+/=]+):(?:, |$)", required(headers, "signature")))
    signed = []
    for label, params, names, created in MEMBER.findall(required(headers, "signature-input")):
        if label in values and names == " ".join(f'"{name}"' for name in covered):
            lines = [f'"{name}": {value}\n' for name, value in covered.items()]
            base = "".join(lines) + f'"@signature-params": {params}'
            signed.append((number(created), base.encode(), values[label]))
    if not signed:
        raise Invalid

    def good(key):
        if key.startswith("whsec_"):
            return any([same(b64(mac(secret_of(key), base).digest()), value) for _, base, value in signed])
        return any(ed25519(key, base, unb64(value)) for _, base, value in signed)

    return max(at for at, _, _ in signed), good


def timestamp_hmac(headers, raw, url):
    stamp, signature = required(headers, "x-timestamp"), required(headers, "x-signature")
    return number(stamp), lambda key: same(mac(key.encode(), stamp.encode() + b"." + raw).hexdigest(), signature)


def timestamp_hmac_256(headers, raw, url):
    stamp, signature = required(headers, "x-timestamp"), required(headers, "x-signature-256")
    content = stamp.encode() + b"." + raw
    return number(stamp) / 1000, lambda key: same("sha256=" + mac(key.encode(), content).hexdigest(), signature)


def rsa_sha256(headers, raw, url):
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding

    at = number(required(headers, "x-timestamp"))
    signature = unb64(required(headers, "x-signature"))

    def good(key):
        try:
            public_key = serialization.load_pem_public_key(key.encode())
            public_key.verify(signature, at.to_bytes(8, "big") + raw, padding.PKCS1v15(), hashes.SHA256())
            return True
        except InvalidSignature:
            return False

    return at, good


def hubspot_v3(headers, raw, url):
    stamp, signature = required(headers, "x-hubspot-request-timestamp"), required(headers, "x-hubspot-signature-v3")
    content = b"POST" + url.encode() + raw + stamp.encode()
    return number(stamp) / 1000, lambda key: same(b64(mac(key.encode(), content).digest()), signature)


def stripe(headers, raw, url):
    items = required(headers, "stripe-signature").split(",")
    times = [item[2:] for item in items if item.startswith("t=")]
    if len(times) != 1:
        raise Invalid
    content = times[0].encode() + b"." + raw
    # A list during a rotation: one good signature is enough.
    return number(times[0]), lambda key: any([same("v1=" + mac(key.encode(), content).hexdigest(), i) for i in items])


def github(headers, raw, url):
    signature = required(headers, "x-hub-signature-256")
    return None, lambda key: same("sha256=" + mac(key.encode(), raw).hexdigest(), signature)


def shopify(headers, raw, url):
    signature = required(headers, "x-shopify-hmac-sha256")
    return None, lambda key: same(b64(mac(key.encode(), raw).digest()), signature)


def slack(headers, raw, url):
    stamp, signature = required(headers, "x-slack-request-timestamp"), required(headers, "x-slack-signature")
    content = b"v0:" + stamp.encode() + b":" + raw
    return number(stamp), lambda key: same("v0=" + mac(key.encode(), content).hexdigest(), signature)


RECIPES = {
    "standard": standard,
    "standard-ed25519": standard_ed25519,
    "rfc9421": rfc9421,
    "timestamp-hmac": timestamp_hmac,
    "timestamp-hmac-256": timestamp_hmac_256,
    "rsa-sha256": rsa_sha256,
    "hubspot-v3": hubspot_v3,
    "stripe": stripe,
    "github": github,
    "shopify": shopify,
    "slack": slack,
}


class Receiver:
    def __init__(self, scheme, config):
        self.recipe, self.signed_id, self.config = RECIPES[scheme], scheme in SIGNED_ID, pathlib.Path(config)
        # What was handled. In production: a table with a unique key, in the transaction that handles the event.
        self.handled, self.lock = {}, threading.Lock()

    def keys(self):
        return [file.read_text(encoding="ascii").strip() for file in (self.config / "keys").iterdir()]

    def tolerance(self):
        file = self.config / "tolerance"
        return float(file.read_text()) if file.exists() else 300

    def answer(self, headers, raw, url):
        try:
            at, good = self.recipe(headers, raw, url)
            if at is not None and abs(time.time() - at) > self.tolerance():
                return 400, "stale"
            if not any([good(key) for key in self.keys()]):
                return 401, "invalid"
            return 200, self.handle(headers["webhook-id"] if self.signed_id else hashlib.sha256(raw).hexdigest())
        except (Invalid, UnicodeEncodeError):
            return 401, "invalid"

    def handle(self, name):
        with self.lock:
            if name in self.handled:
                return "duplicate"
            if len(self.handled) == MAX_REMEMBERED:
                del self.handled[next(iter(self.handled))]
            self.handled[name] = True
            return "ok"


def handler(receiver):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            length = self.headers.get("content-length", "")
            if not length.isdecimal() or int(length) > MAX_BODY:
                self.close_connection = True
                return self.reply(411, "length required")
            # The bytes as they came: a body that was parsed and written again has another signature.
            raw = self.rfile.read(int(length))
            origin = os.environ.get("EXTERNAL_URL") or "http://" + self.headers.get("host", "")
            self.reply(*receiver.answer(self.headers, raw, origin + self.path))

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
    scheme, config = os.environ.get("SCHEME"), os.environ.get("CONFIG")
    if scheme not in RECIPES or not config:
        sys.exit(f"usage: SCHEME={'|'.join(RECIPES)} CONFIG=folder python receiver.py")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(Receiver(scheme, config)))
    print("listening", server.server_address[1], flush=True)
    server.serve_forever()


main()
