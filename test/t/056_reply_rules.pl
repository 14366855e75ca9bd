# What a reply means by a connector's rules: a 2xx alone proves nothing.
#
# Only a receiver that answers whatever it likes can show that no reply but the
# expected one counts as success, that the error says what came, and that a hostile
# body costs nothing but its own delivery.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $receiver = start_receiver();
my $node = new_node(
	'main',
	'chatwebhook.log_attempts' => 'all',
	'chatwebhook.breaker_threshold' => 0,
	'chatwebhook.connector_timeout' => '1min');
my $json = JSON::PP->new->canonical;

# A connector of this body, with these rules.
sub connector
{
	my ($name, $body, $rules) = @_;
	script("CREATE FUNCTION public.c_$name(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
		LANGUAGE sql STABLE AS \$\$ $body \$\$;
		INSERT INTO chatwebhook.connector (name, function, replies) VALUES ('$name', 'public.c_$name', "
		  . literal($json->encode($rules)) . ')');
	return;
}

# A webhook of this connector, to be answered like this; its events are those of the
# chatbot of its name.
sub webhook
{
	my ($name, $connector, @replies) = @_;
	$receiver->set(replies => { $name => \@replies }) if @replies;
	my ($id) = create_webhook(
		$node,
		name => $name,
		chatbot_id => $name,
		events => ['webhook.test'],
		path => '/scripted',
		connector => $connector,
		max_retries => 1,
		backoff => '10 ms',
		max_backoff => '10 ms');
	return $id;
}

sub emit
{
	my ($name) = @_;
	sql("SELECT chatwebhook.emit('webhook.test', '$name', 'c1', '{}')");
	return;
}

# What became of a webhook's newest delivery.
sub outcome
{
	my ($name) = @_;
	return sql(qq{SELECT concat_ws(' ', status, attempts, last_error) FROM chatwebhook.delivery
		WHERE webhook_name = '$name' ORDER BY id DESC LIMIT 1});
}

sub set
{
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET $name = '$value'");
	sql('SELECT pg_reload_conf()');
	wait_until("SELECT current_setting('$name') = '$value'") or die "$name does not become $value\n";
	return;
}

my $one = q{SELECT ROW('POST', NULL, NULL, '{}', true)::chatwebhook.request};
my $two = q{SELECT ROW('POST', NULL, NULL, jsonb_build_object('after', replies->0->'body'), jsonb_array_length(replies) = 1)::chatwebhook.request};
connector('desk', $one, [
	{ status => 200, path => '$.error == "bad"', means => 'dead' },
	{ status => 200, path => '$.error == "gone"', means => 'disable' },
	{ status => 200, path => '$.error == "busy"', means => 'retry', wait => 'after' },
	{ status => [ 200, 201 ], path => '$.ok == true', means => 'success' },
	{ status => 409, path => 'exists($.existing)', means => 'success' } ]);
connector('known', $one, [ { status => 409, means => 'success' } ]);
connector('plain', $one, []);
connector('text', $one, [ { status => 200, contains => 'ok', means => 'success' } ]);
connector('first', $two, [ { status => 200, step => 1, path => 'exists($.id)', means => 'success' } ]);
connector('two', $two, []);
connector('nothing', 'SELECT NULL::chatwebhook.request', []);

my $page = { body => "<!DOCTYPE html>\r\n<title>Sign in</title>", headers => { 'Content-Type' => 'text/html; charset=utf-8' } };
my $deep = '[' x 100_000;
my $large = '{"ok": true, "id": 1, "more": "' . 'x' x 300_000 . '"}';
my $cut = 'the reply was cut off at 262144 bytes (raise chatwebhook.max_response_size)';
my $json_reply = sub { "unexpected reply: application/json, 200, \"$_[0]\"" };

# The name of each is that of its webhook: its connector, what comes, what becomes of
# it.
my %cases = (
	html => [ 'desk', $page, 'dead 2 unexpected reply: text/html, 200, "<!DOCTYPE html> <title>Sign in</title>"' ],
	object => [ 'desk', { body => '{}' }, 'dead 2 ' . $json_reply->('{}') ],
	notok => [ 'desk', { body => '{"ok": false}' }, 'dead 2 ' . $json_reply->('{"ok": false}') ],
	string => [ 'desk', { body => '{"ok": "true"}' }, 'dead 2 ' . $json_reply->('{"ok": "true"}') ],
	empty => [ 'desk', { body => '' }, 'dead 2 unexpected reply: application/json, 200, no body' ],
	nocontent => [ 'desk', { status => 204 }, 'dead 2 unexpected reply: no content type, 204, no body' ],
	scalar => [ 'desk', { body => 'true' }, 'dead 2 ' . $json_reply->('true') ],
	array => [ 'desk', { body => '[]' }, 'dead 2 ' . $json_reply->('[]') ],
	half => [ 'desk', { body => '{"ok": true' }, 'dead 2 ' . $json_reply->('{"ok": true') ],
	twice => [ 'desk', { body => '{"ok": true} {"ok": true}' }, 'dead 2 ' . $json_reply->('{"ok": true} {"ok": true}') ],
	deep => [ 'desk', { body => $deep }, 'dead 2 ' . $json_reply->('[' x 100) ],
	nul => [ 'desk', { body => '{"ok": true, "a": "\u0000"}' }, 'dead 2 ' . $json_reply->('{"ok": true, "a": "\u0000"}') ],
	cut => [ 'desk', { body => $large }, "dead 2 $cut" ],
	status => [ 'desk', { status => 202, body => '{"ok": true}' }, 'dead 2 unexpected reply: application/json, 202, "{"ok": true}"' ],
	good => [ 'desk', { body => '{"ok":true}' }, 'delivered 1' ],
	created => [ 'desk', { status => 201, body => '{"ok":true}' }, 'delivered 1' ],
	blanks => [ 'desk', { body => "\r\n { \"ok\"\t:\n true ,\"error\" : null } \n" }, 'delivered 1' ],
	last => [ 'desk', { body => '{"ok": false, "ok": true}' }, 'delivered 1' ],
	known => [ 'desk', { status => 409, body => '{"existing": 7}' }, 'delivered 1' ],
	unknown => [ 'desk', { status => 409, body => '{}' }, 'dead 1 HTTP status 409' ],
	bad => [ 'desk', { body => '{ "error" : "bad", "ok": true}' }, 'dead 1 ' . $json_reply->('{ "error" : "bad", "ok": true}') ],
	gone => [ 'desk', { body => '{"error": "gone"}' }, 'dead 1 ' . $json_reply->('{"error": "gone"}') ],
	other => [ 'known', { body => '<html>' }, 'delivered 1' ],
	plainhtml => [ 'plain', $page, 'delivered 1' ],
	plaincut => [ 'plain', { body => $large }, 'delivered 1' ],
	textok => [ 'text', { body => 'ok' }, 'delivered 1' ],
	texthtml => [ 'text', $page, 'dead 2 unexpected reply: text/html, 200, "<!DOCTYPE html> <title>Sign in</title>"' ],
	textcut => [ 'text', { body => 'x' x 300_000 }, "dead 2 $cut" ],
	# the page that comes to the second step is not judged by the first one's rule
	steps => [ 'first', { body => '{"id": 7}' }, $page, 'delivered 1' ],
	firsthtml => [ 'first', $page, 'dead 2 unexpected reply: text/html, 200, "<!DOCTYPE html> <title>Sign in</title>"' ],
	firstcut => [ 'first', { body => $large }, "dead 2 $cut" ],
	# without any rule, what is to be read must be whole
	readcut => [ 'two', { body => $large }, "dead 2 $cut" ]);

my $worker = sql('SELECT pid FROM chatwebhook.worker_status');
foreach my $name (sort keys %cases)
{
	my ($connector, @replies) = @{ $cases{$name} };
	my $expected = pop @replies;
	webhook($name, $connector, @replies);
	emit($name);
}
ok(wait_idle($node), 'all are finished');
is(outcome($_), $cases{$_}[-1], $_) foreach sort keys %cases;
is(sql('SELECT string_agg(name, $$ $$) FROM chatwebhook.webhook WHERE NOT enabled'), 'gone', 'one webhook is disabled');
is(($receiver->log('steps'))[1]{body}, '{"after":{"id":7}}', 'the second step gets the first one\'s reply');
is(sql('SELECT pid FROM chatwebhook.worker_status'), $worker, 'by the same worker');
is(sql(q{SELECT string_agg(DISTINCT last_error, ' ') FROM chatwebhook.webhook_health WHERE name = 'html'}),
	$cases{html}[-1] =~ s/^dead 2 //r, 'webhook_health shows it');

subtest 'a retry waits as long as the reply says' => sub {
	webhook('busy', 'desk', { body => '{"error": "busy", "after": 300}' });
	emit('busy');
	becomes_true(q{SELECT attempts = 1 AND next_attempt_at > now() + interval '200 s'
		FROM chatwebhook.delivery WHERE webhook_name = 'busy'}, 'it waits');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'busy'});
};

subtest 'with a larger limit, the same reply is read' => sub {
	set('chatwebhook.max_response_size', '1MB');
	foreach my $name ('cut', 'firstcut', 'readcut')
	{
		my $n = 0;
		my $read = $receiver->wait_until(sub {
			emit($name);
			wait_idle($node);
			outcome($name) eq 'delivered 1';
		});
		ok($read, "$name: delivered");
	}
	set('chatwebhook.max_response_size', '16kB');
};

subtest 'test_webhook() says the same' => sub {
	foreach my $name ('html', 'cut', 'good')
	{
		my $error = $cases{$name}[-1] =~ s/^(?:dead 2|delivered 1) ?//r;
		is(sql(qq{SELECT concat_ws('|', t.success, t.status_code, t.error)
				FROM chatwebhook.webhook w, chatwebhook.test_webhook(w.id) t WHERE w.name = '$name'}),
			$error eq '' ? 't|200' : "f|200|$error", $name);
	}
};

subtest 'an event that means nothing to the service' => sub {
	my $id = webhook('nothing', 'nothing');
	emit('nothing');
	ok(wait_idle($node), 'it is finished');
	is(outcome('nothing'), 'delivered 0', 'delivered, without an error');
	is(sql("SELECT attempt, status_code, error, note FROM chatwebhook.attempt WHERE webhook_id = '$id'"), '0|||nothing to send', 'its attempt says why');
	is($receiver->count('nothing'), 0, 'and nothing was sent');
	# replayed, when there is something to send, both are there
	$receiver->set(replies => { nothing => [ { body => '{}' } ] });
	script("CREATE OR REPLACE FUNCTION public.c_nothing(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request LANGUAGE sql STABLE AS \$\$ $one \$\$");
	is(sql("SELECT chatwebhook.replay('$id')"), 1, 'replayed');
	ok(wait_idle($node), 'it is finished again');
	is(sql("SELECT string_agg(concat_ws(' ', attempt, status_code, note), ', ' ORDER BY attempt) FROM chatwebhook.attempt WHERE webhook_id = '$id'"),
		'0 nothing to send, 1 200', 'now it has an attempt');
};

subtest 'paths that take long over a hostile body' => sub {
	set('chatwebhook.max_response_size', '1MB');
	connector('slow', $one, [
		map { { status => 200, path => '$.** ? (@ like_regex "x.*y.*z.*x.*y.*z.*[[:digit:]]") == "' . $_ . '"', means => 'dead' } } 1 .. 20 ]);
	script(q{UPDATE chatwebhook.connector SET replies = replies || '[{"status": 200, "means": "success"}]' WHERE name = 'slow'});
	webhook('slow', 'slow', { body => $json->encode([ ('xyxyxyzz' x 100) x 1000 ]) });
	emit('slow');
	emit('good');
	ok(wait_idle($node), 'all are finished');
	is(outcome('slow'), q{dead 2 the paths of its connector's rules took longer than 100 ms to evaluate}, 'it fails, as the rules may say that it is dead');
	is(outcome('good'), 'delivered 1', 'another is delivered');
	is(sql('SELECT pid FROM chatwebhook.worker_status'), $worker, 'by the same worker');
};

subtest 'a path that came past the checks' => sub {
	script(q{BEGIN; SET LOCAL session_replication_role = replica;
		UPDATE chatwebhook.connector SET replies = '[{"status": 200, "path": "$.a ==", "means": "success"}]' WHERE name = 'text'; COMMIT});
	emit('textok');
	emit('good');
	becomes_true(q{SELECT problem ~ 'rule 1 for replies of its connector has a path that cannot be used: syntax error' FROM chatwebhook.health h
		JOIN chatwebhook.webhook w ON w.id = h.webhook_id WHERE w.name = 'textok'}, 'it says which rule is wrong');
	ok($receiver->wait_until(sub { outcome('good') eq 'delivered 1' }), 'another is delivered');
	is(sql('SELECT pid FROM chatwebhook.worker_status'), $worker, 'by the same worker');
	script(q{UPDATE chatwebhook.connector SET replies = '[]' WHERE name = 'text'});
	ok(wait_idle($node), 'once it is mended, it is sent');
	is(outcome('textok'), 'delivered 1', 'and delivered');
};

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|Segmentation|terminated by signal/, 'no process has crashed');
$node->stop;
done_testing();
