'use strict';
// A webhook receiver with Node's standard library only, to the recipe of each scheme:
//
//   SCHEME=timestamp-hmac-256 WEBHOOK_SECRET=... node receiver.js
//
// It listens on a free loopback port, prints "listening <port>" and answers
// 200 ok, 400 stale, 401 invalid. Unsigned or malformed requests are invalid.
const crypto = require('node:crypto');
const http = require('node:http');

const WINDOW_SECONDS = 5 * 60;
const MAX_BODY = 9 * 1024 * 1024;

// Number() would take "", "1e3" and "0x10", and NaN is never "too old".
function time(text) {
  return /^[1-9][0-9]{0,13}$/.test(text || '') ? Number(text) : NaN;
}

function fresh(seconds) {
  return Math.abs(Date.now() / 1000 - seconds) <= WINDOW_SECONDS;
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

// Each recipe gives the signed time in seconds, and whether the signature is good.
const recipes = {
  'timestamp-hmac': (secret) => ({
    time: (h) => time(h['x-timestamp']),
    good: (h, raw) => same(hmac(secret, h['x-timestamp'], '.', raw).digest('hex'), h['x-signature']),
  }),
  'timestamp-hmac-256': (secret) => ({
    time: (h) => time(h['x-timestamp']) / 1000,
    good: (h, raw) =>
      same('sha256=' + hmac(secret, h['x-timestamp'], '.', raw).digest('hex'), h['x-signature-256']),
  }),
  standard: (secret) => {
    const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
    return {
      time: (h) => time(h['webhook-timestamp']),
      good: (h, raw) => {
        if (!h['webhook-id']) return false;
        const mac = hmac(key, `${h['webhook-id']}.${h['webhook-timestamp']}.`, raw).digest('base64');
        // A list during a rotation: one good signature is enough.
        return (h['webhook-signature'] || '').split(' ').some((item) => same('v1,' + mac, item));
      },
    };
  },
};

function answer(recipe, headers, raw) {
  const at = recipe.time(headers);
  if (Number.isNaN(at)) return [401, 'invalid'];
  if (!fresh(at)) return [400, 'stale'];
  return recipe.good(headers, raw) ? [200, 'ok'] : [401, 'invalid'];
}

function main() {
  const make = recipes[process.env.SCHEME];
  const secret = process.env.WEBHOOK_SECRET;
  if (!make || !secret) {
    console.error(`usage: SCHEME=${Object.keys(recipes).join('|')} WEBHOOK_SECRET=... node receiver.js`);
    process.exit(2);
  }
  const recipe = make(secret);
  const server = http.createServer((req, res) => {
    const chunks = [];
    let size = 0;
    req.on('data', (chunk) => {
      size += chunk.length;
      if (size > MAX_BODY) req.destroy();
      else chunks.push(chunk);
    });
    req.on('end', () => {
      // The bytes as they came: a body that was parsed and written again has another signature.
      const [status, text] = answer(recipe, req.headers, Buffer.concat(chunks));
      res.writeHead(status, { 'content-type': 'text/plain' });
      res.end(text);
    });
  });
  server.listen(0, '127.0.0.1', () => console.log(`listening ${server.address().port}`));
}

main();
