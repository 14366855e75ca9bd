#!/usr/bin/env node
/*
 * Reads deliveries as receivers of CloudEvents do, for tests.
 *
 *     cloudevents.js MODULES SECRET LOG EVENTS
 *
 * MODULES is a directory whose node_modules has the packages cloudevents,
 * standardwebhooks and svix; LOG one of receiver.js; EVENTS has a line of JSON for
 * each event as it was emitted.  The packages read and verify each request as of
 * when it came.  What they make of the CloudEvents is compared with the events,
 * and the headers of the binary mode with what the HTTP protocol binding says.
 *
 * It prints as JSON how many requests came in each mode, how many events they
 * had, how many requests each of the packages accepted, and up to five problems.
 */
'use strict';

const fs = require('node:fs');
const module_ = require('node:module');
const path = require('node:path');
const { isDeepStrictEqual } = require('node:util');

const [modules, secret, log, events] = process.argv.slice(2);
const load = module_.createRequire(path.join(path.resolve(modules), 'index.js'));
const { HTTP } = load('cloudevents');
const verifiers = {
    standardwebhooks: new (load('standardwebhooks').Webhook)(secret),
    svix: new (load('svix').Webhook)(secret),
};

const lines = (file) => fs.readFileSync(file, 'utf8').split('\n').filter(Boolean).map((line) => JSON.parse(line));

const result = { binary: 0, structured: 0, batch: 0, events: 0, distinct: 0, read: 0, problems: [] };
for (const name of Object.keys(verifiers))
    result[name] = 0;

function problem(...words) {
    if (result.problems.length < 5)
        result.problems.push(words.join(' ').slice(0, 500));
}

/* Percent-encoding of everything but RFC 3986's unreserved characters. */
function encodeAll(text) {
    return encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}

/* A header's value as the HTTP protocol binding, 3.1.3.2, says. */
function encodeHeader(text) {
    return Array.from(text, (c) =>
        c > ' ' && c <= '~' && c !== '"' && c !== '%' ? c
            : Array.from(Buffer.from(c), (byte) => `%${byte.toString(16).toUpperCase().padStart(2, '0')}`).join('')
    ).join('');
}

const expected = new Map(lines(events).map((event) => [event.id, event]));
const seen = new Set();

/* The attributes that an event should have. */
function attributes(event) {
    const wanted = {
        specversion: '1.0',
        id: event.id,
        source: event.chatbotId === null ? '/chatbots' : `/chatbots/${encodeAll(event.chatbotId)}`,
        type: event.type,
        time: event.timestamp,
    };
    if (event.conversationId)
        wanted.subject = event.conversationId;
    return wanted;
}

/* Compare a CloudEvent that the package has read with the event. */
function compare(mode, cloudEvent, headers) {
    const event = expected.get(cloudEvent.id);
    if (event === undefined) {
        problem(mode, 'unknown id', cloudEvent.id);
        return;
    }
    seen.add(event.id);
    cloudEvent.validate();
    const wanted = attributes(event);
    for (const [name, value] of Object.entries(wanted)) {
        // the package does not decode headers
        const made = mode === 'binary' ? encodeHeader(value) : value;
        if (cloudEvent[name] !== made)
            problem(mode, event.id, name, JSON.stringify(cloudEvent[name]), 'is not', JSON.stringify(made));
        if (mode === 'binary' && decodeURIComponent(headers[`ce-${name}`]) !== value)
            problem(mode, event.id, name, 'is not what was encoded');
    }
    if (cloudEvent.subject !== undefined && !event.conversationId)
        problem(mode, event.id, 'has the subject', JSON.stringify(cloudEvent.subject));
    if (cloudEvent.datacontenttype !== 'application/json')
        problem(mode, event.id, 'has the type', cloudEvent.datacontenttype);
    const others = Object.keys(headers).filter((name) =>
        name.startsWith('ce-') && !(mode === 'binary' && name.slice(3) in wanted));
    if (others.length > 0)
        problem(mode, event.id, 'has the headers', others.join());
    if (!isDeepStrictEqual(cloudEvent.data, event.data))
        problem(mode, event.id, 'data', JSON.stringify(cloudEvent.data), 'is not', JSON.stringify(event.data));
    const longest = Math.max(...Object.values(wanted).map((value) => encodeHeader(value).length));
    if (mode === 'binary' && longest > 4096)
        problem(mode, event.id, 'has a header of', longest, 'bytes');
    result[`${mode}_long`] = (result[`${mode}_long`] ?? 0) + (longest > 4096 ? 1 : 0);
}

const now = Date.now;
for (const { time, headers, body } of lines(log)) {
    Date.now = () => time * 1000;
    for (const [name, verifier] of Object.entries(verifiers)) {
        try {
            verifier.verify(body, headers);
            result[name]++;
        } catch (error) {
            problem(name, headers['webhook-id'], error.message);
        }
    }
    Date.now = now;
    try {
        const type = headers['content-type'];
        const mode = type.startsWith('application/cloudevents-batch+json') ? 'batch'
            : type.startsWith('application/cloudevents+json') ? 'structured' : 'binary';
        const read = [HTTP.toEvent({ headers: { ...headers }, body })].flat();
        result[mode]++;
        result.events += read.length;
        if (mode !== 'batch' && read[0].id !== headers['webhook-id'])
            problem(mode, 'webhook-id', headers['webhook-id'], 'is not', read[0].id);
        for (const cloudEvent of read)
            compare(mode, cloudEvent, headers);
        result.read++;
    } catch (error) {
        problem('cloudevents', headers['webhook-id'], error.message, JSON.stringify(error.errors ?? null));
    }
}
result.distinct = seen.size;
console.log(JSON.stringify(result));
