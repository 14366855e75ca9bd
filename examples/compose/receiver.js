// A receiver that verifies each request's signature and prints its body.
// docs/receiving.md says what a receiver for real use has to do besides: store each event once.

const crypto = require('crypto')
const http = require('http')

const key = Buffer.from(process.env.WEBHOOK_SECRET.replace(/^whsec_/, ''), 'base64')

function verify (headers, body) {
  const id = headers['webhook-id']
  const timestamp = headers['webhook-timestamp']
  if (!id || !(Math.abs(Date.now() / 1000 - Number(timestamp)) <= 300)) return false
  const expected = crypto.createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body).digest()
  return (headers['webhook-signature'] || '').split(' ').some(signature => {
    const given = Buffer.from(signature.replace(/^v1,/, ''), 'base64')
    return signature.startsWith('v1,') &&
      given.length === expected.length && crypto.timingSafeEqual(given, expected)
  })
}

const server = http.createServer((request, response) => {
  const chunks = []
  request.on('data', chunk => chunks.push(chunk))
  request.on('end', () => {
    const body = Buffer.concat(chunks)
    const verified = verify(request.headers, body)
    console.log(verified ? `verified: ${body}` : 'refused: the signature is not ours')
    response.writeHead(verified ? 204 : 401).end()
  })
})
server.listen(Number(process.env.PORT ?? 8080), () => console.log(`listening on port ${server.address().port}`))
