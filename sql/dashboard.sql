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
    s := greatest(0, floor(extract(epoch FROM statement_timestamp() - since)));
    RETURN format('<time datetime="%s">%s</time>',
                  to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                  CASE WHEN s < 60 THEN s || ' s'
                       WHEN s < 3600 THEN s / 60 || ' min'
                       WHEN s < 172800 THEN s / 3600 || ' h'
                       ELSE chatwebhook._dashboard_number(s / 86400, 'day') END);
END
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_age(timestamptz) IS 'Returns how long ago that was, in one unit.';

/*
 * The policy in the head forbids scripts, and anything from elsewhere, in case a
 * value ever slips through.  Each state has a shape as well as a color.
 */
CREATE FUNCTION chatwebhook._dashboard_head() RETURNS text
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
<title>chatwebhook: %s</title>
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
header { padding-top: 32px; padding-bottom: 8px; }
footer { padding-top: 8px; padding-bottom: 40px; color: var(--muted); font-size: 13px; }
h1 { margin: 4px 0 2px; font-size: 26px; line-height: 1.25; font-weight: 650; letter-spacing: -0.01em; display: flex; gap: 12px; align-items: flex-start; }
h1 .icon { width: 26px; height: 26px; margin-top: 3px; }
h2 { margin: 0 0 12px; font-size: 16px; font-weight: 650; }
h3 { margin: 0 0 4px; font-size: 15px; font-weight: 650; }
p { margin: 0 0 8px; }
a { color: inherit; text-decoration-color: var(--muted); text-underline-offset: 2px; }
a:focus-visible, summary:focus-visible { outline: 2px solid var(--bar); outline-offset: 2px; border-radius: 3px; }
small, .muted { color: var(--muted); font-size: 13px; font-weight: 400; }
bdi { unicode-bidi: isolate; }
code { font: 13px/1.55 ui-monospace, "SFMono-Regular", Menlo, Consolas, "Liberation Mono", monospace; }
pre { margin: 8px 0; padding: 10px 12px; background: var(--soft); border-radius: 6px; white-space: pre-wrap; }
.icon { width: 16px; height: 16px; flex: none; vertical-align: -2px; }
.over { color: var(--muted); font-size: 13px; letter-spacing: 0.02em; }
.card { margin: 16px 0; padding: 18px 20px; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.notice { border-left: 4px solid var(--bar); }
.notice.bad { border-left-color: var(--bad); }
.notice p:last-child, .notice pre:last-child { margin-bottom: 0; }
.failing, .bad { color: var(--bad); }
.degraded, .paused, .warn { color: var(--warn); }
.healthy, .good { color: var(--good); }
.disabled, .idle { color: var(--off); }
.notice.bad { color: inherit; }
.state { white-space: nowrap; font-weight: 600; }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(124px, 1fr)); gap: 12px; margin: 16px 0; }
.tiles div { padding: 14px 16px; background: var(--card); border: 1px solid var(--line); border-radius: 10px; min-width: 0; }
.tiles dt { color: var(--muted); font-size: 13px; }
.tiles dd { margin: 0; }
.tiles dd.figure { font-size: 26px; line-height: 1.3; font-weight: 600; letter-spacing: -0.01em; }

ul.alerts { list-style: none; margin: 0; padding: 0; }
ul.alerts li { display: flex; gap: 10px; padding: 10px 0; border-top: 1px solid var(--line); }
ul.alerts li:first-child { border-top: 0; padding-top: 0; }
ul.alerts li:last-child { padding-bottom: 0; }
ul.alerts + details { margin-top: 8px; }
ul.alerts .icon { margin-top: 4px; color: var(--bad); }
ul.alerts div { min-width: 0; overflow: hidden; }

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
.spark path { stroke-width: 1.5; }

summary { cursor: pointer; padding: 6px 0; color: var(--muted); font-size: 14px; }
details > table { margin-top: 6px; }
table { width: 100%%; border-collapse: collapse; table-layout: fixed; }
caption { text-align: left; }
.hidden { position: absolute; width: 1px; height: 1px; margin: -1px; overflow: hidden; clip-path: inset(50%%); white-space: nowrap; }
th, td { padding: 10px 16px 10px 0; text-align: left; vertical-align: top; border-top: 1px solid var(--line); font-weight: 400; }
thead th { padding-top: 0; padding-bottom: 6px; border-top: 0; color: var(--muted); font-size: 13px; }
th:last-child, td:last-child { padding-right: 0; }
tbody th, tbody td, header div { overflow: hidden; }
tbody th > bdi, tbody th > a { font-weight: 600; }
tr:target { background: var(--soft); }
td small, th small { display: block; }
.n { text-align: right; }
.error { display: block; margin-top: 4px; font-size: 13px; }
.hooks col.c-state { width: 118px; } .hooks col.c-spark { width: 236px; } .hooks col.c-rate { width: 116px; }
.hooks col.c-ms { width: 104px; } .hooks col.c-wait { width: 104px; } .hooks col.c-dead { width: 64px; }
.plain col.w { width: 112px; }

@media (max-width: 1080px) {
  .hooks, .hooks tbody, .hooks tr, .hooks th, .hooks td { display: block; }
  .hooks colgroup, .hooks thead { display: none; }
  .hooks tr { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 10px 12px; padding: 14px 0; border-top: 1px solid var(--line); }
  .hooks th, .hooks td { border: 0; padding: 0; text-align: left; }
  .hooks th { grid-column: 1 / 4; }
  .hooks td.c-state { grid-column: 4; text-align: right; }
  .hooks td.c-spark { grid-column: 1 / -1; }
  .spark { max-width: none; }
  .hooks td[data-label]::before { content: attr(data-label); display: block; color: var(--muted); font-size: 12px; }
}
@media (max-width: 600px) {
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
  .hooks tr { gap: 8px; }
  .hooks td small { font-size: 12px; line-height: 1.35; }
  .hooks th { grid-column: 1 / -1; }
  .hooks td.c-state { grid-column: 1 / -1; text-align: left; }
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
$html$, chatwebhook._dashboard_text(current_database()))
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_head() IS
    'Returns the head of the page, with its style and the shapes of the states.';

CREATE FUNCTION chatwebhook._dashboard_notices(webhooks chatwebhook.webhook_health[]) RETURNS text
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    blocked text;
    next    text;
BEGIN
    -- a customer can do nothing about the server
    IF has_table_privilege('chatwebhook.worker_status', 'SELECT') THEN
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

    IF coalesce(cardinality(webhooks), 0) = 0 THEN
        next := '<h3>There are no webhooks yet</h3><p>Create one, and emit events from your tables:</p><pre><code>'
            || chatwebhook._dashboard_text('SELECT * FROM chatwebhook.create_webhook(') || E'\n'
            || chatwebhook._dashboard_text('    name => ''crm'', url => ''https://crm.example.com/hook'', events => ''{lead.*}''') || E');\n\n'
            || chatwebhook._dashboard_text('CREATE TRIGGER lead_captured AFTER INSERT ON lead') || E'\n'
            || chatwebhook._dashboard_text('    FOR EACH ROW EXECUTE FUNCTION chatwebhook.emit(') || E'\n'
            || chatwebhook._dashboard_text('        ''lead.captured'', ''email'', ''source=@widget'', ''conversationSummary=summary'');') || '</code></pre>';
    ELSIF blocked IS NULL
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
 * Attempts of the last twelve hours, in steps of ten minutes.  Successes stand on
 * the line of the chart, failures hang below it.
 */
CREATE FUNCTION chatwebhook._dashboard_throughput() RETURNS text
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH activity AS MATERIALIZED (
        -- steps without activity, too
        SELECT s.step, to_timestamp(n * 600) AS since, coalesce(sum(a.succeeded), 0) AS succeeded,
               coalesce(sum(a.failed), 0) AS failed, coalesce(sum(a.given_up), 0) AS given_up
          FROM (SELECT g, floor(extract(epoch FROM statement_timestamp()) / 600) - 71 + g
                  FROM generate_series(0, 71) g) AS s(step, n)
          LEFT JOIN chatwebhook.activity a
                 ON a.since >= to_timestamp(n * 600) AND a.since < to_timestamp((n + 1) * 600)
         GROUP BY s.step, n
    ), sums AS (
        SELECT sum(succeeded) AS succeeded, sum(failed) AS failed, sum(given_up) AS given_up,
               max(succeeded) AS most,
               greatest(max(succeeded) / 100, max(failed) / 40, 0.01) AS unit
          FROM activity
    ), depth AS (
        SELECT 106 + round(greatest((SELECT max(failed) FROM activity) / unit, 6)) AS foot FROM sums
    ), bars AS (
        SELECT string_agg(format('M%s 104v-%s', step * 10 + 5, round(greatest(a.succeeded / s.unit, 2), 1)), '' ORDER BY step)
                   FILTER (WHERE a.succeeded > 0) AS up,
               string_agg(format('M%s 106v%s', step * 10 + 5, round(greatest(a.failed / s.unit, 2), 1)), '' ORDER BY step)
                   FILTER (WHERE a.failed > 0) AS down,
               string_agg(format('M%s %sv3', step * 10 + 5, foot + 4), '' ORDER BY step)
                   FILTER (WHERE a.given_up > 0) AS marks,
               string_agg(format('<rect x="%s" y="0" width="10" height="%s"><title>%s: %s succeeded, %s failed, %s given up</title></rect>',
                                 step * 10, foot + 8, chatwebhook._dashboard_text(to_char(since, 'HH24:MI TZ')),
                                 chatwebhook._dashboard_number(a.succeeded), chatwebhook._dashboard_number(a.failed),
                                 chatwebhook._dashboard_number(a.given_up)), '' ORDER BY step) AS hints
          FROM activity a, sums s, depth
    ), hours AS (
        SELECT string_agg(format(E'<tr role="row"><th role="rowheader" scope="row">%s</th><td role="cell" class="n" data-label="Succeeded">%s</td><td role="cell" class="n" data-label="Failed">%s</td><td role="cell" class="n" data-label="Given up">%s</td></tr>\n',
                                 chatwebhook._dashboard_text(to_char(since, 'YYYY-MM-DD HH24:MI TZ')),
                                 chatwebhook._dashboard_number(succeeded), chatwebhook._dashboard_number(failed),
                                 chatwebhook._dashboard_number(given_up)), '' ORDER BY since DESC) AS list
          FROM (SELECT min(since), sum(succeeded), sum(failed), sum(given_up)
                  FROM activity GROUP BY step / 6) AS h(since, succeeded, failed, given_up)
    ), axis AS (
        SELECT string_agg(format('<span>%s</span>', chatwebhook._dashboard_text(to_char(since, 'HH24:MI'))), '' ORDER BY step) AS labels
          FROM activity WHERE step % 18 = 0
    )
    SELECT format($html$<section class="card" aria-labelledby="h-throughput">
<h2 id="h-throughput">Attempts in the last 12 hours</h2>
<ul class="legend">
<li><svg viewBox="0 0 12 12" aria-hidden="true"><path d="M6 12V2"/></svg><b id="succeeded">%s</b> succeeded</li>
<li><svg viewBox="0 0 12 12" aria-hidden="true"><path class="f" d="M6 0V7"/></svg><b id="failed">%s</b> failed, below the line</li>
<li><svg viewBox="0 0 12 12" aria-hidden="true"><path class="g" d="M2 10.5H10"/></svg><b id="given_up">%s</b> given up, marked at the bottom</li>
<li>peak in ten minutes: <b>%s</b></li>
</ul>
<svg class="chart" viewBox="0 0 720 %s" preserveAspectRatio="none" role="img" aria-label="%s succeeded, %s failed, %s given up; the figures are in the table below">
<line x1="0" y1="105" x2="720" y2="105"/>
<path d="%s"/><path class="f" d="%s"/><path class="g" d="%s"/>
%s
</svg>
<div class="axis" aria-hidden="true">%s<span>now</span></div>
<details><summary>Figures by the hour</summary>
<table class="plain" role="table"><caption class="hidden">Attempts by the hour, newest first</caption>
<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">From</th><th role="columnheader" scope="col" class="n">Succeeded</th><th role="columnheader" scope="col" class="n">Failed</th><th role="columnheader" scope="col" class="n">Given up</th></tr></thead>
<tbody role="rowgroup">
%s</tbody></table></details>
</section>
$html$,
           chatwebhook._dashboard_number(s.succeeded), chatwebhook._dashboard_number(s.failed),
           chatwebhook._dashboard_number(s.given_up), chatwebhook._dashboard_number(s.most), foot + 8,
           chatwebhook._dashboard_number(s.succeeded), chatwebhook._dashboard_number(s.failed),
           chatwebhook._dashboard_number(s.given_up),
           b.up, b.down, b.marks, b.hints, axis.labels, hours.list)
      FROM sums s, depth, bars b, hours, axis
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_throughput() IS
    'Returns the attempts of the last hours, as a chart and as a table.';

/*
 * Webhooks that need attention, worst first, then the others, folded if they are
 * many.  In the small chart of the last 100 attempts, a success stands on the
 * line, as high as the root of its latency, and a failure hangs below it.
 */
CREATE FUNCTION chatwebhook._dashboard_webhooks(webhooks chatwebhook.webhook_health[], troubled uuid[]) RETURNS text
    LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH hook AS MATERIALIZED (
        SELECT h.*, h.webhook_id = ANY (troubled) AS bad,
               row_number() OVER (
                   ORDER BY h.webhook_id = ANY (troubled) DESC,
                            array_position('{failing,disabled,degraded,paused,healthy,idle}'::text[],
                                CASE WHEN h.state = 'disabled' AND NOT h.webhook_id = ANY (troubled) THEN 'idle'
                                     ELSE h.state END),
                            h.success_rate, h.pending DESC, h.name, h.webhook_id) AS place
          FROM unnest(webhooks) AS h
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
<th role="rowheader" scope="row"><bdi>%s</bdi><small>%s</small>%s</th>
<td role="cell" class="c-state"><span class="state %5$s"><svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><use href="#i-%5$s"/></svg> %5$s</span></td>
<td role="cell" class="c-spark">%s</td>
<td role="cell" class="n" data-label="Succeeded">%s<small>%s</small></td>
<td role="cell" class="n" data-label="Latency">%s<small>%s</small></td>
<td role="cell" class="n" data-label="Pending">%s<small>%s</small></td>
<td role="cell" class="n" data-label="Dead">%s</td>
</tr>
$html$,
                   h.webhook_id, chatwebhook._dashboard_text(h.name, 120), chatwebhook._dashboard_text(h.url, 200),
                   concat('<span class="error">' || coalesce(
                              'Disabled: ' || CASE h.state WHEN 'disabled' THEN chatwebhook._dashboard_text(w.disabled_reason, 300) END,
                              'Nothing can be sent: ' || chatwebhook._dashboard_text(h.problem, 300)) || '</span>',
                          '<span class="error' || CASE WHEN h.state IN ('failing', 'degraded') THEN ' bad' ELSE ' muted' END || '">'
                              || CASE WHEN h.consecutive_failures > 1
                                      THEN chatwebhook._dashboard_number(h.consecutive_failures) || ' failures in a row, the last ' ELSE 'failed ' END
                              || chatwebhook._dashboard_age(h.last_failure_at) || ' ago: <bdi>'
                              || chatwebhook._dashboard_text(h.last_error, 300) || '</bdi></span>'),
                   h.state,
                   CASE WHEN c.least IS NULL THEN '<span class="muted">no attempts yet</span>'
                        ELSE format('<svg class="spark" viewBox="0 0 200 34" preserveAspectRatio="none" role="img" aria-label="%1$s"><title>%1$s</title>'
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
    SELECT E'<section class="card" aria-labelledby="h-webhooks">\n<h2 id="h-webhooks">Webhooks</h2>\n'
        || string_agg(CASE part
               WHEN 1 THEN list
               WHEN 2 THEN format(E'<details><summary>%s more %s attention</summary>\n%s</details>\n',
                                  chatwebhook._dashboard_number(size), CASE size WHEN 1 THEN 'needs' ELSE 'need' END, list)
               ELSE format(E'<details%s><summary>%s</summary>\n%s</details>\n',
                           CASE WHEN cardinality(webhooks) <= 12 THEN ' open="open"' END,
                           CASE WHEN cardinality(troubled) = 0 THEN 'All webhooks: ' ELSE 'The others: ' END || calm.states,
                           list)
               END, '' ORDER BY part)
        || E'</section>\n'
      FROM listed, calm
$$;
COMMENT ON FUNCTION chatwebhook._dashboard_webhooks(chatwebhook.webhook_health[], uuid[]) IS
    'Returns the table of webhooks.';

CREATE FUNCTION chatwebhook.dashboard() RETURNS text
    LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
    AS $$
DECLARE
    everything constant boolean := has_table_privilege('chatwebhook.worker_status', 'SELECT');
    webhooks     chatwebhook.webhook_health[];
    alerts       chatwebhook.alert[];
    troubled     uuid[];
    sent         record;
    sums         record;
    notices      text;
    headline     text[];
    tiles        text;
    alert_list   text;
    backlog_list text;
    dead_list    text;
    worker_list  text;
BEGIN
    SELECT coalesce(array_agg(h), '{}') INTO webhooks FROM chatwebhook.webhook_health h;
    SELECT coalesce(array_agg(a), '{}') INTO alerts
      FROM chatwebhook.alert a
     WHERE a.closed_at IS NULL;
    SELECT coalesce(array_agg(h.webhook_id), '{}') INTO troubled
      FROM unnest(webhooks) h
     WHERE h.state IN ('failing', 'degraded')
        OR EXISTS (SELECT FROM unnest(alerts) a WHERE a.webhook_id = h.webhook_id);
    SELECT count(*) AS hooks, coalesce(sum(h.pending), 0) AS pending, min(h.oldest_pending_at) AS oldest,
           coalesce(sum(h.dead), 0) AS dead, count(*) FILTER (WHERE h.dead > 0) AS dead_hooks
      INTO sums FROM unnest(webhooks) h;
    SELECT 0 AS succeeded, 0 AS failed INTO sent;
    IF everything THEN
        SELECT coalesce(sum(a.succeeded), 0) AS succeeded, coalesce(sum(a.failed), 0) AS failed
          INTO sent
          FROM chatwebhook.activity a
         WHERE a.since >= to_timestamp((floor(extract(epoch FROM statement_timestamp()) / 600) - 71) * 600);
    END IF;

    -- the headline: a state and a sentence
    notices := chatwebhook._dashboard_notices(webhooks);
    headline := CASE
        WHEN notices LIKE '%class="card notice bad"%' THEN ARRAY['failing', 'Nothing is being sent']
        WHEN sums.hooks = 0 THEN ARRAY['idle', 'No webhooks yet']
        WHEN cardinality(troubled) > 0 THEN ARRAY[
            CASE WHEN EXISTS (SELECT FROM unnest(webhooks) h WHERE h.state = 'failing') THEN 'failing' ELSE 'degraded' END,
            format('%s of %s %s attention', chatwebhook._dashboard_number(cardinality(troubled)),
                   chatwebhook._dashboard_number(sums.hooks, 'webhook'),
                   CASE cardinality(troubled) WHEN 1 THEN 'needs' ELSE 'need' END)]
        ELSE ARRAY['healthy', 'No webhook needs attention']
    END;

    SELECT string_agg(format(E'<div><dt>%s</dt><dd class="figure %s" id="%s">%s</dd><dd class="muted">%s</dd></div>\n',
                             t.label, CASE WHEN t.figure > 0 THEN t.tone END, t.id,
                             chatwebhook._dashboard_number(t.figure), t.remark), '' ORDER BY t.n)
      INTO tiles
      FROM (VALUES (1, 'Succeeded', 't-succeeded', sent.succeeded, NULL, 'in 12 hours'),
                   (2, 'Failed attempts', 't-failed', sent.failed, 'warn', 'in 12 hours'),
                   (3, 'Pending', 'pending', sums.pending, NULL,
                    CASE WHEN sums.pending > 0 THEN 'oldest ' || chatwebhook._dashboard_age(sums.oldest) ELSE 'nothing is waiting' END),
                   (4, 'Dead letters', 'dead', sums.dead, 'bad',
                    CASE WHEN sums.dead > 0 THEN 'of ' || chatwebhook._dashboard_number(sums.dead_hooks, 'webhook') ELSE 'none was given up' END),
                   (5, 'Open alerts', 'alerts', cardinality(alerts), 'bad',
                    CASE WHEN cardinality(alerts) > 0 THEN 'see below' ELSE 'all quiet' END)
           ) AS t(n, label, id, figure, tone, remark)
     WHERE everything OR t.n > 2;

    WITH alert AS (
        SELECT row_number() OVER (ORDER BY a.opened_at DESC, a.id) AS place,
               format(E'<li><svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><use href="#i-failing"/></svg><div><b>%s</b>: %s<br/>%s <span class="muted">since %s</span></div></li>\n',
                      CASE a.kind WHEN 'consecutive_failures' THEN 'Failures in a row'
                                  WHEN 'low_success_rate' THEN 'Low success rate'
                                  WHEN 'webhook_disabled' THEN CASE h.state WHEN 'paused' THEN 'Paused' ELSE 'Disabled' END
                                  WHEN 'backlog' THEN 'Backlog'
                                  WHEN 'emit_failed' THEN 'Events not emitted'
                                  ELSE chatwebhook._dashboard_text(a.kind, 60) END,
                      CASE WHEN h.webhook_id IS NULL THEN '<bdi>' || chatwebhook._dashboard_text(coalesce(a.webhook_name, a.watch), 120) || '</bdi>'
                           ELSE format('<a href="#w-%s"><bdi>%s</bdi></a>', h.webhook_id, chatwebhook._dashboard_text(h.name, 120)) END,
                      '<bdi>' || chatwebhook._dashboard_text(a.message, 400) || '</bdi>',
                      chatwebhook._dashboard_age(a.opened_at)) AS item
          FROM unnest(alerts) a LEFT JOIN unnest(webhooks) h ON h.webhook_id = a.webhook_id
    )
    SELECT format($html$<section class="card" aria-labelledby="h-alerts">
<h2 id="h-alerts">Open alerts</h2>
<ul class="alerts">
%s</ul>
%s</section>
$html$,
            string_agg(item, '' ORDER BY place) FILTER (WHERE place <= 5),
            '<details><summary>' || chatwebhook._dashboard_number(count(*) - 5) || E' more</summary>\n<ul class="alerts">\n'
                || string_agg(item, '' ORDER BY place) FILTER (WHERE place > 5) || E'</ul></details>\n')
      INTO alert_list
      FROM alert
    HAVING count(*) > 0;

    WITH longest AS (
        SELECT h.*, count(*) OVER () AS hooks
          FROM unnest(webhooks) h WHERE h.pending > 0
         ORDER BY h.pending DESC, h.oldest_pending_at, h.webhook_id LIMIT 5
    )
    SELECT format($html$<section class="card" aria-labelledby="h-backlog">
<h2 id="h-backlog">Backlog</h2>
<table class="plain" role="table"><caption class="hidden">The webhooks with the most pending deliveries</caption>
<colgroup><col/><col class="w"/><col class="w"/><col class="w"/></colgroup>
<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Waiting for</th><th role="columnheader" scope="col" class="n">Pending</th><th role="columnheader" scope="col" class="n">In flight</th><th role="columnheader" scope="col" class="n">Oldest</th></tr></thead>
<tbody role="rowgroup">
%s</tbody></table>
%s</section>
$html$,
            string_agg(format(E'<tr role="row"><th role="rowheader" scope="row"><a href="#w-%s"><bdi>%s</bdi></a></th><td role="cell" class="n" data-label="Pending">%s</td><td role="cell" class="n" data-label="In flight">%s</td><td role="cell" class="n" data-label="Oldest">%s</td></tr>\n',
                              l.webhook_id, chatwebhook._dashboard_text(l.name, 120), chatwebhook._dashboard_number(l.pending),
                              chatwebhook._dashboard_number(l.in_flight), chatwebhook._dashboard_age(l.oldest_pending_at)), ''
                       ORDER BY l.pending DESC, l.oldest_pending_at, l.webhook_id),
            '<p class="muted">and ' || chatwebhook._dashboard_number(nullif(greatest(max(l.hooks) - 5, 0), 0), 'other webhook') || E'</p>\n')
      INTO backlog_list
      FROM longest l
    HAVING count(*) > 0;

    -- only the newest ten thousand dead letters, so that the page is fast after a bad week, too
    WITH newest AS (
        SELECT d.webhook_id, d.webhook_name, d.last_error, d.completed_at
          FROM chatwebhook.dead d
         ORDER BY d.id DESC LIMIT 10000
    ), reason AS (
        SELECT g.last_error, sum(g.n)::bigint AS n, max(g.newest) AS newest, count(*) AS hooks,
               (array_agg(g.webhook_name ORDER BY g.n DESC, g.webhook_name))[1:3] AS names
          FROM (SELECT last_error, webhook_id, max(webhook_name), count(*), max(completed_at)
                  FROM newest GROUP BY last_error, webhook_id) AS g(last_error, webhook_id, webhook_name, n, newest)
         GROUP BY g.last_error
    ), listed AS (
        SELECT r.*, count(*) OVER () AS reasons, sum(r.n) OVER () AS counted
          FROM reason r ORDER BY r.n DESC, r.newest DESC, r.last_error LIMIT 10
    )
    SELECT format($html$<section class="card" aria-labelledby="h-dead">
<h2 id="h-dead">Dead letters by reason</h2>
<table class="plain" role="table"><caption class="hidden">Why deliveries were given up, most frequent first</caption>
<colgroup><col/><col style="width:30%%"/><col class="w"/><col class="w"/></colgroup>
<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Reason</th><th role="columnheader" scope="col">Webhooks</th><th role="columnheader" scope="col" class="n">Dead letters</th><th role="columnheader" scope="col" class="n">Newest</th></tr></thead>
<tbody role="rowgroup">
%s</tbody></table>
<p class="muted">%s%sThe view <code>chatwebhook.dead_letter</code> shows them with their events; <code>chatwebhook.retry(id)</code> tries one again.</p>
</section>
$html$,
            string_agg(format(E'<tr role="row"><th role="rowheader" scope="row">%s</th><td role="cell" data-label="Webhooks">%s%s</td><td role="cell" class="n" data-label="Dead letters">%s</td><td role="cell" class="n" data-label="Newest">%s ago</td></tr>\n',
                              coalesce('<bdi>' || chatwebhook._dashboard_text(l.last_error, 300) || '</bdi>', '<i>not recorded</i>'),
                              (SELECT string_agg(coalesce('<bdi>' || chatwebhook._dashboard_text(u.name, 120) || '</bdi>', '<i>unnamed</i>'), ', ' ORDER BY u.place)
                                 FROM unnest(l.names) WITH ORDINALITY AS u(name, place)),
                              ' and ' || chatwebhook._dashboard_number(nullif(greatest(l.hooks - 3, 0), 0)) || ' more',
                              chatwebhook._dashboard_number(l.n), chatwebhook._dashboard_age(l.newest)), ''
                       ORDER BY l.n DESC, l.newest DESC, l.last_error),
            'The most frequent ten of ' || CASE WHEN max(l.reasons) > 10 THEN chatwebhook._dashboard_number(max(l.reasons)) END || ' reasons. ',
            'Of ' || CASE WHEN sums.dead > max(l.counted) THEN chatwebhook._dashboard_number(sums.dead) END
                || ' dead letters, the newest ' || chatwebhook._dashboard_number(max(l.counted)) || ' are counted here. ')
      INTO dead_list
      FROM listed l
    HAVING count(*) > 0;

    IF everything THEN
    SELECT format($html$<section class="card" aria-labelledby="h-workers">
<h2 id="h-workers">Workers</h2>
<table class="plain" role="table"><caption class="hidden">The workers of this database</caption>
<colgroup><col/><col class="w"/><col class="w"/><col class="w"/><col class="w"/><col class="w"/></colgroup>
<thead role="rowgroup"><tr role="row"><th role="columnheader" scope="col">Process</th><th role="columnheader" scope="col" class="n">Started</th><th role="columnheader" scope="col" class="n">In flight</th><th role="columnheader" scope="col" class="n">Succeeded</th><th role="columnheader" scope="col" class="n">Failed</th><th role="columnheader" scope="col" class="n">Last active</th></tr></thead>
<tbody role="rowgroup">
%s</tbody></table>
%s</section>
$html$,
            string_agg(format(E'<tr role="row"><th role="rowheader" scope="row"><b>%s</b>%s</th><td role="cell" class="n" data-label="Started">%s</td><td role="cell" class="n" data-label="In flight">%s</td><td role="cell" class="n" data-label="Succeeded">%s</td><td role="cell" class="n" data-label="Failed">%s</td><td role="cell" class="n" data-label="Last active">%s</td></tr>\n',
                              s.pid, '<span class="error bad"><bdi>' || chatwebhook._dashboard_text(s.last_error, 300) || '</bdi></span>',
                              chatwebhook._dashboard_age(s.started_at) || ' ago', chatwebhook._dashboard_number(s.in_flight),
                              chatwebhook._dashboard_number(s.delivered), chatwebhook._dashboard_number(s.failed),
                              CASE WHEN s.last_activity_at IS NULL THEN 'never' ELSE chatwebhook._dashboard_age(s.last_activity_at) || ' ago' END), ''
                       ORDER BY s.started_at, s.pid),
            CASE WHEN bool_or(s.secrets_encrypted IS NULL)
                 THEN E'<p class="bad">The key file of <code>chatwebhook.secret_key_file</code> cannot be used.</p>\n' END)
      INTO worker_list
      FROM chatwebhook.worker_status s
    HAVING count(*) > 0;
    END IF;

    RETURN concat(
        chatwebhook._dashboard_head(),
        E'<header>\n<div class="over">chatwebhook &#183; database <bdi>', chatwebhook._dashboard_text(current_database(), 120), E'</bdi></div>\n',
        format('<h1><span class="%1$s"><svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><use href="#i-%1$s"/></svg></span>%2$s</h1>',
               headline[1], headline[2]),
        E'\n<div class="muted">As of ', format('<time datetime="%s">%s</time>',
            to_char(statement_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
            chatwebhook._dashboard_text(to_char(statement_timestamp(), 'YYYY-MM-DD HH24:MI:SS TZ'))),
        E'</div>\n</header>\n<main>\n',
        notices,
        CASE WHEN sums.hooks > 0 OR sent.succeeded + sent.failed > 0 OR cardinality(alerts) > 0 THEN concat(E'<dl class="tiles">\n', tiles, E'</dl>\n') END,
        alert_list,
        CASE WHEN everything AND (sums.hooks > 0 OR sent.succeeded + sent.failed > 0) THEN chatwebhook._dashboard_throughput() END,
        chatwebhook._dashboard_webhooks(webhooks, troubled),
        backlog_list,
        dead_list,
        worker_list,
        E'</main>\n<footer>Made by <code>SELECT chatwebhook.dashboard()</code>. Rates, latencies and small charts are of each webhook&#39;s last 100 attempts; the rate in small print is of all its attempts.</footer>\n</body>\n</html>');
END
$$;
COMMENT ON FUNCTION chatwebhook.dashboard() IS
    'Returns the state of everything as one HTML page without scripts: psql -Atc ''SELECT chatwebhook.dashboard()'' > status.html. Each role sees what it sees in the views.';
