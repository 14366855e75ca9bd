"""The load: chat servers that insert messages, and an application whose customers
manage their webhooks, all through PgBouncer.

Each client is a thread with a connection of its own, and numbers what it inserts.  It
notes which numbers were acknowledged, that is, whose COMMIT has returned, and which it
has rolled back.  What failed in between may have been committed or not.
"""

import threading
import time

import psycopg2

NUMBERS = 1_000_000  # of each client
ROLLED_BACK = 10  # each so many are


class Client(threading.Thread):
    """Inserts so many messages a second until told to stop."""

    role = "chat"

    def __init__(self, load, number, rate):
        super().__init__(daemon=True)
        self.load = load
        self.number = number
        self.pause = 1 / rate
        self.chatbot = "chat"
        self.conversation = f"c{number}"
        self.connection = None
        self.acknowledged = {}  # number: when
        self.rolled_back = set()
        self.failed = set()
        self.problems = []

    def run(self):
        n = self.number * NUMBERS
        due = time.monotonic()
        while not self.load.stopped.is_set():
            n += 1
            try:
                self.connect()
                self.transact(n)
            except psycopg2.Error as error:
                self.failed.add(n)
                self.load.errors.add(str(error).strip().split("\n")[0])
                self.disconnect()
            # a client that was held up does not try to catch up
            due = max(due + self.pause, time.monotonic())
            self.load.stopped.wait(due - time.monotonic())
        self.disconnect()

    def connect(self):
        if self.connection is None:
            self.connection = psycopg2.connect(self.load.connection(self.role))

    def disconnect(self):
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def transact(self, n):
        with self.connection.cursor() as cursor:
            self.work(cursor, n)
        if n % ROLLED_BACK == 0:
            self.rolled_back.add(n)
            self.connection.rollback()
        else:
            self.connection.commit()
            self.acknowledged[n] = time.time()

    def work(self, cursor, n):
        cursor.execute("INSERT INTO message VALUES (%s, %s, %s, 'hello')", (n, self.chatbot, self.conversation))


class Customer(Client):
    """Changes its webhook along with each message, in the role that all customers share."""

    role = "app"

    def __init__(self, load, number, rate):
        super().__init__(load, number, rate)
        self.chatbot = self.webhook = f"shop{number}"

    def work(self, cursor, n):
        # PgBouncer has not brought it along from another customer's transaction
        cursor.execute("SELECT count(*) FROM chatwebhook.webhook")
        self.expect(cursor, [(0,)], "without SET LOCAL")
        self.connection.commit()
        cursor.execute("SET LOCAL chatwebhook.chatbot = %s", (self.chatbot,))
        cursor.execute("SELECT name FROM chatwebhook.webhook")
        self.expect(cursor, [(self.webhook,)], "with SET LOCAL")
        cursor.execute("UPDATE chatwebhook.webhook SET headers = jsonb_build_object('X-Change', %s)", (str(n),))
        super().work(cursor, n)

    def expect(self, cursor, expected, what):
        rows = cursor.fetchall()
        if rows != expected:
            self.problems.append(f"{self.chatbot} {what}: {rows}")


class Load:
    """All of the clients."""

    def __init__(self, connection, chats=8, chat_rate=20, customers=4, customer_rate=10):
        self.connection = connection
        self.stopped = threading.Event()
        self.errors = set()
        self.rate = chats * chat_rate + customers * customer_rate
        self.customers = [Customer(self, i, customer_rate) for i in range(1, customers + 1)]
        self.clients = self.customers + [
            Client(self, i, chat_rate) for i in range(customers + 1, customers + chats + 1)]

    def start(self):
        for client in self.clients:
            client.start()

    def stop(self):
        self.stopped.set()
        for client in self.clients:
            client.join(60)

    def acknowledged(self):
        return {n: at for client in self.clients for n, at in client.acknowledged.copy().items()}

    def rolled_back(self):
        return set().union(*(client.rolled_back for client in self.clients))

    def failed(self):
        return set().union(*(client.failed for client in self.clients))
