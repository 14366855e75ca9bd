# What a synchronous standby has not confirmed is not sent.
#
# A commit is on disk, and in the WAL that a standby streams, before its session goes
# on to wait for the standby; if the server is lost then, the promoted standby may not
# have it.  Only a standby that does not answer can show that no worker sends such an
# event, however it comes to look at the queue, and only a postmaster that is killed
# that the last moments of its processes, when PostgreSQL lets the waiting sessions go
# on, are not enough for it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Time::HiRes qw(sleep time);

my $json = JSON::PP->new;
my $receiver = start_receiver();
my $primary = new_node('primary',
	-init => [ allows_streaming => 1 ],
	'max_connections' => 50,
	'max_prepared_transactions' => 5,
	'wal_sender_timeout' => 0);
script(q{
	INSERT INTO chatwebhook.event_type (name) VALUES ('test.seen');
	CREATE PROCEDURE emit_on() LANGUAGE plpgsql AS $$
	BEGIN
		LOOP
			PERFORM chatwebhook.emit('test.seen', 'busy', NULL, '{"what": "busy"}');
			COMMIT;
			PERFORM pg_sleep(0.001);
		END LOOP;
	END$$});
create_webhook($primary, name => 'all', chatbot_id => 'all');
# the replies of this one arrive while the worker is stopped
create_webhook($primary, name => 'busy', chatbot_id => 'busy', path => '/delay-ms/50', max_in_flight => 100);

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->append_conf('postgresql.conf', "restart_after_crash = on\nwal_receiver_timeout = 0\nwal_retrieve_retry_interval = '100ms'");
$standby->start;
$primary->append_conf('postgresql.conf', "synchronous_standby_names = 'standby'");
$primary->reload;

sub synchronous
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return becomes_true(q{SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'}, $what);
}

sub emit_sql
{
	my ($what) = @_;
	return qq{SELECT chatwebhook.emit('test.seen', 'all', NULL, '{"what": "$what"}')};
}

# How often it has arrived.
sub arrivals
{
	my ($what) = @_;
	return scalar grep { $json->decode($_->{body})->{data}{what} eq $what } $receiver->log;
}

# Have the standby confirm nothing; returns what goes on from there.
sub stop_confirming
{
	my $pid = $standby->safe_psql('postgres', 'SELECT pid FROM pg_stat_wal_receiver');
	kill 'STOP', $pid or die "could not stop the WAL receiver: $!\n";
	return $pid;
}

# Begin a statement in a session of its own, without waiting for its end.
sub begin_statement
{
	my ($statement) = @_;
	my $session = Session->new($primary, 'postgres') or die $Session::error;

	$session->begin($statement);
	return $session;
}

sub waiting
{
	my ($n, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return becomes_true("SELECT count(*) = $n FROM pg_stat_activity WHERE wait_event = 'SyncRep'", $what);
}

# What need not be confirmed, in the same queue, behind what waits.
my $later = 0;

sub sent_later
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$later++;
	script("SET synchronous_commit = local; " . emit_sql("later $later"));
	return ok($receiver->wait_until(sub { arrivals("later $later") }), $what);
}

synchronous('there is a synchronous standby');
script(emit_sql('confirmed'));
ok($receiver->wait_until(sub { arrivals('confirmed') }), 'what it confirms is sent');
script('BEGIN; ' . emit_sql('prepared') . "; PREPARE TRANSACTION 'one'");

#
# The standby does not answer
#
my $walreceiver = stop_confirming();
my @sessions = (begin_statement(emit_sql('waits')), begin_statement("COMMIT PREPARED 'one'"));
waiting(2, 'commits wait for it');
sent_later('the worker looks at the queue');
my $worker = sql('SELECT pid FROM chatwebhook.worker_status');
kill 'TERM', $worker;
becomes_true("SELECT count(*) = 1 FROM chatwebhook.worker_status WHERE pid <> $worker", 'another worker looks at all of it');
sent_later('it is at work');
is(arrivals($_), 0, "nothing is sent of a transaction that waits: $_") foreach qw(waits prepared);
kill 'CONT', $walreceiver;
ok($receiver->wait_until(sub { arrivals('waits') && arrivals('prepared') }), 'once the standby has it, it is sent');
$_->close foreach @sessions;

#
# The server is killed while commits wait and a worker is busy
#
sub begin_busy
{
	local $ENV{PGOPTIONS} = '-c synchronous_commit=local';
	return begin_statement('CALL emit_on()');
}

# Stop the worker in the middle of a transaction.
sub stop_at_work
{
	local $ENV{PGOPTIONS} = '-c statement_timeout=1s';
	my $session = Session->new($primary, 'postgres') or die $Session::error;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (time < $deadline)
	{
		kill 'STOP', $worker or die "could not stop the worker: $!\n";
		# stopped while it writes its state, it lets nobody read that
		my $answer = $session->query("SELECT state = 'active' FROM pg_stat_activity WHERE pid = $worker");
		return 1 if ($answer->{rows} // '') eq "t\n";
		kill 'CONT', $worker;
	}
	return 0;
}

# Wait until none of these processes is left.
sub wait_for_end
{
	my ($seconds, @pids) = @_;
	my $deadline = time + $seconds;

	while (my @left = grep { kill 0, $_ } @pids)
	{
		return 0 if time > $deadline;
		sleep 0.01;
	}
	return 1;
}

$walreceiver = stop_confirming();
$worker = sql('SELECT pid FROM chatwebhook.worker_status');
my $commits = 20;
@sessions = map { begin_statement(emit_sql('lost')) } 1 .. $commits;
waiting($commits, "$commits commits wait");
my @waiting = split /\n/, sql(q{SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'});
push @sessions, map { begin_busy() } 1 .. 2;
ok($receiver->wait_until(sub { arrivals('busy') > 20 }), 'the worker is busy');
my ($postmaster) = slurp_file($primary->data_dir . '/postmaster.pid') =~ /^(\d+)/;
# the launcher would have the worker leave, but may be the last to notice
my $launcher = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'chatwebhook launcher'});
kill 'STOP', $launcher or die "could not stop the launcher: $!\n";
ok(stop_at_work(), 'it is stopped at work');
end_sessions();
kill 'KILL', $postmaster;
$primary->{_pid} = undef;
# they may wait for a lock that the worker has
wait_for_end(5, @waiting);
kill 'CONT', $worker;
ok(wait_for_end($PostgreSQL::Test::Utils::timeout_default, @waiting, $worker), 'the worker is gone');
kill 'CONT', $launcher;
is(arrivals('lost'), 0, 'nothing was sent that the standby had not confirmed');
$_->close foreach @sessions;

#
# The standby takes over
#
# without what waits in its socket
kill 'KILL', $walreceiver;
ok($standby->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_wal_receiver'), 'the standby goes on without what was not confirmed');
$standby->promote;
$standby->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = ''");
$standby->safe_psql('postgres', 'SELECT pg_reload_conf()');
$standby->safe_psql('postgres', emit_sql('promoted'));
ok($receiver->wait_until(sub { arrivals('promoted') }), 'the promoted standby delivers');
ok(wait_idle($standby), 'all that it has');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM chatwebhook.event WHERE data->>'what' = 'lost'}),
	0, 'which has none of what was not confirmed');
is(arrivals('lost'), 0, 'and so none of it was ever sent');

done_testing();
