# Deliveries that are sent later, expire, or are the same as an earlier one.
#
# Only a worker can show that nothing is sent before its time, that what has
# expired is canceled wherever it waits (in the queue, for a retry, behind a slow
# request, in a batch), that a scheduled delivery does not hold back its conversation
# before it is due, and then takes its place in it, and that neither alarms anybody.

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
my $node = new_node('main', 'chatwebhook.breaker_threshold' => 0, 'chatwebhook.alert_backlog' => '1s');
my $json = JSON::PP->new;

sql(qq{INSERT INTO chatwebhook.event_type (name) VALUES ('test.$_')})
  foreach 'later', 'order', 'expire', 'batch', 'key', 'idle';

# Emit an event of a type, in conversation c, with the number n as its data.
sub emit
{
	my ($type, $n, $options) = @_;
	return sql(sprintf q{SELECT chatwebhook.emit('test.%s', 'bot', 'c', '{"n": %d}'%s)}, $type, $n,
		defined $options ? ", $options" : '');
}

# The numbers that have arrived at a webhook, in that order.
sub arrived
{
	my ($label) = @_;
	return join ' ', map { my $body = $json->decode($_->{body}); map { $_->{data}{n} } ref $body eq 'ARRAY' ? @$body : $body }
	  $receiver->log($label);
}

# What became of a webhook's deliveries, in the order of their events.
sub outcomes
{
	my ($name) = @_;
	return sql(qq{SELECT string_agg(concat_ws(' ', status, attempts, last_error), ', ' ORDER BY id)
		FROM chatwebhook.delivery WHERE webhook_name = '$name'});
}

subtest 'deliver_at' => sub {
	create_webhook($node, name => 'later', events => ['test.later']);
	my $start = time;
	emit('later', 1, q{deliver_at => clock_timestamp() + '3 s'::interval});
	emit('later', 2, q{deliver_at => clock_timestamp() - '3 s'::interval});
	emit('later', 3, q{deliver_at => clock_timestamp() + '1 h'::interval});
	emit('later', 4);
	ok($receiver->wait_for(2, 'later'), 'what is due is sent at once');
	becomes_true(q{SELECT count(*) = 2 FROM chatwebhook.delivery WHERE webhook_name = 'later' AND status = 'delivered'}, 'and settled');
	is(sql(q{SELECT string_agg(extract(epoch FROM next_attempt_at - created_at)::int::text, ' ' ORDER BY id)
			FROM chatwebhook.delivery WHERE webhook_name = 'later' AND status = 'pending'}),
		'3 3600', 'the others are not due before');
	ok($receiver->wait_for(3, 'later'), 'the first is sent');
	my ($request) = grep { $json->decode($_->{body})->{data}{n} == 1 } $receiver->log('later');
	cmp_ok($request->{time}, '>=', $start + 3, 'but not before its time');
	is(arrived('later'), '2 4 1', 'and the one of the next hour not at all');
	ok(wait_idle($node), 'wait_until_idle() does not wait for that one');
	is(outcomes('later'), 'delivered 1, delivered 1, pending 0, delivered 1', 'which is pending');
	is(sql(q{SELECT pending, oldest_pending_at IS NULL FROM chatwebhook.webhook_health WHERE name = 'later'}), '1|t',
		'and not old');
	is(sql(q{SELECT value FROM chatwebhook.metrics WHERE name = 'chatwebhook_oldest_due_age_seconds'}), '0', 'nor late');
	$node->reload;
	sql('SELECT count(chatwebhook._wake(id)) FROM chatwebhook.webhook');
	# a worker looks for backlogs when it sweeps, as after a reload
	emit('later', 5);
	ok($receiver->wait_for(4, 'later'), 'another one comes');
	is(sql('SELECT count(*) FROM chatwebhook.alert'), '0', 'no alert was opened');
	is(sql(q{SELECT chatwebhook.retry(id) FROM chatwebhook.delivery WHERE webhook_name = 'later' AND status = 'pending'}), 't',
		'retry() sends it now');
	ok($receiver->wait_for(5, 'later'), 'whatever its time');
	is(arrived('later'), '2 4 1 5 3', 'it is that one');
	ok(wait_idle($node), 'nothing is left');
};

subtest 'scheduled by the thousand, over a restart' => sub {
	sql(q{SELECT count(chatwebhook.emit('test.later', 'bot', 'c' || n, jsonb_build_object('n', n),
			deliver_at => clock_timestamp() + '2 s'::interval)) FROM generate_series(1, 1000) n});
	$node->stop('immediate');
	$node->start;
	ok($receiver->wait_for(1005, 'later'), 'all arrive');
	is(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE webhook_name = 'later' AND last_attempt_at < created_at + '2 s'::interval
			AND attempts = 1 AND id > (SELECT min(id) FROM (SELECT id FROM chatwebhook.delivery ORDER BY id DESC LIMIT 1000) d)}),
		'0', 'none before its time');
};

subtest 'a scheduled delivery takes its place in its conversation when it is due' => sub {
	create_webhook($node, name => 'order', events => ['test.order'], ordered => 't', path => '/fail/1/then/ok',
		backoff => '2 s', max_backoff => '2 s');
	emit('order', 1, q{deliver_at => clock_timestamp() + '1 h'::interval});
	emit('order', 2);
	emit('order', 3);
	ok($receiver->wait_for(1, 'order'), 'it does not hold back a later one');
	emit('order', 4, q{deliver_at => clock_timestamp() + '100 ms'::interval});
	ok($receiver->wait_for(4, 'order'), 'and one that is due waits for those before it');
	is(arrived('order'), '2 2 3 4', 'as for one that waits for its retry');
	# 1 stays behind in the queue
	sql(q{UPDATE chatwebhook.webhook SET ordered = NOT ordered WHERE name = 'order'}) foreach 1, 2;
	emit('order', 5);
	ok($receiver->wait_for(5, 'order'), 'nor after the webhook was changed');
	ok(sql(q{SELECT chatwebhook.cancel(id) FROM chatwebhook.delivery WHERE webhook_name = 'order' AND status = 'pending'}),
		'it can be canceled');

	# an early one that becomes due while a later one is in flight
	create_webhook($node, name => 'flight', events => ['test.order'], ordered => 't', path => '/hang-until-told', timeout => '1 minute');
	emit('order', 6, q{deliver_at => clock_timestamp() + '1 s'::interval});
	emit('order', 7);
	ok($receiver->wait_for(1, 'flight'), 'a later one is in flight');
	becomes_true(q{SELECT next_attempt_at < clock_timestamp() - '500 ms'::interval FROM chatwebhook.delivery
		WHERE webhook_name = 'flight' AND attempts = 0 ORDER BY id LIMIT 1}, 'and an earlier one is due');
	emit('order', 8);
	is($receiver->count('flight'), 1, 'never two at once');
	$receiver->set(up => ['flight']);
	ok($receiver->wait_for(3, 'flight'), 'then the others');
	is(arrived('flight'), '7 6 8', 'one after another');
	is((sort { $b <=> $a } map { $_->{concurrent} } $receiver->log('flight'))[0], 1, 'each by itself');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'flight'});
};

subtest 'a connector that remembers' => sub {
	script(q{
		CREATE FUNCTION public.learn(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request LANGUAGE sql STABLE AS $$
			SELECT ROW(NULL, NULL, NULL, jsonb_build_object('data', event->'data', 'memory', webhook->'memory', 'ts', 'first'), true)::chatwebhook.request $$;
		INSERT INTO chatwebhook.connector (name, function) VALUES ('learn', 'public.learn')});
	create_webhook($node, name => 'learn', connector => 'learn', events => ['test.order'], path => '/echo');
	emit('order', 1, q{deliver_at => clock_timestamp() + '1 day'::interval});
	# becomes ordered, with its webhooks
	sql(q{UPDATE chatwebhook.connector SET replies = '[{"status": 200, "path": "exists($.ts)", "means": "success", "remember": {"thread": "$.ts"}}]'
		WHERE name = 'learn'});
	emit('order', 2);
	ok($receiver->wait_for(1, 'learn'), 'what is scheduled for tomorrow holds nothing back');
	ok(wait_idle($node), 'the worker is done');
	sql(q{SELECT chatwebhook.retry(min(id)) FROM chatwebhook.delivery WHERE webhook_name = 'learn' AND status = 'pending'});
	ok($receiver->wait_for(2, 'learn'), 'it is sent when it is told to');
	emit('order', 3, q{deliver_at => clock_timestamp() + '200 ms'::interval});
	ok($receiver->wait_for(3, 'learn'), 'another one when it is due');
	is_deeply([ map { $json->decode($_->{body})->{memory} // {} } $receiver->log('learn') ], [ {}, { thread => 'first' }, { thread => 'first' } ],
		'both know the thread');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'learn'});
};

subtest 'expires_at' => sub {
	# a retry that would come after it does not hold back the conversation that long
	create_webhook($node, name => 'short', events => ['test.order'], ordered => 't', path => '/fail/1/then/ok', retry_delays => '{1 hour}');
	emit('order', 1, q{expires_at => clock_timestamp() + '1 s'::interval});
	emit('order', 2);
	ok($receiver->wait_for(2, 'short'), 'the next one is sent when the first has expired');
	like(outcomes('short'), qr/^canceled 1 expired, delivered/, 'and that is canceled');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name = 'short'});

	create_webhook($node, name => 'expire', events => ['test.expire'], path => '/down-until-told', backoff => '1 s',
		max_backoff => '1 s', max_retries => 100);
	emit('expire', 1, q{expires_at => clock_timestamp() - '1 s'::interval});
	becomes_true(q{SELECT status = 'canceled' AND attempts = 0 AND last_error = 'expired'
		FROM chatwebhook.delivery WHERE webhook_name = 'expire'}, 'what has expired already is not sent');
	is($receiver->count('expire'), 0, 'not once');
	emit('expire', 2, q{expires_at => clock_timestamp() + '1500 ms'::interval});
	emit('expire', 3, q{expires_at => clock_timestamp() + '1 h'::interval});
	becomes_true(q{SELECT array_agg(status ORDER BY id) = '{canceled,canceled,pending}'
		FROM chatwebhook.delivery WHERE webhook_name = 'expire'}, 'what expires is not tried again');
	like(outcomes('expire'), qr/^canceled 0 expired, canceled [1-9] expired, pending /, 'its attempts are counted');
	is(sql(q{SELECT given_up FROM chatwebhook.health h JOIN chatwebhook.webhook w ON w.id = h.webhook_id WHERE w.name = 'expire'}),
		'0', 'it was not given up');
	$receiver->set(up => ['expire']);
	ok(wait_idle($node), 'what has not expired is sent');
	like(outcomes('expire'), qr/, delivered \d+$/, 'and delivered');
	is(sql(q{SELECT chatwebhook.retry(id) FROM chatwebhook.delivery WHERE webhook_name = 'expire' AND status = 'canceled' ORDER BY id LIMIT 1}),
		't', 'retry() sends one that has expired');
	ok(wait_idle($node), 'after all');
	like(outcomes('expire'), qr/^delivered 1, canceled/, 'which is delivered');
};

subtest 'expired behind a request that is under way' => sub {
	foreach my $size (1, 10)
	{
		my $name = "wait $size";
		create_webhook($node, name => $name, events => ['test.batch'], path => '/hang-until-told', batch_size => $size,
			max_in_flight => 1, timeout => '1 minute');
		emit('batch', 1);
		ok($receiver->wait_for(1, $name), 'one is under way');
		emit('batch', $_, $_ % 2 ? undef : q{expires_at => clock_timestamp() + '1 s'::interval}) foreach 2 .. 5;
		wait_until(qq{SELECT max(expires_at) < clock_timestamp() FROM chatwebhook.delivery WHERE webhook_name = '$name'});
		$receiver->set(up => [$name]);
		ok(wait_idle($node), 'it ends');
		is(arrived($name), '1 3 5', 'what has expired meanwhile is not sent');
		is(outcomes($name), 'delivered 1, canceled 0 expired, delivered 1, canceled 0 expired, delivered 1', 'but canceled');
		sql(qq{DELETE FROM chatwebhook.webhook WHERE name = '$name'});
	}
};

subtest 'an attempt under way is finished' => sub {
	create_webhook($node, name => 'slow', events => ['test.expire'], path => '/delay-ms/1500');
	emit('expire', 1, q{expires_at => clock_timestamp() + '1 s'::interval});
	ok(wait_idle($node), 'it ends');
	is(outcomes('slow'), 'delivered 1', 'delivered');
};

subtest 'key' => sub {
	create_webhook($node, name => 'key', events => ['test.key']);
	my $first = emit('key', 1, q{key => 'order-17'});
	like($first, qr/^[0-9a-f-]{36}$/, 'an event is emitted');
	is(emit('key', 2, q{key => 'order-17'}), $first, 'the same key is the same event');
	isnt(emit('key', 3, q{key => 'order-18'}), $first, 'another is another');
	isnt(sql(q{SELECT chatwebhook.emit('test.key', 'other', 'c', '{"n": 4}', key => 'order-17')}), $first, 'as is another chatbot');
	isnt(sql(q{SELECT chatwebhook.emit('test.key', NULL, 'c', '{"n": 5}', key => 'order-17')}), $first, 'or none');
	is(sql(q{SELECT chatwebhook.emit('test.key', NULL, 'c', '{"n": 6}', key => 'order-17') IS NOT NULL}), 't', 'and that twice');
	isnt(sql(q{SELECT chatwebhook.emit('test.later', 'bot', 'c', '{"n": 7}', key => 'order-17')}), $first, 'and another type');
	is(sql(q{SELECT count(DISTINCT chatwebhook.emit('test.key', 'bot', 'c', '{"n": 8}', key => 'many')) FROM generate_series(1, 100)}),
		'1', 'within a statement, too');
	ok(wait_idle($node), 'all is delivered');
	is(arrived('key'), '1 3 4 5 8', 'each once');
	is(sql(q{SELECT chatwebhook.emit('test.idle', 'bot', 'c', '{}', key => 'k') IS NULL}), 't', 'of an event that nobody wants');
	create_webhook($node, name => 'idle', events => ['test.idle'], filter => '$.data.n > 1');
	is(sql(q{SELECT chatwebhook.emit('test.idle', 'bot', 'c', '{"n": 1}', key => 'k') IS NULL}), 't', 'or whose data nobody wants,');
	is(sql(q{SELECT chatwebhook.emit('test.idle', 'bot', 'c', '{"n": 2}', key => 'k') IS NULL}), 'f', 'the key is free');
	is(sql(q{SELECT chatwebhook.emit('test.idle', 'bot', 'c', '{"n": 1}', key => 'k') IS NULL}), 't',
		'and an event that nobody wants has no id');

	is(sql('SELECT count(*) FROM chatwebhook.event_key'), '7', 'as many keys as events');
	is(sql(q{SELECT chatwebhook.erase_conversation('other', 'c')}), '1', 'a conversation is erased');
	is(sql('SELECT count(*) FROM chatwebhook.event_key'), '6', 'with its keys');

	# a day later: the ids of events tell their age
	sql(q{UPDATE chatwebhook.event_key SET created_at = created_at - '1 day'::interval,
			event_id = overlay(event_id::text placing '00' from 1 for 2)::uuid});
	my $next = emit('key', 9, q{key => 'order-17'});
	isnt($next, $first, 'a key is free again after a day');
	is(emit('key', 10, q{key => 'order-17'}), $next, 'and then belongs to that event');
	$node->reload;
	becomes_true('SELECT count(*) = 1 FROM chatwebhook.event_key', 'old keys are removed');
};

subtest 'a session that emits with a key needs no rights' => sub {
	script(q{CREATE ROLE app; GRANT USAGE ON SCHEMA chatwebhook TO app;
		GRANT EXECUTE ON FUNCTION chatwebhook.emit(text, text, text, jsonb, timestamptz, timestamptz, text) TO app});
	is(script(q{SET ROLE app; SELECT chatwebhook.emit('test.key', 'bot', 'c', '{"n": 11}', key => 'app') IS NOT NULL}), 't', 'but that');
	my ($rc, undef, $error) = $node->psql('postgres', q{SET ROLE app; SELECT chatwebhook._take_key('x', gen_random_uuid())});
	like($error, qr/permission denied for function _take_key/, 'it cannot take a key by itself');
	($rc, undef, $error) = $node->psql('postgres', q{SET ROLE app; SELECT * FROM chatwebhook.event_key});
	like($error, qr/permission denied for table event_key/, 'or see any');
};

is(sql(q{SELECT count(*) FROM chatwebhook.worker_status WHERE last_error IS NOT NULL}), '0', 'no worker has met an error');
$node->stop;
done_testing();
