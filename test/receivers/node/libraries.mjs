// Gives stored requests to the libraries of those whose formats they are in, and tells what each says.
//
// Standard input: [{"scheme", "secret", "url", "headers": {"name in lower case": "value"}, "body": "base64"}, ...]
// Standard output, a list for each: [[{"library": "stripe", "accepted": true}, ...], ...]; a refusal has its "reason".
import { Buffer } from 'node:buffer';
import { Signature } from '@hubspot/api-client';
import { Webhooks } from '@octokit/webhooks';
import { verify } from '@octokit/webhooks-methods';
import '@shopify/shopify-api/adapters/node';
import { LogSeverity, shopifyApi } from '@shopify/shopify-api';
import bolt from '@slack/bolt';
import { Webhook } from 'standardwebhooks';
import Stripe from 'stripe';

function refuse(reason) {
  throw new Error(reason);
}

// Each takes a request and throws, or says anything but true, where it is refused.
const libraries = {
  standard: {
    standardwebhooks: (r) => Boolean(new Webhook(r.secret).verify(r.text, r.headers)),
  },
  stripe: {
    stripe: (r) => Boolean(new Stripe('sk_test_1').webhooks.constructEvent(r.body, r.headers['stripe-signature'], r.secret)),
  },
  github: {
    '@octokit/webhooks-methods': (r) => verify(r.secret, r.text, r.headers['x-hub-signature-256']),
    '@octokit/webhooks': async (r) => {
      const webhooks = new Webhooks({ secret: r.secret, log: { debug() {}, info() {}, warn() {}, error() {} } });
      let received;
      webhooks.onAny((event) => (received = event));
      await webhooks.verifyAndReceive({
        id: r.headers['x-github-delivery'],
        name: r.headers['x-github-event'],
        signature: r.headers['x-hub-signature-256'],
        payload: r.text,
      });
      return received.id === r.headers['webhook-id'] && received.name === 'contact.updated';
    },
  },
  shopify: {
    '@shopify/shopify-api': async (r) => {
      const shopify = shopifyApi({
        apiKey: 'key', apiSecretKey: r.secret, hostName: 'hooks.partner.example', apiVersion: '2026-01', isEmbeddedApp: false,
        logger: { level: LogSeverity.Error, log() {} },
      });
      const found = await shopify.webhooks.validate({
        rawBody: r.text, rawRequest: { method: 'POST', url: '/', headers: r.headers }, rawResponse: {},
      });
      return found.valid ? found.webhookId === r.headers['webhook-id'] : refuse(`${found.reason} ${found.missingHeaders ?? ''}`);
    },
  },
  slack: {
    '@slack/bolt': (r) => {
      const headers = {
        'x-slack-signature': r.headers['x-slack-signature'],
        'x-slack-request-timestamp': Number(r.headers['x-slack-request-timestamp']),
      };
      bolt.verifySlackRequest({ signingSecret: r.secret, body: r.text, headers });
      return true;
    },
  },
  'hubspot-v3': {
    '@hubspot/api-client': (r) =>
      Signature.isValid({
        signatureVersion: 'v3', signature: r.headers['x-hubspot-signature-v3'], clientSecret: r.secret, method: 'POST', url: r.url,
        requestBody: r.text, timestamp: Number(r.headers['x-hubspot-request-timestamp']),
      }),
  },
};

let input = '';
for await (const part of process.stdin) input += part;
const output = [];
for (const r of JSON.parse(input)) {
  r.body = Buffer.from(r.body, 'base64');
  r.text = r.body.toString('utf8');
  const said = [];
  for (const [library, accepts] of Object.entries(libraries[r.scheme] ?? {})) {
    try {
      const accepted = (await accepts(r)) === true;
      said.push(accepted ? { library, accepted } : { library, accepted, reason: 'it said no' });
    } catch (error) {
      const reason = error.errors ? error.errors.map((e) => e.message).join(', ') : error.message;
      said.push({ library, accepted: false, reason });
    }
  }
  output.push(said);
}
console.log(JSON.stringify(output));
