# Connectors, and the webhooks that use them, changed at the wrong moment, too slow,
# or asking for what they must not have.
#
# Only a worker that is at a certain point of its work can show this, with a request
# under way to an endpoint that is slow to shake hands, say, while its webhook is
# changed: what is sent then, with whose token and whose replies, and that nothing a
# connector does or leaves undone delays another webhook.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use IPC::Open3 qw(open3);
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $json = JSON::PP->new->canonical->utf8;

#
# An https server that shakes hands only while there is a file "open"; until
# then whoever connects has a request to send and cannot.
#
my $desk = PostgreSQL::Test::Utils::tempdir('desk');
my $desk_program = <<'PYTHON';
import json, os, socket, ssl, sys, threading, time

directory = sys.argv[1]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(directory + "/cert.pem", directory + "/key.pem")
lock = threading.Lock()

def note(**what):
    with lock, open(directory + "/log", "a") as file:
        file.write(json.dumps(what) + "\n")

def serve(client):
    note(event="connected")
    while not os.path.exists(directory + "/open"):
        time.sleep(0.01)
    try:
        with context.wrap_socket(client, server_side=True) as stream:
            lines = stream.makefile("rb")
            method, path, _ = lines.readline().decode().split()
            headers = {}
            while (line := lines.readline().decode().strip()):
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = lines.read(int(headers.get("content-length", 0)))
            note(event="request", path=path, headers=headers, body=body.decode("latin-1"))
            reply = b'{"access_token": "token-of-the-desk", "expires_in": 3600}'
            stream.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
                           % (len(reply), reply))
    except (OSError, ValueError) as error:
        note(event="error", error=str(error))

def accept(listener):
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client,), daemon=True).start()

listener = socket.create_server(("127.0.0.1", 0), backlog=100)
threading.Thread(target=accept, args=(listener,), daemon=True).start()
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
PYTHON

PostgreSQL::Test::Utils::system_or_bail(
	'openssl', 'req',
	'-x509', '-nodes',
	'-newkey' => 'rsa:2048',
	'-days' => 2,
	'-subj' => '/CN=localhost',
	'-addext' => 'subjectAltName=DNS:localhost,IP:127.0.0.1',
	'-keyout' => "$desk/key.pem",
	'-out' => "$desk/cert.pem");
append_to_file("$desk/log", '');
append_to_file("$desk/desk.py", $desk_program);
my $desk_pid = open3(my $desk_in, my $desk_out, undef, $ENV{PYTHON} // 'python3', "$desk/desk.py", $desk);
chomp(my $desk_port = <$desk_out> // die "the desk did not start\n");

sub desk_url
{
	return "https://127.0.0.1:$desk_port$_[0]";
}

# What has happened there: connected, request.
sub desk_log
{
	my ($event, $path) = @_;
	my @entries = map { $json->decode($_) } split /\n/, slurp_file("$desk/log");
	return grep { $_->{event} eq $event && (!defined $path || $_->{path} eq $path) } @entries;
}

# Let nobody in, from now on.
sub shut_desk
{
	unlink "$desk/open";
	unlink "$desk/log";
	append_to_file("$desk/log", '');
	return;
}

sub open_desk
{
	append_to_file("$desk/open", '');
	return;
}

my $receiver = start_receiver();

sub wait_for_desk
{
	my ($n, $event, $path, $what) = @_;
	return ok($receiver->wait_until(sub { desk_log($event, $path) >= $n }), $what);
}

my $node = new_node(
	'main',
	'chatwebhook.log_attempts' => 'all',
	'chatwebhook.connector_timeout' => '1min',
	'chatwebhook.breaker_threshold' => 0,
	'chatwebhook.ca_file' => "$desk/cert.pem");

# What an SQL statement that fails says, its SQLSTATE in front; nothing if it
# does not fail.
sub failure
{
	my ($statement) = @_;
	my ($code, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$statement");
	return $code == 0 ? '' : $err =~ s/^.*?ERROR:\s*//sr;
}

sub emit
{
	my ($chatbot, $n) = @_;
	sql("SELECT count(chatwebhook.emit('webhook.test', '$chatbot', NULL, jsonb_build_object('n', n)))
		FROM generate_series(1, @{[ $n // 1 ]}) n");
	return;
}

my $arguments = '(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request';

# Make a connector with this body.
sub connector
{
	my ($name, $body, $language) = @_;
	$language //= 'sql';
	script("CREATE FUNCTION public.c_$name$arguments LANGUAGE $language STABLE AS \$\$ $body \$\$; "
		  . "INSERT INTO chatwebhook.connector (name, function, description) VALUES ('$name', 'public.c_$name', 'A test')");
	return;
}

# A request, by its columns; what is not given is null.
sub request
{
	my (%columns) = @_;
	return 'SELECT ROW('
	  . join(', ', map { $columns{$_} // 'NULL' } qw(method url headers body)) . ', '
	  . ($columns{last} // 'true') . ')::chatwebhook.request';
}

# A webhook that nothing disturbs, no alert of what another one lacks either; the
# events are those of the chatbot of its name.
sub webhook
{
	my ($name, %more) = @_;
	my ($id) = create_webhook($node, name => $name, chatbot_id => $name, max_retries => 0, path => '/ok', events => ['webhook.test'], %more);
	return $id;
}

sub oauth2
{
	my ($token_url, $client) = @_;
	return { type => 'oauth2', token_url => $token_url, client_id => $client };
}

# Wait until the worker has heard of all that was changed: it reads the changes
# before it claims what comes after them.
my $marks = 0;
webhook('mark');

sub worker_has_read
{
	emit('mark');
	$marks++;
	return ok($receiver->wait_for($marks, 'mark'), 'the worker has read what was changed');
}

sub worker_pid
{
	return sql('SELECT pid FROM chatwebhook.worker_status');
}

sub set
{
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET $name = '$value'");
	sql('SELECT pg_reload_conf()');
	wait_until("SELECT current_setting('$name') = '$value'")
	  or die "$name does not become $value\n";
	return;
}

sub authorizations
{
	my ($label) = @_;
	return join ' ', map { ($_->{headers}{authorization} // 'none') =~ s/^Bearer //r } $receiver->log($label);
}

# The last error of a webhook's deliveries, the newest first.
sub last_error
{
	my ($name) = @_;
	return sql("SELECT last_error FROM chatwebhook.delivery WHERE webhook_name = '$name' ORDER BY id DESC LIMIT 1");
}

connector('echo', request(body => q{jsonb_build_object('data', event->'data')}));
connector('sleeps', request(body => 'to_jsonb(pg_sleep(1000)::text)'));
connector('stubborn', q{BEGIN LOOP BEGIN PERFORM pg_sleep(1000); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END}, 'plpgsql');

subtest 'a webhook is reloaded while its requests are under way' => sub {
	shut_desk();
	my $secret = 'secret-' . 'x' x 3000;
	my $token = webhook('token', chatbot_id => 'reload', auth => oauth2(desk_url('/token'), 'client-1'));
	my $step = webhook('step', chatbot_id => 'reload', connector => 'echo', url => desk_url('/step'),
		auth => { type => 'body', name => 'key', value => '{{key}}' });
	my $plain = webhook('plain', chatbot_id => 'reload', url => desk_url('/plain'));
	sql("SELECT chatwebhook.set_credential('$token', 'client_secret', '$secret'), chatwebhook.set_credential('$step', 'key', '$secret')");
	emit('reload');
	wait_for_desk(3, 'connected', undef, 'three requests wait for the handshake');
	foreach my $n (1 .. 3)
	{
		sql("UPDATE chatwebhook.webhook SET max_retries = $n WHERE chatbot_id = 'reload'");
		worker_has_read();
	}
	is(scalar(desk_log('request')), 0, 'nothing is sent so far');
	open_desk();
	ok(wait_idle($node), 'the worker is done');

	my %parameters = map { split /=/, $_, 2 } split /&/, (desk_log('request', '/token'))[0]{body};
	is_deeply(\%parameters, { grant_type => 'client_credentials', client_id => 'client-1', client_secret => $secret },
		'the token request is the one that was meant');
	is((desk_log('request', '/token'))[0]{headers}{'content-type'}, 'application/x-www-form-urlencoded', 'with its headers');
	is_deeply($json->decode((desk_log('request', '/step'))[0]{body}), { key => $secret, data => { n => 1 } }, 'and a connector\'s request');
	my ($sent) = desk_log('request', '/plain');
	is($json->decode($sent->{body})->{data}{n}, 1, 'and a plain one');
	is(sql("SELECT chatwebhook.verify('$sent->{body}', '$sent->{headers}{'x-webhook-signature'}', chatwebhook.secret('$plain'))"), 't', 'which is signed');
	is(authorizations('token'), 'token-of-the-desk', 'the token is used');
	is(sql(q{SELECT DISTINCT status, attempts FROM chatwebhook.delivery WHERE chatbot_id = 'reload'}), 'delivered|1', 'all are delivered at once');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'a token of what the webhook was is not sent to what it is' => sub {
	shut_desk();
	$receiver->set(replies => { newtoken => [ { body => { access_token => 'new-token', expires_in => 3600 } } ] });
	my $id = webhook('moves', path => '/ok/-/old', auth => oauth2(desk_url('/token'), 'old'));
	sql("SELECT chatwebhook.set_credential('$id', 'client_secret', 'old-secret')");
	emit('moves');
	wait_for_desk(1, 'connected', undef, 'it asks for a token');
	my $auth = $json->encode(oauth2($receiver->url('/scripted/-/newtoken'), 'new'));
	sql("UPDATE chatwebhook.webhook SET url = '" . $receiver->url('/ok/-/new') . "', auth = '$auth' WHERE id = '$id'");
	worker_has_read();
	open_desk();
	ok(wait_idle($node), 'the worker is done');
	emit('moves', 3);
	ok(wait_idle($node), 'the worker is done again');
	is(scalar(desk_log('request', '/token')), 1, 'the old token has come');
	is($receiver->count('old'), 0, 'nothing goes to the old URL');
	is(authorizations('new'), join(' ', ('new-token') x 4), 'and to the new one its own token alone');
	is(sql(q{SELECT DISTINCT status, attempts FROM chatwebhook.delivery WHERE chatbot_id = 'moves'}), 'delivered|1', 'all are delivered');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'a webhook that is disabled while it waits for a token' => sub {
	shut_desk();
	my $id = webhook('quiet', auth => oauth2(desk_url('/token'), 'quiet'));
	sql("SELECT chatwebhook.set_credential('$id', 'client_secret', 'x')");
	emit('quiet', 5);
	wait_for_desk(1, 'connected', undef, 'it asks for a token');
	sql("UPDATE chatwebhook.webhook SET enabled = false WHERE id = '$id'");
	worker_has_read();
	open_desk();
	wait_for_desk(1, 'request', '/token', 'the token comes');
	becomes_true('SELECT sum(in_flight) = 0 FROM chatwebhook.worker_status', 'nothing is under way any more');
	worker_has_read();
	is($receiver->count('quiet'), 0, 'nothing is sent');
	is(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE webhook_name = 'quiet' AND status = 'pending' AND attempts = 0}), 5, 'all is pending');
	sql("UPDATE chatwebhook.webhook SET enabled = true WHERE id = '$id'");
	ok(wait_idle($node), 'the worker is done');
	is($receiver->count('quiet'), 5, 'once it is enabled, all is sent');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'tokens that are of no use' => sub {
	$receiver->set(replies => {
		shorttoken => [ { body => { access_token => 'short', expires_in => 0 } } ],
		badtoken => [ { body => { access_token => 'bad', expires_in => 3600 } } ] });
	my $short = webhook('short', auth => oauth2($receiver->url('/scripted/-/shorttoken'), 'short'));
	my $bad = webhook('bad', path => '/status/401', auth => oauth2($receiver->url('/scripted/-/badtoken'), 'bad'));
	sql("SELECT chatwebhook.set_credential('$_', 'client_secret', 'x')") foreach $short, $bad;
	emit('short', 5);
	becomes_true(q{SELECT count(*) = 5 FROM chatwebhook.delivery WHERE webhook_name = 'short' AND status = 'delivered' AND attempts = 1},
		'with tokens that expire at once, all is delivered');
	cmp_ok($receiver->count('shorttoken'), '<=', 5, $receiver->count('shorttoken') . ' tokens were asked for');

	foreach my $n (1 .. 20)
	{
		emit('bad');
		becomes_true(qq{SELECT count(*) = $n FROM chatwebhook.delivery WHERE webhook_name = 'bad' AND status = 'dead' AND last_status_code = 401},
			"delivery $n is refused with its token") or last;
	}
	cmp_ok($receiver->count('badtoken'), '<=', 5, $receiver->count('badtoken') . ' tokens were asked for');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'what a connector asks for' => sub {
	connector('headers', request(body => 'event', headers => q{'{"X-Both": "connector", "X-One": "connector", "x-key": "connector"}'}));
	my $id = webhook('headers', connector => 'headers', headers => { 'x-both' => 'webhook', 'X-Own' => 'webhook' },
		auth => { type => 'header', name => 'X-Key', value => '{{key}}' });
	connector('authorization', request(body => 'event', headers => q{'{"authorization": "connector"}'}));
	my $other = webhook('authorization', connector => 'authorization', auth => { type => 'bearer', token => '{{key}}' });
	sql("SELECT chatwebhook.set_credential(id, 'key', 'its-key') FROM unnest('{$id, $other}'::uuid[]) id");
	foreach my $method ('PUT', 'PATCH', 'POST')
	{
		connector(lc $method, request(method => "'$method'"));
		webhook(lc $method, connector => lc $method);
	}
	connector('lock', q{BEGIN PERFORM pg_advisory_lock(4711); PERFORM pg_advisory_lock_shared(4712); RETURN ROW(NULL, NULL, NULL, '{}', true)::chatwebhook.request; END}, 'plpgsql');
	connector('lock_error', q{BEGIN PERFORM pg_advisory_lock(4713); RAISE EXCEPTION 'locked'; END}, 'plpgsql');
	webhook($_, connector => $_) foreach 'lock', 'lock_error';
	my @all = qw(headers authorization put patch post lock lock_error);
	emit($_) foreach @all;
	ok(wait_idle($node), 'the worker is done');

	my ($headers) = map { $_->{headers} } $receiver->log('headers');
	is_deeply({ map { $_ => $headers->{$_} } qw(x-both x-one x-own x-key) },
		{ 'x-both' => 'webhook', 'x-one' => 'connector', 'x-own' => 'webhook', 'x-key' => 'its-key' },
		'a header that both set is sent once, as the webhook\'s');
	is(authorizations('authorization'), 'its-key', 'the same of auth');
	foreach my $method ('PUT', 'PATCH', 'POST')
	{
		my ($sent) = $receiver->log(lc $method);
		is($sent->{method}, $method, "a $method without a body");
		is($sent->{headers}{'content-length'}, '0', 'has a length');
		is($sent->{headers}{'transfer-encoding'}, undef, 'and no encoding');
	}
	is($receiver->count('lock'), 1, 'a connector that locks something has sent its request');
	like(last_error('lock_error'), qr/locked/, 'or failed');
	is(sql('SELECT objid FROM pg_locks WHERE locktype = \'advisory\' AND objid IN (4711, 4712, 4713)'), '', 'no lock is held afterwards');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'replies of another connector' => sub {
	my $two = "SELECT CASE jsonb_array_length(replies) WHEN 0 THEN (%s) ELSE (%s) END";
	connector('former', sprintf($two, request(body => q{'{"of": "former"}'}, last => 'false'), request(url => q{webhook->>'url' || '?second'}, body => q{'{"of": "former", "second": true}'})));
	connector('latter', request(body => q{jsonb_build_object('of', 'latter', 'replies', replies)}));
	my $latter = sub {
		my ($label) = @_;
		return join "\n", map { $_->{body} } grep { $_->{body} =~ /latter/ } $receiver->log($label);
	};
	my $change = sub { sql("UPDATE chatwebhook.webhook SET connector = 'latter' WHERE name = '$_[0]'"); };

	# between two attempts
	$receiver->set(replies => { map { $_ => [ { body => { reply => 1 } }, { status => 503 }, { status => 200 } ] } 'waiting', 'dead' });
	webhook('waiting', connector => 'former', path => '/scripted', max_retries => 5, backoff => '1 hour', max_backoff => '1 hour');
	webhook('dead', connector => 'former', path => '/scripted');
	emit($_) foreach 'waiting', 'dead';
	becomes_true(q{SELECT count(*) = 2 FROM chatwebhook.delivery WHERE webhook_name IN ('waiting', 'dead') AND attempts = 1}, 'the second request fails');
	is(sql('SELECT (SELECT count(*) FROM chatwebhook.queue WHERE replies IS NOT NULL), (SELECT count(*) FROM chatwebhook.dead WHERE replies IS NOT NULL)'),
		'1|1', 'the first reply is kept');
	$change->($_) foreach 'waiting', 'dead';
	script(q{UPDATE chatwebhook.queue SET next_attempt_at = now(); SELECT chatwebhook.retry(id) FROM chatwebhook.dead_letter WHERE webhook_name = 'dead';
		UPDATE chatwebhook.webhook SET max_in_flight = 31 WHERE name = 'waiting'});
	foreach my $name ('waiting', 'dead')
	{
		ok($receiver->wait_for(3, $name), "$name: the new connector's request comes");
		is($latter->($name), '{"of":"latter","replies":[]}', "$name: it has got no replies");
	}

	# while a request is under way
	webhook('first', connector => 'former', path => '/hang-until-told', timeout => '5 minutes');
	emit('first');
	ok($receiver->wait_for(1, 'first'), 'the first request is under way');
	$change->('first');
	worker_has_read();
	$receiver->set(up => ['first']);
	becomes_true(q{SELECT status = 'delivered' FROM chatwebhook.delivery WHERE webhook_name = 'first'}, 'it is delivered');
	is($latter->('first'), '{"of":"latter","replies":[]}', 'the new connector has got no replies');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'long messages' => sub {
	foreach my $n (0 .. 3)
	{
		connector("long$n", "BEGIN RAISE EXCEPTION '%', repeat('x', $n) || repeat(U&'\\20AC', 1000); END", 'plpgsql');
		webhook("long$n", connector => "long$n");
		emit("long$n");
	}
	becomes_true(q{SELECT count(*) = 4 FROM chatwebhook.delivery WHERE webhook_name LIKE 'long%' AND status = 'dead'}, 'all fail');
	becomes_true(q{SELECT count(*) = 4 FROM chatwebhook.webhook_health WHERE name LIKE 'long%' AND last_error IS NOT NULL}, 'and their health says so');
	my %from = (
		dead => q{SELECT last_error FROM chatwebhook.dead WHERE webhook_name LIKE 'long%'},
		attempt => q{SELECT a.error FROM chatwebhook.attempt a JOIN chatwebhook.webhook w ON w.id = a.webhook_id WHERE w.name LIKE 'long%'},
		health => q{SELECT last_error FROM chatwebhook.webhook_health WHERE name LIKE 'long%'});
	foreach my $relation (sort keys %from)
	{
		my ($code, $out, $err) = $node->psql('postgres',
			"SELECT count(*), bool_and(right(e, 1) = U&'\\20AC'), bool_and(octet_length(e) BETWEEN 250 AND 255),
				bool_and(convert_from(convert_to(e, 'UTF8'), 'UTF8') = e) FROM ($from{$relation}) AS f(e)");
		is("$out$err", '4|t|t|t', "$relation: cut behind a character");
	}
	my ($code, $out, $err) = $node->psql('postgres', "SELECT count(right(last_error, 1)) FROM chatwebhook.worker_status");
	is($err, '', 'the worker\'s last error can be read');

	sql('CREATE DATABASE restored TEMPLATE template0');
	my ($dump, $restore) = map { $node->installed_command($_) } 'pg_dump', 'psql';
	$node->command_ok(
		[ 'sh', '-c', "'$dump' postgres >'$desk/dump' && '$restore' -X -q -v ON_ERROR_STOP=1 -f '$desk/dump' restored" ],
		'a dump can be restored');
	is($node->safe_psql('restored', q{SELECT count(*) FROM chatwebhook.dead WHERE webhook_name LIKE 'long%'}), '4', 'with all of it');
	sql('DROP DATABASE restored WITH (FORCE)');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'who may use which connector' => sub {
	connector('private', request(body => 'event'));
	connector('open', request(body => 'event'));
	script(q{REVOKE EXECUTE ON FUNCTION public.c_private FROM PUBLIC; CREATE ROLE app; SELECT chatwebhook.grant_app('app')});
	my $given = webhook('given', chatbot_id => 'theirs', connector => 'private');
	my $as = sub { failure("SET ROLE app; SET chatwebhook.chatbot = 'theirs'; $_[0]"); };
	my $create = sub { "SELECT chatwebhook.create_webhook('$_[0]', 'https://example.com/', chatbot_id => 'theirs', connector => '$_[1]')" };
	my $event = q{'{"type": "webhook.test", "data": {"message": "x"}}'};

	like($as->($create->('a', 'private')), qr/^42501/, 'an app cannot name a connector that it may not execute');
	is($as->($create->('b', 'open')), '', 'but another');
	like($as->(q{UPDATE chatwebhook.webhook SET connector = 'private' WHERE name = 'b'}), qr/^42501/, 'nor later');
	like($as->(q{INSERT INTO chatwebhook.webhook (name, url, chatbot_id, connector) VALUES ('c', 'https://example.com/', 'theirs', 'private')}),
		qr/^42501/, 'nor in the table');
	like($as->("SELECT chatwebhook.preview('$given', $event)"), qr/^42501/, 'nor preview it');
	is(failure("SELECT chatwebhook.preview('$given', $event)"), '', 'the owner can');
	foreach my $connector (qw(slack discord hubspot salesforce zendesk pagerduty))
	{
		is($as->($create->($connector, $connector)), '', "$connector can be named");
		is($as->("SELECT chatwebhook.preview(id, $event) FROM chatwebhook.webhook WHERE name = '$connector'"), '', 'and previewed');
	}
	sql('GRANT EXECUTE ON FUNCTION public.c_private TO app');
	is($as->($create->('d', 'private')) . $as->("SELECT chatwebhook.preview('$given', $event)"), '', 'with the right, it can');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'a time-out is not taken for another\'s error' => sub {
	set('chatwebhook.connector_timeout', '100ms');
	webhook('late', connector => 'sleeps');
	connector('lost', request(body => 'event'));
	webhook('lost', connector => 'lost');
	sql('DROP FUNCTION public.c_lost');
	connector('late_lost', request(body => 'to_jsonb(pg_sleep(1000)::text)'));
	webhook('late_lost', connector => 'late_lost');
	emit($_) foreach 'late', 'late_lost';
	becomes_true(q{SELECT count(*) = 2 FROM chatwebhook.delivery WHERE webhook_name IN ('late', 'late_lost') AND status = 'dead'}, 'two take too long');
	like(last_error($_), qr/took longer than 100 ms/, "$_: it says so") foreach 'late', 'late_lost';
	set('chatwebhook.connector_timeout', '1min');
	sql('DROP FUNCTION public.c_late_lost');
	emit($_) foreach 'lost', 'late_lost';
	becomes_true(q{SELECT count(*) = 3 FROM chatwebhook.delivery WHERE webhook_name IN ('lost', 'late_lost') AND status = 'dead'}, 'two are not there');
	like(last_error($_), qr/function .*does not exist/, "$_: it says so") foreach 'lost', 'late_lost';
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'many slow connectors' => sub {
	my $url = $receiver->url('/ok/-/slow');
	set('chatwebhook.connector_timeout', '100ms');
	sql("SELECT count(chatwebhook.create_webhook('slow' || n, '$url', events => '{webhook.test}', chatbot_id => 'crowd', connector => 'sleeps')) FROM generate_series(1, 150) n");
	emit('crowd', 3);
	becomes_true(q{SELECT count(*) > 0 FROM chatwebhook.attempt WHERE error LIKE '%took longer%' AND webhook_id IN
			(SELECT id FROM chatwebhook.webhook WHERE chatbot_id = 'crowd')}, 'they take too long');
	webhook('swift');
	foreach my $n (1 .. 3)
	{
		emit('swift');
		ok($receiver->wait_for($n, 'swift'), 'a plain webhook gets its event');
	}
	# three for each, of which each takes a tenth of a second
	cmp_ok(sql(q{SELECT count(*) FROM chatwebhook.queue WHERE chatbot_id = 'crowd'}), '>', 225,
		'while most of theirs still wait');
	sql(q{DELETE FROM chatwebhook.webhook WHERE chatbot_id = 'crowd'});
	becomes_true('SELECT sum(in_flight) = 0 FROM chatwebhook.worker_status', 'once they are deleted, nothing is under way');
	emit('swift');
	ok($receiver->wait_for(4, 'swift'), 'and the worker goes on');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'a connector that cannot be stopped' => sub {
	webhook('stubborn', connector => 'stubborn', max_retries => 5, backoff => '10 ms');
	webhook('beside');
	my $worker = worker_pid();
	set('chatwebhook.connector_timeout', '100ms');
	emit($_) foreach 'stubborn', 'beside';
	becomes_true(q{SELECT NOT enabled AND disabled_reason = 'its connector could not be stopped' FROM chatwebhook.webhook WHERE name = 'stubborn'},
		'its webhook is disabled');
	becomes_true("SELECT count(*) = 1 AND min(pid) <> $worker FROM chatwebhook.worker_status", 'by another worker');
	$worker = worker_pid();
	emit('beside', 5);
	ok($receiver->wait_for(6, 'beside'), 'others go on');
	is(worker_pid(), $worker, 'by the same worker');
	is(sql(q{SELECT string_agg(name, ' ') FROM chatwebhook.webhook WHERE NOT enabled}), 'stubborn', 'no other webhook is disabled');
	is(sql(q{SELECT status FROM chatwebhook.delivery WHERE webhook_name = 'stubborn'}), 'pending', 'its delivery waits');
	set('chatwebhook.connector_timeout', '1min');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'a worker that is ended within a connector' => sub {
	script('CREATE TABLE public.asleep AS SELECT 1');
	connector('asleep', q{BEGIN
		IF EXISTS (SELECT FROM public.asleep) THEN PERFORM pg_sleep(600); END IF;
		RETURN ROW(NULL, NULL, NULL, '{}', true)::chatwebhook.request; END}, 'plpgsql');
	webhook('asleep', connector => 'asleep');
	emit('asleep');
	becomes_true(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'chatwebhook worker' AND wait_event = 'PgSleep'},
		'its connector is being called');
	sql('DELETE FROM public.asleep');
	my $worker = worker_pid();
	sql("SELECT pg_terminate_backend($worker)");
	becomes_true(q{SELECT status = 'delivered' FROM chatwebhook.delivery WHERE webhook_name = 'asleep'},
		'that is not taken for the connector\'s fault: the next worker delivers');
	is(sql(q{SELECT attempts FROM chatwebhook.delivery WHERE webhook_name = 'asleep'}), 1, 'in a first attempt');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'a backslash in a string' => sub {
	plan skip_all => 'this server reads all strings alike' if sql('SHOW server_version_num') >= 190000;
	connector('backslash', request(body => q{to_jsonb('a\nb'::text)}));
	my $id = webhook('backslash', connector => 'backslash');
	is(script(qq{SET escape_string_warning = off; SET standard_conforming_strings = off;
			SELECT body FROM chatwebhook.preview('$id', '{"type": "webhook.test"}')}),
		'"a\\\\nb"', 'is one, whatever the caller has set');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'nothing more to send' => sub {
	connector('stops', 'SELECT CASE jsonb_array_length(replies) WHEN 0 THEN (' . request(body => q{'{}'}, last => 'false') . ') END');
	webhook('stops', connector => 'stops', path => '/delay-ms/300');
	emit('stops');
	becomes_true(q{SELECT status = 'delivered' FROM chatwebhook.delivery WHERE webhook_name = 'stops'}, 'it is delivered');
	is(sql(q{SELECT attempts, last_status_code, last_error, latency_ms >= 290 FROM chatwebhook.delivery WHERE webhook_name = 'stops'}),
		'1|200||t', 'by the request before, whose status and time it keeps');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'no replies are kept' => sub {
	connector('steps', q{SELECT CASE jsonb_array_length(replies)
		WHEN 0 THEN ROW(NULL, NULL, NULL, '{"a": "reply"}', false)::chatwebhook.request
		ELSE ROW(NULL, NULL, NULL, jsonb_build_object('second', replies->0->'body'), true)::chatwebhook.request END});
	my $id = webhook('steps', connector => 'steps', path => '/echo');
	my $plain = webhook('size', path => '/echo');
	set('chatwebhook.max_response_size', '0');
	my $known = $receiver->wait_until(sub {
		emit('size');
		wait_idle($node);
		sql("SELECT coalesce(response_body, '') = '' FROM chatwebhook.attempt WHERE webhook_id = '$plain' ORDER BY delivery_id DESC LIMIT 1") eq 't';
	});
	ok($known, 'the worker has read the setting');
	emit('steps');
	ok(wait_idle($node), 'the worker is done');
	is(join(' ', map { $_->{body} } $receiver->log('steps')), '{"a":"reply"} {"second":{"a":"reply"}}', 'the connector gets a reply');
	is(sql("SELECT count(*), coalesce(string_agg(response_body, ' '), '') FROM chatwebhook.attempt WHERE webhook_id = '$id'"), '1|', 'but it is in no attempt');
	is(sql("SELECT success, coalesce(response_body, '') FROM chatwebhook.test_webhook('$id')"), 't|', 'and test_webhook() shows none');
	is($receiver->count('steps'), 4, 'although it has got them');
	set('chatwebhook.max_response_size', '8kB');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'sessions have their own time-outs' => sub {
	my $id = webhook('sleeps', connector => 'sleeps');
	my $hang = webhook('hang', path => '/hang');
	my %calls = (
		'preview()' => qq{SELECT chatwebhook.preview('$id', '{"type": "webhook.test", "data": {}}')},
		'test_webhook()' => "SELECT chatwebhook.test_webhook('$id')",
		'test_webhook() while it waits' => "SELECT chatwebhook.test_webhook('$hang')");
	foreach my $name (sort keys %calls)
	{
		like(failure("SET statement_timeout = '200ms'; $calls{$name}"), qr/^57014: .*statement timeout/, "$name: statement_timeout");

		my ($out, $err) = ('', '');
		my $before = $receiver->count('hang');
		my $psql = IPC::Run::start(
			[ $node->installed_command('psql'), '-XAtq', '-v', 'VERBOSITY=verbose', '-c', $calls{$name},
				'-d', $node->connstr('postgres') . ' application_name=victim' ],
			'<' => '/dev/null', '>' => \$out, '2>' => \$err, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
		if ($name =~ /waits/)
		{
			ok($receiver->wait_for($before + 1, 'hang'), 'it waits');
		}
		else
		{
			becomes_true(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'victim' AND wait_event = 'PgSleep'}, 'it runs');
		}
		sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'victim'});
		$psql->finish;
		like($err, qr/ERROR:\s+57014: .*user request/, "$name: a cancel");
	}
	sql(q{DELETE FROM chatwebhook.webhook WHERE name <> 'mark'});
};

subtest 'the server stops while such a connector runs' => sub {
	webhook('endless', connector => 'stubborn');
	# it may be that the worker has not read the new limit yet
	my $running = q{SELECT count(*) = 1 FROM pg_stat_activity a JOIN chatwebhook.worker_status s ON s.pid = a.pid
		WHERE a.wait_event = 'PgSleep'};
	emit('endless');
	becomes_true($running, 'it runs');
	my $stopped = PostgreSQL::Test::Utils::run_log([ $node->installed_command('pg_ctl'), '-D', $node->data_dir, '-m', 'fast', '-t', $PostgreSQL::Test::Utils::timeout_default, 'stop' ]);
	ok($stopped, 'the server stops');
	$node->_update_pid($stopped ? 0 : -1);
	$node->stop('immediate') if !$stopped;
	unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no process has crashed');
};

close $desk_in;
waitpid $desk_pid, 0;
done_testing();
