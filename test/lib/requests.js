// Sends HTTP requests, some of them at once, and prints the replies.
//
//     node requests.js N <requests.json
//
// Standard input is an array of {"method", "url", "headers", "body"}.  Instead of a body, there
// can be "bytes": the size of a body that is sent in chunks, without a Content-Length.  At all
// times N requests are under way.  The output is an array of {"status", "headers", "body"},
// where the body is a text.
'use strict';

const fs = require('fs');

const requests = JSON.parse(fs.readFileSync(0, 'utf8'));
const replies = [];
let next = 0;

async function* blanks(bytes) {
  for (; bytes > 0; bytes -= 65536) yield Buffer.alloc(Math.min(bytes, 65536), ' ');
}

async function sender() {
  while (next < requests.length) {
    const i = next++;
    const { method, url, headers, body, bytes } = requests[i];
    const reply = await fetch(url, { method, headers, body: bytes ? blanks(bytes) : body, duplex: 'half' });
    replies[i] = { status: reply.status, headers: Object.fromEntries(reply.headers), body: await reply.text() };
  }
}

Promise.all(Array.from({ length: Number(process.argv[2]) }, sender)).then(
  () => process.stdout.write(JSON.stringify(replies)),
  error => { console.error(error); process.exitCode = 1; });
