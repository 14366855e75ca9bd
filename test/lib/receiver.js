#!/usr/bin/env node
/*
 * A webhook receiver as customers write it in Node, for tests.
 *
 *     receiver.js [--log FILE] [--secret NAME=SECRET]... [--secrets FILE]
 *                 [--modules DIR] [--check NAME]...
 *
 * It parses the body and verifies X-Webhook-Signature over what
 * JSON.stringify() makes of the parsed value, so it accepts a body only if its
 * bytes are the ones that JavaScript would have written.  The three headers of
 * Standard Webhooks it verifies over the body as it came, and with --modules, a
 * directory whose node_modules has the package standardwebhooks, that package
 * verifies them as well.  200 if everything that was checked holds, 401 if
 * anything does not.  With --check, only these of signature, standard and package
 * are checked.
 *
 * Like receiver.py it binds a free port of 127.0.0.1, prints "listening PORT",
 * serves until SIGTERM or the end of its standard input (--ignore-stdin), takes
 * what follows "/-/" in a path as a label and logs one JSON object a line:
 * time, path, label, headers, body, status, verified (signature, standard,
 * package; null: not checked), why, and same: whether
 * JSON.stringify(JSON.parse(body)) gave the body back.
 */
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const module_ = require('node:module');
const path = require('node:path');
const { parseArgs } = require('node:util');

const options = parseArgs({
    options: {
        host: { type: 'string', default: '127.0.0.1' },
        port: { type: 'string', default: '0' },
        log: { type: 'string' },
        secret: { type: 'string', multiple: true, default: [] },
        secrets: { type: 'string' },
        modules: { type: 'string' },
        check: { type: 'string', multiple: true, default: ['signature', 'standard', 'package'] },
        'ignore-stdin': { type: 'boolean', default: false },
    },
}).values;

/* The package standardwebhooks, if --modules leads to it. */
function loadStandardWebhooks(directory) {
    if (directory === undefined)
        return null;
    const from = path.join(path.resolve(directory), 'index.js');
    return module_.createRequire(from)('standardwebhooks');
}

/* The secrets of a label; the file is read anew for each request. */
function secretsOf(label) {
    const known = {};
    for (const pair of options.secret) {
        const [name, ...rest] = pair.split('=');
        known[name] = rest.join('=');
    }
    if (options.secrets !== undefined && fs.existsSync(options.secrets))
        Object.assign(known, JSON.parse(fs.readFileSync(options.secrets, 'utf8')));
    const secrets = known[label] ?? known['*'] ?? [];
    return Array.isArray(secrets) ? secrets : [secrets];
}

const TOLERANCE = 300;

function equal(a, b) {
    const [left, right] = [Buffer.from(a), Buffer.from(b)];
    return left.length === right.length && crypto.timingSafeEqual(left, right);
}

/* Whether the signature is that of the value, serialised anew. */
function bodySignatureHolds(value, signature, secret) {
    const hmac = crypto.createHmac('sha256', secret).update(JSON.stringify(value));
    return equal(`sha256=${hmac.digest('hex')}`, signature);
}

/* Whether one of the listed signatures is that of id, timestamp and body. */
function standardSignatureHolds(headers, body, secret) {
    const timestamp = headers['webhook-timestamp'];
    if (!/^[0-9]+$/.test(timestamp) || Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE)
        return false;
    const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
    const expected = crypto.createHmac('sha256', key)
        .update(`${headers['webhook-id']}.${timestamp}.${body}`).digest('base64');
    return headers['webhook-signature'].split(' ').some((one) => equal(one, `v1,${expected}`));
}

/* Check a request in every way there is; throws when there is no JSON. */
function verify(headers, body, secrets) {
    const value = JSON.parse(body);
    const result = {
        verified: { signature: null, standard: null, package: null },
        same: JSON.stringify(value) === body,
    };
    const { verified } = result;
    const signature = headers['x-webhook-signature'];
    if (signature !== undefined && secrets.length > 0)
        verified.signature =
            secrets.some((secret) => bodySignatureHolds(value, signature, secret));
    if (headers['webhook-signature'] !== undefined && secrets.length > 0)
        verified.standard =
            secrets.some((secret) => standardSignatureHolds(headers, body, secret));
    if (standardWebhooks !== null && secrets.length > 0) {
        verified.package = secrets.some((secret) => {
            try {
                new standardWebhooks.Webhook(secret).verify(body, headers);
                return true;
            } catch (error) {
                result.why = error.message;
                return false;
            }
        });
    }
    return result;
}

function handle(request, chunks, time) {
    const body = Buffer.concat(chunks).toString('utf8');
    const target = request.url.split('?')[0];
    const label = decodeURIComponent(target.split('/-/').slice(1).join('/-/'));
    const entry = { time, path: target, label, headers: request.headers, body };
    try {
        Object.assign(entry, verify(request.headers, body, secretsOf(label)));
        const checks = options.check.map((name) => entry.verified[name]).filter((check) => check !== null);
        entry.status = checks.length > 0 && checks.every(Boolean) ? 200 : 401;
    } catch (error) {
        entry.why = error.message;
        entry.status = 400;
    }
    if (log !== null)
        fs.writeSync(log, JSON.stringify(entry) + '\n');
    return entry.status;
}

const standardWebhooks = loadStandardWebhooks(options.modules);
const log = options.log === undefined ? null : fs.openSync(options.log, 'a');

const server = http.createServer((request, response) => {
    const time = Date.now() / 1000;
    const chunks = [];
    request.on('data', (chunk) => chunks.push(chunk));
    request.on('end', () => {
        const status = handle(request, chunks, time);
        response.writeHead(status, { 'Content-Type': 'application/json' });
        response.end(JSON.stringify({ received: status === 200 }));
    });
});

server.keepAliveTimeout = 60000;
server.listen(Number(options.port), options.host, () => {
    process.stdout.write(`listening ${server.address().port}\n`);
});

process.on('SIGTERM', () => process.exit(0));
process.on('SIGINT', () => process.exit(0));
if (!options['ignore-stdin']) {
    process.stdin.on('end', () => process.exit(0));
    process.stdin.on('error', () => process.exit(0));
    process.stdin.resume();
}
