"""Gives stored requests to the libraries of those whose formats they are in, and tells what each says.

Standard input: [{"scheme", "secret", "url", "headers": {"name in lower case": "value"}, "body": "base64"}, ...]
Standard output, a list for each: [[{"library": "stripe", "accepted": true}, ...], ...]; a refusal has its "reason".
"""

import base64
import json
import sys

import stripe
from hubspot.utils.signature import Signature
from slack_sdk.signature import SignatureVerifier
from standardwebhooks.webhooks import Webhook


def standard(r):
    Webhook(r["secret"]).verify(r["text"], r["headers"])
    return True


def hubspot(r):
    return Signature.is_valid(
        signature=r["headers"]["x-hubspot-signature-v3"],
        client_secret=r["secret"],
        request_body=r["text"],
        http_uri=r["url"],
        http_method="POST",
        signature_version="v3",
        timestamp=r["headers"]["x-hubspot-request-timestamp"],
    )


def stripes(r):
    return stripe.WebhookSignature.verify_header(r["text"], r["headers"]["stripe-signature"], r["secret"], tolerance=300)


def slack(r):
    return SignatureVerifier(r["secret"]).is_valid_request(r["text"], r["headers"])


LIBRARIES = {
    "standard": ("standardwebhooks", standard),
    "hubspot-v3": ("hubspot-api-client", hubspot),
    "stripe": ("stripe", stripes),
    "slack": ("slack_sdk", slack),
}


def say(r):
    if r["scheme"] not in LIBRARIES:
        return []
    library, accepts = LIBRARIES[r["scheme"]]
    r["text"] = base64.b64decode(r["body"]).decode()
    try:
        accepted = accepts(r) is True
        return [{"library": library, "accepted": accepted, "reason": "" if accepted else "it said no"}]
    except Exception as error:  # each library has its own
        return [{"library": library, "accepted": False, "reason": f"{type(error).__name__}: {error}"}]


print(json.dumps([say(r) for r in json.load(sys.stdin)]))
