# What a next request follows from is on disk before that is sent, and all else
# that a worker commits soon is.
#
# A crash must not have a connector's request made again whose reply the next one
# came from, nor an earlier event of an ordered conversation sent behind a later
# one.  The launcher flushes what workers commit, and so does the WAL writer, so
# only a crash with both of them stopped can show that the worker waits for the
# disk itself.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Time::HiRes qw(sleep time);

my $receiver = start_receiver();
my $node = new_node(
	'main',
	'autovacuum' => 'off',
	'bgwriter_lru_maxpages' => 0,
	'checkpoint_timeout' => '1h',
	'restart_after_crash' => 'on');

# Sends where the event says, and a second request where it says that.
script(q{
	CREATE FUNCTION told(event jsonb, webhook jsonb, replies jsonb) RETURNS chatwebhook.request
		LANGUAGE sql STABLE AS $$
		SELECT ROW('POST', (webhook->>'url') || (event #>> ARRAY['data', 'path', jsonb_array_length(replies)::text]), NULL, '{}',
			jsonb_array_length(replies) + 1 = jsonb_array_length(event #> '{data,path}'))::chatwebhook.request
	$$;
	INSERT INTO chatwebhook.connector (name, function) VALUES ('told', 'public.told(jsonb,jsonb,jsonb)');
	INSERT INTO chatwebhook.event_type (name) VALUES ('test.flush')
});
create_webhook($node, name => 'steps', chatbot_id => 'steps', url => $receiver->url(''), connector => 'told',
	timeout => '5 minutes');
create_webhook($node, name => 'ordered', chatbot_id => 'ordered', url => $receiver->url(''), connector => 'told',
	timeout => '5 minutes', ordered => 't');
create_webhook($node, name => 'swept', chatbot_id => 'swept', path => '/hang', timeout => '5 minutes');

sub emit_sql
{
	my ($chatbot, @paths) = @_;
	my $paths = join ', ', map { qq{"$_"} } @paths;
	return qq{SELECT chatwebhook.emit('test.flush', '$chatbot', 'c', '{"path": [$paths]}');};
}

# The processes that would flush what others have written.
sub pid_of
{
	my ($type) = @_;
	return sql("SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'");
}

my @stopped;

sub stop_processes
{
	@stopped = map { pid_of($_) } @_;
	foreach my $pid (@stopped)
	{
		kill 'STOP', $pid or die "could not stop $pid: $!\n";
	}
	return;
}

# Also if this test ends early, since a stopped server cannot be ended.
END { kill 'CONT', @stopped if @stopped }

# Wait until a process has ended, be its parent stopped or not.
sub wait_for_end
{
	my ($pid) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (-e "/proc/$pid" && slurp_file("/proc/$pid/stat") !~ /^.*\) [ZX] /s)
	{
		die "process $pid does not end\n" if time > $deadline;
		sleep 0.05;
	}
	return;
}

# End the server as a crash of one of its processes does: what it has not
# written is lost.
sub crash
{
	my $offset = -s $node->logfile;
	kill 'KILL', @stopped;
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
	becomes_true('SELECT count(*) = 1 FROM chatwebhook.worker_status', 'the server has crashed, and a worker is there again');
	return;
}

subtest 'a connector\'s step' => sub {
	stop_processes('chatwebhook launcher', 'walwriter');
	sql(emit_sql('steps', '/ok/-/step one', '/hang-until-told/-/step two') =~ s/step /step%20/gr);
	ok($receiver->wait_for(1, 'step two'), 'the second request has been sent');
	crash();
	ok($receiver->wait_for(2, 'step two'), 'it is made again');
	is($receiver->count('step one'), 1, 'but not the first');
	$receiver->set(up => ['step two']);
	ok(wait_idle($node), 'it is answered');
	is($receiver->count('step one'), 1, 'the first was made once');
};

subtest 'an ordered delivery' => sub {
	stop_processes('chatwebhook launcher', 'walwriter');
	script('BEGIN; ' . emit_sql('ordered', '/ok/-/first') . emit_sql('ordered', '/hang-until-told/-/second') . ' COMMIT');
	ok($receiver->wait_for(1, 'second'), 'the second of the conversation has been sent');
	crash();
	ok($receiver->wait_for(2, 'second'), 'it is sent again');
	is($receiver->count('first'), 1, 'but not the first');
	$receiver->set(up => ['second']);
	ok(wait_idle($node), 'it is answered');
	is($receiver->count('first'), 1, 'the first was sent once');
};

# Nothing waits for what a worker commits last, but a crash would have it done
# again.  Without the WAL writer only the launcher flushes that, since it is asked
# to.
sub is_flushed_beyond
{
	my ($lsn, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return becomes_true("SELECT pg_current_wal_flush_lsn() > '$lsn'", $what);
}

create_webhook($node, name => 'last', chatbot_id => 'last', path => '/hang-until-told', timeout => '5 minutes');

# Have a request of that webhook answered, after $before was called while it hangs;
# returns what that returns.
sub answer_last
{
	my ($before) = @_;
	my $n = $receiver->count('last') + 1;

	$receiver->set(down => ['last']);
	sql(emit_sql('last'));
	$receiver->wait_for($n, 'last') or die "nothing is sent\n";
	my $result = $before->();
	$receiver->set(up => ['last']);
	return $result;
}

# How many were settled.
sub settled
{
	my ($n) = @_;
	return "SELECT count(*) = $n FROM chatwebhook.history WHERE webhook_name = 'last'";
}

sub insert_lsn
{
	return sql('SELECT pg_current_wal_insert_lsn()');
}

subtest 'the last outcome' => sub {
	my $lsn = answer_last(
		sub {
			stop_processes('walwriter');
			return insert_lsn();
		});
	becomes_true(settled(1), 'an event is delivered');
	is_flushed_beyond($lsn, 'the launcher flushes that');
	crash();
	becomes_true(settled(1), 'it is known after a crash');
	is($receiver->count('last'), 1, 'it was sent once');
};

subtest 'an alert' => sub {
	my $alert = q{FROM chatwebhook.alert WHERE webhook_name = 'last'};
	my $id = sql(q{SELECT id FROM chatwebhook.webhook WHERE name = 'last'});

	sql(qq{INSERT INTO chatwebhook.alert (id, webhook_id, webhook_name, kind, message, opened_at)
		VALUES (gen_random_uuid(), '$id', 'last', 'consecutive_failures', 'open', now())});
	# it cannot be closed before the outcome is on disk
	my $locker = Session->new($node, 'postgres') or die $Session::error;
	$locker->query("BEGIN; SELECT $alert FOR UPDATE");
	my $offset = -s $node->logfile;
	answer_last(sub { stop_processes('walwriter') });
	$node->wait_for_log(qr/could not check the alerts of webhook "last"/, $offset);
	# a session's commit, after which nothing but the alert's is to be flushed
	sql(q{COMMENT ON TABLE chatwebhook.webhook IS 'on disk'});
	my $lsn = insert_lsn();
	$locker->query('ROLLBACK');
	becomes_true("SELECT closed_at IS NOT NULL $alert", 'an alert is closed');
	is_flushed_beyond($lsn, 'the launcher flushes that');
	$locker->close;
	kill 'CONT', @stopped;
};

# What is settled when there is no launcher any more, and no other yet: the
# postmaster is stopped.
subtest 'an outcome without a launcher' => sub {
	my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
	my $launcher = pid_of('chatwebhook launcher');
	my $worker = pid_of('chatwebhook worker');
	my $row = q{FROM chatwebhook.queue q JOIN chatwebhook.webhook w ON w.id = q.webhook_id WHERE w.name = 'last'};
	my $locker = Session->new($node, 'postgres') or die $Session::error;
	my $delivered = sql('SELECT delivered FROM chatwebhook.worker_status');
	my $lsn;

	# answered, and not settled as long as the row is locked
	answer_last(sub { $locker->query("BEGIN; SELECT q.id $row FOR UPDATE OF q") });
	becomes_true("SELECT delivered > $delivered FROM chatwebhook.worker_status", 'the answer has arrived');
	while_stopped(
		sub {
			$locker->query('ROLLBACK');
			stop_processes('walwriter');
			kill 'STOP', $postmaster or die "could not stop the postmaster: $!\n";
			push @stopped, $postmaster;
			kill 'TERM', $launcher;
			wait_for_end($launcher);
			$lsn = insert_lsn();
		});
	wait_for_end($worker);
	is(sql(settled(3)), 't', 'a worker that leaves settles what was answered');
	is(sql("SELECT pg_current_wal_flush_lsn() > '$lsn'"), 't', 'and flushes that itself');
	kill 'CONT', @stopped;
	$locker->close;
	becomes_true('SELECT count(*) = 1 FROM chatwebhook.worker_status', 'there is a worker again');
};

# What a worker finds by looking at the queue it knows nothing of, and so not
# whether it is on disk.
subtest 'an event that a sweep has found' => sub {
	sql(q{ALTER SYSTEM SET chatwebhook.databases = 'none'});
	$node->reload;
	becomes_true(q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'chatwebhook worker'}, 'there is no worker');
	stop_processes('walwriter');
	my ($committed) = reverse split /\n/,
	  script('SET synchronous_commit = off; ' . emit_sql('swept') . ' SELECT pg_current_wal_insert_lsn()');
	is(sql("SELECT pg_current_wal_flush_lsn() < '$committed'"), 't', 'an event was committed, and is not on disk');
	sql(q{ALTER SYSTEM RESET chatwebhook.databases});
	$node->reload;
	ok($receiver->wait_for(1, 'swept'), 'a new worker sends it');
	is(sql("SELECT pg_current_wal_flush_lsn() >= '$committed'"), 't', 'and it is on disk');
	kill 'CONT', @stopped;
};

# A worker can see a commit before the session has told it where that ends, when it
# claims as many as another has told it of.
subtest 'an event that is seen before it is told of' => sub {
	my ($told, $untold) = map { Session->new($node, 'postgres') or die $Session::error } 1 .. 2;
	my $pid;

	script('CREATE EXTENSION chatwebhook_test');
	create_webhook($node, name => 'seen', chatbot_id => 'seen', path => '/ok');
	sql(emit_sql('seen'));
	ok($receiver->wait_for(1, 'seen'), 'an endpoint answers');
	becomes_true(q{SELECT count(*) = 1 FROM chatwebhook.delivery WHERE webhook_name = 'seen' AND status = 'delivered'}, 'so it may get several at once');
	chomp($pid = $untold->query('SELECT pg_backend_pid()')->{rows});
	stop_processes('chatwebhook launcher', 'walwriter', 'chatwebhook worker');
	my $worker = $stopped[2];
	# the one between the two that a worker is told of
	$told->query('BEGIN; ' . emit_sql('seen'));
	$untold->query('BEGIN; SET LOCAL synchronous_commit = off; SELECT chatwebhook_test.stop_at_commit(); ' . emit_sql('seen', 'untold'));
	$told->query(emit_sql('seen') . ' COMMIT');
	push @stopped, $pid;
	$untold->begin('COMMIT');
	ok($receiver->wait_until(sub { slurp_file("/proc/$pid/stat") =~ /^.*\) T /s }), 'a session has stopped while it commits');
	my $committed = insert_lsn();
	is(sql("SELECT pg_current_wal_flush_lsn() < '$committed'"), 't', 'its event is not on disk');
	kill 'CONT', $worker;
	ok($receiver->wait_until(sub { grep { $_->{body} =~ /untold/ } $receiver->log('seen') }), 'the worker sends it');
	is(sql("SELECT pg_current_wal_flush_lsn() >= '$committed'"), 't', 'and it is on disk');
	kill 'CONT', @stopped;
	$untold->end;
	$_->close foreach $told, $untold;
};

$node->stop;
done_testing();
