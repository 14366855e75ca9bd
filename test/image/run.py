#!/usr/bin/env python3
"""Run compose.yaml's services from finished trees, and README.md's commands on them.

    run.py CONFIG BASE IMAGE IMAGE-WITH-CA CA DIRECTORY LOGS

scripts/test-image runs this as root, in namespaces of its own.  CONFIG is what
buildah inspect says of the image.  BASE, IMAGE and IMAGE-WITH-CA are trees: of the base, of the image,
and of one made from it by the Dockerfile in docs/containers.md.  CA is a directory with
private-ca.crt, and a certificate of this CA for the host "private".  DIRECTORY is for
the containers' volumes.

A service runs in its tree with chroot, with the environment, command, and mounts that
compose.yaml and the image give it, at an address of its own in compose.yaml's network.
"""

import ipaddress
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import yaml

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
PATIENCE = int(os.environ.get("PG_TEST_TIMEOUT_DEFAULT", 180))
# the uid of "node" in node's images
USERS = {"node": 1000}

passed = failed = 0


def check(ok, what, detail=""):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
    print(f"{'ok' if ok else 'not ok'} - {what}" + ("" if ok else f": {detail}"), flush=True)


def check_equal(found, expected, what):
    check(found == expected, what, f"got {found!r}, expected {expected!r}")


def run(*command, **options):
    return subprocess.run(command, check=True, **options)


def wait_until(condition, what):
    """Wait until a condition is true, and return its value."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > end:
            raise SystemExit(f"timed out waiting until {what}")
        time.sleep(0.1)
    return value


def read(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return file.read()


def compose_file(variables):
    """Read compose.yaml, with the variables filled in."""
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda match: variables[match[1]],
                  read(TOP, "compose.yaml"))
    return yaml.safe_load(text)


def in_network(host):
    """Return what to put before a command to run it at the host's address."""
    return ["nsenter", f"--net=/run/netns/{host}"]


class Container:
    """A service in a tree."""

    def __init__(self, tree, host, environment, mounts, log, user=None):
        self.tree = tree
        self.host = host
        self.environment = environment
        self.user = user
        self.log = log
        self.process = None
        os.makedirs(os.path.join(tree, "dev"), exist_ok=True)
        os.makedirs(os.path.join(tree, "proc"), exist_ok=True)
        run("mount", "--rbind", "/dev", os.path.join(tree, "dev"))
        run("mount", "-t", "tmpfs", "-o", "mode=1777,size=64m", "tmpfs", os.path.join(tree, "dev/shm"))
        run("mount", "-t", "proc", "proc", os.path.join(tree, "proc"))
        for source, target in mounts:
            inside = tree + target
            if os.path.isdir(source):
                os.makedirs(inside, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(inside), exist_ok=True)
                open(inside, "a", encoding="utf-8").close()
            run("mount", "--bind", source, inside)

    def _command(self, command):
        user = [f"--userspec={self.user}:{self.user}"] if self.user else []
        return [*in_network(self.host), "chroot", *user, self.tree, *command]

    def start(self, command):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self._command(command), env=self.environment, cwd="/", stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT)

    def execute(self, *command):
        """Run a command in the container; return its status and output."""
        done = subprocess.run(self._command(command), env=self.environment, cwd="/",
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False)
        return done.returncode, done.stdout

    def alive(self):
        if self.process.poll() is not None:
            raise SystemExit(f"it ended with {self.process.returncode}:\n{read(self.log)[-4000:]}")
        return True

    def query(self, sql):
        status, output = self.execute("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-c", sql)
        if status != 0:
            raise SystemExit(f"{sql}: {output}")
        return output.rstrip("\n")

    def setting(self, name, value):
        self.query(f"ALTER SYSTEM SET {name} = '{value}'")
        self.query("SELECT pg_reload_conf()")
        wait_until(lambda: self.query(f"SHOW {name}") == value, f"{name} is changed")


class Project:
    """What docker compose would run of compose.yaml."""

    def __init__(self, config, directory, logs):
        self.image = config
        self.logs = logs
        self.directory = directory  # removed by the caller, without the mounts
        self.compose = None
        self.addresses = {}
        self.db = self.receiver = None

    def read_compose(self, variables):
        self.compose = compose_file(variables)
        subnet = ipaddress.ip_network(self.compose["networks"]["default"]["ipam"]["config"][0]["subnet"])
        hosts = (f"{host}/{subnet.prefixlen}" for host in subnet.hosts())
        run("mount", "-t", "tmpfs", "tmpfs", "/run")
        run("ip", "link", "add", "bridge", "up", "type", "bridge")
        run("ip", "address", "add", next(hosts), "dev", "bridge")
        for name in [*self.compose["services"], "private"]:
            address = next(hosts)
            run("ip", "netns", "add", name)
            run("ip", "link", "add", name, "up", "master", "bridge", "type", "veth",
                "peer", "name", "eth0", "netns", name)
            for command in ("link set lo up", "link set eth0 up", f"address add {address} dev eth0"):
                run("ip", "-n", name, *command.split())
            self.addresses[name] = address.split("/")[0]

    def mounts(self, service, tree):
        """The service's volumes, as pairs of a path outside and a path inside."""
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            if source.startswith("."):
                yield os.path.join(TOP, source), target
                continue
            # like a volume of Docker, a new one is as the image has it there
            assert source in self.compose["volumes"], f"no volume {source}"
            path = os.path.join(self.directory, source)
            if not os.path.exists(path):
                run("cp", "-a", tree + target, path)
            yield path, target

    def start_db(self, tree, name, more_mounts=()):
        service = self.compose["services"]["db"]
        with open(os.path.join(tree, "etc/hosts"), "w", encoding="ascii") as hosts:
            hosts.write("127.0.0.1 localhost\n")
            hosts.writelines(f"{address} {host}\n" for host, address in self.addresses.items())
        environment = dict(pair.split("=", 1) for pair in self.image["Env"])
        environment.update(service["environment"])
        self.db = Container(tree, "db", environment, [*self.mounts(service, tree), *more_mounts],
                            os.path.join(self.logs, f"{name}.log"))
        self.db.start(self.image["Entrypoint"] + service["command"])
        test = service["healthcheck"]["test"]
        assert test[0] == "CMD"
        wait_until(lambda: self.db.alive() and self.db.execute(*test[1:])[0] == 0, "the database is healthy")

    def start_receiver(self):
        """Run the receiver's command, with this machine's Node in place of the image's."""
        service = self.compose["services"]["receiver"]
        assert service["image"].startswith("node:")
        tree = os.path.join(self.directory, "receiver")
        os.mkdir(tree)
        mounts = [("/usr", "/usr")]
        for name in ("bin", "lib", "lib64"):
            if os.path.islink("/" + name):
                os.symlink(os.readlink("/" + name), os.path.join(tree, name))
            elif os.path.exists("/" + name):
                mounts.append(("/" + name, "/" + name))
        environment = {"PATH": os.environ["PATH"], **service["environment"]}
        self.receiver = Container(tree, "receiver", environment, [*mounts, *self.mounts(service, tree)],
                                  os.path.join(self.logs, "receiver.log"), USERS[service["user"]])
        self.receiver.start(service["command"])
        wait_until(lambda: self.receiver.alive() and "listening" in read(self.receiver.log),
                   "the receiver is listening")

    def stop_db(self):
        """Stop the database as Docker does."""
        number = getattr(signal, self.image["StopSignal"])
        self.db.process.send_signal(number)
        try:
            return self.db.process.wait(PATIENCE)
        finally:
            run("umount", "--recursive", self.db.tree + "/dev", self.db.tree + "/proc")


def commands_of(text):
    """The shell commands in a page's indented blocks, one a line."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    block = "".join(line[4:] + "\n" for line in text.splitlines() if line.startswith("    "))
    return re.sub(r"\\\n *", "", block).splitlines()


def run_readme(project, image):
    """Run README.md's commands; return the outputs of those that show something."""
    section = re.search(r"^### With Docker\n(.*?)^#", read(TOP, "README.md"), re.S | re.M)[1]
    shown = []
    for command in commands_of(section):
        words = shlex.split(command)
        if words[0] == "printf":
            run("sh", "-euc", command, cwd=project.directory)
            lines = read(project.directory, ".env").splitlines()
            project.read_compose(dict(line.split("=", 1) for line in lines))
        elif words[:3] == ["docker", "compose", "up"]:
            project.start_db(image, "db")
            project.start_receiver()
        elif words[:3] == ["docker", "compose", "exec"]:
            assert words[3] == "db"
            status, output = project.db.execute(*words[4:])
            check(status == 0, "README.md: " + command[:70], output)
            shown.append(output)
            # a person is slower than a delivery
            project.db.query(f"SELECT chatwebhook.wait_until_idle('{PATIENCE} s')")
        elif words[:4] == ["docker", "compose", "logs", "receiver"]:
            shown.append(read(project.receiver.log))
        else:
            raise SystemExit(f"README.md has a command that the test does not know: {command}")
    return shown


def packages(tree):
    output = run("chroot", tree, "dpkg-query", "-W", "-f", "${Package}\n", stdout=subprocess.PIPE, text=True).stdout
    return set(output.split())


def size(tree):
    return int(run("du", "-s", "-b", tree, stdout=subprocess.PIPE, text=True).stdout.split()[0])


def check_image(base, image):
    added = packages(image) - packages(base)
    larger = size(image) - size(base)
    print(f"added to the base: {larger / 1e6:.0f} MB, with the packages " + " ".join(sorted(added)))
    check_equal([name for name in added if re.search(r"^(gcc|clang)(-\d+)?$|^make$|-dev(-\d+)?$", name)], [],
                "the image has no more build tools than its base")
    check(os.path.exists(os.path.join(image, "etc/ssl/certs/ca-certificates.crt")), "it has the public CAs")
    check(not os.path.exists(os.path.join(image, "build")), "it has no source")
    check(not os.listdir(os.path.join(image, "var/lib/apt/lists")), "it has no lists of apt")


def post_unsigned(address):
    request = urllib.request.Request(f"http://{address}:8080/", b"{}", {"webhook-signature": "v1,AAAA"})
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code


def check_services(project, image):
    """README.md's way from nothing to a delivery."""
    shown = run_readme(project, image)
    check_equal(shown[0], "INSERT 0 1\n", "a row is inserted")
    check("verified: {" in shown[1] and '"lead.captured"' in shown[1] and "zoe@example.com" in shown[1],
          "the receiver has its event and has verified the signature", shown[1])
    check(re.search(r"lead\.captured *\| receiver *\| delivered *\| *1 \| *204", shown[2]),
          "the view shows the delivery", shown[2])
    check_equal(post_unsigned(project.addresses["receiver"]), 401, "the receiver refuses what is not signed")

    db = project.db
    uid = os.stat(os.path.join(project.directory, "data")).st_uid
    check_equal(re.search(r"^Uid:\t(\d+)", read(f"/proc/{db.process.pid}/status"), re.M)[1], str(uid),
                "the server runs as the image's user")
    check(uid != 0, "which is not root")
    check_equal(db.query("SHOW shared_preload_libraries"), "chatwebhook", "the library is preloaded")
    db.query("CREATE DATABASE other")
    check_equal(db.execute("psql", "-XAtqU", "postgres", "-d", "other", "-c", "CREATE EXTENSION chatwebhook")[0],
                0, "CREATE EXTENSION works in another database")
    db.query("SELECT chatwebhook.create_webhook(name => 'elsewhere', url => 'http://receiver:8081/')")
    check_equal(db.query("SELECT error FROM chatwebhook.webhook w, chatwebhook.test_webhook(w.id)"
                         " WHERE w.name = 'elsewhere'"),
                "address refused: private address", "only one port of the private network may be sent to")


def start_private(project, ca):
    """A receiver with a certificate of the private CA, which verifies signatures."""
    db = project.db
    db.query("SELECT chatwebhook.create_webhook(name => 'private', url => 'https://private:8080/ok',"
             " events => '{message.*}')")
    secret = db.query("SELECT chatwebhook.secret(id) FROM chatwebhook.webhook WHERE name = 'private'")
    log = os.path.join(project.logs, "private.jsonl")
    receiver = subprocess.Popen(
        [*in_network("private"), sys.executable, "-B", os.path.join(TOP, "test/lib/receiver.py"),
         "--host", project.addresses["private"], "--port", "8080", "--log", log, "--secret", f"*={secret}", "--cert", os.path.join(ca, "private.crt"),
         "--key", os.path.join(ca, "private.key"), "--ignore-stdin"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert receiver.stdout.readline().startswith("listening")
    return log


def try_private(project):
    return project.db.query("SELECT success, status_code, error FROM chatwebhook.webhook w,"
                            " chatwebhook.test_webhook(w.id) WHERE w.name = 'private'")


def deliver_private(project, log, what):
    """Check that an event arrives at the private receiver, and is verified."""
    text = f"message {what}"
    data = json.dumps({"role": "user", "content": text})
    project.db.query(f"SELECT chatwebhook.emit('message.received', 'shop', 'c-1', '{data}')")
    project.db.query(f"SELECT chatwebhook.wait_until_idle('{PATIENCE} s')")
    requests = [json.loads(line) for line in read(log).splitlines()]
    found = [request["verified"]["standard"] for request in requests if text in request["body"]]
    check_equal(found, [True], f"an event is delivered {what}")


def check_private_ca(project, image_with_ca, ca):
    log = start_private(project, ca)
    found = try_private(project)
    check(found.startswith("f||") and "certificate" in found, "an unknown CA is refused", found)
    shutil.copy(os.path.join(ca, "private-ca.crt"), project.db.tree + "/tmp/private-ca.crt")
    project.db.setting("chatwebhook.ca_file", "/tmp/private-ca.crt")
    check_equal(try_private(project), "t|200|", "chatwebhook.ca_file names it")
    deliver_private(project, log, "with chatwebhook.ca_file")
    project.db.query("ALTER SYSTEM RESET chatwebhook.ca_file")

    # as the page mounts it
    page = read(TOP, "docs/containers.md")
    snippet = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```$", page, re.S | re.M)[1])
    key = os.path.join(project.directory, "chatwebhook.key")
    with open(key, "w", encoding="ascii", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(os.urandom(32).hex() + "\n")
    os.chown(key, os.stat(os.path.join(project.directory, "data")).st_uid, -1)
    secret = "/run/secrets/" + snippet["services"]["db"]["secrets"][0]

    before = project.db.query("SELECT count(*) FROM chatwebhook.delivery WHERE status = 'delivered'")
    check_equal(project.stop_db(), 0, f"{project.image['StopSignal']} stops the server")
    check("database system is shut down" in read(project.db.log)[-200:], "in order", read(project.db.log)[-2000:])
    project.start_db(image_with_ca, "db-with-ca", [(key, secret)])
    check_equal(project.db.query("SELECT count(*) FROM chatwebhook.delivery WHERE status = 'delivered'"), before,
                "a new container has the old one's data")
    check_equal(project.db.query("SHOW chatwebhook.ca_file"), "", "with the CA in the image, ca_file is not set")
    check_equal(try_private(project), "t|200|", "and the CA is known")
    bundle = read(project.db.tree, "etc/ssl/certs/ca-certificates.crt")
    check(bundle.count("BEGIN CERTIFICATE") > 50, "with the public ones")
    deliver_private(project, log, "with the CA in the image")

    commands = [line for line in commands_of(page) if line.startswith("docker compose exec db ")]
    check(len(commands) >= 5, "docs/containers.md has commands")
    for command in commands:
        status, output = project.db.execute(*shlex.split(command)[4:])
        check(status == 0, "docs/containers.md: " + command[:70], output)
        if "secret_key_file" in command:
            wait_until(lambda: project.db.query("SHOW chatwebhook.secret_key_file") == secret, "the key is known")
    check_equal(project.db.query("SELECT DISTINCT secrets_encrypted FROM chatwebhook.worker_status"), "t",
                "a mounted secret encrypts secrets")
    deliver_private(project, log, "with encrypted secrets")
    check_equal(project.stop_db(), 0, "the server stops again")


def main():
    config, base, image, image_with_ca, ca, directory, logs = sys.argv[1:]
    shutil.rmtree(logs, ignore_errors=True)
    os.makedirs(logs)
    project = Project(json.loads(read(config))["OCIv1"]["config"], directory, logs)
    check_image(base, image)
    check_services(project, image)
    check_private_ca(project, image_with_ca, ca)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main())
