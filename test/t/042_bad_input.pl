# Rows and settings that have become wrong by the time a worker reads them.
#
# SQL's checks let none of this in, but what they have let in can become wrong
# later, by a restore, an administrator's hand or a changed setting.  Only a worker
# can show that each of these is the trouble of one webhook or one delivery alone:
# one process serves a bystander through all of it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $json = JSON::PP->new->canonical->allow_nonref;
my $receiver = start_receiver();
my $node = new_node('main');

# A webhook for the events of the chatbot of the same name; its id.
sub webhook
{
	my ($name, %columns) = @_;
	my ($id) = create_webhook($node, name => $name, chatbot_id => $name,
		max_retries => 0, %columns);
	return $id;
}

# Emit an event to that webhook.
sub emit
{
	my ($name, $data) = @_;
	$data //= q{'{}'};
	return sql("SELECT chatwebhook.emit('conversation.ended', '$name', NULL, $data)");
}

# What the delivery view says of a webhook's last delivery.
sub outcome
{
	my ($name) = @_;
	return sql(
		qq{SELECT concat_ws('|', status, attempts, last_error)
			 FROM chatwebhook.delivery WHERE chatbot_id = '$name' ORDER BY id DESC LIMIT 1});
}

# Wait until a webhook's last delivery is finished, and say how.
sub finished
{
	my ($name) = @_;

	wait_until(qq{SELECT NOT EXISTS (SELECT FROM chatwebhook.queue WHERE chatbot_id = '$name')});
	return outcome($name);
}

# The bystander is served, by the same worker.
webhook('bystander');
my $served = 0;
becomes_true('SELECT count(*) = 1 FROM chatwebhook.worker_status', 'there is a worker');
my $worker = sql('SELECT pid FROM chatwebhook.worker_status');

sub bystander_is_served
{
	emit('bystander');
	ok($receiver->wait_for(++$served, 'bystander'), 'the bystander is served');
	is(sql('SELECT pid FROM chatwebhook.worker_status'), $worker, 'by the same worker');
}
bystander_is_served();

subtest 'URLs that a restore has brought' => sub {
	my $n = 0;

	foreach my $case (
		[ 'ftp://example.com/', qr/scheme/ ],
		[ 'https://user:password@example.com/', qr/user name or password/ ],
		[ 'https://10.0.0.1/', qr/private address/ ],
		[ 'https://example.com:22/', qr/port/ ],
		[ "https://example.com/\nX-Injected: 1", qr/control character/ ],
		[ 'nonsense', qr/not absolute/ ],
		[ '', qr/not absolute/ ],
		[ 'https://' . ('a' x 5000) . '/', qr/too long/ ])
	{
		my ($url, $error) = @$case;
		my $name = 'url-' . ++$n;

		(my $quoted = $url) =~ s/'/''/g;
		script(qq{SET check_function_bodies = off;
			INSERT INTO chatwebhook.webhook (name, chatbot_id, url, max_retries)
			VALUES ('$name', '$name', '$quoted', 0);
			SELECT chatwebhook.rotate_secret(id)
			  FROM chatwebhook.webhook w WHERE name = '$name'});
		emit($name);
		like(finished($name), qr/^dead\|1\|.*$error/, substr("$url: refused", 0, 60));
		unlike(outcome($name), qr/password@/, 'and its password is not told');
	}
};
bystander_is_served();

subtest 'an event that is gone' => sub {
	webhook('no-event');
	$node->append_conf('postgresql.conf', 'chatwebhook.enabled = off');
	$node->reload;
	becomes_true(q{SELECT current_setting('chatwebhook.enabled') = 'off'}, 'off');
	emit('no-event');
	emit('no-event');
	script(q{CREATE TABLE kept AS SELECT * FROM chatwebhook.event WHERE chatbot_id = 'no-event' LIMIT 1;
		DELETE FROM chatwebhook.event WHERE chatbot_id = 'no-event'});
	$node->append_conf('postgresql.conf', 'chatwebhook.enabled = on');
	$node->reload;
	webhook('with-event');
	emit('with-event');
	like(finished('with-event'), qr/^delivered/, 'the worker is past it');
	is(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE chatbot_id = 'no-event' AND status = 'pending'}), 2,
		'its deliveries wait, as it may come with a restore');
	# a restore tells nobody: a sweep finds it
	$node->append_conf('postgresql.conf', 'chatwebhook.poll_interval = 100ms');
	$node->reload;
	sql('INSERT INTO chatwebhook.event SELECT * FROM kept');
	becomes_true(q{SELECT count(*) = 1 FROM chatwebhook.delivery WHERE chatbot_id = 'no-event' AND status = 'delivered'},
		'what is there again is delivered');
	is(sql(q{SELECT chatwebhook.cancel(id) FROM chatwebhook.delivery
		WHERE chatbot_id = 'no-event' AND status = 'pending'}), 't', 'the other can be canceled');
	$node->append_conf('postgresql.conf', 'chatwebhook.poll_interval = 1h');
	$node->reload;
};
bystander_is_served();

subtest 'secrets that cannot be used' => sub {
	my $id = webhook('no-secret');
	sql("DELETE FROM chatwebhook.vault WHERE webhook_id = '$id'");
	emit('no-secret');
	bystander_is_served();
	is($receiver->count('no-secret'), 0, 'without a secret nothing is sent');
	# the receiver is to know it before it is used
	sql("UPDATE chatwebhook.webhook SET enabled = false WHERE id = '$id'");
	$receiver->set_secret('no-secret', sql("SELECT chatwebhook.rotate_secret('$id')"));
	sql("UPDATE chatwebhook.webhook SET enabled = true WHERE id = '$id'");
	if (outcome('no-secret') =~ /^dead/)
	{
		sql(q{SELECT chatwebhook.retry(id) FROM chatwebhook.dead_letter
			   WHERE chatbot_id = 'no-secret'});
	}
	like(finished('no-secret'), qr/^delivered/, 'with a new one it goes out');
	ok($_->{verified}{standard}, 'signed') foreach $receiver->log('no-secret');
};
bystander_is_served();

subtest 'an event type that is gone' => sub {
	sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('order.placed')});
	my $id = webhook('no-type', path => '/gone', events => ['order.placed']);
	script(q{SELECT chatwebhook.emit('order.placed', 'no-type', NULL, NULL);
		DELETE FROM chatwebhook.event_type WHERE name = 'order.placed'});
	becomes_true("SELECT NOT enabled AND disabled_reason IS NOT NULL
		  FROM chatwebhook.webhook WHERE id = '$id'",
		'410 disables a webhook even if its event type is gone');
};
bystander_is_served();

subtest 'data of every kind' => sub {
	webhook('data');
	my %data = (
		'line breaks and quotes' => q{jsonb_build_object('x', E'a\r\nb"\\\\c\t\x01')},
		'a number that no double holds' => q{'{"x": 1e131071}'},
		'deep nesting' =>
		  q{(repeat('{"a":', 1500) || '1' || repeat('}', 1500))::jsonb},
		'the largest' => q{jsonb_build_object('x', repeat('x', 1024 * 1024 - 8))},
		'many keys' =>
		  q{(SELECT jsonb_object_agg(n, n) FROM generate_series(1, 20000) AS n)},
		'control characters only' =>
		  q{jsonb_build_object('x', repeat(E'\x01', 170000))});

	foreach my $what (sort keys %data)
	{
		my $before = $receiver->count('data');

		emit('data', $data{$what});
		like(finished('data'), qr/^delivered/, "$what: delivered");
		my ($request) = ($receiver->log('data'))[-1];
		ok($request->{verified}{standard} && $request->{verified}{signature},
			"$what: signed");
		ok(eval { JSON::PP->new->max_depth(3000)->decode($request->{body}) },
			"$what: JSON");
	}
};
bystander_is_served();

subtest 'names of every kind' => sub {
	my $url = $receiver->url('/ok/-/names');

	sql(qq{INSERT INTO chatwebhook.webhook (name, url, chatbot_id)
		VALUES ('O''Neil "&" co.', '$url', E'bot\\r\\nX-Injected: 1')});
	sql(q{SELECT chatwebhook.emit('conversation.ended',
		E'bot\r\nX-Injected: 1', E'c\nd', '{}')});
	ok($receiver->wait_for(1, 'names'),
		'a chatbot with a line break in its id is served');
	my ($request) = $receiver->log('names');
	is($json->decode($request->{body})->{chatbotId},
		"bot\r\nX-Injected: 1", 'the id is in the body');
	is($request->{headers}{'x-injected'}, undef, 'and in no header');
};
bystander_is_served();

subtest 'settings that are none' => sub {
	foreach my $setting (
		[ 'chatwebhook.allowed_networks', '127.0.0.1/40' ],
		[ 'chatwebhook.allowed_networks', '10.1.2.3/8' ],
		[ 'chatwebhook.denied_networks', 'nonsense' ],
		[ 'chatwebhook.allowed_ports', '0' ],
		[ 'chatwebhook.allowed_ports', 'https' ],
		[ 'chatwebhook.max_in_flight', '0' ],
		[ 'chatwebhook.max_payload_size', '1GB' ],
		[ 'chatwebhook.poll_interval', '-1' ],
		[ 'chatwebhook.log_attempts', 'some' ],
		[ 'chatwebhook.validation', 'maybe' ],
		[ 'chatwebhook.user_agent', "a\nX-Injected: 1" ],
		[ 'chatwebhook.no_such', '1' ])
	{
		my ($name, $value) = @$setting;
		my ($result, $stdout, $stderr) =
		  $node->psql('postgres', "ALTER SYSTEM SET $name = '$value'");

		isnt($result, 0, "$name = $value is refused");
		# the last is how PostgreSQL 18 says it
		like($stderr,
			qr/ERROR:.* (?:(?:invalid value for|is outside the valid range for|unrecognized configuration) parameter|invalid configuration parameter name) "\Q$name\E"/,
			'for that reason');
	}
};
bystander_is_served();

# In such a database, a text can be any bytes, but what is sent is UTF-8.
subtest 'bytes that are no UTF-8' => sub {
	my $refused = sub {
		my ($what, $arguments) = @_;
		my (undef, undef, $stderr) = $node->psql('ascii', "SELECT chatwebhook.emit($arguments)");

		like($stderr, qr/invalid byte sequence for encoding "UTF8".*\n(?:.*\n)*CONTEXT: +$what of event "conversation.ended"/, $what);
	};
	my $url = $receiver->url('/ok/-/ascii');

	sql(q{CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0});
	sql_in('ascii', qq{CREATE EXTENSION chatwebhook;
		INSERT INTO chatwebhook.webhook (name, url) VALUES ('ascii', '$url');
		CREATE TABLE chat (bot text, content text);
		CREATE TRIGGER e AFTER INSERT ON chat FOR EACH ROW
			EXECUTE FUNCTION chatwebhook.emit('conversation.ended', 'chatbotId=bot', 'content')});
	$refused->('chatbot_id', q{'conversation.ended', E'\xff', NULL, NULL});
	$refused->('conversation_id', q{'conversation.ended', NULL, E'a\xc3', NULL});
	$refused->('data', q{'conversation.ended', NULL, NULL, jsonb_build_object('a', E'\xff')});
	$refused->('data', q{'conversation.ended', NULL, NULL, jsonb_build_object(E'\xff', 1)});
	my (undef, undef, $stderr) = $node->psql('ascii', q{SELECT chatwebhook.emit(E'a\xff', NULL, NULL, NULL)});
	like($stderr, qr/invalid event type/, 'type');
	(undef, undef, $stderr) = $node->psql('ascii', q{INSERT INTO chat VALUES (E'\xff', '')});
	like($stderr, qr/DETAIL: +chatbot_id of event/, 'by a trigger, too');
	is(sql_in('ascii', 'SELECT count(*) FROM chatwebhook.event'), 0, 'no event is stored that could not be sent');
	sql_in('ascii', q{INSERT INTO chat VALUES (E'\xc3\xa9', E'\xe2\x82\xac')});
	ok($receiver->wait_for(1, 'ascii'), 'UTF-8 is sent');
	my ($request) = $receiver->log('ascii');
	my $body = $json->decode($request->{body});
	is("$body->{chatbotId} $body->{data}{content}", "\x{e9} \x{20ac}", 'as it is');
};
bystander_is_served();

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|FATAL: .*chatwebhook|terminated by signal/,
	'nothing has crashed');
done_testing();
