// A management API for webhooks, to start your own from: see README.md.  Each request is a transaction
// for the chatbot of the caller's token, in which row-level security shows that customer's rows only.
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import pg from 'pg';

// Without the handlers, a lost connection would end the process.  The pool replaces it.
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 20, connectionTimeoutMillis: 10_000 });
pool.on('error', () => {}).on('connect', client => client.on('error', error => console.error(error.message)));
const MAX_BODY = 256 * 1024, statuses = [null, 'pending', 'delivered', 'dead', 'canceled'];
// What a customer may set.  Column names in SQL come from this list, never from a request.
const columns = ['name', 'url', 'connector', 'events', 'filter', 'enabled', 'headers', 'settings', 'auth',
  'max_retries', 'backoff', 'backoff_multiplier', 'max_backoff', 'retry_delays', 'timeout', 'rate_limit',
  'max_in_flight', 'ordered', 'batch_size', 'batch_window', 'debounce'];
const webhooks = 'SELECT to_jsonb(w) AS webhook FROM chatwebhook.webhook AS w';
const refuse = (status, message, hint) => { throw Object.assign(new Error(message), { status, hint }); };

// Returns the columns that a body sets.  PostgreSQL converts and checks the values.
function columnsOf(body) {
  const given = Object.keys(JSON.parse(body) ?? {}), unknown = given.find(key => !columns.includes(key));
  if (unknown !== undefined) refuse(400, `unknown column "${unknown.slice(0, 100)}"`, `Use ${columns.join(', ')}.`);
  return given.length ? given : refuse(400, 'the body is not an object with columns to set');
}

// Each returns a status and the reply: several rows, or one, whose absence means 404.
const id = '([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})';
const routes = {
  'GET /api/webhooks': async query => [200, await query(`${webhooks} ORDER BY created_at, id`)],
  'POST /api/webhooks': async (query, { body }) => {
    const given = [...new Set(['name', 'url', ...columnsOf(body)])].map(column => `${column} => r.${column}`);
    const [{ id, secret }] = await query(`SELECT c.* FROM jsonb_populate_record(NULL::chatwebhook.webhook, $1) AS r,
      chatwebhook.create_webhook(${given}) AS c`, body);
    return [201, { ...(await query(`${webhooks} WHERE id = $1`, id))[0], secret }]; // no other reply has the secret
  },
  [`PATCH /api/webhooks/${id}`]: async (query, { key, body }, given = columnsOf(body)) => {
    await query(`UPDATE chatwebhook.webhook SET (${given}) = (SELECT ${given.map(column => `r.${column}`)}
      FROM jsonb_populate_record(NULL::chatwebhook.webhook, $2) AS r) WHERE id = $1`, key, body);
    return [200, ...await query(`${webhooks} WHERE id = $1`, key)];
  },
  [`DELETE /api/webhooks/${id}`]: async (query, { key }) =>
    [204, ...await query('DELETE FROM chatwebhook.webhook WHERE id = $1 RETURNING id', key)],
  [`POST /api/webhooks/${id}/test`]: async (query, { key }) => {
    // it can take 10 seconds, so only one at a time: else a customer's tests could use all connections
    const [{ free }] = await query(`SELECT pg_try_advisory_xact_lock(hashtext('api test'),
      hashtext(current_setting('chatwebhook.chatbot'))) AS free`);
    if (!free) refuse(429, 'another test is running');
    return [200, ...await query(`SELECT t.success, t.status_code AS status, t.error, t.latency_ms
      FROM chatwebhook.webhook AS w, chatwebhook.test_webhook(w.id) AS t WHERE w.id = $1`, key)];
  },
  [`GET /api/webhooks/${id}/deliveries`]: async (query, { key, search }) => {
    const status = search.get('status'), [webhook] = await query('SELECT FROM chatwebhook.webhook WHERE id = $1', key);
    if (!statuses.includes(status)) refuse(400, 'unknown status'); // it would read all of the history in vain
    return [200, webhook && await query(`SELECT * FROM chatwebhook.delivery WHERE webhook_id = $1
      AND ($2::text IS NULL OR status = $2) AND ($3::bigint IS NULL OR id < $3) ORDER BY id DESC LIMIT 100`,
      key, status, search.get('before'))];
  },
  'POST /api/deliveries/([0-9]{1,18})/retry': async (query, { key }) =>
    [202, ...await query('SELECT chatwebhook.retry(id) AS retried FROM chatwebhook.delivery WHERE id = $1', key)],
};

async function answer(request) {
  let [path, search] = request.url.split('?'), chunks = [], size = 0, parts, lost = false;
  for await (const chunk of request) if ((size += chunk.length) <= MAX_BODY) chunks.push(chunk);
  if (size > MAX_BODY) refuse(413, `the body has more than ${MAX_BODY} bytes`);
  const route = Object.keys(routes).find(route => (parts = `${request.method} ${path}`.match(`^${route}$`)));
  const hash = createHash('sha256').update(request.headers.authorization?.replace(/^Bearer /, '') ?? '').digest();
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    // "true" sets it until the transaction ends: the connection's next user must not have it
    const { rowCount } = await client.query(`SELECT set_config('chatwebhook.chatbot', chatbot, true)
      FROM api_token WHERE hash = $1`, [hash]);
    if (!rowCount) refuse(401, 'invalid token', 'Send the header Authorization: Bearer TOKEN.');
    const query = async (sql, ...values) => (await client.query(sql, values)).rows.map(row => row.webhook ?? row);
    const input = { key: parts?.[1], body: Buffer.concat(chunks).toString(), search: new URLSearchParams(search) };
    const [status, reply] = await routes[route]?.(query, input) ?? [];
    if (!reply) refuse(404, 'not found');
    await client.query('COMMIT');
    return [status, reply];
  } catch (error) {
    lost = await client.query('ROLLBACK').then(() => false, () => true);
    throw error;
  } finally {
    client.release(lost);
  }
}

// PostgreSQL's error classes 22, 23 and 54 are about values, and so is 42601, of a filter's syntax.
function explain({ status, name, code = '', message, hint, stack }) {
  status ??= name === 'SyntaxError' || /^(22...|23...|54...|42601)$/.test(code) ? 400 : { P0002: 404, 42501: 403 }[code];
  if (!status) console.error(stack);
  return status ? [status, { error: message, hint }] : [500, { error: 'internal error' }];
}

createServer({ requestTimeout: 30_000 }, async (request, response) => {
  const [status, reply] = await answer(request).catch(explain);
  response.writeHead(status, { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' });
  response.end(status === 204 ? undefined : JSON.stringify(reply));
}).listen(process.env.PORT ?? 3000, '127.0.0.1', function () { console.log(`listening ${this.address().port}`); });
