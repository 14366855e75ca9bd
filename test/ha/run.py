#!/usr/bin/env python3
"""Kill the leader of a Patroni cluster twice under load, and audit the deliveries.

    run.py DIRECTORY BINDIR

"make test-ha" runs this as the user postgres.  load.py says who sends what, and
cluster.py what runs.  When the leader is killed, commits wait for its standbys, which
lose them: their events must not have been sent.  Each event is due at the webhook "all", which is ordered; those
of a customer's chatbot also at the customer's own.  receiver.py logs and verifies each
request.
"""

import collections
import json
import os
import signal
import subprocess
import sys
import time

import psycopg2

from cluster import HERE, Cluster, wait_until
from load import Load

FAILOVERS = 2
STEADY = 8  # seconds of load before each failover, and after the last
RESUMED_WITHIN = 2  # seconds
WAITING = 5  # commits that the leader has and no standby
UNREPLICATED = 1  # seconds in which an outcome reaches the standby
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

passed = failed = 0


def check(ok, what, detail=""):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
    print(f"{'ok' if ok else 'not ok'} - {what}" + ("" if ok else f": {detail}"), flush=True)


def say(text):
    print(text, flush=True)


class Receiver:
    """test/lib/receiver.py."""

    def __init__(self, directory):
        self.log_path = os.path.join(directory, "received.jsonl")
        self.secrets_path = os.path.join(directory, "secrets.json")
        self.secrets = {}
        self.errors = open(os.path.join(directory, "receiver.log"), "wb")
        self.process = subprocess.Popen(
            [sys.executable, "-B", os.path.join(HERE, "..", "lib", "receiver.py"),
             "--log", self.log_path, "--secrets", self.secrets_path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, start_new_session=True)
        self.port = int(self.process.stdout.readline().split()[1])

    def url(self, label):
        return f"http://127.0.0.1:{self.port}/ok/-/{label}"

    def set_secret(self, label, secret):
        self.secrets[label] = secret
        with open(self.secrets_path + ".new", "w", encoding="utf-8") as file:
            json.dump(self.secrets, file)
        os.rename(self.secrets_path + ".new", self.secrets_path)

    def requests(self):
        """The whole requests so far, with the numbers of their events."""
        with open(self.log_path, encoding="utf-8") as log:
            for line in log:
                if not line.endswith("\n"):
                    return
                request = json.loads(line)
                if request["complete"]:
                    request["n"] = json.loads(request["body"])["data"]["n"]
                    yield request

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.errors.close()


def set_up(cluster, receiver, load):
    connection = cluster.connect("postgres")
    cursor = connection.cursor()
    cursor.execute("CREATE DATABASE chat")
    for role in ("chat", "app"):
        cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD %s", (cluster.password,))
    connection.close()
    connection = cluster.connect()
    cursor = connection.cursor()
    cursor.execute("""
        CREATE EXTENSION chatwebhook;
        CREATE TABLE message (n bigint PRIMARY KEY, chatbot_id text, conversation_id text, content text);
        GRANT INSERT ON message TO chat, app;
        INSERT INTO chatwebhook.event_type (name) VALUES ('message.placed');
        SELECT chatwebhook.watch('message', 'message.placed',
            '{"chatbotId": "chatbot_id", "conversationId": "conversation_id", "n": "n"}');
        SELECT chatwebhook.grant_app('app')""")
    cursor.execute("SELECT secret FROM chatwebhook.create_webhook('all', %s, events => '{message.*}', ordered => true)",
                   (receiver.url("all"),))
    receiver.set_secret("all", cursor.fetchone()[0])
    for customer in load.customers:
        cursor.execute("SELECT secret FROM chatwebhook.create_webhook(%s, %s, events => '{message.*}', chatbot_id => %s)",
                       (customer.webhook, receiver.url(customer.webhook), customer.chatbot))
        receiver.set_secret(customer.webhook, cursor.fetchone()[0])
    connection.close()


def query(cluster, member, statement):
    """The first column of what a statement returns."""
    connection = cluster.connect("postgres", member)
    cursor = connection.cursor()
    cursor.execute(statement)
    rows = [row[0] for row in cursor.fetchall()]
    connection.close()
    return rows


def stop_confirming(cluster, leader, others):
    """Have the standbys confirm nothing any more; returns their WAL receivers, when commits wait for that."""
    receivers = [pid for member in others for pid in query(cluster, member, "SELECT pid FROM pg_stat_wal_receiver")]
    for pid in receivers:
        os.kill(pid, signal.SIGSTOP)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    wait_until(lambda: query(cluster, leader, waiting)[0] >= WAITING, "commits that wait for a standby")
    return receivers


def fail_over(cluster, receiver, load, number):
    """Kill the leader; returns when that was, and when the next was promoted."""
    leader = wait_until(cluster.leader, "a leader")
    others = [member for member in cluster.members if member is not leader]
    receivers = stop_confirming(cluster, leader, others)
    known = {member.name: len(member.promotions()) for member in others}
    postmaster = leader.postmaster()
    killed = time.time()
    leader.kill()
    # and with them what waits in their sockets, so that the commits that wait are lost
    for pid in receivers:
        os.kill(pid, signal.SIGKILL)
    say(f"failover {number}: killed {leader.name} (postmaster {postmaster} and its Patroni)")

    def promoted():
        for member in others:
            times = member.promotions()
            if len(times) > known[member.name]:
                return member, times[-1]
        return None
    new, promotion = wait_until(promoted, "a promotion")
    wait_until(lambda: max(load.acknowledged().values()) > promotion, "a commit on the new leader")
    n, committed = min(((n, at) for n, at in load.acknowledged().items() if at > promotion), key=lambda each: each[1])
    wait_until(lambda: any(request["n"] == n for request in receiver.requests()), "a delivery of the new leader")
    times = [request["time"] for request in receiver.requests()]
    first = min(at for at in times if at > promotion)
    arrived = min(request["time"] for request in receiver.requests() if request["n"] == n)
    say(f"    {new.name} was promoted after {promotion - killed:.1f} s; its first delivery came {first - promotion:.2f} s "
        f"after that, its first commit {committed - promotion:.2f} s, and the event of that {arrived - promotion:.2f} s")
    check(first - promotion < RESUMED_WITHIN,
          f"failover {number}: deliveries go on within {RESUMED_WITHIN} s of the promotion", f"{first - promotion:.2f} s")
    check(not any(killed + 0.5 < at < promotion for at in times),
          f"failover {number}: nothing is sent between the servers", "a request in between")
    leader.start()
    cluster.wait_for_health()
    say(f"    {leader.name} is back after {time.time() - killed:.1f} s")
    return killed, promotion


def settle_down(cluster):
    connection = cluster.connect()
    cursor = connection.cursor()
    cursor.execute("SELECT chatwebhook.wait_until_idle('120 s')")
    check(cursor.fetchone()[0], "the queue is drained")
    cursor.execute("SELECT n FROM message")
    committed = {n for n, in cursor.fetchall()}
    cursor.execute("SELECT name, (headers->>'X-Change')::bigint FROM chatwebhook.webhook WHERE chatbot_id IS NOT NULL")
    changes = dict(cursor.fetchall())
    cursor.execute("SELECT status, count(*) FROM chatwebhook.delivery GROUP BY 1")
    statuses = dict(cursor.fetchall())
    connection.close()
    return committed, changes, statuses


def some(numbers):
    numbers = sorted(numbers)
    return f"{len(numbers)}, such as {numbers[:5]}"


def audit(receiver, load, failovers, committed, changes, statuses):
    requests = list(receiver.requests())
    acknowledged = load.acknowledged()
    arrivals = collections.defaultdict(list)
    last = {}
    disordered = 0
    for request in requests:
        key = request["label"], request["n"]
        if request["label"] == "all" and key not in arrivals:
            conversation = json.loads(request["body"])["conversationId"]
            disordered += request["n"] < last.get(conversation, 0)
            last[conversation] = request["n"]
        arrivals[key].append(request["time"])
    arrived = {n for label, n in arrivals if label == "all"}
    due = {("all", n) for n in committed}
    for customer in load.customers:
        due |= {(customer.webhook, n) for n in committed if n in customer.acknowledged or n in customer.failed}
    repeated = [times for times in arrivals.values() if len(times) > 1]

    say(f"{len(acknowledged)} events acknowledged, {len(load.rolled_back())} rolled back, {len(load.failed())} statements failed, "
        f"of which {len(committed - acknowledged.keys())} are committed; {len(requests)} requests, {len(repeated)} events repeated")
    say("    errors that clients got: " + "; ".join(sorted(load.errors)[:6]))
    check(len(acknowledged) > 1000, "there is much to be audited", len(acknowledged))
    check(acknowledged.keys() <= committed, "PostgreSQL has all that it acknowledged", some(acknowledged.keys() - committed))
    check(due <= arrivals.keys(), "every event has arrived wherever it is due", some(due - arrivals.keys()))
    check(arrived <= committed, "nothing has arrived that is not committed on the last timeline", some(arrived - committed))
    check(not arrived & load.rolled_back(), "nothing that was rolled back", some(arrived & load.rolled_back()))
    check(set(arrivals) <= due, "nothing where it is not due", some(set(arrivals) - due))
    check(all(request["verified"]["signature"] and request["verified"]["standard"] for request in requests), "all signatures hold")
    check(disordered == 0, "conversations came in order", disordered)
    check(statuses == {"delivered": len(due)}, "each is recorded once, as delivered", statuses)
    late = [times for times in repeated if not any(killed - UNREPLICATED < times[0] < promotion for killed, promotion in failovers)]
    check(not late, f"only what was sent in the last {UNREPLICATED} s of a leader was repeated", late[:5])
    ages = [killed - times[0] for times in repeated for killed, promotion in failovers if killed - UNREPLICATED < times[0] < promotion]
    if ages:
        say(f"    the first times that those arrived: {-max(ages) * 1000:.0f} to {-min(ages) * 1000:.0f} ms after the kill")
    problems = [problem for client in load.clients for problem in client.problems]
    check(not problems, "each customer saw its webhook, and only with SET LOCAL", problems[:5])
    lost = [customer.chatbot for customer in load.customers
            if changes[customer.webhook] < max(customer.acknowledged) or changes[customer.webhook] not in committed]
    check(not lost, "no change of a webhook that was acknowledged is lost", lost)


def stop(*_):
    """Signal handler: end, and let nothing interrupt the clean-up."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(1)


def main():
    directory, bindir = sys.argv[1:]
    receiver = cluster = None
    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        receiver = Receiver(directory)
        started = time.time()
        cluster = Cluster(directory, bindir)
        cluster.start()
        load = Load(cluster.connection_through_bouncer)
        set_up(cluster, receiver, load)
        say(f"a leader and two standbys after {time.time() - started:.0f} s; load of {load.rate} a second, {STEADY} s before each failover")
        load.start()
        failovers = []
        for number in range(1, FAILOVERS + 1):
            before = len(load.acknowledged()) + len(load.rolled_back())
            time.sleep(STEADY)
            rate = (len(load.acknowledged()) + len(load.rolled_back()) - before) / STEADY
            check(rate > load.rate / 2, f"failover {number}: the clients keep to about {load.rate} a second", f"{rate:.0f}")
            failovers.append(fail_over(cluster, receiver, load, number))
        time.sleep(STEADY)
        load.stop()
        audit(receiver, load, failovers, *settle_down(cluster))
    except (RuntimeError, OSError, psycopg2.Error) as error:
        check(False, "the test ends", error)
    finally:
        if cluster is not None:
            cluster.stop()
        if receiver is not None:
            receiver.stop()
    say(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
