# Batches: several events in one request, sent, retried and settled together.
#
# Only a worker and a receiver that reads the batches can show this: that every
# event arrives once and in a batch as large as it may be, that a window ends by
# itself, that what is retried is the same batch under the same id, and that
# erasing, limits, order and crashes hold for each event of a batch.

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
	'chatwebhook.breaker_threshold' => 0,
	'chatwebhook.log_attempts' => 'all');
my $json = JSON::PP->new;

# As many events in one transaction, numbered from 1.
sub emit
{
	my ($chatbot, $n, $data) = @_;
	$data //= q{jsonb_build_object('n', i)};
	return sql(qq{SELECT count(chatwebhook.emit('test.batch', '$chatbot', 'c' || i, $data))
		FROM generate_series(1, $n) i});
}

# The requests for a webhook: the numbers of the events in each.
sub batches
{
	my ($label) = @_;
	return map { [ map { $_->{data}{n} } @{ $json->decode($_->{body}) } ] } $receiver->log($label);
}

sub numbers
{
	my ($label) = @_;
	my %count;
	$count{$_}++ foreach map { @$_ } batches($label);
	return \%count;
}

sub webhook
{
	my ($name, %columns) = @_;
	my ($id) = create_webhook($node, name => $name, chatbot_id => $name, events => ['test.batch'],
		batch_size => 10, %columns);
	return $id;
}

sub states
{
	my ($name) = @_;
	return sql(qq{SELECT string_agg(s, ' ' ORDER BY s) FROM (
		SELECT status || '=' || count(*) AS s FROM chatwebhook.delivery
		WHERE webhook_name = '$name' GROUP BY status) x});
}

sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('test.batch')});

subtest 'a burst' => sub {
	my $id = webhook('burst');
	emit('burst', 95);
	ok(wait_idle($node), 'the worker is done');
	my @requests = $receiver->log('burst');
	is_deeply(numbers('burst'), { map { $_ => 1 } 1 .. 95 }, 'every event has arrived once');
	my @sizes = map { scalar @$_ } batches('burst');
	cmp_ok(scalar(grep { $_ == 10 } @sizes), '>=', 7, "in full batches (@sizes)");
	is(scalar(grep { $_ > 10 } @sizes), 0, 'and no larger ones');
	is(scalar(grep { !$_->{verified}{standard} || !$_->{verified}{signature} } @requests), 0,
		'all are signed');
	my ($wrong, %ids) = (0);
	foreach my $request (@requests)
	{
		my $events = $json->decode($request->{body});
		my $deliveries = sql(qq{SELECT string_agg(id::text, ',' ORDER BY id) FROM chatwebhook.delivery
			WHERE event_id IN (} . join(',', map { "'$_->{id}'" } @$events) . ')');
		$wrong++ if $request->{headers}{'x-webhook-delivery'} ne $deliveries;
		$wrong++ if $request->{headers}{'x-webhook-event'} ne 'batch';
		$ids{ $request->{headers}{'webhook-id'} } = 1;
	}
	is($wrong, 0, 'the headers name the deliveries');
	is(scalar(keys %ids), scalar @requests, 'each batch has an id of its own');
	is(scalar(grep { !/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/ } keys %ids),
		0, 'a UUID of version 8');
	is(states('burst'), 'delivered=95', 'all are delivered');
	is(sql(qq{SELECT total, successes, failures FROM chatwebhook.webhook_health WHERE webhook_id = '$id'}),
		'95|95|0', 'health counts deliveries');
	is(sql(qq{SELECT count(*), count(response_headers) FROM chatwebhook.attempt WHERE webhook_id = '$id'}),
		'95|' . @requests, 'each has its attempt, and the first of a batch the reply');
};

subtest 'one alone' => sub {
	my $id = webhook('alone');
	emit('alone', 1);
	ok(wait_idle($node), 'the worker is done');
	is_deeply([ batches('alone') ], [ [1] ], 'is an array, too');
	like(sql(qq{SELECT success, status_code FROM chatwebhook.test_webhook('$id')}), qr/^t\|200/, 'test_webhook()');
	my ($test) = ($receiver->log('alone'))[-1];
	is(ref $json->decode($test->{body}), 'ARRAY', 'sends what receivers will get');
	ok($test->{verified}{standard}, 'signed');
};

subtest 'batch_window' => sub {
	webhook('window', batch_window => '2 seconds');
	my $start = time;
	sql(q{DO $$ BEGIN
		FOR i IN 1 .. 3 LOOP
			PERFORM chatwebhook.emit('test.batch', 'window', 'c', jsonb_build_object('n', i));
			COMMIT;
		END LOOP;
	END $$});
	ok(wait_idle($node), 'the worker is done');
	is_deeply([ batches('window') ], [ [ 1, 2, 3 ] ], 'what comes one by one goes together');
	my ($request) = $receiver->log('window');
	cmp_ok($request->{time} - $start, '>=', 1.9, 'when the window ends, though nothing else happens then');

	# what was there before, and is no full batch, waits yet when this comes
	webhook($_, batch_window => '1 minute') foreach 'gathers', 'fills';
	emit('gathers', 1);
	emit('fills', 1, "jsonb_build_object('n', $_)") foreach 11 .. 20;
	ok($receiver->wait_for(1, 'fills'), 'a full batch');
	is($receiver->count('gathers'), 0, 'is sent without a wait');
	is_deeply([ batches('fills') ], [ [ 11 .. 20 ] ], 'as one');
	sql(q{UPDATE chatwebhook.webhook SET batch_window = '0'});
	ok(wait_idle($node), 'the worker is done');

	# others are not held up by those that gather
	webhook("gather $_", chatbot_id => 'gather', batch_window => '1 minute') foreach 1 .. 30;
	webhook('beside', batch_size => 1);
	emit('gather', 1);
	emit('beside', 1);
	ok($receiver->wait_for(1, 'beside'), 'another webhook is served');
	is(sql(q{SELECT count(*) FROM chatwebhook.delivery WHERE status = 'pending' AND chatbot_id = 'gather'}), 30,
		'while what gathers waits');
	sql(q{UPDATE chatwebhook.webhook SET batch_window = '0'});
	ok(wait_idle($node), 'a shorter window holds at once');
	sql('DELETE FROM chatwebhook.webhook');
};

subtest 'failures' => sub {
	my $id = webhook('flaky', path => '/flaky/1', backoff => '100 ms', max_backoff => '100 ms');
	emit('flaky', 30);
	ok(wait_idle($node), 'the worker is done');
	is(states('flaky'), 'delivered=30', 'all are delivered');
	my %count = %{ numbers('flaky') };
	is(scalar(grep { ($count{$_} // 0) < 2 } 1 .. 30), 0, 'each was retried');
	my %of_batch;
	push @{ $of_batch{ $_->{headers}{'webhook-id'} } }, $_->{body} foreach $receiver->log('flaky');
	is(scalar(grep { my ($first) = @$_; grep { $_ ne $first } @$_ } values %of_batch), 0,
		'one webhook-id, one body');
	cmp_ok(scalar(grep { @$_ == 2 } values %of_batch), '>=', 1, 'a batch is retried as it was');

	webhook('refused', path => '/status/400');
	emit('refused', 20);
	ok(wait_idle($node), 'the worker is done');
	is(states('refused'), 'dead=20', 'a refused batch is dead, all of it');
	is(sql(q{SELECT count(*) FROM chatwebhook.dead_letter WHERE last_error LIKE '%400%'}), 20, 'with the reason');

	webhook('hopeless', path => '/status/500', max_retries => 1, backoff => '50 ms', max_backoff => '50 ms');
	emit('hopeless', 10);
	ok(wait_idle($node), 'the worker is done');
	is(states('hopeless'), 'dead=10', 'after its retries, too');
	is(sql(q{SELECT array_agg(DISTINCT attempts) FROM chatwebhook.dead_letter WHERE webhook_name = 'hopeless'}),
		'{2}', 'with its attempts');

	webhook('gone', path => '/gone');
	emit('gone', 10);
	wait_until(q{SELECT NOT enabled FROM chatwebhook.webhook WHERE name = 'gone'});
	ok(wait_idle($node), 'the worker is done');
	is(sql(q{SELECT enabled FROM chatwebhook.webhook WHERE name = 'gone'}), 'f', '410 disables');
	sql('DELETE FROM chatwebhook.webhook');
};

subtest 'the same again' => sub {
	# 1 is tried again, together with 2, which was due before it; then both are
	webhook('again', path => '/down-until-told', batch_size => 3, batch_window => '2 seconds', max_in_flight => 1,
		backoff => '1 s', max_backoff => '1 s', max_retries => 100);
	my $pairs = sub { grep { @{ $json->decode($_->{body}) } == 2 } $receiver->log('again') };
	emit('again', 1);
	ok($receiver->wait_for(1, 'again'), 'one alone');
	emit('again', 1, q{'{"n": 2}'});
	ok($receiver->wait_until(sub { $pairs->() >= 2 }), 'two together, twice');
	$receiver->set(up => ['again']);
	ok(wait_idle($node), 'the worker is done');
	my @again = $pairs->();
	is(scalar(grep { $_->{headers}{'webhook-id'} ne $again[0]{headers}{'webhook-id'} } @again), 0,
		'with its webhook-id, whatever was due first');
	is(scalar(grep { $_->{body} ne $again[0]{body} } @again), 0, 'and its body');
};

subtest 'a change while they are settled' => sub {
	my $id = webhook('changed', path => '/hang-until-told');
	my $session = $node->background_psql('postgres');
	emit('changed', 10);
	ok($receiver->wait_for(1, 'changed'), 'a request is under way');
	$session->query_safe('BEGIN');
	$session->query_safe("UPDATE chatwebhook.webhook SET ordered = true WHERE id = '$id'");
	$receiver->set(up => ['changed']);
	# their rows are others from the moment at which the worker waits for them
	$session->query_safe(q{DO $$ BEGIN
		FOR i IN 1 .. 20000 LOOP
			EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE NOT granted);
			PERFORM pg_sleep(0.003);
		END LOOP;
	END $$; COMMIT});
	ok(wait_idle($node), 'the worker is done');
	$session->quit;
	is_deeply(numbers('changed'), { map { $_ => 1 } 1 .. 10 }, 'every event has arrived once');
	is(sql(qq{SELECT total, successes FROM chatwebhook.webhook_health WHERE webhook_id = '$id'}), '10|10',
		'and is counted once');
};

subtest 'erasure' => sub {
	my $id = webhook('echo', path => '/echo');
	emit('echo', 5, q{jsonb_build_object('n', i, 'mail', 'visitor' || i)});
	ok(wait_idle($node), 'the worker is done');
	my $told = qq{SELECT count(*) FROM chatwebhook.attempt
		WHERE webhook_id = '$id' AND response_body LIKE '%visitor2%'};
	is(sql($told), 1, 'a reply tells of one of a batch');
	is(sql(q{SELECT chatwebhook.erase_conversation('echo', 'c2')}), 1, 'whose conversation is erased');
	is(sql($told), 0, 'and so is the reply');
	is(sql(qq{SELECT count(*) FROM chatwebhook.attempt WHERE webhook_id = '$id'}), 4, 'the attempts of the others stay');

	$id = webhook('late', path => '/hang-until-told');
	emit('late', 5);
	ok($receiver->wait_for(1, 'late'), 'a batch is under way');
	is(sql(qq{SELECT in_flight FROM chatwebhook.webhook_health WHERE webhook_id = '$id'}), 5, 'with five deliveries');
	sql(q{SELECT chatwebhook.erase_conversation('late', 'c3')});
	$receiver->set(up => ['late']);
	ok(wait_idle($node), 'the worker is done');
	is(sql(qq{SELECT count(*), count(response_headers) FROM chatwebhook.attempt WHERE webhook_id = '$id'}),
		'4|0', 'no reply is kept that may tell of what was erased meanwhile');
};

subtest 'a crash' => sub {
	webhook('crash', path => '/hang-until-told');
	emit('crash', 25);
	ok($receiver->wait_for(2, 'crash'), 'requests are under way');
	$node->stop('immediate');
	$receiver->set(up => ['crash']);
	$node->start;
	ok(wait_idle($node), 'the worker is done');
	is(states('crash'), 'delivered=25', 'all are delivered');
	is(scalar(grep { !numbers('crash')->{$_} } 1 .. 25), 0, 'every event has arrived');
};

subtest 'large events, limits and order' => sub {
	webhook('large', batch_size => 100);
	emit('large', 40, q{jsonb_build_object('n', i, 'text', repeat('x', 60000))});
	ok(wait_idle($node), 'the worker is done');
	is_deeply(numbers('large'), { map { $_ => 1 } 1 .. 40 }, 'every event has arrived once');
	my ($largest) = sort { $b <=> $a } map { length $_->{body} } $receiver->log('large');
	cmp_ok($largest, '<', 1024 * 1024 + 65536, "no request is larger than a megabyte ($largest)");
	cmp_ok(scalar($receiver->count('large')), '<', 25, 'and yet they are batches');

	my $id = webhook('limited', rate_limit => 20);
	my $start = time;
	emit('limited', 60);
	ok(wait_idle($node), 'the worker is done');
	# the first batch goes at once; that it is slow takes nothing from this
	cmp_ok(($receiver->log('limited'))[-1]{time} - $start, '>', 50 / 25, 'the rate limit counts deliveries, not requests');

	$receiver->set(replies => { token => [ { status => 200, body => '{"access_token": "t", "expires_in": 3600}' } ] });
	my $token_url = $receiver->url('/scripted/-/token');
	$id = webhook('token', batch_size => 100, rate_limit => 1,
		auth => qq({"type": "oauth2", "token_url": "$token_url", "client_id": "c"}));
	sql(qq{SELECT chatwebhook.set_credential('$id', 'client_secret', 's')});
	emit('token', 100);
	ok($receiver->wait_for(1, 'token'), 'a token is asked for, and the batch sent') or return;
	ok(wait_idle($node), 'the worker is done');
	my @sent = grep { $_->{path} !~ /scripted/ } $receiver->log('token');
	my ($asked) = grep { $_->{path} =~ /scripted/ } $receiver->log('token');
	# it would be 100 seconds otherwise
	cmp_ok($sent[0]{time} - $asked->{time}, '<', 50, 'the request for a token does not count as deliveries');

	webhook('ordered', ordered => 't');
	sql(q{SELECT chatwebhook.emit('test.batch', 'ordered', 'c' || i % 4, jsonb_build_object('n', i))
		FROM generate_series(1, 40) i});
	ok(wait_idle($node), 'the worker is done');
	my ($wrong, %last) = (0);
	foreach my $batch (batches('ordered'))
	{
		my %conversations;
		$conversations{ $_ % 4 }++ foreach @$batch;
		$wrong++ if grep { $_ > 1 } values %conversations;
		foreach my $n (@$batch)
		{
			$wrong++ if $n < ($last{ $n % 4 } // 0);
			$last{ $n % 4 } = $n;
		}
	}
	is($wrong, 0, 'an ordered conversation has one event in a batch, in order');
	is_deeply(numbers('ordered'), { map { $_ => 1 } 1 .. 40 }, 'every event has arrived once');
};

subtest 'deliveries that have failed more and less often in one batch' => sub {
	my $id = webhook('mixed', path => '/status/503', max_retries => 1, backoff => '1 hour', max_backoff => '1 hour');
	emit('mixed', 1);
	becomes_true(qq{SELECT attempts = 1 FROM chatwebhook.queue WHERE webhook_id = '$id'}, 'one waits for its retry');
	script(qq{BEGIN;
		UPDATE chatwebhook.queue SET next_attempt_at = now() WHERE webhook_id = '$id';
		SELECT chatwebhook.emit('test.batch', 'mixed', 'c', '{"n": 2}');
		UPDATE chatwebhook.webhook SET backoff = '10 ms', max_backoff = '10 ms' WHERE id = '$id';
		COMMIT});
	ok(wait_idle($node), 'the worker is done');
	is($json->encode([ batches('mixed') ]), '[[1],[1,2],[2]]', 'it is retried together with a new one');
	is(sql(qq{SELECT string_agg(attempts || ' ' || status, ', ') FROM chatwebhook.delivery WHERE webhook_id = '$id'}),
		'2 dead, 2 dead', 'each has the retries that are its own');

	$id = webhook('waits', path => '/status/503', max_retries => 5, backoff => '1 hour', backoff_multiplier => 4, max_backoff => '1 day');
	emit('waits', 1);
	becomes_true(qq{SELECT attempts = 1 FROM chatwebhook.queue WHERE webhook_id = '$id'}, 'another one waits for its retry');
	script(qq{BEGIN;
		UPDATE chatwebhook.queue SET next_attempt_at = now() WHERE webhook_id = '$id';
		SELECT chatwebhook.emit('test.batch', 'waits', 'c', '{"n": 2}');
		UPDATE chatwebhook.webhook SET max_in_flight = 31 WHERE id = '$id';
		COMMIT});
	becomes_true(qq{SELECT string_agg(attempts::text, ' ' ORDER BY id) = '2 1' FROM chatwebhook.queue WHERE webhook_id = '$id'},
		'it is retried together with a new one');
	is(sql(qq{SELECT string_agg(CASE WHEN last_wait_ms = 3600000 THEN 'first' WHEN last_wait_ms > 3600000 THEN 'longer' END, ' ' ORDER BY id)
			FROM chatwebhook.queue WHERE webhook_id = '$id'}),
		'longer first', 'each has the wait that is its own');
	sql(qq{DELETE FROM chatwebhook.webhook WHERE id = '$id'});
};

subtest 'several workers' => sub {
	$node->append_conf('postgresql.conf', 'chatwebhook.workers = 3');
	$node->reload;
	becomes_true('SELECT count(*) = 3 FROM chatwebhook.worker_status', 'three workers');
	webhook('shared', batch_size => 7);
	emit('shared', 500);
	ok(wait_idle($node), 'the workers are done');
	is_deeply(numbers('shared'), { map { $_ => 1 } 1 .. 500 }, 'every event has arrived once');
	cmp_ok($receiver->count('shared'), '<', 200, 'in batches');
};

subtest 'bad values' => sub {
	foreach my $case (
		[ q{batch_size => 0}, qr/batch_size is 0, outside the range 1 to 100/ ],
		[ q{batch_size => 101}, qr/batch_size is 101, outside the range 1 to 100/ ],
		[ q{batch_window => '2 minutes'}, qr/batch_window is 00:02:00, outside the range 0 to 1 minute/ ],
		[ q{batch_window => '-1 s'}, qr/batch_window is -00:00:01, outside the range 0 to 1 minute/ ],
		[ q{batch_size => 5, connector => 'slack'}, qr/connector slack sends one event at a time/ ])
	{
		my (undef, undef, $error) = $node->psql('postgres',
			"SELECT chatwebhook.create_webhook('bad', 'http://127.0.0.1/', $case->[0])");
		like($error, $case->[1], $case->[0]);
	}
};

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|Segmentation/, 'no process has crashed by itself');

$node->stop;
done_testing();
