# The circuit breaker, pauses and rate limits, with several workers at once.
#
# Only several workers with one webhook in trouble can show that they keep to
# one probe together, that a rate limit and the breaker do not undo each other,
# and that no receiver can have all of them wait for ever.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Utils;
use Test::More;

my $workers = 4;
my $threshold = 3;
my $receiver = start_receiver();
my $node = new_node(
	'main',
	'chatwebhook.workers' => $workers,
	'chatwebhook.breaker_threshold' => $threshold);

sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('test.breaker')});
create_webhook($node, name => 'bystander', chatbot_id => 'bystander', events => ['test.breaker'], path => '/delay-ms/5');
becomes_true("SELECT count(*) = $workers FROM chatwebhook.worker_status", 'all workers are there');

# A webhook for the events of the chatbot of its name, tried again for long.
sub webhook
{
	my ($name, %columns) = @_;
	my ($id) = create_webhook($node, name => $name, chatbot_id => $name, events => ['test.breaker'],
		max_retries => 100, backoff => '50 ms', max_backoff => '50 ms', %columns);
	return $id;
}

sub emit
{
	my ($chatbot, $n) = @_;
	sql(qq{SELECT count(chatwebhook.emit('test.breaker', '$chatbot', NULL, '{}')) FROM generate_series(1, $n)});
	return;
}

# When a webhook is tried next; null if it is not paused.
sub next_probe_at
{
	my ($name) = @_;
	return qq{SELECT next_probe_at FROM chatwebhook.webhook_health WHERE name = '$name'};
}

# Whatever any worker has to do now it does: each of them has delivered something
# else meanwhile.
sub all_workers_turn
{
	my $pids = sub { return { map { split /\|/ } split /\n/, sql('SELECT pid, delivered FROM chatwebhook.worker_status') } };
	my $before = $pids->();
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (1)
	{
		emit('bystander', 50);
		wait_until(q{SELECT pending = 0 FROM chatwebhook.webhook_health WHERE name = 'bystander'}) or return 0;
		my $now = $pids->();
		return 1 if !grep { ($now->{$_} // 0) <= $before->{$_} } keys %$before;
		return 0 if time > $deadline;
	}
}

subtest 'one probe for all workers' => sub {
	# enough failures for every worker's requests, the later ones probes; then
	# one that is not answered
	my $failures = $threshold + 2 * $workers + 2;
	webhook('probed', path => "/fail/$failures/then/hang-until-told", timeout => '5 minutes');
	emit('probed', 100);
	ok($receiver->wait_for($failures + 1, 'probed'), 'it is tried again and again, and a probe waits for its answer');
	is(sql(q{SELECT state FROM chatwebhook.webhook_health WHERE name = 'probed'}), 'paused', 'it is paused');
	emit('probed', 100);
	ok(all_workers_turn(), 'all workers have had a turn');
	my @requests = $receiver->log('probed');
	is(scalar @requests, $failures + 1, 'none has sent another probe');
	is($requests[-1]{concurrent}, 1, 'which is the only request under way');
	is($requests[-2]{concurrent}, 1, 'as was the one before');
	cmp_ok($requests[-1]{time} - $requests[-2]{time}, '>=', 0.045, 'it has waited for its time');
	$receiver->set(up => ['probed']);
	ok(wait_idle($node), 'when it is answered, all is delivered');
	is(sql(q{SELECT state, next_probe_at IS NULL FROM chatwebhook.webhook_health WHERE name = 'probed'}), 'healthy|t', 'and it is paused no more')
	  or diag(sql(q{SELECT * FROM chatwebhook.webhook_health WHERE name = 'probed'}));
};

subtest 'a connector whose first request is the probe' => sub {
	script(q{
		CREATE FUNCTION two_steps(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
			LANGUAGE sql STABLE AS $$
			SELECT ROW('POST', (webhook->>'url') || (webhook #>> ARRAY['settings', jsonb_array_length(replies)::text]),
				NULL, '{}', jsonb_array_length(replies) = 1)::chatwebhook.request
		$$;
		INSERT INTO chatwebhook.connector (name, function) VALUES ('two_steps', 'public.two_steps(jsonb,jsonb,jsonb)')
	});
	my $failures = $threshold + 2 * $workers + 2;
	webhook('stepped', connector => 'two_steps', url => $receiver->url(''), timeout => '5 minutes',
		settings => { 0 => "/fail/$failures/then/hang-until-told/-/one", 1 => '/hang-until-told/-/two' });
	emit('stepped', 20);
	ok($receiver->wait_for($failures + 1, 'one'), 'a probe waits for its answer');
	ok(all_workers_turn(), 'all workers have had a turn');
	is($receiver->count('one'), $failures + 1, 'it is the only one');
	$receiver->set(up => ['one']);
	ok($receiver->wait_for(2, 'two'), 'when it is answered, other workers go on, too');
	$receiver->set(up => ['two']);
	ok(wait_idle($node), 'all is delivered');
};

subtest 'a token that is asked for while it is paused' => sub {
	$receiver->set(replies => { token => [ { status => 200, body => '{"access_token": "t", "expires_in": 3600}' } ] });
	my $failures = $threshold + $workers + 2;
	# it would take the place of a probe for as long as the time-out
	webhook('authorized', path => "/fail/$failures/then/down-until-told", timeout => '5 minutes',
		auth => { type => 'oauth2', token_url => $receiver->url('/scripted/-/token'), client_id => 'c' },
		credentials => { client_secret => 's' });
	emit('authorized', 20);
	ok($receiver->wait_for($failures + 1, 'authorized'), 'it fails, and is probed');
	my $tokens = $receiver->count('token');
	cmp_ok($tokens, '>', 0, 'with a token');
	# the next workers have none
	sql('SELECT count(pg_terminate_backend(pid)) FROM chatwebhook.worker_status');
	ok($receiver->wait_for($tokens + 1, 'token'), 'a worker that has none asks for one');
	ok($receiver->wait_for($receiver->count('authorized') + 2, 'authorized'), 'and goes on to probe');
	$receiver->set(up => ['authorized']);
	ok(wait_idle($node), 'all is delivered');
	becomes_true("SELECT count(*) = $workers FROM chatwebhook.worker_status", 'all workers are there again');
};

subtest 'with a rate limit' => sub {
	# more probes than the limit lets through; one that was never sent must not
	# be waited for
	webhook('limited', path => '/down-until-told', rate_limit => 5, timeout => '5 minutes');
	emit('limited', 30);
	ok($receiver->wait_for($threshold + 6, 'limited'), 'it is probed, when the limit allows');
	my @requests = $receiver->log('limited');
	my $seconds = $requests[-1]{time} - $requests[0]{time};
	cmp_ok(@requests / ($seconds || 1), '<', 8, sprintf 'no more often than that: %d in %.1f s', scalar @requests, $seconds);
	$receiver->set(up => ['limited']);
	ok(wait_idle($node), 'when it answers, all is delivered');
	isnt(sql(q{SELECT state FROM chatwebhook.webhook_health WHERE name = 'limited'}), 'paused', 'and it is paused no more');

	# an answer after a failure ends what the failure began, and not the limit
	webhook('flaky', path => '/flaky/1', rate_limit => 5);
	foreach (1 .. 5)
	{
		emit('flaky', 1);
		wait_idle($node);
	}
	@requests = $receiver->log('flaky');
	is(scalar(@requests), 10, 'each of five is sent twice');
	cmp_ok($requests[-1]{time} - $requests[0]{time}, '>', 1.7, 'at five a second');

	# a limit that would let much through does not open what is paused
	webhook('paused', path => '/down-until-told', rate_limit => 500, backoff => '1 hour', max_backoff => '1 hour');
	emit('paused', 100);
	becomes_true(q{SELECT state = 'paused' AND in_flight = 0 FROM chatwebhook.webhook_health WHERE name = 'paused'}, 'another is paused');
	my $count = $receiver->count('paused');
	emit('paused', 100);
	ok(all_workers_turn(), 'all workers have had a turn');
	is($receiver->count('paused'), $count, 'and have sent it nothing');
	my $due = sql(next_probe_at('paused'));
	is(sql("SELECT '$due' > now() + interval '25 minutes' AND '$due' <= now() + interval '90 minutes'"), 't', 'its probe is due in an hour, as its health says');
	# what is not tried at all has no time for that
	sql(q{UPDATE chatwebhook.health h SET problem = 'x' FROM chatwebhook.webhook w WHERE w.id = h.webhook_id AND w.name = 'paused'});
	is(sql(q{SELECT state, next_probe_at IS NULL FROM chatwebhook.webhook_health WHERE name = 'paused'}), 'paused|t', 'not while it has a problem');
	sql(q{UPDATE chatwebhook.health h SET problem = NULL FROM chatwebhook.webhook w WHERE w.id = h.webhook_id AND w.name = 'paused'});
	# a probe needs something to send
	sql(q{UPDATE chatwebhook.queue q SET next_attempt_at = now() + interval '3 hours' FROM chatwebhook.webhook w WHERE w.id = q.webhook_id AND w.name = 'paused'});
	is(sql('SELECT (' . next_probe_at('paused') . ") > now() + interval '2 hours'"), 't', 'no sooner than something is due');
	sql(q{UPDATE chatwebhook.queue q SET next_attempt_at = 'infinity' FROM chatwebhook.webhook w WHERE w.id = q.webhook_id AND w.name = 'paused'});
	is(sql(next_probe_at('paused')), $due, 'which a backfill always is');
	sql(q{UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'paused'});
	is(sql(q{SELECT state, next_probe_at IS NULL FROM chatwebhook.webhook_health WHERE name = 'paused'}), 'disabled|t', 'nor if it is disabled');
	sql(q{DELETE FROM chatwebhook.webhook WHERE name IN ('limited', 'flaky', 'paused')});
};

# What a receiver may ask for, and until when that holds for all workers.
foreach my $status (429, 503)
{
	subtest "Retry-After without end, with status $status" => sub {
		foreach my $asked ('99999999999', '9223372036854775807', '999999999999999999999')
		{
			my $name = "asks $status $asked";
			my $id = webhook($name, path => "/fail/1/then/ok?status=$status&retry_after=$asked", max_in_flight => 1);
			emit($name, 1);
			becomes_true(qq{SELECT state = 'paused' AND in_flight = 0 FROM chatwebhook.webhook_health WHERE name = '$name'},
				"$asked: it is paused");
			is(sql('SELECT p > now() + interval \'50 minutes\' AND p <= now() + interval \'1 hour\' FROM (' . next_probe_at($name) . ') x(p)'),
				't', "$asked: for an hour and no longer");
			emit($name, 20);
			ok(all_workers_turn(), "$asked: all workers have had a turn");
			is($receiver->count($name), 1, "$asked: and have sent it nothing");
			# whoever changes it wants to see what that does
			sql("UPDATE chatwebhook.webhook SET max_in_flight = 2 WHERE id = '$id'");
			sql("SELECT chatwebhook.retry(id) FROM chatwebhook.delivery WHERE webhook_name = '$name' AND attempts = 1");
			becomes_true(qq{SELECT pending = 0 FROM chatwebhook.webhook_health WHERE name = '$name'}, "$asked: a change of the webhook ends the pause");
		}
	};
}

subtest 'resume()' => sub {
	my $id = webhook('stalled', path => '/down-until-told', backoff => '1 hour', max_backoff => '1 hour');
	emit('stalled', 20);
	becomes_true(q{SELECT state = 'paused' AND in_flight = 0 FROM chatwebhook.webhook_health WHERE name = 'stalled'}, 'it is paused');
	my $scheduled = q{SELECT count(*) FROM chatwebhook.delivery WHERE webhook_name = 'stalled' AND next_attempt_at > now() + interval '50 minutes'};
	cmp_ok(sql($scheduled), '>=', $threshold, 'retries wait for an hour');
	sql(q{SELECT chatwebhook.emit('test.breaker', 'stalled', NULL, '{}', deliver_at => now() + interval '55 minutes')});
	my $attempts = sql(qq{SELECT sum(attempts) FROM chatwebhook.queue WHERE webhook_id = '$id'});
	ok(all_workers_turn(), 'all workers have had a turn');

	# whoever thinks better of it leaves what waits for a retry as it was
	script("BEGIN; SELECT chatwebhook.resume('$id'); ROLLBACK");
	cmp_ok(sql($scheduled), '>', $threshold, 'a rollback undoes it');
	my $count = $receiver->count('stalled');
	is(sql("SELECT chatwebhook.resume('$id')"), 't', 'resume()');
	ok($receiver->wait_for($count + 1, 'stalled'), 'it is tried again');
	becomes_true(qq{SELECT sum(attempts) > $attempts FROM chatwebhook.queue WHERE webhook_id = '$id'}, 'that is counted');
	is(sql(qq{SELECT sum(first_attempt) FROM chatwebhook.queue WHERE webhook_id = '$id'}), 0, 'as one of the retries that it has');
	$receiver->set(up => ['stalled']);
	# a failure that is recorded after resume() waits for an hour
	becomes_true(q{SELECT in_flight = 0 FROM chatwebhook.webhook_health WHERE name = 'stalled'}, 'all failures are recorded');
	sql("SELECT chatwebhook.resume('$id')");
	ok(wait_idle($node), 'once it answers, all is delivered');
	is(sql(q{SELECT state FROM chatwebhook.webhook_health WHERE name = 'stalled'}), 'healthy', 'and it is paused no more');
	is(sql($scheduled), 1, 'but for what is to be sent later');
	is(sql("SELECT chatwebhook.resume('$id')"), 'f', 'there is nothing to resume');
	is(sql($scheduled), 1, 'and nothing was');

	# all that there is to send has been put off as the receiver asked
	my $asks = webhook('asks', path => '/fail/1/then/ok?status=429&retry_after=99999');
	emit('asks', 1);
	becomes_true(q{SELECT state = 'paused' AND in_flight = 0 FROM chatwebhook.webhook_health WHERE name = 'asks'}, 'another asks for a pause');
	is(sql("SELECT chatwebhook.resume('$asks')"), 't', 'resume()');
	ok(wait_idle($node), 'all is delivered');

	# the pause is gone with the server's memory, the retries are not
	my $forgotten = webhook('forgotten', path => '/fail/1/then/ok?status=429&retry_after=99999');
	emit('forgotten', 1);
	becomes_true(q{SELECT state = 'paused' AND in_flight = 0 FROM chatwebhook.webhook_health WHERE name = 'forgotten'}, 'one more');
	$node->restart;
	becomes_true("SELECT count(*) = $workers FROM chatwebhook.worker_status", 'the server was restarted');
	is(sql(q{SELECT state <> 'paused' AND next_probe_at IS NULL FROM chatwebhook.webhook_health WHERE name = 'forgotten'}), 't', 'and has forgotten the pause');
	is(sql("SELECT chatwebhook.resume('$forgotten')"), 't', 'resume()');
	ok(wait_idle($node), 'all is delivered');

	# no worker has any of it in memory
	my $off = webhook('off', path => '/down-until-told', backoff => '1 hour', max_backoff => '1 hour');
	emit('off', 20);
	becomes_true(q{SELECT state = 'paused' AND in_flight = 0 FROM chatwebhook.webhook_health WHERE name = 'off'}, 'and another is paused');
	$receiver->set(up => ['off']);
	script(q{ALTER SYSTEM SET chatwebhook.databases = '!postgres'; SELECT pg_reload_conf()});
	becomes_true('SELECT count(*) = 0 FROM chatwebhook.worker_status', 'there is no worker');
	is(sql("SELECT chatwebhook.resume('$off')"), 't', 'resume()');
	is(sql(q{SELECT state <> 'paused' AND next_probe_at IS NULL FROM chatwebhook.webhook_health WHERE name = 'off'}), 't', 'it is paused no more')
	  or diag(sql(q{SELECT * FROM chatwebhook.webhook_health WHERE name = 'off'}));
	script(q{ALTER SYSTEM RESET chatwebhook.databases; SELECT pg_reload_conf()});
	ok(wait_idle($node), 'the next worker delivers all');
	becomes_true('SELECT count(*) > 0 FROM chatwebhook.worker_status', 'it is there');

	# what it is no remedy for
	sql("UPDATE chatwebhook.webhook SET enabled = false WHERE id = '$asks'");
	like(($node->psql('postgres', "SELECT chatwebhook.resume('$asks')"))[2],
		qr/ERROR:  webhook "asks" is disabled\nHINT:  To enable it, set webhook\.enabled to true/, 'one that is disabled');
	my $gone = webhook('gone', path => '/status/410');
	emit('gone', 1);
	becomes_true("SELECT NOT enabled FROM chatwebhook.webhook WHERE id = '$gone'", 'the extension disables one');
	like(($node->psql('postgres', "SELECT chatwebhook.resume('$gone')"))[2], qr/ERROR:  webhook "gone" is disabled: .*410/, 'it says why');
	my $unset = webhook('unset', headers => { 'X-Key' => '{{key}}' });
	emit('unset', 1);
	becomes_true("SELECT problem IS NOT NULL FROM chatwebhook.webhook_health WHERE webhook_id = '$unset'", 'one lacks a credential');
	like(($node->psql('postgres', "SELECT chatwebhook.resume('$unset')"))[2],
		qr/ERROR:  cannot send to webhook "unset": the credential "key" is not set\nHINT:  Once that is fixed/, 'which resume() says');
};

is(sql('SELECT count(*) FROM chatwebhook.worker_status WHERE last_error IS NOT NULL'), 0, 'no worker has had trouble of its own');
$node->stop;
done_testing();
