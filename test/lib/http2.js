#!/usr/bin/env node
/*
 * A receiver that speaks HTTP/2, for tests.
 *
 *     http2.js --cert FILE --key FILE [--log FILE] [--secrets FILE]
 *              [--requests N]
 *
 * What a request gets depends on its path:
 *
 *     /ok              200 when all of it has been read
 *     /early/STATUS    that status before its body is read, as a limit in front
 *                      of a service does it; the rest of the stream is refused
 *     /error           no reply: the stream ends with an error
 *     /lost/MS         no reply: the first time, the connection is lost after so
 *                      many milliseconds
 *
 * After N requests, if any N is given, a connection is closed as nginx does it:
 * the requests that it has are answered, and no more are taken.
 *
 * Like receiver.py it binds a free port of 127.0.0.1, prints "listening PORT",
 * serves until SIGTERM or the end of its standard input, takes what follows
 * "/-/" in a path as a label and logs one JSON object a line: path, label,
 * headers, connection (counted from 1), and status (null: none).  Signatures are
 * not looked at.
 */
'use strict';

const fs = require('fs');
const http2 = require('http2');

/* without util.parseArgs(), which older versions have not */
const options = {};
for (let i = 2; i < process.argv.length; i += 2)
    options[process.argv[i].replace(/^--/, '')] = process.argv[i + 1];

const log = options.log === undefined ? 1 : fs.openSync(options.log, 'a');
const most = Number(options.requests || Infinity);
const lost = new Set();
let connections = 0;

function note(stream, headers, status) {
    const path = headers[':path'];
    fs.writeSync(log, JSON.stringify({
        path,
        label: path.split('/-/')[1] || '',
        headers,
        connection: stream.session ? stream.session.number : null,
        status,
    }) + '\n');
}

const server = http2.createSecureServer({
    cert: fs.readFileSync(options.cert),
    key: fs.readFileSync(options.key),
});

server.on('session', (session) => {
    session.number = ++connections;
    session.requests = 0;
    session.on('error', () => {});
});

server.on('stream', (stream, headers) => {
    const [, behaviour, argument] = headers[':path'].split('/');

    stream.on('error', () => {});
    if (++stream.session.requests === most)
        stream.session.close();
    if (behaviour === 'early') {
        note(stream, headers, Number(argument));
        stream.respond({ ':status': Number(argument) }, { endStream: true });
        stream.close(http2.constants.NGHTTP2_NO_ERROR);
    } else if (behaviour === 'error') {
        note(stream, headers, null);
        stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
    } else if (behaviour === 'lost') {
        const { session } = stream;

        note(stream, headers, null);
        if (!lost.has(headers[':path']))
            setTimeout(() => session.destroy(), Number(argument));
        lost.add(headers[':path']);
    } else {
        stream.resume();
        stream.on('end', () => {
            note(stream, headers, 200);
            if (!stream.destroyed) {
                stream.respond({ ':status': 200 });
                stream.end('ok');
            }
        });
    }
});

server.listen(0, '127.0.0.1', () => {
    console.log(`listening ${server.address().port}`);
});
process.on('SIGTERM', () => process.exit(0));
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
