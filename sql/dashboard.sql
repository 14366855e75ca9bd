/*
 * The dashboard: what an operator asks first, as one HTML page.
 *
 * dashboard() runs with the rights of its caller, and shows what that role sees.
 * It is STABLE, so that the whole page is of one snapshot.
 *
 * The page is ASCII, with references such as &#233; for other characters, so that
 * it is right in whatever encoding the client writes it.  It is also XML, so that
 * a plain parser can check it.  All values from outside go through
 * _dashboard_text().
 */
CREATE FUNCTION chatwebhook._dashboard_text(value text, size integer DEFAULT 10000) RETURNS text
    LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF length(value) > size THEN
        value := left(value, size) || '...';
    END IF;
    value := replace(value, '&', '&amp;');
    value := replace(value, '<', '&lt;');
    value := replace(value, '>', '&gt;');
    value := replace(value, '"', '&quot;');
    value := replace(value, '''', '&#39;');
    IF value !~ E'[^\\x20-\\x7e]' THEN
        RETURN value;
    END IF;
    RETURN (
        SELECT string_agg(CASE
                   WHEN c ~ E'[\\x20-\\x7e]' THEN c
                   WHEN c IN (E'\t', E'\n', E'\r') THEN ' '
                   WHEN code IS NULL OR code < 160                                      -- controls
                        OR code BETWEEN 8232 AND 8238 OR code BETWEEN 8294 AND 8297     -- line breaks, directions
                        OR code BETWEEN 64976 AND 65007 OR code % 65536 >= 65534        -- noncharacters
                   THEN '&#65533;'
                   ELSE '&#' || code || ';' END, '' ORDER BY n)
          FROM regexp_split_to_table(value, '') WITH ORDINALITY AS s(c, n),
               LATERAL (SELECT CASE WHEN c !~ E'[\\x01-\\x7f]' AND getdatabaseencoding() <> 'SQL_ASCII'
                                    THEN convert_to(c, 'UTF8') END) AS u(utf8),
               LATERAL (SELECT CASE octet_length(utf8)
                               WHEN 2 THEN get_byte(utf8, 0) % 32 * 64 + get_byte(utf8, 1) % 64
                               WHEN 3 THEN get_byte(utf8, 0) % 16 * 4096 + get_byte(utf8, 1) % 64 * 64
                                           + get_byte(utf8, 2) % 64
                               WHEN 4 THEN get_byte(utf8, 0) % 8 * 262144 + get_byte(utf8, 1) % 64 * 4096
                                           + get_byte(utf8, 2) % 64 * 64 + get_byte(utf8, 3) % 64
                               END) AS p(code));
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_text(text, integer) IS
    'Returns a text for HTML, between tags or within quotes, truncated to this many characters. U+FFFD stands for characters that would affect the text around them.';

CREATE FUNCTION chatwebhook._dashboard_number(value numeric, unit text DEFAULT '') RETURNS text
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF unit = '%' THEN
        -- rounded down, so that 100% means all
        RETURN rtrim(to_char(trunc(value * 100, 1), 'FM990.9'), '.') || '%';
    ELSIF unit = 'ms' THEN
        RETURN CASE WHEN round(value) < 1000 THEN round(value) || ' ms'
                    WHEN value < 99950 THEN to_char(value / 1000, 'FM990.0') || ' s'
                    ELSE chatwebhook._dashboard_number(round(value / 1000)) || ' s' END;
    END IF;
    RETURN to_char(value, 'FM999,999,999,999,999,999,999,990')
        || CASE WHEN unit = '' THEN '' ELSE ' ' || unit || CASE value WHEN 1 THEN '' ELSE 's' END END;
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_number(numeric, text) IS
    'Returns a number for people: with thousands separators and its unit in the plural, or as % or ms.';

CREATE FUNCTION chatwebhook._dashboard_age(since timestamptz) RETURNS text
    LANGUAGE plpgsql STABLE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    s bigint;
BEGIN
    IF NOT isfinite(since) THEN
        RETURN since;
    END IF;
    s := floor(abs(extract(epoch FROM statement_timestamp() - since)));
    RETURN format('<time datetime="%s">%s</time>',
                  to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                  CASE WHEN s < 60 THEN s || ' s'
                       WHEN s < 3600 THEN s / 60 || ' min'
                       WHEN s < 172800 THEN s / 3600 || ' h'
                       ELSE chatwebhook._dashboard_number(s / 86400, 'day') END);
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_age(timestamptz) IS 'Returns how long ago that was, or how soon it will be, in one unit.';

CREATE FUNCTION chatwebhook._dashboard_link(webhook_id uuid, name text) RETURNS text
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN webhook_id IS NULL THEN '<bdi>' || coalesce(replace(chatwebhook._dashboard_text(name, 80), '_', '_<wbr/>'), 'unnamed') || '</bdi>'
                ELSE format('<a href="#w-%s"><bdi>%s</bdi></a>', webhook_id, chatwebhook._dashboard_text(name, 80)) END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_link(uuid, text) IS
    'Returns the name of a webhook, as a link to its row if an id is given.';

/*
 * A card with a table, whose first cells are the headings of their rows.  A narrow
 * screen shows each row as a block, with the names of the columns before the cells.
 */
CREATE FUNCTION chatwebhook._dashboard_table(
    title text, caption text, columns text[], cells text[], remark text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql IMMUTABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    widths text := '';
    heads  text := '';
    body   text := '';
    row    text[];
BEGIN
    IF cells IS NULL THEN
        RETURN NULL;
    END IF;
    FOR i IN 1 .. cardinality(columns) LOOP
        widths := widths || CASE WHEN columns[i] LIKE '#%' THEN '<col class="w"/>' ELSE '<col/>' END;
        heads := heads || format('<th role="columnheader" scope="col"%s>%s</th>',
                                 CASE WHEN columns[i] LIKE '#%' THEN ' class="n"' END, ltrim(columns[i], '#'));
    END LOOP;
    FOREACH row SLICE 1 IN ARRAY cells LOOP
        body := body || '<tr role="row"><th role="rowheader" scope="row">' || coalesce(row[1], '') || '</th>';
        FOR i IN 2 .. cardinality(columns) LOOP
            body := body || format('<td role="cell"%s data-label="%s">%s</td>',
                                   CASE WHEN columns[i] LIKE '#%' THEN ' class="n"' END, ltrim(columns[i], '#'), row[i]);
        END LOOP;
        body := body || E'</tr>\n';
    END LOOP;
    body := format($html$<table class="plain" role="table"><caption class="hidden">%s</caption>
<colgroup>%s</colgroup>
<thead role="rowgroup"><tr role="row">%s</tr></thead>
<tbody role="rowgroup">
%s</tbody></table>
%s$html$, caption, widths, heads, body, '<p class="muted remark">' || remark || E'</p>\n');
    RETURN CASE WHEN title IS NULL THEN body
                ELSE E'<section class="card">\n<h2>' || title || E'</h2>\n' || body || E'</section>\n' END;
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_table(text, text, text[], text[], text) IS
    'Returns a table, or null if it has no rows: in a card if there is a title. The cells, an array of rows, are HTML; columns of figures have names with # in front.';

/*
 * The policy in the head forbids scripts, and anything from elsewhere, in case a
 * value ever slips through.  Each state has a shape as well as a color.
 */
CREATE FUNCTION chatwebhook._dashboard_head(refresh integer) RETURNS text
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT format($html$<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<meta name="referrer" content="no-referrer"/>
%s<title>chatwebhook: %s</title>
<link rel="icon" href="data:,"/>
<style>
:root {
  --page: #f5f6f8; --card: #ffffff; --line: #e1e5ea; --soft: #eef1f5;
  --text: #1b2430; --muted: #566273; --bar: #4a7fb5;
  --good: #1a7a4f; --warn: #8f5400; --bad: #b8292f; --off: #566273;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10151b; --card: #182028; --line: #2a343f; --soft: #212b35;
    --text: #e4e9ef; --muted: #9dabba; --bar: #6fa3d6;
    --good: #63c795; --warn: #e8b45c; --bad: #ff8b87; --off: #9dabba;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%%; text-size-adjust: 100%%; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
main, header, footer { max-width: 1160px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 28px; padding-bottom: 4px; }
footer { padding-top: 8px; padding-bottom: 40px; color: var(--muted); font-size: 13px; }
h1 { margin: 0 0 2px; font-size: 26px; line-height: 1.25; font-weight: 650; letter-spacing: -0.01em; display: flex; gap: 12px; align-items: flex-start; }
h1 .icon { width: 26px; height: 26px; margin-top: 3px; }
h2 { margin: 0 0 12px; font-size: 16px; font-weight: 650; }
h3 { margin: 0 0 4px; font-size: 15px; font-weight: 650; }
h3.alert { margin: 20px 0 8px; }
h2 + h3.alert { margin-top: 0; }
h3.alert ~ h3.alert + table thead { position: absolute; clip-path: inset(50%%); }
p { margin: 0 0 8px; }
a { color: inherit; text-decoration-color: var(--muted); text-underline-offset: 2px; }
a:focus-visible, summary:focus-visible { outline: 2px solid var(--bar); outline-offset: 2px; border-radius: 3px; }
small, .muted { color: var(--muted); font-size: 13px; font-weight: 400; }
bdi { unicode-bidi: isolate; }
code { font: 13px/1.55 ui-monospace, "SFMono-Regular", Menlo, Consolas, "Liberation Mono", monospace; }
pre { margin: 8px 0; padding: 10px 12px; background: var(--soft); border-radius: 6px; white-space: pre-wrap; }
.icon { width: 16px; height: 16px; flex: none; vertical-align: -2px; }
.card { margin: 16px 0; padding: 18px 20px; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.notice { border-left: 4px solid var(--bar); }
.notice.bad { border-left-color: var(--bad); }
.notice p:last-child, .notice pre:last-child { margin-bottom: 0; }
.bad { color: var(--bad); }
.warn { color: var(--warn); }
.good { color: var(--good); }
.off { color: var(--off); }
.notice.bad, header div { color: var(--text); }
header .muted { color: var(--muted); }
.remark { margin: 10px 0 0; }
.state { white-space: nowrap; font-weight: 600; }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(124px, 1fr)); gap: 12px; margin: 16px 0; }
.tiles div { padding: 14px 16px; background: var(--card); border: 1px solid var(--line); border-radius: 10px; min-width: 0; }
.tiles dt { color: var(--muted); font-size: 13px; }
.tiles dd { margin: 0; }
.tiles dd.figure { font-size: 26px; line-height: 1.3; font-weight: 600; letter-spacing: -0.01em; }

ul.failures { list-style: none; margin: 0; padding: 0; }
ul.failures li { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 0 24px; padding: 10px 0; border-top: 1px solid var(--line); }
ul.failures li:first-child { border-top: 0; padding-top: 0; }
ul.failures li:last-child { padding-bottom: 0; }
ul.failures a { font-weight: 600; }
ul.failures div { min-width: 0; overflow: hidden; }
ul.failures div:nth-child(even) { text-align: right; }
ul.failures div:nth-child(3) { font-size: 13px; }
.copy { display: inline-block; padding: 1px 6px; color: var(--text); background: var(--soft); border-radius: 4px; user-select: all; -webkit-user-select: all; }

.chart { display: block; width: 100%%; height: 150px; }
.chart path, .spark path { fill: none; stroke: var(--bar); }
.chart path { stroke-width: 7.4; }
.chart path.f, .spark path.f { stroke: var(--bad); }
.chart path.g { stroke: var(--text); }
.chart line, .spark line { stroke: var(--line); stroke-width: 1; vector-effect: non-scaling-stroke; }
.chart rect { fill: transparent; }
.chart rect:hover { fill: var(--muted); fill-opacity: 0.16; }
.axis { display: flex; justify-content: space-between; color: var(--muted); font-size: 12px; margin-top: 4px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0 0 10px; padding: 0; list-style: none; font-size: 13px; color: var(--muted); }
.legend b { color: var(--text); font-weight: 600; }
.legend svg { width: 12px; height: 12px; vertical-align: -1px; margin-right: 6px; }
.legend path { fill: none; stroke: var(--bar); stroke-width: 5; }
.legend path.f { stroke: var(--bad); }
.legend path.g { stroke: var(--text); stroke-width: 3; }
.spark { display: block; width: 100%%; max-width: 260px; height: 34px; }
.spark path { stroke-width: 1; }

summary { cursor: pointer; padding: 6px 0; color: var(--muted); font-size: 14px; }
details > table { margin-top: 6px; }
table { width: 100%%; border-collapse: collapse; table-layout: fixed; }
caption { text-align: left; }
.hidden { position: absolute; width: 1px; height: 1px; margin: -1px; overflow: hidden; clip-path: inset(50%%); white-space: nowrap; }
th, td { padding: 10px 16px 10px 0; text-align: left; vertical-align: top; border-top: 1px solid var(--line); font-weight: 400; }
thead th { padding-top: 0; padding-bottom: 6px; border-top: 0; color: var(--muted); font-size: 13px; }
th:last-child, td:last-child { padding-right: 0; }
tbody th, tbody td, header div, h1 span { overflow: hidden; }
tbody th > bdi, tbody th > a { font-weight: 600; }
tr:target { background: var(--soft); }
td small, th small { display: block; }
.n { text-align: right; }
.error { display: block; margin-top: 4px; font-size: 13px; }
.hooks .copy { margin-top: 2px; font-size: 12px; }
.hooks col.c-state { width: 118px; } .hooks col.c-spark { width: 216px; } .hooks col.c-rate { width: 136px; }
.hooks col.c-ms { width: 104px; } .hooks col.c-wait { width: 104px; } .hooks col.c-dead { width: 64px; }
.plain col.w { width: 112px; }

@media (max-width: 1080px) {
  ul.failures li { grid-template-columns: minmax(0, 1fr); }
  ul.failures div:nth-child(even) { text-align: left; }
  .hooks, .hooks tbody, .hooks tr, .hooks th, .hooks td { display: block; }
  .hooks colgroup, .hooks thead { display: none; }
  .hooks tr { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 10px 12px; padding: 14px 0; border-top: 1px solid var(--line); }
  .hooks th, .hooks td { border: 0; padding: 0; text-align: left; }
  .hooks th { grid-column: 1 / 4; }
  .hooks td.c-state { grid-column: 4; text-align: right; }
  .hooks td.c-spark { grid-column: 1 / -1; }
  .spark { max-width: none; }
  .spark path { stroke-width: 1.5; }
  .hooks td[data-label]::before { content: attr(data-label); display: block; color: var(--muted); font-size: 12px; }
}
@media (min-width: 761px) and (max-width: 1080px) {
  .tiles { grid-template-columns: repeat(6, minmax(0, 1fr)); }
  .tiles div { grid-column: span 2; }
  .tiles div:nth-child(n + 4) { grid-column: span 3; }
}
@media (max-width: 760px) {
  body { font-size: 14px; }
  main, header, footer { padding-left: 14px; padding-right: 14px; }
  header { padding-top: 20px; }
  h1 { font-size: 21px; }
  h1 .icon { width: 21px; height: 21px; }
  .card { padding: 14px; margin: 12px 0; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; margin: 12px 0; }
  .tiles div { padding: 10px 12px; }
  .tiles div:last-child:nth-child(odd) { grid-column: 1 / -1; }
  .tiles dd.figure { font-size: 21px; }
  .chart { height: 120px; }
  .hooks tr { gap: 8px; grid-template-columns: repeat(3, minmax(0, 1fr)) minmax(0, 0.7fr); }
  .hooks td small { font-size: 12px; line-height: 1.35; }
  .hooks th { grid-column: 1 / -1; }
  .hooks td.c-state { grid-column: 1 / -1; text-align: left; order: -1; }
  .plain, .plain tbody, .plain tr, .plain th, .plain td { display: block; }
  .plain colgroup, .plain thead { display: none; }
  .plain tr { padding: 10px 0; border-top: 1px solid var(--line); }
  .plain tr:first-child { border-top: 0; padding-top: 0; }
  .plain th, .plain td { border: 0; padding: 0 0 2px; text-align: left; }
  .plain td { display: inline-block; max-width: 100%%; margin-right: 14px; }
  .plain td[data-label]::before { content: attr(data-label) ": "; color: var(--muted); }
  .plain td small { display: inline; }
}
@media print { body { background: none; } .card, .tiles div { break-inside: avoid; } }
</style>
</head>
<body>
<svg width="0" height="0" style="position:absolute" aria-hidden="true">
<defs>
<symbol id="i-healthy" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7.2" fill="currentColor"/><path d="M4.7 8.3l2.3 2.3 4.3-4.9" fill="none" stroke="var(--card)" stroke-width="1.8"/></symbol>
<symbol id="i-degraded" viewBox="0 0 16 16"><path d="M8 1.2l7.3 13.4H.7z" fill="currentColor"/><path d="M8 6v4.2m0 1.2v1.8" fill="none" stroke="var(--card)" stroke-width="1.7"/></symbol>
<symbol id="i-failing" viewBox="0 0 16 16"><path d="M5 .8h6L15.2 5v6L11 15.2H5L.8 11V5z" fill="currentColor"/><path d="M5.3 5.3l5.4 5.4m0-5.4l-5.4 5.4" fill="none" stroke="var(--card)" stroke-width="1.8"/></symbol>
<symbol id="i-paused" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7.2" fill="currentColor"/><path d="M6 5v6m4-6v6" fill="none" stroke="var(--card)" stroke-width="1.8"/></symbol>
<symbol id="i-disabled" viewBox="0 0 16 16"><circle cx="8" cy="8" r="6.4" fill="none" stroke="currentColor" stroke-width="1.7"/><path d="M3.6 12.4l8.8-8.8" fill="none" stroke="currentColor" stroke-width="1.7"/></symbol>
<symbol id="i-idle" viewBox="0 0 16 16"><circle cx="8" cy="8" r="6.4" fill="none" stroke="currentColor" stroke-width="1.7"/></symbol>
</defs>
</svg>
$html$, '<meta http-equiv="refresh" content="' || refresh || E'"/>\n',
           chatwebhook._dashboard_text(current_database()))
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_head(integer) IS
    'Returns the head of the page, with its style and the shapes of the states.';

CREATE FUNCTION chatwebhook._dashboard_notices(webhooks chatwebhook.webhook_health[]) RETURNS text
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    operator constant boolean := has_table_privilege('chatwebhook.worker_status', 'SELECT');
    blocked  text;
    next     text;
BEGIN
    IF NOT operator THEN
        -- an app can do nothing about it
        IF chatwebhook._copy_problem() IS NOT NULL OR NOT chatwebhook._setting('chatwebhook.enabled')::boolean THEN
            blocked := '<h3>Sending is switched off</h3><p>Events are queued until the operator of this server resumes it.</p>';
        END IF;
    ELSE
        blocked := CASE
            WHEN pg_is_in_recovery() THEN
                '<h3>This is a standby</h3><p>Only the primary sends.</p>'
            WHEN NOT EXISTS (SELECT FROM chatwebhook._workers())
                 AND strpos((SELECT s.setting FROM pg_settings s WHERE s.name = 'shared_preload_libraries'), 'chatwebhook') = 0
            THEN '<h3>The library is not loaded</h3>'
                 '<p>Events are queued, but nothing is sent. Add this to <code>postgresql.conf</code>, and restart the server:</p>'
                 '<pre><code>shared_preload_libraries = ''chatwebhook''</code></pre>'
            WHEN chatwebhook._copy_problem() IS NOT NULL THEN
                '<h3>This database is a copy</h3>'
                '<p>It was restored or copied from another one, so its events are queued, but nothing is sent. If it should send from now on:</p>'
                '<pre><code>SELECT chatwebhook.adopt();</code></pre>'
                '<p>In a copy for testing, cancel the pending deliveries:</p>'
                '<pre><code>SELECT chatwebhook.adopt(cancel_pending =&gt; true);</code></pre>'
            WHEN NOT chatwebhook._setting('chatwebhook.enabled')::boolean THEN
                '<h3>Sending is switched off</h3>'
                '<p><code>chatwebhook.enabled</code> is off: events are queued, but nothing is sent. To resume:</p>'
                '<pre><code>ALTER SYSTEM SET chatwebhook.enabled = on;' || E'\n' || 'SELECT pg_reload_conf();</code></pre>'
            WHEN NOT EXISTS (SELECT FROM chatwebhook._workers()) THEN
                '<h3>No worker is running in this database</h3>'
                '<p>Events are queued, but nothing is sent. A worker starts within seconds, unless '
                '<code>chatwebhook.databases</code> does not list this database or '
                '<code>max_worker_processes</code> is too low. The server&#39;s log says which.</p>'
        END;
    END IF;

    IF NOT operator AND coalesce(current_setting('chatwebhook.chatbot', true), '') = '' THEN
        next := '<h3>No chatbot is chosen</h3><p>This role sees the webhooks of one chatbot at a time. Name it before you ask for the page:</p><pre><code>SET chatwebhook.chatbot = ''shop'';</code></pre>';
    ELSIF coalesce(cardinality(webhooks), 0) = 0 AND NOT chatwebhook._setting('chatwebhook.outbox')::boolean THEN
        next := '<h3>There are no webhooks yet</h3><p>'
            || CASE WHEN operator THEN 'Create one, and watch the table whose rows are the events:' ELSE 'Create one:' END
            || E'</p><pre><code>SELECT * FROM chatwebhook.create_webhook(\n'
            || E'    name =&gt; ''crm'', url =&gt; ''https://crm.example.com/hook'', events =&gt; ''{lead.*}'');'
            || CASE WHEN operator THEN E'\n\nSELECT chatwebhook.watch(''lead'', ''lead.captured'',\n'
                   || E'    ''{"email": "email", "source": "@widget", "conversationSummary": "summary"}'');' ELSE '' END
            || '</code></pre>';
    ELSIF blocked IS NULL AND cardinality(webhooks) > 0
          AND NOT EXISTS (SELECT FROM unnest(webhooks) h WHERE h.total > 0 OR h.pending > 0 OR h.dead > 0) THEN
        next := '<h3>Nothing has been sent yet</h3><p>To check that a webhook can be reached, and how it replies:</p><pre><code>'
            || chatwebhook._dashboard_text(format('SELECT * FROM chatwebhook.test_webhook(%L);', webhooks[1].webhook_id))
            || '</code></pre>';
    END IF;

    RETURN coalesce('<section class="card notice bad">' || blocked || E'</section>\n', '')
        || coalesce('<section class="card notice">' || next || E'</section>\n', '');
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_notices(chatwebhook.webhook_health[]) IS
    'Returns what prevents sending, and what to do next.';

/*
 * Attempts of the last twelve hours, in steps of ten minutes, or of less: the
 * chart begins where the data does.  Successes stand on the line of the chart,
 * failures hang below it.
 */
CREATE FUNCTION chatwebhook._dashboard_throughput(activity chatwebhook.activity[], since timestamptz) RETURNS text
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH span AS (
        -- steps are numbered from 1970, and the current one is the last
        SELECT last, greatest(last - 71, least(last, floor(extract(epoch FROM since) / 600)))::bigint AS first
          FROM (SELECT floor(extract(epoch FROM statement_timestamp()) / 600)::bigint) AS s(last)
         WHERE since IS NOT NULL
    ), activity AS MATERIALIZED (
        -- steps without activity, too
        SELECT n, n - first AS step, to_timestamp(n * 600) AS since, (last - n) / 6 AS hour,
               coalesce(sum(a.succeeded), 0) AS succeeded,
               coalesce(sum(a.failed), 0) AS failed, coalesce(sum(a.given_up), 0) AS given_up
          FROM span, generate_series(first, last) AS n
          LEFT JOIN unnest(activity) AS a ON floor(extract(epoch FROM a.since) / 600) = n
         GROUP BY n, first, last
    ), sums AS (
        SELECT sum(succeeded) AS succeeded, sum(failed) AS failed, sum(given_up) AS given_up,
               max(succeeded) AS most, count(*) AS steps, min(a.since) AS since,
               greatest(max(succeeded) / 100, max(failed) / 40, 0.01) AS unit
          FROM activity a
    ), depth AS (
        SELECT least(100 - round(most / unit), 70) AS top,
               106 + round(greatest((SELECT max(failed) FROM activity) / unit, 6)) AS foot FROM sums
    ), bars AS (
        SELECT string_agg(format('M%s 104v-%s', step * 10 + 5, round(greatest(a.succeeded / s.unit, 2), 1)), '' ORDER BY step)
                   FILTER (WHERE a.succeeded > 0) AS up,
               string_agg(format('M%s 106v%s', step * 10 + 5, round(greatest(a.failed / s.unit, 2), 1)), '' ORDER BY step)
                   FILTER (WHERE a.failed > 0) AS down,
               string_agg(format('M%s %sv3', step * 10 + 5, foot + 4), '' ORDER BY step)
                   FILTER (WHERE a.given_up > 0) AS marks,
               string_agg(format('<rect x="%s" y="%s" width="10" height="%s"><title>%s: %s succeeded, %s failed, %s given up</title></rect>',
                                 step * 10, top, foot + 8 - top, chatwebhook._dashboard_text(to_char(a.since, 'HH24:MI TZ')),
                                 chatwebhook._dashboard_number(a.succeeded), chatwebhook._dashboard_number(a.failed),
                                 chatwebhook._dashboard_number(a.given_up)), '' ORDER BY step) AS hints
          FROM activity a, sums s, depth
    ), axis AS (
        -- few steps have no room for the quarters
        SELECT string_agg(format('<span>%s</span>', chatwebhook._dashboard_text(
                   to_char(s.since + q * s.steps * interval '150 s', 'HH24:MI'))), '' ORDER BY q) AS labels
          FROM sums s, generate_series(0, 3) AS q
         WHERE q = 0 OR s.steps >= 12
    )
    SELECT format($html$<section class="card">
<h2>Attempts %s</h2>
<ul class="legend">
<li><svg viewBox="0 0 12 12" aria-hidden="true"><path d="M6 12V2"/></svg><b id="succeeded">%s</b> succeeded</li>
<li><svg viewBox="0 0 12 12" aria-hidden="true"><path class="f" d="M6 0V7"/></svg><b id="failed">%s</b> failed, below the line</li>
<li><svg viewBox="0 0 12 12" aria-hidden="true"><path class="g" d="M2 10.5H10"/></svg><b id="given_up">%s</b> given up, marked at the bottom</li>
<li>peak in ten minutes: <b>%s</b></li>
</ul>
<div style="max-width:%spx">
<svg class="chart" viewBox="0 %s %s %s" preserveAspectRatio="none" role="img" aria-label="%s succeeded, %s failed, %s given up; the figures are in the table below">
<line x1="0" y1="105" x2="%s" y2="105"/>
<path d="%s"/><path class="f" d="%s"/><path class="g" d="%s"/>
%s
</svg>
<div class="axis" aria-hidden="true">%s<span>now</span></div>
</div>
<details><summary>Figures by the hour</summary>
%s</details>
</section>
$html$,
           CASE WHEN s.steps = 72 THEN 'in the last 12 hours'
                ELSE 'since ' || chatwebhook._dashboard_text(to_char(s.since, 'HH24:MI TZ')) END,
           chatwebhook._dashboard_number(s.succeeded), chatwebhook._dashboard_number(s.failed),
           chatwebhook._dashboard_number(s.given_up), chatwebhook._dashboard_number(s.most),
           greatest(s.steps * 40, 160), top, s.steps * 10, foot + 8 - top,
           chatwebhook._dashboard_number(s.succeeded), chatwebhook._dashboard_number(s.failed),
           chatwebhook._dashboard_number(s.given_up), s.steps * 10,
           b.up, b.down, b.marks, b.hints, axis.labels,
           (SELECT chatwebhook._dashboard_table(NULL, 'Attempts by the hour, newest first',
                       '{From,#Succeeded,#Failed,"#Given up"}', array_agg(ARRAY[
                           chatwebhook._dashboard_text(to_char(h.since, 'YYYY-MM-DD HH24:MI TZ')),
                           chatwebhook._dashboard_number(h.succeeded), chatwebhook._dashboard_number(h.failed),
                           chatwebhook._dashboard_number(h.given_up)] ORDER BY h.since DESC))
              FROM (SELECT min(a.since), sum(a.succeeded), sum(a.failed), sum(a.given_up)
                      FROM activity a GROUP BY hour) AS h(since, succeeded, failed, given_up)))
      FROM sums s, depth, bars b, axis
     WHERE s.steps > 0
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_throughput(chatwebhook.activity[], timestamptz) IS
    'Returns the attempts of the last hours, as a chart and as a table: since this time if that is later, nothing if it is null.';

/*
 * Webhooks come worst first.  Those that need no attention are folded if they are
 * many.  In the small chart of the last 100 attempts, a success stands on the
 * line, as high as the root of its latency, and a failure hangs below it.
 */
CREATE FUNCTION chatwebhook._dashboard_webhooks(webhooks chatwebhook.webhook_health[], tones text[]) RETURNS text
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH hook AS MATERIALIZED (
        SELECT h.*, h.ordinality AS place, tones[h.ordinality] IS NOT NULL AS bad,
               coalesce(tones[h.ordinality], CASE h.state WHEN 'healthy' THEN 'good' ELSE 'off' END) AS tone
          FROM unnest(webhooks) WITH ORDINALITY AS h
    ), chart AS (
        SELECT h.webhook_id,
               count(*) FILTER (WHERE latency >= 0) AS succeeded, count(*) FILTER (WHERE latency < 0) AS failed,
               min(ms) AS least, max(ms) AS most,
               string_agg('M' || 201 - 2 * n || ' 23v-' || ceil(sqrt(ms) / unit + 0.5), '' ORDER BY n)
                   FILTER (WHERE latency >= 0) AS up,
               string_agg('M' || 201 - 2 * n || ' 25v8', '' ORDER BY n) FILTER (WHERE latency < 0) AS down
          FROM chatwebhook.health h
         CROSS JOIN LATERAL (SELECT sqrt(greatest(max(l), 1)) / 21 FROM unnest(h.recent[1:100]) AS l) AS u(unit)
         CROSS JOIN LATERAL unnest(h.recent[1:100]) WITH ORDINALITY AS r(latency, n)
         CROSS JOIN LATERAL (SELECT CASE WHEN latency >= 0 THEN latency ELSE -1 - latency END) AS x(ms)
         WHERE h.webhook_id IN (SELECT webhook_id FROM hook)
         GROUP BY h.webhook_id
    ), part AS (
        SELECT CASE WHEN NOT h.bad THEN 3 WHEN h.place > 25 THEN 2 ELSE 1 END AS part,
               count(*) AS size,
               string_agg(format($html$<tr role="row" id="w-%s">
<th role="rowheader" scope="row"><bdi>%s</bdi><small><bdi>%s</bdi></small>%s</th>
<td role="cell" class="c-state"><span class="state %s"><svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><use href="#i-%6$s"/></svg> %6$s</span></td>
<td role="cell" class="c-spark">%s</td>
<td role="cell" class="n" data-label="Succeeded">%s<small>%s</small></td>
<td role="cell" class="n" data-label="Latency">%s<small>%s</small></td>
<td role="cell" class="n" data-label="Pending">%s<small>%s</small></td>
<td role="cell" class="n" data-label="Dead">%s</td>
</tr>
$html$,
                   h.webhook_id, chatwebhook._dashboard_text(h.name, 120), chatwebhook._dashboard_text(h.url, 200),
                   concat('<span class="error ' || CASE WHEN h.state = 'paused' AND h.problem IS NOT NULL THEN h.tone ELSE '' END || '">' || CASE h.state
                              WHEN 'disabled' THEN 'Disabled: <bdi>' || chatwebhook._dashboard_text(w.disabled_reason, 300) || '</bdi>'
                              WHEN 'paused' THEN coalesce(CASE WHEN h.problem LIKE 'nothing matches its filter: %' THEN 'Nothing is queued: <bdi>'
                                                                ELSE 'Nothing can be sent: <bdi>' END || chatwebhook._dashboard_text(h.problem, 300) || '</bdi>',
                                  CASE WHEN h.next_probe_at > statement_timestamp()
                                       THEN 'Tried next in ' || chatwebhook._dashboard_age(h.next_probe_at)
                                       ELSE 'Tried as soon as something is due' END
                                  || CASE WHEN has_function_privilege('chatwebhook.resume(uuid)', 'EXECUTE')
                                          THEN format(' <code class="copy">SELECT chatwebhook.resume(%s);</code>',
                                                      chatwebhook._dashboard_text(quote_literal(h.webhook_id))) ELSE '' END) END || '</span>',
                          '<span class="error ' || CASE WHEN h.bad THEN h.tone ELSE 'muted' END || '">'
                              || CASE WHEN h.consecutive_failures > 1
                                      THEN chatwebhook._dashboard_number(h.consecutive_failures) || ' failures in a row, the last ' ELSE 'failed ' END
                              || chatwebhook._dashboard_age(h.last_failure_at) || ' ago: <bdi>'
                              || chatwebhook._dashboard_text(h.last_error, 300) || '</bdi></span>'),
                   h.tone, h.state,
                   CASE WHEN c.least IS NULL THEN '<span class="muted">no attempts yet</span>'
                        ELSE format('<svg class="spark" viewBox="0.5 0 200 34" preserveAspectRatio="none" role="img" aria-label="%1$s"><title>%1$s</title>'
                                    '<line x1="0" y1="24" x2="200" y2="24"/><path d="%2$s"/><path class="f" d="%3$s"/></svg>',
                                    format('The last %s, newest at the right: %s succeeded, %s failed; %s to %s',
                                           chatwebhook._dashboard_number(c.succeeded + c.failed, 'attempt'), c.succeeded, c.failed,
                                           chatwebhook._dashboard_number(c.least, 'ms'), chatwebhook._dashboard_number(c.most, 'ms')),
                                    c.up, c.down) END,
                   coalesce(chatwebhook._dashboard_number(h.success_rate, '%'), '&#8211;'),
                   chatwebhook._dashboard_number(h.successes::numeric / nullif(h.total, 0), '%')
                       || ' of ' || chatwebhook._dashboard_number(h.total),
                   coalesce(chatwebhook._dashboard_number(h.avg_latency_ms, 'ms'), '&#8211;'),
                   'p95 ' || chatwebhook._dashboard_number(h.p95_latency_ms, 'ms'),
                   chatwebhook._dashboard_number(h.pending),
                   'oldest ' || CASE WHEN h.pending > 0 THEN chatwebhook._dashboard_age(h.oldest_pending_at) END,
                   chatwebhook._dashboard_number(h.dead)), '' ORDER BY h.place) AS rows
          FROM hook h
          LEFT JOIN chart c ON c.webhook_id = h.webhook_id
          LEFT JOIN chatwebhook.webhook w ON w.id = h.webhook_id
         GROUP BY 1
    ), listed AS (
        SELECT p.part, p.size, format($html$<table class="hooks" role="table"><caption class="hidden">%s</caption>
<colgroup><col/><col class="c-state"/><col class="c-spark"/><col class="c-rate"/><col class="c-ms"/><col class="c-wait"/><col class="c-dead"/></colgroup>
<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Webhook</th><th role="columnheader" scope="col">State</th><th role="columnheader" scope="col">Last 100 attempts</th><th role="columnheader" scope="col" class="n">Succeeded</th><th role="columnheader" scope="col" class="n">Latency</th><th role="columnheader" scope="col" class="n">Pending</th><th role="columnheader" scope="col" class="n">Dead</th></tr></thead>
<tbody role="rowgroup">
%s</tbody></table>
$html$,
                   CASE p.part WHEN 1 THEN 'Webhooks that need attention, worst first'
                               WHEN 2 THEN 'More webhooks that need attention'
                               ELSE 'Webhooks that need no attention' END, p.rows) AS list
          FROM part p
    ), calm AS (
        SELECT string_agg(chatwebhook._dashboard_number(n) || ' ' || state, ', ' ORDER BY n DESC, state) AS states
          FROM (SELECT state, count(*) FROM hook WHERE NOT bad GROUP BY state) AS s(state, n)
    )
    SELECT E'<section class="card">\n<h2>Webhooks</h2>\n'
        || string_agg(CASE part
               WHEN 1 THEN list
               WHEN 2 THEN format(E'<details><summary>%s more %s attention</summary>\n%s</details>\n',
                                  chatwebhook._dashboard_number(size), CASE size WHEN 1 THEN 'needs' ELSE 'need' END, list)
               ELSE format(E'<details%s><summary>%s</summary>\n%s</details>\n',
                           CASE WHEN cardinality(webhooks) <= 12 THEN ' open="open"' END,
                           CASE WHEN size = cardinality(webhooks) THEN 'All webhooks: ' ELSE 'The others: ' END || calm.states,
                           list)
               END, '' ORDER BY part)
        || E'</section>\n'
      FROM listed, calm
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_webhooks(chatwebhook.webhook_health[], text[]) IS
    'Returns the table of webhooks. Those that need attention have a tone, bad or warn, and come first.';

CREATE FUNCTION chatwebhook._dashboard_reply(delivery_id bigint) RETURNS text
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN (SELECT nullif(btrim(regexp_replace(left(a.response_body, 500), '\s+', ' ', 'g')), '')
              FROM chatwebhook.attempt a
             WHERE a.delivery_id = _dashboard_reply.delivery_id
             ORDER BY a.attempt DESC LIMIT 1);
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_reply(bigint) IS
    'Returns the first words of the last reply to a delivery.';

/*
 * The deliveries that failed last, given up or to be retried.  They are of the
 * webhooks that failed last, so no others are searched.
 */
CREATE FUNCTION chatwebhook._dashboard_failures(webhooks chatwebhook.webhook_health[]) RETURNS text
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH hook AS MATERIALIZED (
        SELECT h.webhook_id, h.name, h.state, h.problem, h.next_probe_at
          FROM unnest(webhooks) h
         WHERE h.last_failure_at IS NOT NULL
         ORDER BY h.last_failure_at DESC, h.webhook_id LIMIT 10
    ), failure AS (
        SELECT h.webhook_id, h.name, h.state, h.problem, h.next_probe_at, f.*
          FROM hook h
         CROSS JOIN LATERAL (
               (SELECT d.id, d.event_id, coalesce(d.last_attempt_at, d.completed_at) AS failed_at, d.attempts,
                       d.last_status_code, d.last_error, NULL::timestamptz AS next_attempt_at
                  FROM chatwebhook.dead d WHERE d.webhook_id = h.webhook_id
                 ORDER BY d.id DESC LIMIT 500)
               UNION ALL
               -- those that wait for a retry are the last
               (SELECT q.id, q.event_id, q.last_attempt_at, q.attempts, q.last_status_code, q.last_error, q.next_attempt_at
                  FROM chatwebhook.queue q
                 WHERE q.webhook_id = h.webhook_id AND q.next_attempt_at < 'infinity'
                 ORDER BY q.next_attempt_at DESC, q.id DESC LIMIT 500)) f
         WHERE f.failed_at IS NOT NULL AND f.last_error IS NOT NULL
         ORDER BY f.failed_at DESC, f.id DESC LIMIT 10
    ), item AS (
        SELECT row_number() OVER (ORDER BY f.failed_at DESC, f.id DESC) AS place, format($html$<li><div>%s <span class="muted"><bdi>%s</bdi></span></div>
<div class="muted"><time datetime="%s">%s</time>, %s ago, %s</div>
<div><b class="%s">%s</b> <bdi>%s</bdi>%s</div>
<div class="muted">delivery %s%s</div></li>
$html$,
                   chatwebhook._dashboard_link(f.webhook_id, f.name), coalesce(chatwebhook._dashboard_text(e.type, 100), 'its event is gone'),
                   to_char(f.failed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                   chatwebhook._dashboard_text(to_char(f.failed_at, 'YYYY-MM-DD HH24:MI:SS TZ')), chatwebhook._dashboard_age(f.failed_at),
                   CASE WHEN f.next_attempt_at IS NULL THEN 'given up after ' || chatwebhook._dashboard_number(f.attempts, 'attempt')
                        WHEN f.state = 'disabled' OR f.state = 'paused' AND (f.problem NOT LIKE 'nothing matches its filter: %' OR f.next_attempt_at <= statement_timestamp())
                        THEN 'waits, because its webhook is ' || f.state
                        WHEN f.next_attempt_at <= statement_timestamp() THEN 'to be retried now'
                        -- nothing is retried while its webhook is paused
                        ELSE 'to be retried in ' || chatwebhook._dashboard_age(greatest(f.next_attempt_at, f.next_probe_at)) END,
                   CASE WHEN f.next_attempt_at IS NULL THEN 'bad' ELSE 'warn' END, coalesce(f.last_status_code::text, 'no reply'),
                   CASE WHEN r.reply IS NULL OR f.last_error <> 'HTTP status ' || f.last_status_code
                        THEN chatwebhook._dashboard_text(f.last_error, 160) ELSE '' END,
                   ' <q><bdi>' || chatwebhook._dashboard_text(r.reply, 160) || '</bdi></q>',
                   f.id, CASE WHEN e.id IS NOT NULL AND has_function_privilege('chatwebhook.retry(bigint)', 'EXECUTE')
                              THEN ' <code class="copy">SELECT chatwebhook.retry(' || f.id || ');</code>' END) AS html
          FROM failure f
          LEFT JOIN chatwebhook.event e ON e.id = f.event_id
         CROSS JOIN LATERAL (
               SELECT CASE WHEN has_table_privilege('chatwebhook.attempt', 'SELECT')
                           THEN chatwebhook._dashboard_reply(f.id) END) AS r(reply)
    )
    SELECT E'<section class="card">\n<h2>Recent failures</h2>\n<ul class="failures">\n'
        || string_agg(html, '' ORDER BY place) FILTER (WHERE place <= 5) || E'</ul>\n'
        || coalesce('<details><summary>' || count(*) - 5 || E' more</summary>\n<ul class="failures">\n'
                    || string_agg(html, '' ORDER BY place) FILTER (WHERE place > 5) || E'</ul></details>\n', '')
        || E'</section>\n'
      FROM item
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_failures(chatwebhook.webhook_health[]) IS
    'Returns the deliveries that failed last, with the statements that retry them.';

CREATE FUNCTION chatwebhook._dashboard_alerts(
    alerts chatwebhook.alert[], webhooks chatwebhook.webhook_health[], figures jsonb) RETURNS text
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH alert AS (
        SELECT a.kind, row_number() OVER (PARTITION BY a.kind ORDER BY a.opened_at DESC, a.id) AS place,
               count(*) OVER (PARTITION BY a.kind) AS n, a.watch IS NULL AS of_webhook,
               ARRAY[chatwebhook._dashboard_link(h.webhook_id, coalesce(h.name, a.webhook_name, a.watch)),
                     '<bdi>' || chatwebhook._dashboard_text(a.message, 400) || '</bdi>',
                     coalesce(CASE WHEN a.watch IS NOT NULL THEN chatwebhook._dashboard_text(figures->>a.watch)
                                   WHEN a.kind = 'consecutive_failures' THEN chatwebhook._dashboard_number(h.consecutive_failures) || ' failed in a row'
                                   WHEN a.kind = 'low_success_rate' THEN chatwebhook._dashboard_number(h.success_rate, '%') || ' succeeded'
                                   ELSE chatwebhook._dashboard_number(h.pending) || ' pending'
                                        || CASE WHEN h.pending > 0 THEN coalesce(', the oldest ' || chatwebhook._dashboard_age(h.oldest_pending_at), '') ELSE '' END
                              END, '&#8211;'),
                     chatwebhook._dashboard_age(a.opened_at)] AS cells
          FROM unnest(alerts) a LEFT JOIN unnest(webhooks) h ON h.webhook_id = a.webhook_id
    ), kind AS (
        SELECT coalesce(k.place, 7) AS place, a.kind,
               format($html$<h3 class="alert"><svg class="icon %s" viewBox="0 0 16 16" aria-hidden="true"><use href="#i-%s"/></svg> <bdi>%s</bdi> <small>%s</small></h3>
%s$html$,
                      CASE WHEN k.place <= 3 THEN 'bad' ELSE 'warn' END,
                      CASE WHEN k.place <= 3 THEN 'failing' ELSE 'degraded' END, t.title,
                      chatwebhook._dashboard_number(max(a.n), CASE WHEN bool_and(a.of_webhook) THEN 'webhook' ELSE '' END),
                      chatwebhook._dashboard_table(NULL, t.title, '{About,"At opening",Now,"#Open for"}', array_agg(a.cells ORDER BY a.place),
                          'and ' || chatwebhook._dashboard_number(nullif(greatest(max(a.n) - 10, 0), 0))
                              || ' more; the view <code>chatwebhook.alert</code> has all of them')) AS list
          FROM alert a
          LEFT JOIN (VALUES (1, 'emit_failed', 'Events not emitted'), (2, 'webhook_disabled', 'Disabled, or nothing can be sent'),
                            (3, 'consecutive_failures', 'Failures in a row'), (4, 'outbox_backlog', 'Outbox waits'),
                            (5, 'backlog', 'Backlog'), (6, 'low_success_rate', 'Low success rate')) AS k(place, kind, title)
                 ON k.kind = a.kind
         CROSS JOIN LATERAL (SELECT coalesce(k.title, chatwebhook._dashboard_text(a.kind, 60))) AS t(title)
         WHERE a.place <= 10
         GROUP BY k.place, a.kind, t.title
    )
    SELECT E'<section class="card">\n<h2>Open alerts</h2>\n' || string_agg(list, '' ORDER BY place, kind) || E'</section>\n'
      FROM kind
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_alerts(chatwebhook.alert[], chatwebhook.webhook_health[], jsonb) IS
    'Returns the open alerts by kind, with the figures of now: for watches, these.';

CREATE FUNCTION chatwebhook._dashboard_emit_failures(OUT html text, OUT figures jsonb)
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT has_table_privilege('chatwebhook.emit_failure', 'SELECT') THEN
        RETURN;
    END IF;

    WITH failure AS (
        SELECT f.*, chatwebhook._watch_label(f.relation, f.trigger_name) AS watch, count(*) OVER () AS n
          FROM chatwebhook.emit_failure f
    ), listed AS (
        SELECT * FROM failure f ORDER BY f.last_at DESC, f.watch, f.message LIMIT 10
    )
    SELECT chatwebhook._dashboard_table('Events that could not be emitted', 'Why events were lost, newest first',
               '{Watch,Why,#Rows,#Last}', array_agg(ARRAY[
                   chatwebhook._dashboard_link(NULL, l.watch) || '<small><bdi>' || chatwebhook._dashboard_text(l.event_type, 100) || '</bdi></small>',
                   '<bdi>' || chatwebhook._dashboard_text(l.message, 300) || '</bdi>',
                   chatwebhook._dashboard_number(l.failures), chatwebhook._dashboard_age(l.last_at) || ' ago']
                   ORDER BY l.last_at DESC, l.watch, l.message),
               concat('The newest ten of ' || chatwebhook._dashboard_number(nullif(greatest(max(l.n), 10), 10)) || '. ',
                      'These events are lost. Mend the watch; <code>chatwebhook.backfill()</code> can emit them afterwards.')),
           (SELECT coalesce(jsonb_object_agg(w.watch, chatwebhook._dashboard_number(w.n, 'row')), '{}')
              FROM (SELECT f.watch, sum(f.failures) FROM failure f GROUP BY f.watch) AS w(watch, n))
      INTO html, figures
      FROM listed l;
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_emit_failures() IS
    'Returns the events that could not be emitted, and for each watch how many rows.';

CREATE FUNCTION chatwebhook._dashboard_outbox(OUT stuck boolean, OUT html text, OUT waiting text)
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    SELECT bool_or(o.state IN ('lost', 'missing')),
           chatwebhook._dashboard_table('Outbox', 'The replication slots that have to confirm events',
               '{Slot,State,"#Not confirmed"}', array_agg(ARRAY[
                   coalesce('<bdi>' || chatwebhook._dashboard_text(o.slot_name) || '</bdi>', '<i>no delivery node has subscribed</i>'),
                   format('<span class="%s">%s</span>',
                          CASE WHEN o.state IN ('lost', 'missing') THEN 'bad' WHEN NOT o.active OR o.state <> 'confirming' THEN 'warn' END,
                          o.state || CASE WHEN NOT o.active THEN ', not connected' ELSE '' END),
                   CASE WHEN o.state <> 'missing' THEN pg_size_pretty(o.lag_bytes) ELSE '&#8211;' END] ORDER BY o.slot_name),
               format('%s%s in the outbox%s', chatwebhook._dashboard_number(max(o.events), 'event'),
                      CASE WHEN max(o.events) = 10000 THEN ' or more' END,
                      ', the oldest ' || chatwebhook._dashboard_age(min(o.oldest_at)))),
           chatwebhook._dashboard_number(max(o.events), 'event')
      INTO stuck, html, waiting
      FROM chatwebhook.outbox_status o;
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_outbox() IS
    'Returns whether the outbox waits for a delivery node that does not come, its slots, and how many events are in it.';

CREATE FUNCTION chatwebhook._dashboard_backlog(webhooks chatwebhook.webhook_health[]) RETURNS text
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH longest AS (
        SELECT h.*, count(*) OVER () AS hooks
          FROM unnest(webhooks) h WHERE h.pending > 0
         ORDER BY h.pending DESC, h.oldest_pending_at, h.webhook_id LIMIT 5
    )
    SELECT chatwebhook._dashboard_table('Backlog', 'The webhooks with the most pending deliveries',
               '{"Waiting for",#Pending,"#In flight",#Oldest}', array_agg(ARRAY[
                   chatwebhook._dashboard_link(l.webhook_id, l.name), chatwebhook._dashboard_number(l.pending),
                   chatwebhook._dashboard_number(l.in_flight), chatwebhook._dashboard_age(l.oldest_pending_at)]
                   ORDER BY l.pending DESC, l.oldest_pending_at, l.webhook_id),
               'and ' || chatwebhook._dashboard_number(nullif(greatest(max(l.hooks) - 5, 0), 0), 'other webhook'))
      FROM longest l
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_backlog(chatwebhook.webhook_health[]) IS
    'Returns the webhooks with the most pending deliveries.';

/*
 * Only the newest ten thousand dead letters are read, so that the page is fast
 * after a bad week, too.
 */
CREATE FUNCTION chatwebhook._dashboard_dead_letters(
    webhooks chatwebhook.webhook_health[], dead numeric, OUT given_up bigint, OUT html text)
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    operator constant boolean := has_table_privilege('chatwebhook.worker_status', 'SELECT');
BEGIN
    WITH newest AS (
        (SELECT d.webhook_id, d.webhook_name, d.last_error, d.completed_at
           FROM chatwebhook.dead d WHERE operator
          ORDER BY d.id DESC LIMIT 10000)
        UNION ALL
        -- an app must not read past those of others
        SELECT f.* FROM unnest(webhooks) h
         CROSS JOIN LATERAL (
               SELECT d.webhook_id, d.webhook_name, d.last_error, d.completed_at
                 FROM chatwebhook.dead d WHERE d.webhook_id = h.webhook_id
                ORDER BY d.id DESC LIMIT 10000 / greatest(cardinality(webhooks), 1)) f
         WHERE NOT operator
    ), reason AS (
        SELECT g.last_error, sum(g.n)::bigint AS n, max(g.newest) AS newest, sum(g.recent)::bigint AS recent, count(*) AS hooks,
               (array_agg(g.webhook_name ORDER BY g.n DESC, g.webhook_name))[1:3] AS names
          FROM (SELECT last_error, webhook_id, max(webhook_name), count(*), max(completed_at),
                       count(*) FILTER (WHERE completed_at > statement_timestamp() - interval '1 day')
                  FROM newest GROUP BY last_error, webhook_id) AS g(last_error, webhook_id, webhook_name, n, newest, recent)
         GROUP BY g.last_error
    ), listed AS (
        SELECT r.*, count(*) OVER () AS reasons, sum(r.n) OVER () AS counted, sum(r.recent) OVER () AS recently
          FROM reason r ORDER BY r.n DESC, r.newest DESC, r.last_error LIMIT 10
    )
    SELECT max(l.recently), chatwebhook._dashboard_table('Dead letters by reason', 'Why deliveries were given up, most frequent first',
               '{Reason,Webhooks,"#Dead letters",#Newest}', array_agg(ARRAY[
                   coalesce('<bdi>' || chatwebhook._dashboard_text(l.last_error, 300) || '</bdi>', '<i>not recorded</i>'),
                   (SELECT string_agg(chatwebhook._dashboard_link(NULL, u.name), ', ' ORDER BY u.place)
                      FROM unnest(l.names) WITH ORDINALITY AS u(name, place))
                       || coalesce(' and ' || chatwebhook._dashboard_number(nullif(greatest(l.hooks - 3, 0), 0)) || ' more', ''),
                   chatwebhook._dashboard_number(l.n), chatwebhook._dashboard_age(l.newest) || ' ago']
                   ORDER BY l.n DESC, l.newest DESC, l.last_error),
               concat('The most frequent ten of ' || CASE WHEN max(l.reasons) > 10 THEN chatwebhook._dashboard_number(max(l.reasons)) END || ' reasons. ',
                      'Of ' || CASE WHEN dead > max(l.counted) THEN chatwebhook._dashboard_number(dead) END
                          || ' dead letters, the newest ' || chatwebhook._dashboard_number(max(l.counted)) || ' are counted here. ',
                      'The view <code>chatwebhook.dead_letter</code> shows them with their events; <code>chatwebhook.retry_dead()</code> tries them again.'))
      INTO given_up, html
      FROM listed l;
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_dead_letters(chatwebhook.webhook_health[], numeric) IS
    'Returns how many deliveries were given up in the last day, and the reasons of all dead letters, of which there are that many.';

CREATE FUNCTION chatwebhook._dashboard_workers() RETURNS text
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT chatwebhook._dashboard_table('Workers', 'The workers of this database',
               '{Process,#Started,"#In flight",#Succeeded,#Failed,"#Last active"}', array_agg(ARRAY[
                   concat('<b>', s.pid, '</b>', '<span class="error bad"><bdi>' || chatwebhook._dashboard_text(s.last_error, 300) || '</bdi></span>'),
                   chatwebhook._dashboard_age(s.started_at) || ' ago', chatwebhook._dashboard_number(s.in_flight),
                   chatwebhook._dashboard_number(s.delivered), chatwebhook._dashboard_number(s.failed),
                   coalesce(chatwebhook._dashboard_age(s.last_activity_at) || ' ago', 'never')] ORDER BY s.started_at, s.pid),
               CASE WHEN bool_or(s.secrets_encrypted IS NULL)
                    THEN '<span class="bad">The key file of <code>chatwebhook.secret_key_file</code> cannot be used.</span>' END)
      FROM chatwebhook.worker_status s
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_workers() IS
    'Returns the table of workers.';

CREATE FUNCTION chatwebhook.dashboard(refresh integer DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
    AS $$
DECLARE
    max_webhooks constant integer := 500;
    operator     constant boolean := has_table_privilege('chatwebhook.worker_status', 'SELECT');
    chatbot      constant text := nullif(current_setting('chatwebhook.chatbot', true), '');
    half_day     constant timestamptz := to_timestamp((floor(extract(epoch FROM statement_timestamp()) / 600) - 71) * 600);
    alerts       chatwebhook.alert[];
    webhooks     chatwebhook.webhook_health[];
    activity     chatwebhook.activity[];
    since        timestamptz;
    partial      boolean := false;
    sums         record;
    sent         record;
    figures      jsonb;
    given_up     bigint;
    stuck        boolean;
    waiting      text;
    notices      text;
    tone         text;
    headline     text;
    details      text;
    tiles        text;
    dead_list    text;
    emit_list    text;
    outbox_list  text;
    worker_list  text;
BEGIN
    IF refresh NOT BETWEEN 5 AND 86400 THEN
        RAISE EXCEPTION 'the page cannot refresh itself every % seconds', refresh
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Pass between 5 and 86400 seconds, or null for a page that does not.';
    END IF;

    SELECT coalesce(array_agg(a), '{}') INTO alerts FROM chatwebhook.alert a WHERE a.closed_at IS NULL;

    -- red: it loses events or sends nothing; amber: anything less
    WITH alerted AS (
        SELECT a.webhook_id, bool_or(a.kind = 'webhook_disabled') AS stopped,
               bool_or(a.kind = 'consecutive_failures') AS failing FROM unnest(alerts) a GROUP BY a.webhook_id
    ), hook AS (
        SELECT h, t.tone, row_number() OVER (
                   ORDER BY t.tone, array_position('{failing,disabled,paused,degraded,healthy,idle}'::text[],
                                                   CASE WHEN t.tone IS NULL THEN replace(h.state, 'disabled', 'idle') ELSE h.state END),
                            h.success_rate, h.pending DESC, h.name, h.webhook_id) AS place
          FROM chatwebhook.webhook_health h
          LEFT JOIN alerted a ON a.webhook_id = h.webhook_id
         CROSS JOIN LATERAL (
               SELECT CASE WHEN a.stopped OR h.state = 'failing' OR h.state = 'disabled' AND h.pending > 0
                             OR h.state = 'paused' AND (a.failing OR h.problem IS NOT NULL OR h.success_rate = 0) THEN 'bad'
                           WHEN a.webhook_id IS NOT NULL OR h.state IN ('degraded', 'paused') THEN 'warn' END) AS t(tone)
    )
    SELECT count(*) AS hooks, coalesce(sum((w.h).pending), 0) AS pending, min((w.h).oldest_pending_at) AS oldest,
           coalesce(sum((w.h).dead), 0) AS dead, count(*) FILTER (WHERE (w.h).dead > 0) AS dead_hooks,
           coalesce(sum((w.h).total), 0) AS total,
           coalesce(array_agg(w.h ORDER BY w.place) FILTER (WHERE w.place <= max_webhooks), '{}') AS listed,
           array_agg(w.tone ORDER BY w.place) FILTER (WHERE w.place <= max_webhooks) AS tones,
           count(*) FILTER (WHERE w.tone = 'bad') AS losing, count(w.tone) AS troubled,
           array_agg((w.h).state) FILTER (WHERE w.tone IS NOT NULL) AS bad_states, array_agg((w.h).state) AS states
      INTO sums FROM hook w;
    webhooks := sums.listed;

    IF operator THEN
        SELECT array_agg(a) INTO activity FROM chatwebhook.activity a WHERE a.since >= half_day;
        SELECT min(a.since) INTO since FROM chatwebhook.activity a;
    ELSE
        -- there is no activity by webhook, so count the newest deliveries
        WITH finished AS (
            SELECT f.*, f.place = l.most AND f.at > half_day AS cut
              FROM unnest(webhooks) h
             CROSS JOIN (SELECT 20000 / greatest(cardinality(webhooks), 1)) AS l(most)
             CROSS JOIN LATERAL (
                   (SELECT d.completed_at AS at, (d.status = 'delivered')::integer AS succeeded,
                           d.attempts - (d.status = 'delivered')::integer AS failed, 0 AS given_up,
                           row_number() OVER (ORDER BY d.id DESC) AS place
                      FROM chatwebhook.history d WHERE d.webhook_id = h.webhook_id ORDER BY d.id DESC LIMIT l.most)
                   UNION ALL
                   (SELECT d.completed_at, 0, d.attempts, 1, row_number() OVER (ORDER BY d.id DESC)
                      FROM chatwebhook.dead d WHERE d.webhook_id = h.webhook_id ORDER BY d.id DESC LIMIT l.most)) f
        )
        SELECT array_agg(ROW(f.at, 0, f.succeeded, greatest(f.failed, 0), f.given_up)::chatwebhook.activity) FILTER (WHERE f.at >= half_day),
               min(f.at), coalesce(bool_or(f.cut), false)
          INTO activity, since, partial
          FROM finished f;
    END IF;
    SELECT coalesce(sum(a.succeeded), 0) AS succeeded, coalesce(sum(a.failed), 0) AS failed INTO sent FROM unnest(activity) a;

    SELECT * INTO given_up, dead_list FROM chatwebhook._dashboard_dead_letters(webhooks, sums.dead);
    SELECT * INTO emit_list, figures FROM chatwebhook._dashboard_emit_failures();
    IF operator THEN
        SELECT * INTO stuck, outbox_list, waiting FROM chatwebhook._dashboard_outbox();
        worker_list := chatwebhook._dashboard_workers();
        figures := coalesce(figures, '{}') || jsonb_build_object('outbox', waiting);
    END IF;

    -- the headline: a state, a sentence, and its reasons
    notices := chatwebhook._dashboard_notices(webhooks);
    SELECT h.tone, h.headline INTO tone, headline
      FROM (VALUES
        (1, 'bad', notices LIKE '%class="card notice bad"%', 'Nothing is being sent'),
        (2, 'bad', EXISTS (SELECT FROM unnest(alerts) a WHERE a.kind = 'emit_failed'), 'Events are being lost'),
        (3, 'bad', sums.losing > 0,
         format('%s of %s %s nothing', chatwebhook._dashboard_number(sums.losing),
                chatwebhook._dashboard_number(sums.hooks, 'webhook'), CASE sums.losing WHEN 1 THEN 'delivers' ELSE 'deliver' END)),
        (4, 'bad', stuck, 'The outbox waits for a delivery node'),
        (5, 'warn', sums.troubled > 0,
         format('%s of %s %s attention', chatwebhook._dashboard_number(sums.troubled),
                chatwebhook._dashboard_number(sums.hooks, 'webhook'), CASE sums.troubled WHEN 1 THEN 'needs' ELSE 'need' END)),
        (6, 'warn', cardinality(alerts) > 0, chatwebhook._dashboard_number(cardinality(alerts), 'open alert')),
        (7, 'warn', given_up > 0, 'Deliveries were given up'),
        (8, 'off', sums.hooks = 0 AND outbox_list IS NULL,
         CASE WHEN operator OR chatbot IS NOT NULL THEN 'No webhooks yet' ELSE 'No chatbot is chosen' END),
        (9, 'off', sums.total + sums.pending + sums.dead = 0 AND outbox_list IS NULL, 'Nothing has been sent yet'),
        (10, 'good', true, 'All is well')) AS h(n, tone, applies, headline)
     WHERE h.applies
     ORDER BY h.n LIMIT 1;
    SELECT string_agg(chatwebhook._dashboard_number(s.n) || ' ' || s.state, ', '
                      ORDER BY array_position('{failing,disabled,paused,degraded,healthy,idle}'::text[], s.state))
      INTO details
      FROM (SELECT u.state, count(*) FROM unnest(coalesce(sums.bad_states, sums.states)) AS u(state) GROUP BY u.state) AS s(state, n);
    details := concat_ws(' &#183; ', 'Webhooks: ' || details, chatwebhook._dashboard_number(nullif(given_up, 0)) || ' given up in the last 24 hours');

    SELECT string_agg(format(E'<div><dt>%s</dt><dd class="figure %s" id="%s">%s</dd><dd class="muted">%s</dd></div>\n',
                             t.label, CASE WHEN t.figure > 0 THEN t.tone END, t.id,
                             chatwebhook._dashboard_number(t.figure), t.remark), '' ORDER BY t.n)
      INTO tiles
      FROM (VALUES (1, 'Succeeded', 't-succeeded', sent.succeeded, NULL, 'in 12 hours'),
                   (2, 'Failed', 't-failed', sent.failed, 'warn', 'in 12 hours'),
                   (3, 'Pending', 'pending', sums.pending, NULL,
                    CASE WHEN sums.pending = 0 THEN 'nothing is waiting'
                         ELSE coalesce('oldest ' || chatwebhook._dashboard_age(sums.oldest), 'scheduled') END),
                   (4, 'Dead letters', 'dead', sums.dead, 'warn',
                    CASE WHEN sums.dead > 0 THEN 'of ' || chatwebhook._dashboard_number(sums.dead_hooks, 'webhook') ELSE 'none was given up' END),
                   (5, 'Open alerts', 'alerts', cardinality(alerts), CASE WHEN tone = 'bad' THEN 'bad' ELSE 'warn' END,
                    CASE WHEN cardinality(alerts) > 0 THEN 'see below' ELSE 'all quiet' END)
           ) AS t(n, label, id, figure, tone, remark);

    RETURN concat(
        chatwebhook._dashboard_head(refresh),
        format(E'<header class="%s">\n<h1><svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><use href="#i-%s"/></svg><span>%s</span></h1>\n',
               tone, CASE tone WHEN 'bad' THEN 'failing' WHEN 'warn' THEN 'degraded' WHEN 'good' THEN 'healthy' ELSE 'idle' END, headline),
        '<div>' || nullif(details, '') || E'</div>\n',
        '<div class="muted">chatwebhook &#183; ',
        CASE WHEN operator THEN 'database <bdi>' || chatwebhook._dashboard_text(current_database(), 120) || '</bdi>'
             ELSE 'chatbot <bdi>' || coalesce(chatwebhook._dashboard_text(chatbot, 120), '&#8211;') || '</bdi>' END,
        format(' &#183; <time datetime="%s">%s</time>',
            to_char(statement_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
            chatwebhook._dashboard_text(to_char(statement_timestamp(), 'YYYY-MM-DD HH24:MI:SS TZ'))),
        E'</div>\n</header>\n<main>\n',
        notices,
        CASE WHEN sums.hooks > 0 OR since IS NOT NULL OR cardinality(alerts) > 0 THEN concat(E'<dl class="tiles">\n', tiles, E'</dl>\n') END,
        chatwebhook._dashboard_alerts(alerts, webhooks, figures),
        emit_list,
        outbox_list,
        chatwebhook._dashboard_failures(webhooks),
        chatwebhook._dashboard_throughput(activity, since),
        CASE WHEN NOT operator AND since IS NOT NULL THEN concat('<p class="muted">The failed attempts of a delivery are shown when it has ended.',
            CASE WHEN partial THEN ' Only the newest deliveries are counted.' END, E'</p>\n') END,
        chatwebhook._dashboard_webhooks(webhooks, sums.tones),
        '<p class="muted">The view <code>chatwebhook.webhook_health</code> has '
            || chatwebhook._dashboard_number(nullif(greatest(sums.hooks - max_webhooks, 0), 0), 'more webhook') || E'.</p>\n',
        chatwebhook._dashboard_backlog(webhooks),
        dead_list,
        worker_list,
        E'</main>\n<footer>Made by <code>SELECT chatwebhook.dashboard(', refresh, E')</code>. Rates, latencies and small charts are of each webhook&#39;s last 100 attempts; the rate in small print is of all its attempts.</footer>\n</body>\n</html>');
END
$$;
COMMENT ON FUNCTION chatwebhook.dashboard(integer) IS
    'Returns the state of everything as one HTML page without scripts: psql -Atc ''SELECT chatwebhook.dashboard()'' > status.html. With refresh, a browser reloads the page after that many seconds. Each role sees the same rows as in the views; an app sees those of its chatbot.';
