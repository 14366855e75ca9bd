// Sends HTTP requests, some of them at once, and prints the replies.
//
//     node requests.js TIMEOUT
//
// Each line of standard input is a JSON object: "requests" is an array of {"method", "url",
// "headers", "body"}, and "atOnce" is how many of them are under way at all times.  Instead of
// a body, there can be "bytes": the size of a body that is sent in chunks, without a
// Content-Length.  For each line, a line with an array of {"status", "body"} is printed, where
// the body is a text.  If a reply takes longer than TIMEOUT seconds, the program fails.
'use strict';

const http = require('http');
const readline = require('readline');
const { Readable } = require('stream');

const timeout = 1000 * Number(process.argv[2]);

function* blanks(bytes) {
  for (; bytes > 0; bytes -= 65536) yield Buffer.alloc(Math.min(bytes, 65536), ' ');
}

// Each request has a connection of its own: the server may close one that is kept at any time.
function send({ method, url, headers, body, bytes }) {
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method, headers, agent: false, signal: AbortSignal.timeout(timeout) }, reply => {
      let text = '';
      reply.setEncoding('utf8').on('data', part => { text += part; }).on('error', reject);
      reply.on('end', () => resolve({ status: reply.statusCode, body: text }));
    });
    request.on('error', reject);
    if (bytes) Readable.from(blanks(bytes)).pipe(request);
    else request.end(body);
  });
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { requests, atOnce } = JSON.parse(line);
    const replies = [];
    let next = 0;
    const sender = async () => {
      for (let i; (i = next++) < requests.length;) replies[i] = await send(requests[i]);
    };
    await Promise.all(Array.from({ length: atOnce }, sender));
    console.log(JSON.stringify(replies));
  }
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
