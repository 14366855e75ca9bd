# Whatever there is to do for a worker wakes it: none of it waits for a sweep.
#
# Sweeps mend what a lost wake-up breaks, so only a server that sweeps once an
# hour can show one.  A worker that is stopped while sessions commit has to find
# all that they have left for it; and one that keeps the launcher from starting
# another shows what those that stay take over.

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
	'chatwebhook.poll_interval' => '1h',
	'chatwebhook.breaker_threshold' => 0,
	'chatwebhook.max_in_flight' => 64,
	'max_prepared_transactions' => 2);
my $json = JSON::PP->new;

sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('test.wake')});

# A webhook for the events of the chatbot of its name.
sub webhook
{
	my ($name, %columns) = @_;
	my ($id) = create_webhook($node, name => $name, chatbot_id => $name, events => ['test.wake'],
		backoff => '1 hour', max_backoff => '1 hour', %columns);
	return $id;
}

sub emit_sql
{
	my ($chatbot, $conversation, $n) = @_;
	return sprintf q{SELECT chatwebhook.emit('test.wake', '%s', %s, '{"n": %d}');}, $chatbot,
	  defined $conversation ? "'$conversation'" : 'NULL', $n // 1;
}

sub emit
{
	my (@what) = @_;
	sql(emit_sql(@what));
	return;
}

# Passes as soon as so many of a webhook's deliveries have this status.
sub become
{
	my ($n, $status, $name, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return becomes_true(qq{SELECT count(*) = $n FROM chatwebhook.delivery
		WHERE webhook_name = '$name' AND status = '$status'}, $what);
}

sub id_of
{
	my ($name, $n) = @_;
	return sql(qq{SELECT d.id FROM chatwebhook.delivery d JOIN chatwebhook.event e ON e.id = d.event_id
		WHERE d.webhook_name = '$name' AND e.data->>'n' = '$n'});
}

sub worker_pids
{
	return split /\n/, sql('SELECT pid FROM chatwebhook.worker_status ORDER BY pid');
}

subtest 'hints of one webhook that are merged' => sub {
	webhook('merged');
	# its place in the queue is before what the worker will have read
	my $session = $node->background_psql('postgres');
	$session->query_safe('BEGIN; ' . emit_sql('merged', undef, 1));
	emit('merged', undef, 2);
	become(1, 'delivered', 'merged', 'what is committed first is sent, and the worker is past the other');
	while_stopped(sub {
		emit('merged', undef, 3);
		$session->query_safe('COMMIT');
		emit('merged', undef, 4);
	});
	$session->quit;
	become(4, 'delivered', 'merged', 'the one that comes before what came with it is sent, too');

	# the same within a transaction: what was waiting for long, and what is new
	webhook('within', ordered => 't', path => '/down-until-told');
	emit('within', 'a', 1);
	become(1, 'pending', 'within', 'one is pending');
	becomes_true(q{SELECT attempts = 1 FROM chatwebhook.delivery WHERE webhook_name = 'within'}, 'and has failed');
	emit('within', 'a', 2);
	# it is past that one, which waits for the first
	emit('within', 'b', 3);
	becomes_true(q{SELECT count(*) = 2 FROM chatwebhook.delivery WHERE webhook_name = 'within' AND attempts = 1},
		'another has failed');
	$receiver->set(up => ['within']);
	my $first = id_of('within', 1);
	script('BEGIN; ' . emit_sql('within', 'c', 4) . " SELECT chatwebhook.cancel($first); COMMIT");
	become(2, 'delivered', 'within', 'both what is new and what was waiting for long is sent');

	# for batches they add up
	webhook('batch', batch_size => 6, batch_window => '1 minute');
	while_stopped(sub {
		emit('batch', undef, $_) foreach 1 .. 3;
		script('BEGIN; ' . join(' ', map { emit_sql('batch', undef, $_) } 4 .. 6) . ' COMMIT');
	});
	my $told = time;
	become(6, 'delivered', 'batch', 'a full batch is sent, however it has come together');
	is($receiver->count('batch'), 1, 'in one request');
	my ($request) = $receiver->log('batch');
	cmp_ok($request->{time} - $told, '<', 55, 'which is not put off until its window ends');
};

subtest 'more hints than there is room for' => sub {
	my $n = 200;
	my $url = $receiver->url('/ok/-/many');
	sql(qq{INSERT INTO chatwebhook.webhook (name, url, chatbot_id, events)
		SELECT 'many', '$url', 'many' || i, '{test.wake}' FROM generate_series(1, $n) i});
	my $each = join ' ', map { emit_sql("many$_") } 1 .. $n;
	script("BEGIN; $each COMMIT");
	become($n, 'delivered', 'many', 'in one transaction: all is sent');
	while_stopped(sub { script($each) });
	become(2 * $n, 'delivered', 'many', 'in many while the worker is stopped: all is sent');
	while_stopped(sub { script("BEGIN; $each COMMIT; " . emit_sql('many1')) });
	become(3 * $n + 1, 'delivered', 'many', 'in one while it is stopped, and another behind it: all is sent');
	# and what comes later has hints again
	emit('many7');
	become(3 * $n + 2, 'delivered', 'many', 'one more is sent');
};

subtest 'what people do' => sub {
	my $id = webhook('people', path => '/down-until-told');
	my $update = sub { sql("UPDATE chatwebhook.webhook SET $_[0] WHERE id = '$id'"); };
	my $fails = sub {
		my ($n) = @_;
		$receiver->set(down => ['people']);
		emit('people', undef, $n);
		becomes_true(qq{SELECT d.attempts = 1 AND d.next_attempt_at > now() + interval '30 minutes'
			FROM chatwebhook.delivery d JOIN chatwebhook.event e ON e.id = d.event_id
			WHERE d.webhook_name = 'people' AND e.data->>'n' = '$n'}, "$n has failed, and would wait for an hour");
		$receiver->set(up => ['people']);
	};
	$fails->(1);
	is(sql('SELECT chatwebhook.retry(' . id_of('people', 1) . ')'), 't', 'retry()');
	become(1, 'delivered', 'people', 'wakes the worker');

	is(sql("SELECT chatwebhook.replay('$id')"), 1, 'replay()');
	ok($receiver->wait_for(3, 'people'), 'wakes the worker');
	become(1, 'delivered', 'people', 'and it is delivered again');

	$update->('max_retries = 0');
	$receiver->set(down => ['people']);
	emit('people', undef, $_) foreach 2, 3;
	become(2, 'dead', 'people', 'two are dead');
	$receiver->set(up => ['people']);
	is(sql('SELECT chatwebhook.retry(' . id_of('people', 2) . ')'), 't', 'retry() of a dead one');
	become(2, 'delivered', 'people', 'wakes the worker');
	is(sql('SELECT chatwebhook.retry_dead()'), 1, 'retry_dead()');
	become(3, 'delivered', 'people', 'wakes the worker');

	$update->('max_retries = 5');
	$fails->(4);
	$update->('enabled = false');
	is(sql('SELECT chatwebhook.retry(' . id_of('people', 4) . ')'), 't', 'one is due, while the webhook is disabled');
	$update->('enabled = true');
	become(4, 'delivered', 'people', 'enabling that wakes the worker');
	$fails->(5);
	is(sql('SELECT chatwebhook.cancel(' . id_of('people', 5) . ')'), 't', 'one is canceled');
	is(sql('SELECT chatwebhook.retry(' . id_of('people', 5) . ')'), 't', 'retry() of that one');
	become(5, 'delivered', 'people', 'wakes the worker');

	$update->(q{headers = '{"X-Key": "{{key}}"}'});
	emit('people', undef, 6);
	becomes_true(q{SELECT problem ~ 'key' FROM chatwebhook.webhook_health WHERE name = 'people'}, 'a credential is missing');
	sql("SELECT chatwebhook.set_credential('$id', 'key', 'x')");
	become(6, 'delivered', 'people', 'setting it wakes the worker');
};

subtest 'the next of a conversation' => sub {
	my $id = webhook('ordered', ordered => 't', path => '/down-until-told');
	# so much that the worker has read beyond what waits
	emit('ordered', 'x', $_) foreach 1 .. 4;
	emit('ordered', 'y', 5);
	becomes_true(q{SELECT count(*) = 2 FROM chatwebhook.delivery WHERE webhook_name = 'ordered' AND attempts = 1},
		'the first of each conversation has failed');
	$receiver->set(up => ['ordered']);
	is(sql('SELECT chatwebhook.cancel(' . id_of('ordered', 1) . ')'), 't', 'cancel() of the first');
	become(3, 'delivered', 'ordered', 'wakes the worker: all behind it are sent, one after another');
	my @sent = map { $json->decode($_->{body})->{data}{n} } $receiver->log('ordered');
	is("@sent", '1 5 2 3 4', 'in their order');

	$receiver->set(down => ['ordered']);
	emit('ordered', 'z', $_) foreach 6, 7;
	becomes_true('SELECT attempts = 1 FROM chatwebhook.delivery WHERE id = ' . id_of('ordered', 6), 'another first has failed');
	$receiver->set(up => ['ordered']);
	sql("UPDATE chatwebhook.webhook SET ordered = false WHERE id = '$id'");
	become(4, 'delivered', 'ordered', 'what need not wait any more is sent');
	is(sql('SELECT status FROM chatwebhook.delivery WHERE id = ' . id_of('ordered', 7)), 'delivered', 'before the first');

	# the first is answered while the last one waits for the rate limit, but not for so
	# long that the worker gives it back and reads all anew
	webhook('limited', ordered => 't', rate_limit => 2);
	script(join ' ', 'BEGIN;', emit_sql('limited', 'a', 1), emit_sql('limited', 'a', 2), emit_sql('limited', 'b', 3), 'COMMIT');
	become(3, 'delivered', 'limited', 'what comes behind one that is answered while nothing may be sent is sent later');
};

# End a worker, and wait for another.
sub next_worker
{
	my ($pid) = worker_pids();
	sql("SELECT pg_terminate_backend($pid)");
	becomes_true("SELECT count(*) = 1 AND bool_and(pid <> $pid) FROM chatwebhook.worker_status", 'another worker has started');
	return;
}

subtest 'what is due later' => sub {
	webhook('later', path => '/down-until-told');
	my $wait = '5 s';
	my $fail = sub {
		$receiver->set(down => ['later']);
		emit('later', undef, $_[0]);
		becomes_true('SELECT attempts = 1 FROM chatwebhook.delivery WHERE id = ' . id_of('later', $_[0]), "$_[0] has failed");
		$receiver->set(up => ['later']);
	};
	my $switch = sub {
		sql("ALTER SYSTEM SET chatwebhook.enabled = $_[0]");
		$node->reload;
		becomes_true("SELECT current_setting('chatwebhook.enabled') = '$_[0]'", "chatwebhook.enabled = $_[0]");
	};
	# has waited until it was due
	my $in_time = sub {
		my ($n) = @_;
		my $id = id_of('later', $n);
		becomes_true("SELECT status = 'delivered' AND last_attempt_at >= (SELECT due FROM due) FROM chatwebhook.delivery WHERE id = $id",
			"$n is sent when it is due");
	};
	my $put_off = sub {
		my ($n) = @_;
		my $id = id_of('later', $n);
		sql("WITH q AS (UPDATE chatwebhook.queue SET next_attempt_at = clock_timestamp() + interval '$wait' WHERE id = $id RETURNING next_attempt_at)
			UPDATE due SET due = q.next_attempt_at FROM q");
	};
	script('CREATE TABLE due (due timestamptz); INSERT INTO due VALUES (NULL)');

	# a worker that knows of nothing finds it with its first look
	$fail->(1);
	$switch->('off');
	next_worker();
	$put_off->(1);
	$switch->('on');
	$in_time->(1);

	# there is something to claim now, and something later
	$fail->(2);
	$switch->('off');
	emit('later', undef, 3);
	next_worker();
	$put_off->(2);
	$switch->('on');
	become(2, 'delivered', 'later', 'what is due now is sent');
	diag('what is due later was due before that: this has shown nothing')
	  if sql('SELECT status FROM chatwebhook.delivery WHERE id = ' . id_of('later', 2)) ne 'pending';
	$in_time->(2);

	# nothing to claim, since one wakes the worker for something that is not due
	$fail->(4);
	$put_off->(4);
	is(sql(q{SELECT chatwebhook.set_credential(id, 'key', 'x') IS NOT NULL FROM chatwebhook.webhook WHERE name = 'later'}), 't',
		'the worker is woken without anything to claim');
	$in_time->(4);
};

subtest 'COMMIT PREPARED' => sub {
	webhook('prepared');
	script('BEGIN; ' . emit_sql('prepared') . q{ PREPARE TRANSACTION 'one'});
	emit('prepared');
	become(1, 'delivered', 'prepared', 'the worker is past it');
	sql(q{COMMIT PREPARED 'one'});
	become(2, 'delivered', 'prepared', 'it is found');
};

# The commit wakes the worker before it tells it what has changed: several times,
# since that is a race.
subtest 'an extension of another version' => sub {
	my $version = sql(q{SELECT extversion FROM pg_extension WHERE extname = 'chatwebhook'});
	my $set = sub {
		script(qq{BEGIN;
			UPDATE pg_extension SET extversion = '$_[0]' WHERE extname = 'chatwebhook';
			ALTER EXTENSION chatwebhook DROP FUNCTION chatwebhook.retry(bigint);
			ALTER EXTENSION chatwebhook ADD FUNCTION chatwebhook.retry(bigint);
			COMMIT});
	};
	foreach my $round (1 .. 6)
	{
		$set->('99.0');
		becomes_true(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'chatwebhook worker'}, "$round: the worker leaves")
		  or last;
		$set->($version);
		becomes_true('SELECT count(*) = 1 FROM chatwebhook.worker_status', "$round: when that is put right, one comes") or last;
	}
	$set->($version);
};

subtest 'a worker that leaves' => sub {
	sql('ALTER SYSTEM SET chatwebhook.workers = 2');
	$node->reload;
	becomes_true('SELECT count(*) = 2 FROM chatwebhook.worker_status', 'two workers');
	webhook('left', path => '/hang-until-told', timeout => '5 minutes');
	emit('left', undef, 1);
	ok($receiver->wait_for(1, 'left'), 'a request is under way');
	becomes_true(q{SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'chatwebhook worker'
		AND state = 'idle' AND wait_event_type IN ('Extension', 'Activity')}, 'the other worker has looked in vain');
	my ($pid, $other) = split /\n/, sql('SELECT pid FROM chatwebhook.worker_status ORDER BY in_flight DESC');
	# nobody starts another worker now, which would look at everything
	my $launcher = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'chatwebhook launcher'});
	kill 'STOP', $launcher or die "could not stop the launcher: $!\n";
	sql("SELECT pg_terminate_backend($pid)");
	ok($receiver->wait_for(2, 'left'), 'when the first leaves, the other sends what that one had');
	is(sql('SELECT pid FROM chatwebhook.worker_status'), $other, 'which is alone');
	$receiver->set(up => ['left']);
	become(1, 'delivered', 'left', 'it is delivered');
	kill 'CONT', $launcher;
	becomes_true('SELECT count(*) = 2 FROM chatwebhook.worker_status', 'there are two again');
};

subtest 'a launcher that ends' => sub {
	my @workers = worker_pids();
	my $pids = join ',', @workers;
	ok(stay_asleep(@workers), 'both workers sleep');
	sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'chatwebhook launcher'});
	becomes_true("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid IN ($pids)", 'it wakes them, and they leave');
	becomes_true('SELECT count(*) = 2 FROM chatwebhook.worker_status', 'the next launcher starts two');
};

is(sql(q{SELECT count(*) FROM chatwebhook.worker_status WHERE last_error IS NOT NULL}), 0, 'no worker has had trouble of its own');
$node->stop;
done_testing();
