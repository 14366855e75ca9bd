# The header traceparent.
#
# Only requests that arrive show that an event's trace context goes out with every
# attempt, unchanged, from then on and after a restore, and to nobody else.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main');
my $elsewhere = start_receiver();
my $receiver = start_receiver();
my $trace = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
my $other = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00';

script(q{
	CREATE TABLE chat (id bigint GENERATED ALWAYS AS IDENTITY, said text);
	INSERT INTO chatwebhook.event_type (name) VALUES ('test.said'), ('test.quiet');
	SELECT chatwebhook.watch('chat', 'test.said', '{"said": "said", "conversationId": "@c-1"}');
	CREATE FUNCTION two_hosts(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request LANGUAGE sql STABLE AS $$
		SELECT CASE jsonb_array_length(replies)
			WHEN 0 THEN ROW('POST', NULL, NULL, event, false)::chatwebhook.request
			WHEN 1 THEN ROW('POST', webhook #>> '{settings,other}', NULL, event, true)::chatwebhook.request END
	$$;
	INSERT INTO chatwebhook.connector (name, function) VALUES ('two_hosts', 'two_hosts')});

# Insert a chat row in a transaction of its own, after some settings.
sub say
{
	my ($what, @settings) = @_;
	script(join ' ', 'BEGIN;', @settings, "INSERT INTO chat (said) VALUES (" . literal($what) . '); COMMIT;');
	return;
}

sub traced
{
	my ($trace_context) = @_;
	return 'SET LOCAL chatwebhook.traceparent = ' . literal($trace_context) . ';';
}

# What requests of a label had as traceparent, in the order of their arrival.
sub traces
{
	my ($label, $from) = @_;
	return [ map { $_->{headers}{traceparent} } ($from // $receiver)->log($label) ];
}

create_webhook($node, name => 'plain');
create_webhook($node, name => 'flaky', path => '/flaky/2', backoff => '10 ms', max_backoff => '10 ms', ordered => 1);
create_webhook($node, name => 'batch', batch_size => 10, max_in_flight => 1);
my $elsewhere_url = $elsewhere->url('/ok/-/elsewhere');
create_webhook($node, name => 'hosts', connector => 'two_hosts',
	settings => { other => $elsewhere_url });

#
# Every attempt has it, those without it have none, and no session keeps it
#
say('traced', traced($trace));
say('untraced');
say('malformed', traced('00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01'));
say('injected', traced("$trace\r\nX-Injected: yes"));
say('of another version', traced($trace =~ s/^00/01/r));
ok(wait_idle($node), 'all is delivered');
is(sql(q{SELECT count(*) FROM chatwebhook.history WHERE status <> 'delivered'}), 0, 'everything');
is_deeply([ sort map { $_ // 'none' } @{ traces('plain') } ], [ $trace, ('none') x 4 ],
	'an event has the trace context of its transaction; what is malformed is not sent');
ok(!(grep { exists $_->{headers}{'x-injected'} } $receiver->log), 'no header can be smuggled in');
is_deeply([ @{ traces('flaky') }[ 0 .. 3 ] ], [ $trace, $trace, $trace, undef ], 'every attempt has it');
ok(!(grep { !$_->{verified}{standard} } $receiver->log('plain')), 'the signatures hold');

#
# Connectors: to the webhook's own URL
#
is_deeply([ sort map { $_ // 'none' } @{ traces('hosts') } ], [ $trace, ('none') x 4 ], "a connector's request to the webhook's URL has it");
is_deeply(traces('elsewhere', $elsewhere), [ (undef) x 5 ], 'one to another host has not');

#
# Batches: of one event only
#
my $seen = scalar $receiver->log('batch');
while_stopped(sub { say("batched $_", traced($trace)) foreach 1 .. 3; });
ok(wait_idle($node), 'a batch is delivered');
my @batches = ($receiver->log('batch'))[ $seen .. scalar($receiver->log('batch')) - 1 ];
foreach my $one (@batches)
{
	my $n = () = $one->{body} =~ /"said":/g;
	is($one->{headers}{traceparent}, $n == 1 ? $trace : undef, "a batch of $n");
}
ok((grep { !defined $_->{headers}{traceparent} } @batches) > 0, 'at least one had several events');

#
# Repeats and a look ahead
#
my $plain = sql(q{SELECT id FROM chatwebhook.webhook WHERE name = 'plain'});
my $before = scalar $receiver->log('plain');
sql("SELECT chatwebhook.replay('$plain')");
ok(wait_idle($node), 'everything was sent again');
my @again = @{ traces('plain') };
is(scalar(grep { defined && $_ eq $trace } @again[ $before .. $#again ]), 4, 'a repeat has it too');
is( sql(qq{SELECT (chatwebhook.preview('$plain', event_id => e.id)).headers ->> 'traceparent'
		FROM chatwebhook.event e WHERE e.data ->> 'said' = 'traced'}), $trace, 'preview() of an event shows it');
is( sql(qq{SELECT (chatwebhook.preview('$plain', event_id => e.id)).headers ? 'traceparent'
		FROM chatwebhook.event e WHERE e.data ->> 'said' = 'untraced'}), 'f', 'or that there is none');
$before = scalar $receiver->log('plain');
script("SET chatwebhook.traceparent = '$other'; SELECT chatwebhook.test_webhook('$plain')");
script("SET chatwebhook.traceparent = '$other-'; SELECT chatwebhook.test_webhook('$plain')");
@again = @{ traces('plain') };
is_deeply([ @again[ $before .. $#again ] ], [ $other, undef ], "test_webhook() has the session's");

#
# A custom header cannot replace it
#
foreach my $name ('traceparent', 'TraceParent')
{
	my (undef, undef, $err) = $node->psql('postgres', qq{UPDATE chatwebhook.webhook SET headers = '{"$name": "$other"}' WHERE id = '$plain'});
	like($err, qr/"$name" is set by the extension or by HTTP/, "a header $name is refused");
}
my (undef, undef, $err) = $node->psql('postgres', qq[UPDATE chatwebhook.webhook SET auth = '{"type": "header", "name": "traceparent", "value": "{{token}}"}' WHERE id = '$plain']);
like($err, qr/"traceparent" is set by the extension/, 'also as authentication');

#
# Rows that came past the checks, and an event of the worker
#
sql('ALTER SYSTEM SET chatwebhook.enabled = off');
$node->reload;
say('stored', traced($trace));
say('forged', traced($trace));
my $longest = 10 * 1024 * 1024;
sql(qq{UPDATE chatwebhook.event SET traceparent = '$trace' || E'\\r\\nX-Injected: ' || repeat('x', $longest) WHERE data ->> 'said' = 'forged'});

# a dump has it
my $dump = PostgreSQL::Test::Utils::tempdir('dump') . '/dump.sql';
$node->command_ok([ 'pg_dump', '--no-sync', '-f', $dump, 'postgres' ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', 'copy', '-f', $dump ], 'restored');
is(sql_in('copy', q{SELECT traceparent FROM chatwebhook.event WHERE data ->> 'said' = 'stored'}), $trace, 'a restore brings it');
$node->safe_psql('postgres', 'DROP DATABASE copy');

$before = scalar $receiver->log('plain');
sql('ALTER SYSTEM RESET chatwebhook.enabled');
$node->reload;
ok(wait_idle($node), 'they are delivered');
@again = @{ traces('plain') };
is_deeply([ sort map { $_ // 'none' } @again[ $before .. $#again ] ], [ $trace, 'none' ], 'what is malformed in the table is not sent');
ok(!(grep { exists $_->{headers}{'x-injected'} } $receiver->log), 'nor a header with it');

sql("DELETE FROM chatwebhook.webhook");
create_webhook($node, name => 'alerts', events => ['webhook.alert']);
create_webhook($node, name => 'gone', path => '/gone', events => ['test.said']);
say('refused', traced($trace));
ok($receiver->wait_for(1, 'alerts'), "the worker's own event arrives");
is_deeply(traces('alerts'), [undef], 'without a trace context');
is_deeply(traces('gone'), [$trace], 'unlike the one that caused it');

$node->stop('fast');
done_testing();
