#!/usr/bin/env node
/*
 * Receivers that were written for other senders, for tests.
 *
 *     schemes.js --modules DIR --secrets FILE [--log FILE]
 *
 * DIR/node_modules has the packages that such receivers use: @octokit/webhooks,
 * stripe, standardwebhooks and svix.  FILE is a JSON object that gives a label its
 * secret, and is read anew for each request.  For /both it is an object with secret
 * and publicKey, for /hasura and /supabase one with secret and hmac: what their
 * header has, and the key of an HMAC of the body, which is not theirs.
 *
 * Like receiver.py it binds a free port of 127.0.0.1, prints "listening PORT",
 * serves until SIGTERM or the end of its standard input, takes what follows "/-/"
 * in a path as a label, and logs one JSON object a line: path, label, headers, body,
 * status, why, and checks, which says what a receiver made of it.  It answers 401
 * if a receiver does not accept the request.
 *
 * Paths
 *     /github    Octokit's own middleware, which also wants GitHub's other headers
 *     /stripe    stripe.webhooks.constructEvent()
 *     /shopify   as Shopify's documentation does it
 *     /hasura    as Hasura's documentation does it: a header that does not change,
 *                and the body of an event trigger
 *     /supabase  the same for a database webhook of Supabase's
 *     /both      Standard Webhooks with two signatures: standardwebhooks and svix
 *                verify v1, and Node's own Ed25519 v1a
 *     /plain     any request
 *     /busy      none: 503
 */
'use strict';

const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const module_ = require('node:module');
const path = require('node:path');
const { parseArgs } = require('node:util');
const { pathToFileURL } = require('node:url');

const options = parseArgs({
    options: {
        modules: { type: 'string' },
        secrets: { type: 'string' },
        log: { type: 'string' },
    },
}).values;

const require_ = module_.createRequire(path.join(path.resolve(options.modules), 'index.js'));
const packages = {};

async function loadPackages() {
    const directory = path.join(path.resolve(options.modules), 'node_modules/@octokit/webhooks');
    const { exports } = JSON.parse(fs.readFileSync(path.join(directory, 'package.json'), 'utf8'));
    const file = path.join(directory, exports['.'].import);
    packages.octokit = await import(pathToFileURL(file).href);
    packages.stripe = new (require_('stripe'))('sk_test_unused');
    packages.standardwebhooks = require_('standardwebhooks');
    packages.svix = require_('svix');
}

function equal(a, b) {
    const [left, right] = [Buffer.from(a), Buffer.from(b)];
    return left.length === right.length && crypto.timingSafeEqual(left, right);
}

function demand(condition, what) {
    if (!condition)
        throw new Error(what);
}

/* Octokit's middleware answers by itself, but not before the log is written; the body was read already. */
async function github(headers, body, secret, request, response) {
    const webhooks = new packages.octokit.Webhooks({ secret, log: { debug() {}, info() {}, warn() {}, error() {} } });
    let received = null;
    webhooks.onAny((event) => { received = event; });
    const end = response.end.bind(response);
    response.end = (text) => {
        response.later = () => end(text);
        return response;
    };
    request.body = body;
    await packages.octokit.createNodeMiddleware(webhooks, { path: request.url })(request, response);
    demand(response.statusCode === 200, `the middleware answers ${response.statusCode}`);
    return { id: received.id, name: received.name, type: received.payload.type };
}

function stripe(headers, body, secret) {
    const event = packages.stripe.webhooks.constructEvent(body, headers['stripe-signature'], secret);
    return { id: event.id };
}

function shopify(headers, body, secret) {
    const digest = crypto.createHmac('sha256', secret).update(body).digest('base64');
    demand(equal(digest, headers['x-shopify-hmac-sha256']), 'the HMAC is another');
    return { topic: headers['x-shopify-topic'], id: headers['x-shopify-webhook-id'] };
}

/* The HMAC that the test adds to what these services send. */
function checkBody(headers, body, hmac) {
    const digest = crypto.createHmac('sha256', hmac).update(body).digest('hex');
    demand(equal(digest, headers['x-body-hmac'].split(' ')[0]), 'the HMAC is another');
}

function hasura(headers, body, { secret, hmac }) {
    checkBody(headers, body, hmac);
    demand(equal(secret, headers['x-hook-secret'] ?? ''), 'the secret is another');
    const { id, created_at, trigger, table, delivery_info, event } = JSON.parse(body);
    demand(id && created_at && trigger.name && table.name && delivery_info && event.data && event.op,
        'the body is no event trigger\'s');
    return { id, op: event.op, data: event.data };
}

function supabase(headers, body, { secret, hmac }) {
    checkBody(headers, body, hmac);
    demand(equal(`Bearer ${secret}`, headers.authorization ?? ''), 'the secret is another');
    const { type, table, schema, record } = JSON.parse(body);
    demand(type === 'INSERT' && table && schema && record !== undefined, 'the body is no database webhook\'s');
    return { record };
}

/* Each signature by itself, and both packages on the header as it came. */
function both(headers, body, { secret, publicKey }) {
    const list = headers['webhook-signature'].split(' ');
    const versions = list.map((one) => one.split(',')[0]);
    const raw = Buffer.from(publicKey.replace(/^whpk_/, ''), 'base64');
    const key = crypto.createPublicKey({
        key: Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), raw]), format: 'der', type: 'spki',
    });
    const content = Buffer.from(`${headers['webhook-id']}.${headers['webhook-timestamp']}.${body}`);
    const checks = { versions: versions.join(' ') };
    new packages.standardwebhooks.Webhook(secret).verify(body, headers);
    checks.standardwebhooks = true;
    new packages.svix.Webhook(secret).verify(body, headers);
    checks.svix = true;
    checks.ed25519 = list.filter((one) => one.startsWith('v1a,'))
        .some((one) => crypto.verify(null, content, key, Buffer.from(one.slice(4), 'base64')));
    demand(checks.ed25519, 'no v1a signature holds');
    return checks;
}

const receivers = { github, stripe, shopify, hasura, supabase, both, plain: () => ({}), busy: () => ({}) };
const log = options.log === undefined ? null : fs.openSync(options.log, 'a');

async function handle(request, body, response) {
    const target = request.url.split('?')[0];
    const label = decodeURIComponent(target.split('/-/').slice(1).join('/-/'));
    const entry = { path: target, label, headers: request.headers, body, status: 200 };
    try {
        const secrets = JSON.parse(fs.readFileSync(options.secrets, 'utf8'));
        entry.checks = await receivers[target.split('/')[1]](
            request.headers, body, secrets[label], request, response);
        if (target.startsWith('/busy/'))
            entry.status = 503;
    } catch (error) {
        entry.status = 401;
        entry.why = error.message;
    }
    if (log !== null)
        fs.writeSync(log, JSON.stringify(entry) + '\n');
    if (response.later)
        response.later();
    else
        response.writeHead(entry.status).end();
}

const server = http.createServer((request, response) => {
    const chunks = [];
    request.on('data', (chunk) => chunks.push(chunk));
    request.on('end', () => handle(request, Buffer.concat(chunks).toString('utf8'), response));
});

server.keepAliveTimeout = 60000;
process.on('SIGTERM', () => process.exit(0));
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
loadPackages().then(() => server.listen(0, '127.0.0.1', () => {
    process.stdout.write(`listening ${server.address().port}\n`);
}));
