#!/usr/bin/env python3
"""Compare the extension with upper bounds: what "make bench" runs.

    bench.py [PART]...      parts: drain connector latency insert copy growth snapshot https
                            memory hosts fairness paused

Starts a private cluster with durable settings and an nginx on loopback, and
stops both at the end.  The variants to compare take turns in the same run, RUNS
times (5), and the ratios are those of the medians, or the medians of the rounds'
ratios: on a shared machine, absolute figures cannot be compared with those of
another day.

Environment: PG_CONFIG; RUNS; EVENTS (40000), the number of events of a drain;
SCALE (1), a factor for the sizes in growth, snapshot, hosts and others; FIGURES
(figures.csv, here), the file to which the ratios are added, unless RUNS is below
3 or EVENTS or SCALE below their defaults.  plot.py draws them.
"""

import contextlib
import csv
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

BENCH = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(BENCH)
AS_POSTGRES = os.path.join(TOP, "scripts", "as-postgres")
RUNS = int(os.environ.get("RUNS", "5"))
EVENTS = int(os.environ.get("EVENTS", "40000"))
SCALE = float(os.environ.get("SCALE", "1"))
FIGURES = os.environ.get("FIGURES", os.path.join(BENCH, "figures.csv"))
TRANSFERS = 100

PG_CONFIG = os.environ.get("PG_CONFIG", "pg_config")
BINDIR = subprocess.check_output([PG_CONFIG, "--bindir"], text=True).strip()

# grow with events
TABLES = "chatwebhook.history, chatwebhook.event, chatwebhook.queue, chatwebhook.attempt, chatwebhook.dead"

# makes a request body of 1 KB
CONTENT = "x" * 760

CONF = """
listen_addresses = ''
shared_buffers = 512MB
max_wal_size = 8GB
checkpoint_timeout = 30min
# a reload restarts the wait, and some parts reload every second
autovacuum_naptime = 1s
max_files_per_process = 8000
shared_preload_libraries = 'chatwebhook'
chatwebhook.allow_http = on
chatwebhook.allowed_networks = '127.0.0.0/8'
chatwebhook.alert_backlog = 0
chatwebhook.max_in_flight = 100
"""

NGINX = """
worker_processes 1;
pid {dir}/nginx.pid;
error_log {dir}/nginx.log;
daemon off;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
    # for at_sink()
    log_format requests '$server_port $msec';
    access_log {dir}/requests.log requests buffer=64k flush=1s;
    keepalive_requests 100000000;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    client_body_buffer_size 64k;
    ssl_certificate {dir}/certificate;
    ssl_certificate_key {dir}/key;
    server {{
        listen 0.0.0.0:{http} backlog=16384;
        location / {{ return 200 "ok"; }}
        location /broken/ {{ return 500; }}
        location /thread/ {{ default_type application/json; return 200 '{{"ok": true, "ts": "1700000000.000100", "id": "1"}}'; }}
    }}
    server {{
        listen 127.0.0.1:{https} ssl http2 backlog=4096;
        http2_max_requests 100000000;
        location / {{ return 200 "ok"; }}
        # reads the whole request, as a real service does
        location /service/ {{
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
    # many hosts, each with connections of its own
    log_format connections '$connection_requests $ssl_session_reused $ssl_protocol $http_user_agent';
    server {{
        listen 127.0.0.1:{hosts} ssl backlog=16384;
        listen 127.0.0.1:{hosts2} ssl http2 backlog=16384;
        ssl_protocols TLSv1.3;
        ssl_certificate {dir}/hosts/certificate;
        ssl_certificate_key {dir}/hosts/key;
        keepalive_timeout {idle}s;
        access_log {dir}/connections.log connections;
        location / {{ return 200 "ok"; }}
    }}
    upstream service {{
        server 127.0.0.1:{http};
        keepalive 200;
        keepalive_requests 100000000;
    }}
}}
"""


# seconds after which the receiver of many hosts closes idle connections
IDLE = 5


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def port_of(url):
    return urllib.parse.urlsplit(url).port


def wait_for_port(port):
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class Bench:
    """The cluster and the sink, and helpers to use them."""

    def __init__(self):
        self.dir = subprocess.check_output(
            [AS_POSTGRES, "mktemp", "-d", "/tmp/chatwebhook-bench.XXXXXX"], text=True, cwd="/").strip()
        self.tools = tempfile.mkdtemp()
        os.chmod(self.tools, 0o755)  # the server reads the certificate
        self.nginx = None
        self.running = False

    def as_postgres(self, *command, **options):
        options.setdefault("check", True)
        return subprocess.run([AS_POSTGRES, *command], cwd=self.dir, text=True, **options)

    def start(self):
        for name, libraries in (("raw", ["-lcurl", "-lcrypto"]), ("latency", ["-lpq", "-lpthread"]), ("insert", ["-lpq", "-lpthread"])):
            include = subprocess.check_output([PG_CONFIG, "--includedir"], text=True).strip()
            subprocess.run(["cc", "-D_GNU_SOURCE", "-O2", "-I" + include, os.path.join(BENCH, name + ".c"),
                            "-o", os.path.join(self.tools, name), *libraries], check=True)
        self.as_postgres(os.path.join(BINDIR, "initdb"), "-D", "data", "-U", "postgres", "-A", "trust",
                         "-E", "UTF8", "--no-locale", stdout=subprocess.DEVNULL)
        self.as_postgres("tee", "-a", "data/postgresql.conf", stdout=subprocess.DEVNULL,
                         input=CONF + f"unix_socket_directories = '{self.dir}'\n")
        self.as_postgres(os.path.join(BINDIR, "pg_ctl"), "-D", "data", "-l", "server.log", "-w", "start",
                         stdout=subprocess.DEVNULL)
        self.running = True
        os.environ.update(PGHOST=self.dir, PGUSER="postgres", PGDATABASE="postgres")
        self.http, self.https, self.hosts, self.hosts2 = (free_port() for _ in range(4))
        self.tls_files = os.path.join(self.tools, "tls")
        os.mkdir(self.tls_files)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                        "-keyout", self.tls_files + "/key", "-out", self.tls_files + "/certificate"],
                       check=True, stderr=subprocess.DEVNULL)
        self.make_authority()
        configuration = os.path.join(self.tls_files, "nginx.conf")
        with open(configuration, "w") as file:
            file.write(NGINX.format(dir=self.tls_files, http=self.http, https=self.https, hosts=self.hosts,
                                    hosts2=self.hosts2, idle=IDLE))
        self.nginx = subprocess.Popen(["nginx", "-c", configuration], stderr=subprocess.DEVNULL)
        wait_for_port(self.http)
        self.url = f"http://127.0.0.1:{self.http}/"
        self.sql("CREATE EXTENSION chatwebhook")
        self.sql("INSERT INTO chatwebhook.event_type (name) VALUES ('bench.none'), ('bench.one'), "
                 "('bench.five'), ('bench.twenty'), ('bench.other')")
        with open(self.tools + "/body", "w") as file:
            file.write("x" * 1000)

    def make_authority(self):
        """Make an authority, its certificate for *.hook.localhost, and a bundle of it and the system's authorities."""
        files = os.path.join(self.tls_files, "hosts")
        os.mkdir(files)

        def request(name, *options):
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                            "-days", "2", "-keyout", f"{files}/{name}-key", "-out", f"{files}/{name}", *options],
                           check=True, stderr=subprocess.DEVNULL)

        request("authority", "-subj", "/CN=Benchmark authority")
        request("certificate", "-subj", "/CN=hook.localhost", "-addext", "subjectAltName=DNS:*.hook.localhost",
                "-addext", "basicConstraints=CA:FALSE", "-CA", f"{files}/authority", "-CAkey", f"{files}/authority-key")
        os.rename(f"{files}/certificate-key", f"{files}/key")
        self.authorities = f"{files}/authorities"
        with open(self.authorities, "w") as bundle:
            for source in subprocess.check_output(["curl-config", "--ca"], text=True).strip(), f"{files}/authority":
                with open(source) as file:
                    bundle.write(file.read())

    def stop(self):
        if self.nginx:
            self.nginx.terminate()
            self.nginx.wait()
        if self.running:
            self.as_postgres(os.path.join(BINDIR, "pg_ctl"), "-D", "data", "-m", "fast", "-w", "stop",
                             stdout=subprocess.DEVNULL, check=False)
        self.as_postgres("rm", "-rf", self.dir, check=False)
        shutil.rmtree(self.tools, ignore_errors=True)

    def sql(self, *statements):
        command = [os.path.join(BINDIR, "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        for statement in statements:
            command += ["-c", statement]
        return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()

    def set(self, **settings):
        statements = [f"ALTER SYSTEM SET chatwebhook.{name} = '{value}'" for name, value in settings.items()]
        self.sql(*statements, "SELECT pg_reload_conf()")

    def workers(self, n):
        """Run n workers, and wait until they are idle."""
        self.set(workers=n)
        self.wait(f"SELECT count(*) = {n} FROM chatwebhook.worker_status WHERE in_flight = 0")

    def restart_worker(self):
        """Run one worker, a new process, which knows no host and has no connections yet."""
        self.workers(1)
        pid, = self.pids()
        self.sql(f"SELECT pg_terminate_backend({pid})")
        self.wait(f"SELECT count(*) = 1 FROM chatwebhook.worker_status WHERE pid <> {pid} AND in_flight = 0")

    def wait(self, query, timeout=600):
        """Wait until a query is true. Use one session: starting psql repeatedly would disturb the measurement."""
        deadline = time.monotonic() + timeout
        with subprocess.Popen([os.path.join(BINDIR, "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"],
                              text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as session:
            while True:
                session.stdin.write(query + ";\n")
                answer = session.stdout.readline()
                if answer == "t\n":
                    return
                if answer == "" or time.monotonic() > deadline:
                    session.kill()
                    raise TimeoutError(query)
                time.sleep(0.05)

    def webhook(self, name, event, url=None, **columns):
        names = "".join(f", {column} => '{value}'" for column, value in columns.items())
        self.sql(f"SELECT chatwebhook.create_webhook('{name}', '{url or self.url}', events => '{{{event}}}', "
                 f"max_in_flight => {TRANSFERS}{names})")

    def only(self, name, event, url=None, **columns):
        self.sql("DELETE FROM chatwebhook.webhook")
        self.webhook(name, event, url, **columns)

    def emit(self, event, n):
        self.sql(f"SELECT count(chatwebhook.emit('{event}', 'bot', 'c' || i % 1000, "
                 f"jsonb_build_object('content', '{CONTENT}', 'n', i))) FROM generate_series(1, {n}) i")

    def pids(self):
        return [int(pid) for pid in self.sql("SELECT pid FROM chatwebhook.worker_status").split()]

    def cpu(self, pids):
        """Seconds of CPU time that processes have used."""
        ticks = 0
        for pid in pids:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def rss(self, pid, what="VmHWM"):
        """Private memory of a process and its peak, in megabytes."""
        found = {}
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                match = re.match(r"(\w+):\s+(\d+) kB", line)
                if match:
                    found[match.group(1)] = int(match.group(2)) / 1024
        return found["RssAnon"], found[what]

    def private_dirty(self, pid):
        """Memory of a process that it shares with no other, in megabytes."""
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return int(re.search(r"Private_Dirty:\s+(\d+)", file.read()).group(1)) / 1024

    def drain(self, n, event="bench.one", workers=1, prepare=True):
        """Queue n events and let the workers deliver them; return the rate, and CPU and WAL of a delivery."""
        if prepare:
            self.set(enabled="off")
            self.wait("SELECT coalesce(sum(in_flight), 0) = 0 FROM chatwebhook.worker_status")
            self.emit(event, n)
        self.workers(workers)
        wal = self.sql("CHECKPOINT", "SELECT pg_current_wal_insert_lsn()")
        port = port_of(self.sql(f"SELECT url FROM chatwebhook.webhook WHERE '{event}' = ANY (events) LIMIT 1"))
        pids = self.pids()
        cpu = self.cpu(pids)

        def run():
            self.set(enabled="on")
            # not in one statement, which would hold its snapshot that long
            self.wait("SELECT NOT EXISTS (SELECT FROM chatwebhook.queue)", 3600)

        rate, _ = self.at_sink(n, port, run)
        cpu = self.cpu(pids) - cpu
        wal = self.sql(f"SELECT pg_current_wal_insert_lsn() - '{wal}'::pg_lsn")
        return rate, cpu * 1e6 / n, float(wal) / n

    def forget(self):
        """Leave the tables as they are after CREATE EXTENSION."""
        self.sql("TRUNCATE " + TABLES)

    def logged(self, name, n, run, prefix=""):
        """
        Return what run() returns, and the fields of the lines with this prefix that nginx logs for it: n, or some more
        where it replies before it has read an HTTP/2 request, which ends a few in between and has them repeated.
        """
        with open(f"{self.tls_files}/{name}") as log:
            log.seek(0, os.SEEK_END)
            result = run()
            found = []
            rest = ""
            deadline = time.monotonic() + 10
            # nginx writes a line after the reply, or later
            while len(found) < n and time.monotonic() < deadline:
                lines = (rest + log.read()).split("\n")
                rest = lines.pop()
                found += [line.split() for line in lines if line.startswith(prefix)]
                time.sleep(0.05)
        if len(found) < n:
            raise RuntimeError(f"{len(found)} requests instead of {n}")
        return result, found

    def at_sink(self, n, port, run):
        """
        Let n requests arrive at a port of nginx; return the rate from the first twentieth of them to the last, so that
        neither the sender's start nor its last settling is in it, and what run() returned.
        """
        result, lines = self.logged("requests.log", n, run, f"{port} ")
        times = sorted(float(line[1]) for line in lines)
        first = n // 20
        return (len(times) - 1 - first) / (times[-1] - times[first]), result

    def raw(self, n, url=None, *ca_file):
        url = url or self.url
        command = [self.tools + "/raw", str(n), str(TRANSFERS), url, self.tools + "/body", *ca_file]
        rate, out = self.at_sink(n, port_of(url), lambda: subprocess.check_output(command, text=True))
        return rate, float(out.split()[1])

    def latency(self, port, n, rate, per_commit, sql, rounds=1, between=""):
        out = subprocess.check_output([self.tools + "/latency", "", str(port), str(rounds), str(n), str(rate),
                                       str(per_commit), sql, between], text=True)
        return [tuple(float(value) for value in line.split()) for line in out.splitlines()]

    @contextlib.contextmanager
    def default_naptime(self):
        """Run autovacuum once a minute, as by default.  If it ran each second, it would hit some rounds and not others."""
        self.sql("ALTER SYSTEM SET autovacuum_naptime = '1min'", "SELECT pg_reload_conf()")
        try:
            yield
        finally:
            self.sql("ALTER SYSTEM RESET autovacuum_naptime", "SELECT pg_reload_conf()")

    def insert(self, clients, rounds, transactions, tables):
        self.sql("CREATE UNLOGGED TABLE filler (page text)",
                 "ALTER TABLE filler ALTER page SET STORAGE plain",
                 # one row per page
                 "INSERT INTO filler SELECT repeat('x', 7000) FROM generate_series(1, (SELECT setting::int - 1000 "
                 "FROM pg_settings WHERE name = 'shared_buffers'))", "CHECKPOINT")
        out = subprocess.check_output([self.tools + "/insert", "", str(clients), str(rounds), str(transactions), CONTENT,
                                       *tables], text=True)
        return {table: [float(rate) for rate in line.split()] for table, line in zip(tables, out.splitlines())}


def spread(values, form="{:,.0f}"):
    return f"{form.format(statistics.median(values))} ({form.format(min(values))} to {form.format(max(values))})"


def by_round(ones, others):
    """The median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(ones, others))


def in_turn(kinds, runs=RUNS):
    """Let the kinds take turns, runs times; return the results of each."""
    results = {kind: [] for kind in kinds}
    for _ in range(runs):
        for kind, run in kinds.items():
            results[kind].append(run())
    return results


def say(*lines):
    print(*lines, flush=True)


ratios = []


def rule(name, ratio, limit, least=True):
    ratios.append((name, round(ratio, 3), "at least" if least else "at most", limit))
    good = ratio >= limit if least else ratio <= limit
    say(f"| {name} | **{ratio:.2f}** | {'at least' if least else 'at most'} {limit} | {'ok' if good else 'missed'} |")


def machine():
    """The processor and the number of cores."""
    with open("/proc/cpuinfo") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    return f"{model.group(1) if model else os.uname().machine}, {os.cpu_count()} cores"


def keep_figures(postgres):
    """Add the ratios to the file."""
    commit = subprocess.run(["git", "-C", TOP, "describe", "--always", "--dirty"], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.strip()
    libcurl = subprocess.check_output(["curl-config", "--version"], text=True).split()[1]
    with open(FIGURES, "a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if file.tell() == 0:
            writer.writerow(["date", "commit", "postgresql", "libcurl", "machine", "rounds", "what", "value", "target", "limit"])
        for name, value, target, limit in ratios:
            writer.writerow([time.strftime("%Y-%m-%d"), commit, postgres, libcurl, machine(), RUNS, name, value, target, limit])


def drain(bench):
    bench.only("sink", "bench.one")
    bench.drain(EVENTS // 5)
    bench.sql("VACUUM ANALYZE")

    def run(workers):
        result = bench.drain(EVENTS, workers=workers)
        bench.forget()
        return result

    results = in_turn({"raw": lambda: bench.raw(EVENTS), "one": lambda: run(1), "two": lambda: run(2)})
    rate = {kind: statistics.median(r[0] for r in results[kind]) for kind in results}
    rule("drain, one worker, to bare libcurl", rate["one"] / rate["raw"], 0.68)
    rule("drain, two workers, to bare libcurl", rate["two"] / rate["raw"], 0.82)
    cpu = {kind: statistics.median(r[1] for r in results[kind]) for kind in results}
    rule("drain, one worker, CPU of a delivery, to bare libcurl", cpu["one"] / cpu["raw"], 1.5, least=False)
    for kind in results:
        line = f"    {kind}: {spread([r[0] for r in results[kind]])} a second, " \
               f"{spread([r[1] for r in results[kind]], '{:.0f}')} us of CPU each"
        if kind != "raw":
            line += f", {spread([r[2] for r in results[kind]])} bytes of WAL each"
        say(line)
    bench.workers(1)
    return rate["one"]


def latency(bench):
    # rounds leave the tables empty, so that they use the same buffers
    between = f"SELECT 1 / chatwebhook.wait_until_idle()::int; TRUNCATE chat, {TABLES}"
    port = free_port()
    bench.set(enabled="on")
    # after a drain, libcurl polls a hundred idle connections before a request each second
    bench.restart_worker()
    bench.sql("CREATE TABLE chat (id bigserial PRIMARY KEY, n bigint, content text)",
              "CREATE TRIGGER emit AFTER INSERT ON chat FOR EACH ROW EXECUTE FUNCTION "
              "chatwebhook.emit('bench.one', 'content', 'n')")
    bench.only("sink", "bench.one", f"http://127.0.0.1:{port}/")
    sql = f"INSERT INTO chat (n, content) SELECT i, '{CONTENT}' FROM generate_series(%1$ld, %2$ld) i"
    bench.latency(port, 100, 50, 1, sql)
    with bench.default_naptime():
        rest = bench.latency(port, 600, 20, 1, sql, RUNS)
    median, p99 = (statistics.median(r[i] for r in rest) for i in (0, 1))
    rule("latency at rest, median, ms", median, 0.6, least=False)
    rule("latency at rest, 99th percentile, ms", p99, 1.5, least=False)
    # half the rate of a drain on this machine, ten events per commit, long enough for autovacuum
    bench.only("sink", "bench.one")
    half = bench.drain(EVENTS)[0] / 2
    bench.forget()
    bench.only("sink", "bench.one", f"http://127.0.0.1:{port}/")
    # the first round is not counted: processes then touch shared buffers for the first time
    with bench.default_naptime():
        load = bench.latency(port, int(half * max(1, 15 * SCALE)), half, 10, sql, RUNS + 1, between)[1:]
    rule("latency at half of the drain's rate, 99th percentile, ms", statistics.median(r[1] for r in load), 10, least=False)
    for what, runs in ("at rest", rest), ("half load", load):
        say(f"    {what}: {spread([r[0] for r in runs], '{:.2f}')} median, {spread([r[1] for r in runs], '{:.2f}')} p99, "
            f"{spread([r[3] for r in runs])} a second")
    say(f"    half of the drain's rate: {half:,.0f} a second")
    bench.sql("DROP TABLE chat")
    bench.forget()


# a connector that does as little as possible, and the rule that makes it remember
THREAD = """
CREATE OR REPLACE FUNCTION public.bench_thread(event jsonb, webhook jsonb, replies jsonb)
    RETURNS chatwebhook.request LANGUAGE sql STABLE
    AS $$ SELECT ROW(NULL, NULL, NULL, jsonb_build_object('text', event->'data', 'thread', webhook->'memory'->'thread'), true)::chatwebhook.request $$
"""
REMEMBER = '[{"status": 200, "path": "$.ok == true", "means": "success", "remember": {"thread": "$.ts"}}]'


def connector(bench):
    bench.sql(THREAD, "DELETE FROM chatwebhook.webhook",
              f"""INSERT INTO chatwebhook.connector (name, function, replies, ordered) VALUES
                  ('bench-plain', 'public.bench_thread', '[{{"status": 200, "path": "$.ok == true", "means": "success"}}]', false),
                  ('bench-ordered', 'public.bench_thread', '[{{"status": 200, "path": "$.ok == true", "means": "success"}}]', true),
                  ('bench-memory', 'public.bench_thread', '{REMEMBER}', true)""")
    n = EVENTS // 2

    def run(kind):
        bench.only("sink", "bench.one", bench.url + "thread/", connector="bench-" + kind)
        result = bench.drain(n)
        bench.forget()
        return result

    kinds = ("plain", "ordered", "memory")
    run("memory")
    results = in_turn({kind: (lambda kind=kind: run(kind)) for kind in kinds})
    for kind in kinds[1:]:
        rule(f"connector, {kind}, to one without memory",
             by_round((r[0] for r in results[kind]), (r[0] for r in results["plain"])), 0.8)
    for kind in kinds:
        say(f"    {kind}: {spread([r[0] for r in results[kind]])} a second, "
            f"{spread([r[1] for r in results[kind]], '{:.0f}')} us of CPU each, "
            f"{spread([r[2] for r in results[kind]])} bytes of WAL each")
    bench.sql("DELETE FROM chatwebhook.webhook",
              "DELETE FROM chatwebhook.connector WHERE name LIKE 'bench-%'", "DROP FUNCTION public.bench_thread")


KINDS = {"none": 0, "one": 1, "five": 5, "twenty": 20}

# how an insert emits
HOWS = ("row", "statement", "query", "plpgsql")

# looks the row's conversation up
QUERY = """
    SELECT c.chatbot AS "chatbotId", new.conversation AS "conversationId", new.role, new.content
      FROM conversation c
     WHERE c.id = new.conversation
"""

PLPGSQL = """
CREATE SCHEMA outbox;
CREATE TABLE outbox.webhook (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), event text, url text);
CREATE INDEX ON outbox.webhook (event);
CREATE TABLE outbox.event (id uuid PRIMARY KEY, type text, created_at timestamptz, data jsonb);
CREATE TABLE outbox.delivery (id bigserial PRIMARY KEY, webhook_id uuid, event_id uuid,
    status text DEFAULT 'pending', attempts integer DEFAULT 0, next_attempt_at timestamptz);
CREATE INDEX ON outbox.delivery (webhook_id, next_attempt_at) WHERE status = 'pending';
CREATE FUNCTION outbox.emit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    event_id uuid := gen_random_uuid();
BEGIN
    IF EXISTS (SELECT FROM outbox.webhook w WHERE w.event = TG_ARGV[0]) THEN
        INSERT INTO outbox.event VALUES (event_id, TG_ARGV[0], now(),
            jsonb_build_object('role', NEW.role, 'content', NEW.content));
        INSERT INTO outbox.delivery
        SELECT nextval('outbox.delivery_id_seq'), w.id, event_id, 'pending', 0, now() FROM outbox.webhook w WHERE w.event = TG_ARGV[0];
        PERFORM pg_notify('outbox', '');
    END IF;
    RETURN NULL;
END
$$;
INSERT INTO outbox.webhook (event, url) SELECT 'bench.' || k, 'http://127.0.0.1/' || i
  FROM (VALUES ('one', 1), ('five', 5), ('twenty', 20)) v (k, n), generate_series(1, n) i;
"""


def make_chats(bench, hows):
    """Make chat tables: one without a trigger, and for each way to emit, one for each kind. Returns their names."""
    tables = ["plain"] + [f"{how}_{kind}" for how in hows for kind in KINDS]
    bench.set(enabled="off")
    bench.sql("DELETE FROM chatwebhook.webhook", PLPGSQL, "CREATE TABLE conversation (id text PRIMARY KEY, chatbot text)",
              "INSERT INTO conversation SELECT 'c' || i, 'bot' FROM generate_series(1, 1000) i", "ANALYZE conversation")
    for kind, n in KINDS.items():
        for i in range(n):
            bench.webhook(f"{kind} {i}", f"bench.{kind}")
    bench.webhook("other", "bench.other")
    for table in tables:
        how, _, kind = table.partition("_")
        bench.sql(f"CREATE TABLE {table} (id bigserial PRIMARY KEY, conversation text, role text, content text, "
                  "created_at timestamptz DEFAULT now())")
        function = f"chatwebhook.emit('bench.{kind}', 'conversationId=conversation', 'role', 'content')"
        if how == "row":
            bench.sql(f"CREATE TRIGGER emit AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {function}")
        elif how == "statement":
            bench.sql(f"CREATE TRIGGER emit AFTER INSERT ON {table} REFERENCING NEW TABLE AS new "
                      f"FOR EACH STATEMENT EXECUTE FUNCTION {function}")
        elif how == "query":
            bench.sql(f"SELECT chatwebhook.watch('{table}', 'bench.{kind}', query => $${QUERY}$$)")
        elif how == "plpgsql":
            bench.sql(f"CREATE TRIGGER emit AFTER INSERT ON {table} FOR EACH ROW "
                      f"EXECUTE FUNCTION outbox.emit('bench.{kind}')")
    return tables


def drop_chats(bench, tables):
    bench.sql("SET client_min_messages = warning", f"DROP TABLE {', '.join(tables)}, conversation CASCADE",
              "DROP SCHEMA outbox CASCADE")


def insert(bench):
    tables = make_chats(bench, HOWS)
    limits = {"none": 0.97, "one": 0.85, "five": 0.8, "twenty": 0.5}
    for clients, crowd in (1, "one client"), (4, "4 clients"):
        results = {table: [] for table in tables}
        with bench.default_naptime():
            for _ in range(RUNS):
                for table, rates in bench.insert(clients, 20, 50, tables).items():
                    results[table] += rates
                bench.forget()
                bench.sql(f"TRUNCATE {', '.join(tables)}, outbox.event, outbox.delivery", "CHECKPOINT")
        rate = {table: statistics.median(results[table]) for table in tables}
        to_plain = {table: by_round(results[table], results["plain"]) for table in tables}
        for how in ("row", "statement"):
            for kind, limit in limits.items():
                rule(f"insert, {crowd}, {how} trigger, fan-out {KINDS[kind]}", to_plain[f"{how}_{kind}"], limit)
        for kind in ("one", "five"):
            added = {how: 1 / rate[f"{how}_{kind}"] - 1 / rate["plain"] for how in HOWS}
            rule(f"time added, {crowd}, fan-out {KINDS[kind]}, to the outbox in PL/pgSQL",
                 added["row"] / added["plpgsql"], 0.5, least=False)
            rule(f"time added by a query, {crowd}, fan-out {KINDS[kind]}, to the outbox in PL/pgSQL",
                 added["query"] / added["plpgsql"], 1, least=False)
        for table in tables:
            say(f"    {table}: {spread(results[table])} a second, {to_plain[table]:.2f} of plain")
    drop_chats(bench, tables)


def copy(bench):
    tables = make_chats(bench, ("row", "statement"))
    path = bench.tools + "/rows"
    with open(path, "w") as file:
        for i in range(100000):
            file.write(f"c{i % 1000}\tuser\t{CONTENT}\n")

    def run(table):
        bench.sql("CHECKPOINT")
        start = time.monotonic()
        bench.sql(f"\\copy {table} (conversation, role, content) FROM '{path}'")
        took = time.monotonic() - start
        bench.forget()
        bench.sql(f"TRUNCATE {table}")
        return took

    results = in_turn({table: (lambda table=table: run(table)) for table in ("plain", "statement_one", "row_one")})
    plain = statistics.median(results["plain"])
    rule("COPY of 100,000 rows, statement trigger, fan-out 1, time", statistics.median(results["statement_one"]) / plain, 2.5, least=False)
    for table, times in results.items():
        say(f"    {table}: {spread(times, '{:.2f}')} s")
    drop_chats(bench, tables)


def sizes(bench):
    return bench.sql("SELECT string_agg(c.relname || ' ' || pg_size_pretty(pg_total_relation_size(c.oid)), ', ' "
                     "ORDER BY c.relname) FROM pg_class c WHERE c.relnamespace = 'chatwebhook'::regnamespace "
                     "AND c.relname IN ('queue', 'event', 'history', 'health')")


def growth(bench):
    n = int(20000 * SCALE)
    runs = max(1, RUNS)
    bench.only("sink", "bench.one")

    def rate_now():
        return statistics.median(bench.drain(n)[0] for _ in range(runs))

    def fresh():
        bench.forget()
        bench.sql("VACUUM ANALYZE")
        return rate_now()

    def compare(what, base, rate):
        # this takes minutes, and the machine's speed may change: average the baselines before and after
        bench.only("sink", "bench.one")
        rule(f"growth: {what}, to {n:,} in fresh tables", rate * 2 / (base + fresh()), 0.85)

    def emitting():
        bench.set(enabled="off")
        times = []
        for _ in range(runs):
            start = time.monotonic()
            bench.emit("bench.one", n)
            times.append(time.monotonic() - start)
        bench.forget()
        bench.set(enabled="on")
        return statistics.median(times)

    say(f"    fresh: {fresh():,.0f} a second")

    # finished deliveries, with ids that match their times, as retention expects
    base = fresh()
    finished = int(5e6 * SCALE)
    bench.sql(f"""
        WITH w AS (SELECT id, name FROM chatwebhook.webhook LIMIT 1)
        INSERT INTO chatwebhook.history (id, webhook_id, webhook_name, event_id, status, created_at, completed_at,
               last_attempt_at, attempts, latency_ms, last_status_code)
        SELECT (extract(epoch FROM now() - interval '1 day' - '2026-01-01Z') * 1e6)::bigint + i,
               w.id, w.name, chatwebhook.uuidv7(), 'delivered', now() - interval '1 day', now() - interval '1 day',
               now() - interval '1 day', 1, 1, 200
          FROM w, generate_series(1, {finished}) i""", "VACUUM ANALYZE chatwebhook.history")
    compare(f"{finished:,} finished in history", base, rate_now())

    # 10,000 webhooks, every other one for all chatbots
    base = fresh()
    few = emitting()
    bench.sql("INSERT INTO chatwebhook.webhook (name, url, chatbot_id, events) "
              f"SELECT 'w' || i, '{bench.url}' || i, CASE WHEN i % 2 = 0 THEN 'bot ' || i END, '{{bench.other}}' "
              f"FROM generate_series(1, {int(10000 * SCALE)}) i")
    rule(f"growth: {int(10000 * SCALE):,} webhooks, time to emit {n:,} events, to few", emitting() / few, 1.25, least=False)
    compare(f"{int(10000 * SCALE):,} webhooks", base, rate_now())

    # pending deliveries: the rate over the first n of them
    base = fresh()
    bench.forget()
    pending = int(2e6 * SCALE)
    bench.set(enabled="off")
    for _ in range(10):
        bench.emit("bench.one", pending // 10)
    bench.sql("VACUUM ANALYZE chatwebhook.queue", "CHECKPOINT")
    bench.set(enabled="on")
    bench.wait("SELECT NOT EXISTS (SELECT FROM chatwebhook.queue)", 3600)
    rates = [float(x) for x in bench.sql(
        "SELECT count(*) / extract(epoch FROM max(completed_at) - min(completed_at)) FROM (SELECT completed_at, "
        "ntile(10) OVER (ORDER BY completed_at) t FROM chatwebhook.history) x GROUP BY t ORDER BY t").split()]
    compare(f"{pending:,} pending, over all of them", base, len(rates) / sum(1 / r for r in rates))
    say("    by tenths: " + " ".join(f"{r:,.0f}" for r in rates))

    # a steady load
    base = fresh()
    cycles = []
    for cycle in range(20):
        cycles.append(bench.drain(int(100000 * SCALE))[0])
        bench.sql("DELETE FROM chatwebhook.history", "DELETE FROM chatwebhook.event")
        if cycle in (4, 9, 14, 19):
            say(f"    after {cycle + 1} cycles: {sizes(bench)}")
    rule("growth: the last 5 of 20 cycles of 100,000", statistics.median(cycles[-5:]) / statistics.median(cycles[:5]), 0.85)
    rule("growth: the same, to 20,000 in fresh tables", statistics.median(cycles[-5:]) / base, 0.85)
    bench.forget()


def snapshot(bench):
    n = int(200000 * SCALE)
    bench.only("sink", "bench.one")

    def run(held):
        bench.forget()
        bench.sql("VACUUM ANALYZE")
        if not held:
            return bench.drain(n)[0]
        holder = subprocess.Popen([os.path.join(BINDIR, "psql"), "-X", "-q", "-A", "-t"], text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        holder.stdin.write("BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT 1;\n")
        holder.stdin.flush()
        holder.stdout.readline()
        rate = bench.drain(n)[0]
        holder.stdin.close()
        holder.wait()
        return rate

    results = in_turn({"free": lambda: run(False), "held": lambda: run(True)})
    rule(f"draining {n:,} beside an old snapshot", statistics.median(results["held"]) / statistics.median(results["free"]), 0.7)
    for kind, rates in results.items():
        say(f"    {kind}: {spread(rates)} a second")
    bench.forget()


def connections_to(port, pids):
    """Number of established connections of processes to a port."""
    out = subprocess.check_output(["ss", "-Htnp", "state", "established", f"( dport = :{port} )"], text=True)
    return sum(any(f"pid={pid}," in line for pid in pids) for line in out.splitlines())


def https(bench):
    n = int(10000 * SCALE)
    bench.set(ca_file=bench.tls_files + "/certificate")
    for sink, path in (("nginx itself", "/"), ("a service behind nginx", "/service/")):
        url = f"https://localhost:{bench.https}{path}"
        bench.only("sink", "bench.one", url)
        most = [0]

        def ours():
            rate = bench.drain(n)[0]
            most[0] = max(most[0], connections_to(bench.https, bench.pids()))
            bench.forget()
            return rate

        def h2load():
            out = subprocess.check_output(["h2load", "-n", str(n), "-c", str(max(1, most[0])), "-m", str(TRANSFERS),
                                           "-d", bench.tools + "/body", url], text=True)
            return float(re.search(r"([\d.]+) req/s", out).group(1))

        def raw():
            return bench.raw(n, url, bench.tls_files + "/certificate")[0]

        results = in_turn({"ours": ours, "h2load": h2load, "libcurl": raw})
        # per round, since the machine may be half as fast in the next one
        for name, kind in (("h2load", "h2load"), ("bare libcurl", "libcurl")):
            rule(f"HTTP/2 to {sink}, {n:,} deliveries, to {name}", by_round(results["ours"], results[kind]), 0.5)
        rule(f"HTTP/2 to {sink}, connections", most[0], 8, least=False)
        for kind, values in results.items():
            say(f"    {kind}: {spread(values)} a second")
    bench.set(ca_file="")


def hang_server():
    """A listener that accepts, reads and never answers."""
    return subprocess.Popen([sys.executable, "-c", """
import asyncio, sys
async def serve(reader, writer):
    while await reader.read(65536):
        pass
async def main():
    server = await asyncio.start_server(serve, sys.argv[1], 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
""", "127.0.0.1"], stdout=subprocess.PIPE, text=True)


def memory(bench):
    # as many requests as can be in flight at once, none of which gets a reply
    server = hang_server()
    try:
        port = int(server.stdout.readline())
        # webhooks that have not answered yet may use half of them, and a customer no more than a share
        bench.set(max_in_flight=2048, enabled="on")
        bench.sql("DELETE FROM chatwebhook.webhook")
        bench.sql("INSERT INTO chatwebhook.webhook (name, chatbot_id, url, events, timeout, max_retries) SELECT 'w' || i, "
                  f"'bot ' || i, 'http://127.0.0.1:{port}/' || i, '{{bench.one}}', '30 seconds', 0 FROM generate_series(1, 1024) i")
        bench.sql("SELECT count(chatwebhook.emit('bench.one', 'bot ' || i % 1024 + 1, 'c', jsonb_build_object('content', "
                  f"'{CONTENT}', 'n', i))) FROM generate_series(0, 2047) i")
        bench.wait("SELECT max(in_flight) >= 1000 FROM chatwebhook.worker_status", 25)
        anonymous, peak = bench.rss(bench.pids()[0])
        rule("MB of a worker's own with 1,000 transfers in flight", anonymous, 64, least=False)
        say(f"    {anonymous:.0f} MB of its own, {peak:.0f} MB at most with shared memory and libraries")
        bench.sql("DELETE FROM chatwebhook.webhook")
        bench.wait("SELECT chatwebhook.wait_until_idle('2 minutes')")
    finally:
        server.kill()
        server.wait()
    bench.set(max_in_flight=100)
    bench.forget()


def hosts(bench):
    plain_hosts(bench)
    for protocol, port in ("HTTP/1.1", bench.hosts), ("HTTP/2", bench.hosts2):
        tls_hosts(bench, protocol, port)


def plain_hosts(bench):
    bench.set(max_in_flight=2048, enabled="on")
    bench.sql("DELETE FROM chatwebhook.webhook")
    bench.sql("INSERT INTO chatwebhook.webhook (name, url, events) SELECT 'h' || i, format('http://127.1.%s.%s:%s/', "
              f"i / 250, 1 + i % 250, {bench.http}), '{{bench.one}}' FROM generate_series(1, 2000) i")
    start = time.monotonic()
    bench.emit("bench.one", 5)
    bench.wait("SELECT chatwebhook.wait_until_idle('2 minutes')")
    took = time.monotonic() - start
    delivered = int(bench.sql("SELECT count(*) FROM chatwebhook.history WHERE status = 'delivered'"))
    rule("2,000 hosts, 5 events each: delivered", delivered / 10000, 1)
    say(f"    {took:.1f} s, {connections_to(bench.http, bench.pids())} connections kept")
    bench.set(max_in_flight=100)
    bench.sql("DELETE FROM chatwebhook.webhook")
    bench.forget()


def tls_hosts(bench, protocol, port):
    """
    HTTPS to a host per chatbot.  The worker and bare libcurl take turns, and between its turns each loses its connections:
    to many hosts, because both keep only so many; to few, because the receiver closes those that are idle.
    """
    n, width = max(20, int(1000 * SCALE)), 256
    few = min(n - 1, 200)
    bench.set(max_in_flight=width, ca_file=bench.authorities, enabled="on")
    bench.sql("DELETE FROM chatwebhook.webhook")
    bench.sql("INSERT INTO chatwebhook.webhook (name, chatbot_id, url, events) SELECT 'h' || i, 'bot ' || i, "
              f"'https://h' || i || '.hook.localhost:{port}/', '{{bench.one}}' FROM generate_series(1, {n}) i")
    bench.restart_worker()
    pids = bench.pids()
    memory = [bench.private_dirty(pids[0])]
    session = subprocess.Popen([os.path.join(BINDIR, "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"], text=True,
                               bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    libcurl = subprocess.Popen([bench.tools + "/raw", str(n), str(width), f"https://h%d.hook.localhost:{port}/",
                                bench.tools + "/body", bench.authorities, "hosts"], text=True, bufsize=1,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def emit(first, last):
        session.stdin.write("SELECT count(chatwebhook.emit('bench.one', 'bot ' || i, 'c', jsonb_build_object('content', "
                            f"'{CONTENT}', 'n', i))) FROM generate_series({first}, {last}) i;\n")
        session.stdout.readline()

    def ours(n, seconds):
        cpu = bench.cpu(pids)
        start = time.monotonic()
        # in steps, each of which emits for the hosts whose time has come
        done = 0
        while done < n:
            due = min(n, int((time.monotonic() - start) / seconds * n) + 1) if seconds else n
            if due > done:
                emit(done + 1, due)
                done = due
            else:
                time.sleep(seconds / n)
        bench.wait("SELECT NOT EXISTS (SELECT FROM chatwebhook.queue)")
        took = time.monotonic() - start
        bench.wait("SELECT sum(in_flight) = 0 FROM chatwebhook.worker_status")
        return (bench.cpu(pids) - cpu) * 1e6 / n, took

    def raw(n, seconds):
        libcurl.stdin.write(f"{n} {seconds}\n")
        rate, cpu = (float(value) for value in libcurl.stdout.readline().split())
        return cpu, n / rate

    def measure(kind, n, seconds):
        """CPU of a request in microseconds, seconds of the round, and the shares of new and of resumed connections."""
        # wait until the receiver has closed all connections, unless a round takes long enough for that
        while not seconds and connections_to(port, pids + [libcurl.pid]):
            time.sleep(0.1)
        send = {"ours": ours, "libcurl": raw}[kind]
        result, lines = bench.logged("connections.log", n, lambda: send(n, seconds))
        new = [line for line in lines if line[0] == "1"]
        assert all(line[2] == "TLSv1.3" for line in new)
        return (*result, len(new) / n, sum(line[1] == "r" for line in new) / max(1, len(new)))

    # all hosts are new; the next time, the worker knows whether a host has HTTP/2, and makes other sessions for that
    first, _ = ({kind: measure(kind, n, 0) for kind in ("ours", "libcurl")} for _ in range(2))
    memory.append(bench.private_dirty(pids[0]))
    results = {}
    for hosts, seconds in (n, 0), (n, IDLE), (few, IDLE):
        results[f"{hosts:,} hosts, " + ("one after the other" if seconds else "all at once")] = in_turn(
            {kind: (lambda kind=kind: measure(kind, hosts, seconds)) for kind in ("ours", "libcurl")})
    memory.append(bench.private_dirty(pids[0]))
    for what, runs in results.items():
        rule(f"{protocol}, TLS, {what}: CPU, to bare libcurl",
             by_round((run[0] for run in runs["ours"]), (run[0] for run in runs["libcurl"])), 1.3, least=False)
        rule(f"{protocol}, TLS, {what}: new connections that resume", min(run[3] for run in runs["ours"]), 0.9)
        for kind in runs:
            cpu, took, new, resumed = zip(*runs[kind])
            say(f"    {kind}: {spread(cpu)} us of CPU each, {spread(took, '{:.2f}')} s, "
                f"{statistics.mean(new) * 100:.0f} % on new connections, {statistics.mean(resumed) * 100:.0f} % of which resumed")
    for kind in first:
        say(f"    {kind}, the first time: {first[kind][0]:,.0f} us of CPU each, {first[kind][1]:.2f} s, "
            f"{first[kind][3] * 100:.0f} % resumed")
    say("    private memory of the worker: {:.1f} MB before, {:.1f} after the first round, {:.1f} after the last".format(*memory))
    for process in session, libcurl:
        process.stdin.close()
        if process.wait() != 0:
            raise RuntimeError("requests failed")
    bench.set(max_in_flight=100, ca_file="")
    bench.sql("DELETE FROM chatwebhook.webhook")
    bench.forget()


class Crowd:
    """Webhooks with a chatbot each, some of which answer well."""

    RATE, SECONDS = 200, 20

    def __init__(self, bench):
        self.bench = bench
        self.port = free_port()
        self.good = f"http://127.0.0.1:{self.port}/"
        self.refused = f"http://127.0.0.1:{free_port()}/"
        bench.set(max_in_flight=256)
        bench.workers(1)

    def clear(self):
        self.bench.set(enabled="off")
        self.bench.wait("SELECT sum(in_flight) = 0 FROM chatwebhook.worker_status")
        self.bench.sql("DELETE FROM chatwebhook.webhook")
        self.bench.forget()

    def have(self, first, last, urls, **columns):
        """Create webhooks for the chatbots from first up to last, exclusive; use the URLs in turn."""
        names = "".join(f", {column}" for column in columns)
        values = "".join(f", '{value}'" for value in columns.values())
        listed = ", ".join(f"'{url}'" for url in urls)
        self.bench.sql(f"INSERT INTO chatwebhook.webhook (name, chatbot_id, events, url{names}) SELECT 'w' || i, "
                       f"'bot ' || i, '{{bench.one}}', (ARRAY[{listed}])[1 + i % {len(urls)}] || i{values} "
                       f"FROM generate_series({first}, {last} - 1) i")

    def queue(self, n, each):
        """Queue deliveries for the first n of them, and turn sending on."""
        self.bench.sql(f"SELECT count(chatwebhook.emit('bench.one', 'bot ' || i, 'c', jsonb_build_object('content', "
                       f"'{CONTENT}'))) FROM generate_series(1, {each}), generate_series(0, {n} - 1) i")
        self.bench.sql("VACUUM ANALYZE", "CHECKPOINT")
        self.bench.set(enabled="on")

    def cpu_at_rest(self):
        """The share of a core that the worker uses."""
        pids = self.bench.pids()
        cpu = self.bench.cpu(pids)
        time.sleep(self.SECONDS)
        return (self.bench.cpu(pids) - cpu) / self.SECONDS

    def measure(self, first, last):
        """Latencies of single events, each for another webhook, and the worker's CPU in microseconds per event."""
        n = self.RATE * self.SECONDS
        sql = f"SELECT chatwebhook.emit('bench.one', 'bot ' || {first} + i * 7919 %% {last - first}, 'c', " \
              f"jsonb_build_object('content', '{CONTENT}', 'n', i)) FROM generate_series(%1$ld, %2$ld) i"
        pids = self.bench.pids()
        cpu = self.bench.cpu(pids)
        result, = self.bench.latency(self.port, n, self.RATE, 1, sql)
        return (*result[:3], (self.bench.cpu(pids) - cpu) * 1e6 / n)

    def leave(self):
        self.clear()
        self.bench.set(max_in_flight=100, enabled="on")


def latencies(runs):
    return f"{spread([r[0] for r in runs], '{:.2f}')} ms median, {spread([r[1] for r in runs], '{:.2f}')} p99, " \
           f"{spread([r[2] for r in runs], '{:.0f}')} at most, {spread([r[3] for r in runs])} us of CPU each"


def fairness(bench):
    webhooks, bad, backlog = int(10000 * SCALE), 100, 1000
    crowd = Crowd(bench)
    server = hang_server()
    hanging = f"http://127.0.0.1:{server.stdout.readline().strip()}/"

    def run(n):
        """Measure the good webhooks next to n bad ones, from the first attempt at the latter on."""
        crowd.clear()
        crowd.have(bad, webhooks, [crowd.good])
        crowd.have(0, bad, [hanging, crowd.refused, hanging, f"{bench.url}broken/"])
        crowd.queue(n, backlog)
        return crowd.measure(bad, webhooks)

    try:
        run(0)
        results = in_turn({"without": lambda: run(0), "beside": lambda: run(bad)})
    finally:
        server.kill()
        server.wait()
    median, p99 = ([statistics.median(r[i] for r in results[kind]) for kind in ("beside", "without")] for i in (0, 1))
    rule(f"{webhooks:,} webhooks, {bad} of them bad with {backlog:,} pending each: the others' 99th percentile",
         p99[0] / p99[1], 2, least=False)
    say(f"    of the medians: {median[0] / median[1]:.2f}")
    for kind, runs in results.items():
        say(f"    {kind}: {latencies(runs)}")
    crowd.leave()


def paused(bench):
    webhooks = int(10000 * SCALE)
    most = webhooks * 9 // 10
    crowd = Crowd(bench)

    def run(what, **columns):
        """Most webhooks are paused for hours, with deliveries due."""
        crowd.clear()
        crowd.have(most, webhooks, [crowd.good])
        crowd.have(0, most, [crowd.refused], **columns)
        start = time.monotonic()
        crowd.queue(most if what else 0, 15)
        # wait until each has failed 10 times, which opens its breaker
        bench.wait("SELECT count(*) = 0 FROM chatwebhook.health WHERE total < 10 AND webhook_id IN "
                   "(SELECT webhook_id FROM chatwebhook.queue)", 120)
        bench.wait("SELECT sum(in_flight) = 0 FROM chatwebhook.worker_status")
        took = time.monotonic() - start
        rest = crowd.cpu_at_rest()
        tried = bench.sql("SELECT sum(total) FROM chatwebhook.health")
        result = crowd.measure(most, webhooks)
        say(f"    {what or 'none'}: {rest * 100:.1f} % of a core at rest, after {tried} attempts in {took:.0f} s; "
            f"then the others', {latencies([result])}")

    run("")
    run(f"{most:,} paused, with 5 due each", backoff="1 hour", max_backoff="1 day")
    crowd.leave()


PARTS = {"drain": drain, "connector": connector, "latency": latency, "insert": insert, "copy": copy, "growth": growth,
         "snapshot": snapshot, "https": https, "memory": memory, "hosts": hosts,
         "fairness": fairness, "paused": paused}


def main():
    wanted = sys.argv[1:] or list(PARTS)
    for part in wanted:
        if part not in PARTS:
            sys.exit(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bench = Bench()
    try:
        bench.start()
        postgres = bench.sql("SHOW server_version").split()[0]
        say(f"PostgreSQL {postgres}, {machine()}, medians of {RUNS}",
            "\n\n| what | ratio | target | |\n|---|---|---|---|")
        for part in wanted:
            PARTS[part](bench)
        if RUNS >= 3 and EVENTS >= 40000 and SCALE >= 1:
            keep_figures(postgres)
    finally:
        bench.stop()


if __name__ == "__main__":
    main()
