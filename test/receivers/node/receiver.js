'use strict';
// A webhook receiver with Node's standard library only, to the recipe of each scheme:
//
//   SCHEME=timestamp-hmac-256 CONFIG=folder node receiver.js
//
// folder/keys holds the keys that it trusts, a file each: the secret, or the public key of a scheme that has one. It is read
// for each request, so that a rotation is a file more and, after the overlap, a file less. folder/tolerance, where it is
// there, says how many seconds a delivery may be old (300). EXTERNAL_URL is how senders reach it, where that is not what
// Host says; some schemes sign the URL.
//
// It listens on a free loopback port, prints "listening <port>" and answers 200 ok, 200 duplicate (it was handled before),
// 400 stale, 401 invalid. Unsigned or malformed requests are invalid.
const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');

const MAX_BODY = 9 * 1024 * 1024;
const MAX_REMEMBERED = 100000;

// Number() would take "", "1e3" and "0x10", and NaN is never "too old".
function number(text) {
  return /^[1-9][0-9]{0,13}$/.test(text || '') ? Number(text) : NaN;
}

// timingSafeEqual throws on different lengths, and on a missing header.
function same(computed, given) {
  const a = Buffer.from(computed);
  const b = Buffer.from(given || '');
  return a.length === b.length && crypto.timingSafeEqual(a, b);
}

function hmac(key, ...parts) {
  const mac = crypto.createHmac('sha256', key);
  for (const part of parts) mac.update(part);
  return mac;
}

// Buffer.from() passes over what is no base64.
function base64(text) {
  const raw = Buffer.from(text || '', 'base64');
  return raw.toString('base64') === text ? raw : Buffer.alloc(0);
}

const secretOf = (key) => base64(key.replace(/^whsec_/, ''));

function ed25519(key, content, signature) {
  const x = base64(key.replace(/^whpk_/, '')).toString('base64url');
  const jwk = crypto.createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' });
  return crypto.verify(null, content, jwk, signature);
}

function standardContent(h, raw) {
  return Buffer.concat([Buffer.from(`${h['webhook-id']}.${h['webhook-timestamp']}.`), raw]);
}

// A list during a rotation: one good signature is enough.
const items = (list, separator) => (list || '').split(separator);

// A recipe says when a delivery was signed, in seconds, and whether a key's signature is good. Where the id is signed it
// names the delivery; elsewhere the body does. A recipe without a time cannot tell a replay from a retry.
const recipes = {
  standard: {
    signedID: true,
    time: (h) => number(h['webhook-timestamp']),
    good: (key, h, raw) => {
      const mac = 'v1,' + hmac(secretOf(key), standardContent(h, raw)).digest('base64');
      return items(h['webhook-signature'], ' ').some((item) => same(mac, item));
    },
  },
  'standard-ed25519': {
    signedID: true,
    time: (h) => number(h['webhook-timestamp']),
    good: (key, h, raw) =>
      items(h['webhook-signature'], ' ').some(
        (item) => item.startsWith('v1a,') && ed25519(key, standardContent(h, raw), base64(item.slice(4)))
      ),
  },
  rfc9421: {
    signedID: true,
    time: (h) => Math.max(...signatures(h).map((s) => number(s.created))),
    good: (key, h, raw, url) => {
      const digest = 'sha-256=:' + crypto.createHash('sha256').update(raw).digest('base64') + ':';
      if (!same(digest, h['content-digest'])) return false;
      return signatures(h).some((s) => {
        const base = Buffer.from(signatureBase(s, h, url));
        if (key.startsWith('whsec_')) return same(hmac(secretOf(key), base).digest('base64'), s.value);
        return ed25519(key, base, base64(s.value));
      });
    },
  },
  'timestamp-hmac': {
    time: (h) => number(h['x-timestamp']),
    good: (key, h, raw) => same(hmac(key, h['x-timestamp'], '.', raw).digest('hex'), h['x-signature']),
  },
  'timestamp-hmac-256': {
    time: (h) => number(h['x-timestamp']) / 1000,
    good: (key, h, raw) => same('sha256=' + hmac(key, h['x-timestamp'], '.', raw).digest('hex'), h['x-signature-256']),
  },
  'rsa-sha256': {
    time: (h) => number(h['x-timestamp']),
    good: (key, h, raw) => {
      const stamp = Buffer.alloc(8);
      stamp.writeBigUInt64BE(BigInt(h['x-timestamp']));
      return crypto.verify('sha256', Buffer.concat([stamp, raw]), key, base64(h['x-signature']));
    },
  },
  'hubspot-v3': {
    time: (h) => number(h['x-hubspot-request-timestamp']) / 1000,
    good: (key, h, raw, url) => {
      const mac = hmac(key, 'POST', url, raw, h['x-hubspot-request-timestamp']).digest('base64');
      return same(mac, h['x-hubspot-signature-v3']);
    },
  },
  stripe: {
    time: (h) => number(stripeTime(h)),
    good: (key, h, raw) => {
      const mac = 'v1=' + hmac(key, stripeTime(h), '.', raw).digest('hex');
      return items(h['stripe-signature'], ',').some((item) => same(mac, item));
    },
  },
  github: { good: (key, h, raw) => same('sha256=' + hmac(key, raw).digest('hex'), h['x-hub-signature-256']) },
  shopify: { good: (key, h, raw) => same(hmac(key, raw).digest('base64'), h['x-shopify-hmac-sha256']) },
  slack: {
    time: (h) => number(h['x-slack-request-timestamp']),
    good: (key, h, raw) => {
      const mac = hmac(key, 'v0:', h['x-slack-request-timestamp'], ':', raw).digest('hex');
      return same('v0=' + mac, h['x-slack-signature']);
    },
  },
};

function stripeTime(h) {
  const times = items(h['stripe-signature'], ',').filter((item) => item.startsWith('t='));
  return times.length === 1 ? times[0].slice(2) : '';
}

// The signatures of RFC 9421 in the form that Sealpost gives them: members of two dictionaries under the same labels.
function signatures(h) {
  const found = [];
  const member = /([a-z-]+)=(\(([^()]*)\);created=([0-9]+);keyid="[0-9a-f]+";nonce="[A-Za-z0-9_-]+")(?:, |$)/g;
  for (const [, label, params, names, created] of (h['signature-input'] || '').matchAll(member)) {
    const value = (h.signature || '').match(new RegExp(`(?:^|, )${label}=:([A-Za-z0-9+/=]+):(?:, |$)`));
    if (value) found.push({ params, names, created, value: value[1] });
  }
  return found;
}

// What has to be covered is ours to say: a sender who covers less has signed less.
function signatureBase(s, h, url) {
  const values = { '@method': 'POST', '@target-uri': url, 'content-digest': h['content-digest'], 'webhook-id': h['webhook-id'] };
  if (h['sealpost-chunk']) values['sealpost-chunk'] = h['sealpost-chunk'];
  const names = Object.keys(values);
  if (s.names !== names.map((name) => `"${name}"`).join(' ')) return '';
  return names.map((name) => `"${name}": ${values[name]}\n`).join('') + `"@signature-params": ${s.params}`;
}

// What was handled. In production: a table with a unique key, in the transaction that handles the event.
const handled = new Set();

function handle(id) {
  if (handled.has(id)) return 'duplicate';
  if (handled.size === MAX_REMEMBERED) handled.delete(handled.values().next().value);
  handled.add(id);
  return 'ok';
}

function tolerance(config) {
  const file = path.join(config, 'tolerance');
  return fs.existsSync(file) ? Number(fs.readFileSync(file, 'utf8')) : 300;
}

function keysOf(config) {
  const folder = path.join(config, 'keys');
  return fs.readdirSync(folder).map((name) => fs.readFileSync(path.join(folder, name), 'utf8').trim());
}

function answer(recipe, config, h, raw, url) {
  if (recipe.time) {
    const at = recipe.time(h);
    if (!Number.isFinite(at)) return [401, 'invalid'];
    if (Math.abs(Date.now() / 1000 - at) > tolerance(config)) return [400, 'stale'];
  }
  if (recipe.signedID && !h['webhook-id']) return [401, 'invalid'];
  if (!keysOf(config).some((key) => recipe.good(key, h, raw, url))) return [401, 'invalid'];
  return [200, handle(recipe.signedID ? h['webhook-id'] : crypto.createHash('sha256').update(raw).digest('hex'))];
}

function main() {
  const recipe = recipes[process.env.SCHEME];
  const config = process.env.CONFIG;
  if (!recipe || !config) {
    console.error(`usage: SCHEME=${Object.keys(recipes).join('|')} CONFIG=folder node receiver.js`);
    process.exit(2);
  }
  const server = http.createServer((req, res) => {
    const chunks = [];
    let size = 0;
    req.on('data', (chunk) => {
      size += chunk.length;
      if (size > MAX_BODY) req.destroy();
      else chunks.push(chunk);
    });
    req.on('end', () => {
      const url = (process.env.EXTERNAL_URL || `http://${req.headers.host}`) + req.url;
      // The bytes as they came: a body that was parsed and written again has another signature.
      const [status, text] = answer(recipe, config, req.headers, Buffer.concat(chunks), url);
      res.writeHead(status, { 'content-type': 'text/plain' });
      res.end(text);
    });
  });
  server.listen(0, '127.0.0.1', () => console.log(`listening ${server.address().port}`));
}

main();
