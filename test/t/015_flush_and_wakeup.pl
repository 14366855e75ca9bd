# When WAL is flushed, which outcomes are settled together, and which commits wake
# a worker.
#
# Only a server whose WAL writer stands still can show this: that an event whose
# session did not wait for the disk is on it before it is sent, that what was
# settled gets there without the worker's waiting for it, and that commits wake
# no worker while nothing is to be sent.  An idle worker stays asleep: if it woke
# every few seconds, 017_wakeups.pl and others could not show a lost wakeup.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node(
	'main',
	'bgwriter_lru_maxpages' => 0,
	'autovacuum' => 'off');
my $receiver = start_receiver();
create_webhook($node, name => 'late', path => '/hang-until-told', events => ['webhook.test']);

# Emit in a session that does not wait for the disk; gives where it committed.
sub emit
{
	my ($last) = reverse split /\n/, script(q{SET synchronous_commit = off;
		SELECT chatwebhook.emit('webhook.test', NULL, NULL, '{}');
		SELECT pg_current_wal_insert_lsn()});
	return $last;
}

# Nothing is flushed any more but what asks for it.
my $wal_writer = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'});
kill 'STOP', $wal_writer or die "could not stop the WAL writer: $!";
END { kill 'CONT', $wal_writer if $wal_writer; }

emit();
ok($receiver->wait_for(1, 'late'), 'the worker knows the webhook');
my $committed = emit();
ok($receiver->wait_for(2, 'late'), 'a request is under way');
is(sql("SELECT pg_current_wal_flush_lsn() >= '$committed'"), 't', 'what it tells of is on disk');

my $before = sql('SELECT pg_current_wal_insert_lsn()');
$receiver->set(up => ['late']);
ok(wait_idle($node), 'it is answered');
becomes_true("SELECT pg_current_wal_flush_lsn() > '$before'", 'what was settled is on disk');
kill 'CONT', $wal_writer;

{
	my $pid = sql('SELECT pid FROM chatwebhook.worker_status');
	sql('ALTER SYSTEM SET chatwebhook.enabled = off');
	$node->reload;
	my $commits = 200;
	my $emit = qq{DO \$\$ BEGIN
		FOR i IN 1 .. $commits LOOP PERFORM chatwebhook.emit('webhook.test', NULL, NULL, '{}'); COMMIT; END LOOP;
	END \$\$};
	becomes_true("SELECT NOT current_setting('chatwebhook.enabled')::boolean", 'the kill switch is on');
	sql($emit);
	my $slept = sleeps($pid);
	sql($emit);
	cmp_ok(sleeps($pid) - $slept, '<', $commits / 10, 'commits do not wake it');
	sql('ALTER SYSTEM SET chatwebhook.enabled = on');
	$node->reload;
	ok($receiver->wait_for(2 + 2 * $commits, 'late'), 'when it goes on, all is sent');
}

ok(wait_idle($node), 'nothing is left to send');

# Milliseconds between the nearest two settles of a webhook.
sub nearest_settles
{
	my ($name) = @_;
	return sql(qq{SELECT round(1000 * extract(epoch FROM coalesce(min(gap), '1 s'))) FROM (
		SELECT min(completed_at) - lag(max(completed_at)) OVER (ORDER BY min(completed_at)) AS gap
		FROM chatwebhook.history WHERE webhook_name = '$name' GROUP BY xmin::text) s});
}

# One after the other, with time for the answer.
sql(q{INSERT INTO chatwebhook.event_type (name) VALUES ('flow.one'), ('flow.order')});
create_webhook($node, name => 'one by one', events => ['flow.one']);
create_webhook($node, name => 'in order', events => ['flow.order'], ordered => 't');
sql(q{DO $$ BEGIN
	FOR i IN 1 .. 50 LOOP
		PERFORM chatwebhook.emit('flow.one', NULL, NULL, '{}');
		COMMIT;
		PERFORM pg_sleep(0.005);
	END LOOP;
END $$});
# wait_until_idle() would have the worker settle at once
becomes_true('SELECT count(*) = 0 FROM chatwebhook.queue', 'all are delivered');
cmp_ok(nearest_settles('one by one'), '>=', 20, 'what ends soon after a settle shares the next one');
sql(q{SELECT count(chatwebhook.emit('flow.order', 'bot', 'c', '{}')) FROM generate_series(1, 50)});
becomes_true('SELECT count(*) = 0 FROM chatwebhook.queue', 'all are delivered in order');
cmp_ok(nearest_settles('in order'), '<', 20, 'a conversation does not wait for that');

ok(stay_asleep(sql('SELECT pid FROM chatwebhook.worker_status')), 'an idle worker stays asleep');

done_testing();
