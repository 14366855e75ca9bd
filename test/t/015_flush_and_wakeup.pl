# What is on disk when, and whom a commit wakes.
#
# Only a server whose WAL writer keeps still can show this: that an event whose
# session did not wait for the disk is on it before it is sent, that what was
# settled gets there without the worker's waiting for it, and that nobody is
# woken by commits while nothing is to be sent.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# with these, nothing but what asks for it is flushed for ten seconds
my $node = new_node(
	'main',
	'wal_writer_delay' => '10s',
	'bgwriter_lru_maxpages' => 0,
	'autovacuum' => 'off',
	'chatwebhook.poll_interval' => '1h');
my $receiver = start_receiver();
create_webhook($node, name => 'late', path => '/hang-until-told');

# Emit in a session that does not wait for the disk; gives where it committed.
sub emit
{
	my ($last) = reverse split /\n/, sql(q{SET synchronous_commit = off;
		SELECT chatwebhook.emit('webhook.test', NULL, NULL, '{}');
		SELECT pg_current_wal_insert_lsn()});
	return $last;
}

emit();
ok($receiver->wait_for(1, 'late'), 'the worker knows the webhook');
my $start = time;
my $committed = emit();
ok($receiver->wait_for(2, 'late'), 'a request is under way');
is(sql("SELECT pg_current_wal_flush_lsn() >= '$committed'"), 't', 'what it tells of is on disk');
cmp_ok(time - $start, '<', 5, 'and not since time has passed');

my $before = sql('SELECT pg_current_wal_insert_lsn()');
$start = time;
$receiver->set(up => ['late']);
ok(wait_idle($node), 'it is answered');
becomes_true("SELECT pg_current_wal_flush_lsn() > '$before'", 'what was settled is on disk');
cmp_ok(time - $start, '<', 5, 'before the WAL writer would have seen to it');

# How often the worker has gone to sleep.
sub sleeps
{
	my ($pid) = @_;
	my ($n) = slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s*(\d+)/m;
	return $n;
}

SKIP:
{
	my $pid = sql('SELECT pid FROM chatwebhook.worker_status');
	skip 'this is not Linux', 3 if !-r "/proc/$pid/status";
	sql('ALTER SYSTEM SET chatwebhook.enabled = off');
	$node->reload;
	my $commits = 200;
	my $emit = join '', map { "SELECT chatwebhook.emit('webhook.test', NULL, NULL, '{}');\n" } 1 .. $commits;
	becomes_true("SELECT NOT current_setting('chatwebhook.enabled')::boolean", 'the kill switch is on');
	sql($emit);
	my $slept = sleeps($pid);
	sql($emit);
	cmp_ok(sleeps($pid) - $slept, '<', $commits / 10, 'commits do not wake it');
	sql('ALTER SYSTEM SET chatwebhook.enabled = on');
	$node->reload;
	ok($receiver->wait_for(2 + 2 * $commits, 'late'), 'when it goes on, all is sent');
}

done_testing();
