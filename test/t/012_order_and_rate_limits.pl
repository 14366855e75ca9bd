# Order within conversations, rate limits, pauses and the circuit breaker.
#
# Only several workers at once, and receivers that fail and limit, can show that
# deliveries of a conversation stay in order across retries and a crash, and that
# limits hold over all workers together.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $receiver = start_receiver();
my $node = new_node(
	'main',
	'chatwebhook.workers' => 3,
	'chatwebhook.breaker_threshold' => 0);
my $json = JSON::PP->new;

# The numbers that arrived for a webhook, by conversation, each once, in the
# order of their first success; and how many conversations were out of order.
sub out_of_order
{
	my ($label) = @_;
	my (%last, %seen);
	my $wrong = 0;

	foreach my $request ($receiver->log($label))
	{
		my $event = $json->decode($request->{body});
		my ($chat, $n) = ($event->{conversationId}, $event->{data}{n});
		# an earlier one again is a repeat; a later one before its time is not
		next if $seen{"$chat/$n"}++;
		$wrong++ if $n != ($last{$chat} // 0) + 1;
		$last{$chat} = $n;
	}
	return $wrong;
}

sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('test.order'), ('test.rate'), ('test.pause')});

subtest 'ordered' => sub {
	my $count = 1200;
	create_webhook($node, name => 'kept', path => '/flaky/1', ordered => 't', events => ['test.order'],
		backoff => '20 ms', max_backoff => '40 ms', max_in_flight => 16);
	create_webhook($node, name => 'free', path => '/flaky/1', events => ['test.order'],
		backoff => '20 ms', max_backoff => '40 ms', max_in_flight => 16);
	# 30 conversations, in one statement and in many
	sql(qq{SELECT count(chatwebhook.emit('test.order', 'bot', 'c' || n % 30, jsonb_build_object('n', n / 30 + 1)))
		FROM generate_series(0, $count / 2 - 1) n});
	becomes_true(q{SELECT count(*) > 50 FROM chatwebhook.delivery WHERE webhook_name = 'kept' AND status = 'delivered'},
		'some are delivered');
	$node->stop('immediate');
	$node->start;
	sql(qq{SELECT count(chatwebhook.emit('test.order', 'bot', 'c' || n % 30, jsonb_build_object('n', n / 30 + 1)))
		FROM generate_series($count / 2, $count - 1) n});
	ok(wait_idle($node), 'all is delivered');
	is(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE webhook_name = 'kept' AND status = 'delivered'}),
		$count, 'each event once');
	is(out_of_order('kept'), 0, 'in the order of each conversation, over retries, workers and a crash');
	cmp_ok(out_of_order('free'), '>', 0, 'which does not come by itself');
};

subtest 'a retry holds back those behind it, a dead one does not' => sub {
	my ($id) = create_webhook($node, name => 'strict', path => '/down-until-told', ordered => 't',
		events => ['test.order'], backoff => '1 hour', max_backoff => '1 hour', max_retries => 1);
	sql(q{DELETE FROM chatwebhook.webhook WHERE name IN ('kept', 'free')});
	script(q{SELECT count(chatwebhook.emit('test.order', 'bot', 'x', jsonb_build_object('n', n))) FROM generate_series(1, 3) n;
		SELECT chatwebhook.emit('test.order', 'bot', 'y', '{"n": 1}');
		SELECT chatwebhook.emit('test.order', 'bot', NULL, '{"n": 1}')});
	becomes_true(q{SELECT array_agg(attempts ORDER BY id) = '{1,0,0,1,1}' FROM chatwebhook.delivery WHERE webhook_name = 'strict'},
		'the first of each conversation is tried, and what has none');
	my ($first, $second) = split /\n/, sql(q{SELECT id FROM chatwebhook.delivery WHERE webhook_name = 'strict' ORDER BY id LIMIT 2});
	sql("SELECT chatwebhook.cancel($first)");
	becomes_true("SELECT attempts = 1 FROM chatwebhook.delivery WHERE id = $second", 'one that is canceled lets the next go');
	sql("SELECT chatwebhook.retry($second)");
	becomes_true("SELECT attempts = 2 AND status = 'pending' FROM chatwebhook.delivery WHERE id = $second", 'one that is tried again has all its retries');
	sql("UPDATE chatwebhook.webhook SET max_retries = 0 WHERE id = '$id'");
	sql("SELECT chatwebhook.retry($second)");
	becomes_true("SELECT status = 'dead' FROM chatwebhook.delivery WHERE id = $second", 'it is given up');
	becomes_true(q{SELECT count(*) = 2 FROM chatwebhook.delivery WHERE webhook_name = 'strict' AND conversation_id = 'x' AND attempts > 0
		AND status = 'dead'}, 'and the next was tried');
	$receiver->set(up => ['strict']);
	is(sql("SELECT chatwebhook.retry_dead('$id')"), 2, 'the dead are tried again');
	becomes_true(q{SELECT count(*) = 2 FROM chatwebhook.delivery WHERE webhook_name = 'strict' AND conversation_id = 'x' AND status = 'delivered'},
		'and delivered');
	sql('DELETE FROM chatwebhook.webhook');
};

subtest 'rate limits' => sub {
	foreach my $workers (1, 3)
	{
		my $label = "rate $workers";
		sql("ALTER SYSTEM SET chatwebhook.workers = $workers");
		sql('SELECT pg_reload_conf()');
		becomes_true("SELECT count(*) = $workers FROM chatwebhook.worker_status", "workers: $workers");
		create_webhook($node, name => $label, rate_limit => 10, events => ['test.rate']);
		my $emitted = time;
		sql(q{SELECT count(chatwebhook.emit('test.rate', NULL, NULL, '{}')) FROM generate_series(1, 1000)});
		ok($receiver->wait_for(61, $label), 'sixty and one have arrived');
		# None can have been sent before they were emitted.  A slow machine makes
		# this longer and never shorter.
		my $took = ($receiver->log($label))[60]{time} - $emitted;
		diag(sprintf '%d worker(s): %.2f a second', $workers, 60 / $took);
		cmp_ok($took, '>', 60 / 11, 'at most 11 a second');
		# A limit that counts what it should not, or per worker, is off by more.
		cmp_ok($took, '<', scaled(60), 'and more than one a second');
		sql('DELETE FROM chatwebhook.webhook');
	}
};

subtest 'pauses and the breaker' => sub {
	sql('ALTER SYSTEM SET chatwebhook.breaker_threshold = 5');
	# each worker may have one under way when the first is answered
	sql('ALTER SYSTEM SET chatwebhook.workers = 1');
	sql('SELECT pg_reload_conf()');
	becomes_true('SELECT count(*) = 1 FROM chatwebhook.worker_status', 'one worker');
	my ($id) = create_webhook($node, name => 'broken', path => '/down-until-told', events => ['test.pause'],
		backoff => '300 ms', max_backoff => '300 ms', max_retries => 100);
	sql(q{SELECT count(chatwebhook.emit('test.pause', NULL, NULL, '{}')) FROM generate_series(1, 100)});
	becomes_true(q{SELECT state = 'paused' FROM chatwebhook.webhook_health WHERE name = 'broken'}, 'it is paused');
	ok($receiver->wait_for($receiver->count('broken') + 3, 'broken'), 'it is tried from time to time');
	my @tried = map { $_->{time} } $receiver->log('broken');
	cmp_ok($tried[3] - $tried[2], '>=', 0.025, 'after three failures it is left alone for a moment');
	cmp_ok($tried[4] - $tried[3], '>=', 0.05, 'and after four for longer');
	cmp_ok($_->{concurrent}, '<=', 1, 'by one request at a time')
	  foreach ($receiver->log('broken'))[ -2, -1 ];
	cmp_ok(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE attempts = 0}), '>', 50, 'what waits uses up no attempts');
	$receiver->set(up => ['broken']);
	ok(wait_idle($node), 'once it answers, all is delivered');
	is(sql(q{SELECT state <> 'paused' FROM chatwebhook.webhook_health WHERE name = 'broken'}), 't', 'and it is paused no more');

	create_webhook($node, name => 'asks', path => '/fail/1/then/ok?retry_after=2', events => ['test.pause'], max_in_flight => 1);
	sql(q{SELECT count(chatwebhook.emit('test.pause', NULL, NULL, '{}')) FROM generate_series(1, 20)});
	ok($receiver->wait_for(2, 'asks'), 'a second request');
	my @log = $receiver->log('asks');
	cmp_ok($log[1]{time} - $log[0]{time}, '>=', 1.9, 'Retry-After holds up the whole webhook');
	ok(wait_idle($node), 'then all is delivered');
};

done_testing();
