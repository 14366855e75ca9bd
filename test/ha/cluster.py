"""A Patroni cluster of three, its etcd, and a PgBouncer that follows the leader.

All of it is on free ports of 127.0.0.1 and in one private directory, and ends with
stop().
"""

import datetime
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import psycopg2

HERE = os.path.dirname(os.path.abspath(__file__))
ROLES = ("postgres", "replicator", "chat", "app")


def free_ports(n):
    """Ports that nobody uses now, all different."""
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_until(condition, what, seconds=120):
    """Wait until a condition is true, and return what it gives."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise RuntimeError(f"timed out waiting for {what}")
        time.sleep(0.05)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Process:
    """A program that runs until it is stopped, with its output in a log."""

    def __init__(self, directory, name, command, **options):
        self.log = os.path.join(directory, name + ".log")
        with open(self.log, "ab") as log:
            # apart from the terminal, whose Ctrl-C is for us to handle
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            start_new_session=True, cwd=directory, **options)

    def stop(self, with_signal=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Member:
    """A PostgreSQL server and its Patroni."""

    def __init__(self, cluster, name, port, rest_port):
        self.cluster = cluster
        self.name = name
        self.port = port
        self.rest_port = rest_port
        self.data = os.path.join(cluster.directory, name)
        self.config = self.data + ".yml"
        self.patroni = None
        with open(self.config, "w", encoding="utf-8") as file:
            # any JSON is YAML, too
            json.dump(self.configuration(), file, indent=1)

    def configuration(self):
        cluster = self.cluster
        callback = f"{HERE}/follow-leader {cluster.directory} {self.port}"
        return {
            "scope": "chat",
            "name": self.name,
            "etcd3": {"host": f"127.0.0.1:{cluster.etcd_port}"},
            "restapi": {"listen": f"127.0.0.1:{self.rest_port}", "connect_address": f"127.0.0.1:{self.rest_port}"},
            "bootstrap": {
                "dcs": {
                    "ttl": 20, "loop_wait": 2, "retry_timeout": 5,
                    "synchronous_mode": True,
                    "postgresql": {"use_pg_rewind": True, "use_slots": True},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.port}",
                "connect_address": f"127.0.0.1:{self.port}",
                "data_dir": self.data,
                "bin_dir": cluster.bindir,
                "pgpass": self.data + ".pgpass",
                "authentication": {
                    "superuser": {"username": "postgres", "password": cluster.password},
                    "replication": {"username": "replicator", "password": cluster.password},
                },
                "pg_hba": ["host all all 127.0.0.1/32 scram-sha-256",
                           "host replication replicator 127.0.0.1/32 scram-sha-256"],
                "callbacks": {"on_start": callback, "on_role_change": callback},
                "parameters": {
                    "unix_socket_directories": cluster.directory,
                    "log_line_prefix": "%m [%p] ",
                    "log_timezone": "UTC",
                    "password_encryption": "scram-sha-256",
                    "shared_preload_libraries": "chatwebhook",
                    "chatwebhook.allow_http": "on",
                    "chatwebhook.allowed_networks": "127.0.0.0/8",
                },
            },
        }

    def start(self):
        self.patroni = Process(self.cluster.directory, f"{self.name}.patroni", ["patroni", self.config])

    def postmaster(self):
        try:
            with open(os.path.join(self.data, "postmaster.pid"), encoding="ascii") as file:
                return int(file.readline())
        except (FileNotFoundError, ValueError):
            return None

    def is_ours(self, pid):
        """Whether this process, which the file may name long after its end, is the server."""
        try:
            return is_alive(pid) and os.readlink(f"/proc/{pid}/cwd") == self.data
        except OSError:
            return False

    def kill(self, with_signal=signal.SIGKILL):
        """End Patroni first, so that nobody starts the server again, and then the server."""
        if self.patroni is not None:
            self.patroni.stop(signal.SIGKILL)
        pid = self.postmaster()
        if pid is not None and self.is_ours(pid):
            os.kill(pid, with_signal)
            wait_until(lambda: not is_alive(pid), f"the end of {self.name}", 30)

    def promotions(self):
        """When this server was told to promote itself, as Unix times."""
        with open(self.patroni.log, encoding="utf-8", errors="replace") as log:
            return [
                datetime.datetime.fromisoformat(at).replace(tzinfo=datetime.timezone.utc).timestamp()
                for at in re.findall(r"^(\S+ \S+) UTC \[\d+\] LOG:  received promote request", log.read(), re.M)]


class Cluster:
    def __init__(self, directory, bindir):
        self.directory = directory
        self.bindir = bindir
        self.password = secrets.token_hex(16)
        self.processes = []
        ports = free_ports(9)
        self.etcd_port, etcd_peer, self.bouncer_port = ports[:3]
        self.members = [Member(self, f"member{i}", ports[2 + 2 * i - 1], ports[2 + 2 * i]) for i in (1, 2, 3)]
        self.start_etcd(etcd_peer)
        self.start_bouncer()

    def start_etcd(self, peer_port):
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{peer_port}"
        self.processes.append(Process(self.directory, "etcd", [
            "etcd", "--name", "only", "--data-dir", os.path.join(self.directory, "etcd"),
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"only={peer}"]))
        wait_until(lambda: self.get(self.etcd_port, "/health"), "etcd")

    def start_bouncer(self):
        """PgBouncer, in transaction mode, which is told of the first leader by follow-leader."""
        directory = self.directory
        with open(os.path.join(directory, "users.txt"), "w", encoding="utf-8") as file:
            for role in ROLES:
                print(f'"{role}" "{self.password}"', file=file)
        with open(os.path.join(directory, "databases.ini"), "w", encoding="utf-8") as file:
            print("chat = host=127.0.0.1 port=1", file=file)
        with open(os.path.join(directory, "pgbouncer.ini"), "w", encoding="utf-8") as file:
            file.write(f"""\
[databases]
%include {directory}/databases.ini
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.bouncer_port}
unix_socket_dir =
pidfile = {directory}/pgbouncer.pid
auth_type = scram-sha-256
auth_file = {directory}/users.txt
pool_mode = transaction
default_pool_size = 6
server_login_retry = 0.2
server_connect_timeout = 2
query_wait_timeout = 60
""")
        self.processes.append(Process(directory, "pgbouncer", ["pgbouncer", "pgbouncer.ini"]))
        wait_until(lambda: os.path.exists(os.path.join(directory, "pgbouncer.pid")), "PgBouncer")

    def start(self):
        """Start the members; the first initializes the cluster."""
        for member in self.members:
            member.start()
            wait_until(self.leader, "a leader")
        self.wait_for_health()

    @staticmethod
    def get(port, path):
        """What an HTTP API says, or None."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
                return json.load(response)
        except (OSError, urllib.error.URLError, ValueError):
            return None

    def state(self):
        """Patroni's own view of the members."""
        for member in self.members:
            state = self.get(member.rest_port, "/cluster")
            if state is not None:
                return state["members"]
        return []

    def leader(self):
        """The member that is the leader, says so itself, and accepts writes; or None."""
        for member in self.members:
            if self.get(member.rest_port, "/primary") is not None:
                return member
        return None

    def wait_for_health(self):
        """Wait until there are a leader, a synchronous standby and one more, all streaming."""
        def healthy():
            members = self.state()
            roles = sorted(member["role"] for member in members)
            return (roles == ["leader", "replica", "sync_standby"]
                    and all(member["state"] in ("running", "streaming") for member in members)
                    and all(member.get("lag", 0) in (0, "0") or member.get("lag", 1) < 1 << 20 for member in members)
                    and len({member.get("timeline") for member in members}) == 1)
        wait_until(healthy, "three healthy members", 180)

    def connect(self, dbname="chat", member=None):
        """A connection past PgBouncer."""
        member = member or wait_until(self.leader, "a leader")
        connection = psycopg2.connect(host="127.0.0.1", port=member.port, user="postgres",
                                      password=self.password, dbname=dbname)
        connection.autocommit = True
        return connection

    def connection_through_bouncer(self, role):
        return f"host=127.0.0.1 port={self.bouncer_port} dbname=chat user={role} password={self.password} connect_timeout=10"

    def stop(self):
        for member in self.members:
            try:
                member.kill(signal.SIGQUIT)
            except (RuntimeError, OSError) as error:
                print(f"could not stop {member.name}: {error}")
        for process in reversed(self.processes):
            process.stop()
