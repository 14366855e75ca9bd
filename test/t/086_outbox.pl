# An outbox: events that a delivery node gets by logical replication.
#
# Only two servers can show that each event arrives once and in order, whether it was
# emitted before the subscription or after it, and that none leaves the outbox that
# the delivery node has not confirmed: not while a transaction is open, while the
# node is down, or after its replication slot was dropped or has been lost.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $json = JSON::PP->new->canonical->allow_nonref;
my $receiver = start_receiver();
# nothing but a commit wakes this one up
my $node = new_node('node', 'max_logical_replication_workers' => 16, 'max_worker_processes' => 32,
	'wal_retrieve_retry_interval' => '100ms', 'chatwebhook.poll_interval' => '1h');
my $outbox = new_node('outbox', -init => [ allows_streaming => 'logical' ],
	'max_prepared_transactions' => 5, 'max_replication_slots' => 20, 'max_wal_senders' => 20,
	'chatwebhook.outbox' => 'on', 'chatwebhook.outbox_keep' => '2s', 'chatwebhook.poll_interval' => '100ms',
	'chatwebhook.retention' => '1s');
# alerts about the outbox are events, too
my $waiting = q{SELECT count(*) FROM chatwebhook.event WHERE type = 'message.sent'};

# Emit events with these numbers, each in a transaction of its own.
sub emit
{
	my ($from, $to, %more) = @_;
	my $chatbot = $more{chatbot} // 'NULL';
	$outbox->safe_psql('postgres', qq{DO \$\$ BEGIN FOR n IN $from .. $to LOOP
		PERFORM chatwebhook.emit('message.sent', $chatbot, 'c' || n % 20, jsonb_build_object('role', 'bot', 'content', '', 'n', n));
		COMMIT; END LOOP; END \$\$});
	return;
}

# The numbers that have arrived, in the order of their arrival within conversations.
sub arrived
{
	my ($label) = @_;
	my (@numbers, %last);
	my $disorder = 0;
	foreach my $event (map { $json->decode($_->{body}) } $receiver->log($label // 'all'))
	{
		my $n = $event->{data}{n};
		push @numbers, $n;
		$disorder++ if $n < ($last{ $event->{conversationId} } // 0);
		$last{ $event->{conversationId} } = $n;
	}
	is($disorder, 0, 'each conversation is in order');
	return join ' ', sort { $a <=> $b } @numbers;
}

# Wait until so many have arrived, and the outbox is empty.
sub all_arrive
{
	my ($n, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($receiver->wait_for($n, 'all'), "$what: all arrive");
	ok($outbox->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM chatwebhook.event)'), "$what: the outbox is empty");
	is(arrived(), join(' ', 1 .. $n), "$what: once each");
	return;
}

# How long confirmed events are kept.
sub keep
{
	my ($time) = @_;
	$outbox->append_conf('postgresql.conf', "chatwebhook.outbox_keep = '$time'");
	$outbox->reload;
	$outbox->poll_query_until('postgres', 'SHOW chatwebhook.outbox_keep', $time) or die;
	return;
}

# Wait until hand-overs that begin from here on would have removed what they may:
# the worker has looked at the slots a few times.
sub whole_round
{
	keep('0');
	foreach (1 .. 6)
	{
		$outbox->safe_psql('postgres', q{INSERT INTO chatwebhook.outbox_slot VALUES ('seen', true, 'seen')});
		$outbox->poll_query_until('postgres', q{SELECT NOT present FROM chatwebhook.outbox_slot WHERE slot_name = 'seen'}) or die;
		$outbox->safe_psql('postgres', q{SELECT chatwebhook.forget_slot('seen')});
	}
	keep('2s');
	return;
}

# What subscribes to the outbox.
sub subscription
{
	my $statement = $outbox->safe_psql('postgres', 'SELECT chatwebhook.publish_outbox()');
	my $host = $outbox->host;
	$statement =~ s/host=''localhost''/host=''$host''/ or die "no host in $statement\n";
	return $statement;
}

#
# Emitting
#
like(($outbox->psql('postgres', q{SELECT chatwebhook.emit('no.such', NULL, NULL, '{}')}))[2],
	qr/ERROR:  unknown event type/, 'an event of an unknown type is refused');
like(($outbox->psql('postgres', q{SELECT chatwebhook.emit('message.sent', NULL, NULL, '{}')}))[2],
	qr/ERROR:  event "message.sent" lacks the required key/, 'so is one without a required key');
is($outbox->safe_psql('postgres', q{SELECT chatwebhook.wanted('message.sent', NULL)}), 't', 'every event is wanted');
$outbox->safe_psql('postgres', q{
	CREATE TABLE message (n integer, c text);
	SELECT chatwebhook.watch('message', 'message.sent', query => $$SELECT NEW.n, NEW.c AS "conversationId", 'bot' AS role, '' AS content$$);
	INSERT INTO chatwebhook.event (id, type, created_at, data) SELECT gen_random_uuid(), 'none', now(), '{}' FROM generate_series(1, 1000);
	INSERT INTO message SELECT n, 'c' || n % 20 FROM generate_series(1, 10) n});
emit(11, 500);
# so that later events go into the space before the earlier ones
$outbox->safe_psql('postgres', q{DELETE FROM chatwebhook.event WHERE type = 'none'});
# a vacuum frees nothing that an old snapshot may see
$outbox->safe_psql('postgres', 'CREATE EXTENSION pg_freespacemap');
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
do
{
	die "vacuum frees nothing\n" if time > $deadline;
	$outbox->safe_psql('postgres', 'VACUUM chatwebhook.event');
} while ($outbox->safe_psql('postgres', q{SELECT coalesce(sum(avail), 0) < 50000 FROM pg_freespace('chatwebhook.event')}) eq 't');
emit(501, 1000);
is($outbox->safe_psql('postgres', q{
	SELECT array_agg(id ORDER BY ctid) <> array_agg(id ORDER BY id) FROM chatwebhook.event WHERE type = 'message.sent'}), 't',
	'the events are not stored in their order');
my $ids = q{(SELECT id FROM ONLY chatwebhook.event WHERE (type = 'message.sent'))};
ok($outbox->safe_psql('postgres', "COPY $ids TO STDOUT", replication => 'database') eq $outbox->safe_psql('postgres', "$ids ORDER BY id"),
	'but copied in it, also with a row filter');
is($outbox->safe_psql('postgres', $waiting), 1000, 'events are stored that no webhook here wants');
is($outbox->safe_psql('postgres', 'SELECT count(first_delivery), (SELECT count(*) FROM chatwebhook.queue) FROM chatwebhook.event'), '0|0', 'without deliveries');
isnt($outbox->safe_psql('postgres', q{BEGIN; SELECT chatwebhook.emit('message.sent', NULL, NULL, '{"role": "", "content": ""}'); ROLLBACK}), '',
	'emit() returns their ids');
whole_round();
$outbox->safe_psql('postgres', q{INSERT INTO chatwebhook.activity (since, worker) VALUES ('2026-01-02', 999)});
$outbox->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM chatwebhook.activity WHERE worker = 999)') or die;
is($outbox->safe_psql('postgres', $waiting), 1000, 'without a subscription none leaves, whatever chatwebhook.retention');
is($outbox->safe_psql('postgres', 'SELECT slot_name, events FROM chatwebhook.outbox_status'), '|1000', 'outbox_status counts them');

#
# A subscription to other tables
#
$node->safe_psql('postgres', 'CREATE TABLE message (n integer, c text)');
$outbox->safe_psql('postgres', 'CREATE PUBLICATION other FOR TABLE message');
my $connection = $outbox->connstr('postgres') =~ s/'/''/gr;
$node->safe_psql('postgres', "CREATE SUBSCRIPTION other CONNECTION '$connection' PUBLICATION other");
$node->poll_query_until('postgres', q{SELECT srsubstate = 'r' FROM pg_subscription_rel}) or die;
ok($outbox->poll_query_until('postgres', 'SELECT slot_name, state FROM chatwebhook.outbox_status', 'other|uncopied'), 'its slot is there');
$outbox->safe_psql('postgres', q{SELECT chatwebhook.ignore_slot('other')});
$outbox->wait_for_catchup('other');
whole_round();
is($outbox->safe_psql('postgres', $waiting), 1000, 'none leaves for a subscription to other tables');
is($outbox->safe_psql('postgres', 'SELECT slot_name, events FROM chatwebhook.outbox_status'), '|1000', 'its slot does not count');
is($outbox->safe_psql('postgres', q{SELECT chatwebhook._outbox_holdup('0/0')}), 'events wait for a delivery node to subscribe', 'an alert would say so');

#
# What is said of the outbox where something else is asked of it
#
my ($status, $stdout, $stderr) = $outbox->psql('postgres', q{
	SELECT chatwebhook.create_webhook('here', 'https://127.0.0.1/', enabled => false)});
like($stderr, qr/NOTICE:  chatwebhook.outbox is on, so this webhook gets no events/, 'a webhook gets no events here');
like(($outbox->psql('postgres', q{SELECT chatwebhook.backfill((SELECT id FROM chatwebhook.webhook), 'message', 'message.sent')}))[2],
	qr/ERROR:  backfill\(\) does not work while chatwebhook.outbox is on\nHINT:  Call it on the delivery node/, 'backfill() is for the delivery node');
like(($outbox->psql('postgres', q{SELECT chatwebhook.replay((SELECT id FROM chatwebhook.webhook))}))[2],
	qr/NOTICE:  chatwebhook.outbox is on.*HINT:  Call replay\(\) on the delivery nodes/s, 'and replay()');
($status, $stdout, $stderr) = $outbox->psql('postgres', q{
	SELECT chatwebhook.emit('message.sent', 'bot', 'erased', '{"role": "", "content": ""}');
	SELECT chatwebhook.erase_conversation('bot', 'erased')});
like($stdout, qr/\n1$/, 'erase_conversation() erases what waits here');
like($stderr, qr/NOTICE:  only events that are still in the outbox are erased/, 'and says so');

#
# The initial copy, and what follows
#
create_webhook($node, name => 'all', ordered => 1, max_in_flight => 8);
create_webhook($node, name => 'some', events => ['message.*'], filter => '$.data.n == 500');
my $subscribe = subscription();
like($subscribe, qr/^CREATE SUBSCRIPTION chatwebhook_postgres CONNECTION '.*' PUBLICATION chatwebhook WITH \(slot_name = chatwebhook_postgres, synchronous_commit = on\)$/,
	'publish_outbox() says how to subscribe');
# which cannot begin: the slot confirms what the node does not have
my $sync_workers = sub {
	my ($n) = @_;
	$node->append_conf('postgresql.conf', "max_sync_workers_per_subscription = $n");
	$node->reload;
	$node->poll_query_until('postgres', 'SHOW max_sync_workers_per_subscription', $n) or die;
};
$sync_workers->(0);
$node->safe_psql('postgres', $subscribe);
$outbox->wait_for_catchup('chatwebhook_postgres');
whole_round();
is($outbox->safe_psql('postgres', "$waiting"), 1000, 'nothing leaves before the initial copy has begun');
ok($outbox->poll_query_until('postgres', 'SELECT slot_name, state, active, lag_bytes FROM chatwebhook.outbox_status',
		'chatwebhook_postgres|uncopied|t|0'), 'although the slot confirms it');
is($outbox->safe_psql('postgres', q{SELECT chatwebhook._outbox_holdup('0/0')}),
	'events wait for replication slot "chatwebhook_postgres", whose subscription has not copied the table event', 'an alert would say why');
$sync_workers->(2);
all_arrive(1000, 'before the subscription');
is($outbox->safe_psql('postgres', q{SELECT slot_name FROM chatwebhook.outbox_slot WHERE ignored}), 'other', 'an ignored slot holds up nothing');
$node->safe_psql('postgres', 'DROP SUBSCRIPTION other');
ok($outbox->poll_query_until('postgres', q{SELECT NOT EXISTS (SELECT FROM chatwebhook.outbox_slot WHERE ignored)}), 'until it is dropped');
is(arrived('some'), '500', 'a filter holds');
is($outbox->safe_psql('postgres', 'SELECT state, active, events FROM chatwebhook.outbox_status'), 'confirming|t|0', 'the slot confirms');
is($node->safe_psql('postgres', 'SELECT count(*), count(*) FILTER (WHERE first_delivery <= last_delivery) FROM chatwebhook.event'), '1000|1000',
	'the events have deliveries on the node');

$receiver->reset;
emit(1, 50);
$outbox->safe_psql('postgres', q{
	BEGIN; SELECT chatwebhook.emit('message.sent', NULL, 'c', '{"role": "", "content": "", "n": -1}'); ROLLBACK});
all_arrive(50, 'after it');

# each by itself: nothing but the commit that applies it can wake the worker
$receiver->reset;
foreach my $n (1 .. 100)
{
	emit($n, $n);
	$receiver->wait_for($n, 'all') or last;
}
is($receiver->count('all'), 100, 'each is sent when it arrives');
note('milliseconds from emit() to the request, 50 %, 95 %: ', $node->safe_psql('postgres', q{
	SELECT percentile_cont('{0.5,0.95}'::float[]) WITHIN GROUP (ORDER BY extract(epoch FROM h.last_attempt_at - e.created_at) * 1000)
	  FROM (SELECT * FROM chatwebhook.history ORDER BY id DESC LIMIT 100) h JOIN chatwebhook.event e ON e.id = h.event_id}));

#
# Open and prepared transactions
#
$receiver->reset;
$outbox->append_conf('postgresql.conf', 'chatwebhook.alert_backlog = 1s');
$outbox->reload;
$outbox->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM chatwebhook.event)') or die;
$outbox->safe_psql('postgres', q{
	BEGIN; SELECT chatwebhook.emit('message.sent', NULL, 'c6', '{"role": "", "content": "", "n": 6}'); PREPARE TRANSACTION 'six'});
my $session = $outbox->background_psql('postgres');
$session->query_safe(q{BEGIN; SELECT chatwebhook.emit('message.sent', NULL, 'c1', '{"role": "", "content": "", "n": 1}')});
emit(2, 5);
ok($receiver->wait_for(4, 'all'), 'while a transaction is open, others arrive');
whole_round();
is($outbox->safe_psql('postgres', $waiting), 4, 'but do not leave before it has ended');
$session->query_safe('COMMIT');
$session->quit;
ok($receiver->wait_for(5, 'all'), 'it arrives when it is committed');
whole_round();
is($outbox->safe_psql('postgres', $waiting), 5, 'a prepared one holds them as well');
my $transaction = $outbox->safe_psql('postgres', 'SELECT transaction FROM pg_prepared_xacts');
ok($outbox->poll_query_until('postgres', q{SELECT message FROM chatwebhook.alert WHERE kind = 'outbox_backlog' AND closed_at IS NULL},
	"events wait for the end of transaction $transaction"), 'an alert says which');
$outbox->safe_psql('postgres', q{COMMIT PREPARED 'six'});
all_arrive(6, 'open transactions');
ok($outbox->poll_query_until('postgres', q{SELECT count(*) = 0 FROM chatwebhook.alert WHERE closed_at IS NULL}), 'the alert is closed');

#
# Rows that cannot be delivered
#
$receiver->reset;
$outbox->safe_psql('postgres', q{INSERT INTO chatwebhook.event (id, type, created_at, data) VALUES
	(gen_random_uuid(), 'message.sent', now(), '[]'),
	(gen_random_uuid(), repeat('x', 300), now(), '{}'),
	(gen_random_uuid(), 'message.sent', 'infinity', '{}')});
emit(1, 1);
all_arrive(1, 'after such rows');
ok($node->poll_query_until('postgres', q{SELECT sum(failures) = 3 FROM chatwebhook.emit_failure WHERE relation = 'chatwebhook.event'::regclass}),
	'they are counted on the node');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM chatwebhook.alert WHERE kind = 'emit_failed'}), 'and there is an alert');

#
# The node is down
#
$receiver->reset;
$node->stop;
emit(1, 30);
ok($outbox->poll_query_until('postgres', q{SELECT message FROM chatwebhook.alert WHERE kind = 'outbox_backlog' AND closed_at IS NULL},
	'events wait for replication slot "chatwebhook_postgres", which is inactive'), 'an alert says that they wait, and for what');
is($outbox->safe_psql('postgres', $waiting), 30, 'nothing leaves');
$node->start;
all_arrive(30, 'when it is back');
ok($outbox->poll_query_until('postgres', q{SELECT count(*) = 0 FROM chatwebhook.alert WHERE closed_at IS NULL}), 'the alert is closed');

#
# The slot is gone
#
$receiver->reset;
$node->stop;
$outbox->poll_query_until('postgres', q{SELECT NOT active FROM pg_replication_slots}) or die;
$outbox->safe_psql('postgres', q{SELECT pg_drop_replication_slot('chatwebhook_postgres')});
emit(1, 30);
ok($outbox->poll_query_until('postgres', q{SELECT message FROM chatwebhook.alert WHERE kind = 'outbox_backlog' AND closed_at IS NULL},
	'events wait for replication slot "chatwebhook_postgres", which is missing'), 'an alert says that the slot is missing');
whole_round();
is($outbox->safe_psql('postgres', $waiting), 30, 'nothing leaves without it');
$node->start;
$node->safe_psql('postgres', q{ALTER SUBSCRIPTION chatwebhook_postgres DISABLE});
$node->safe_psql('postgres', q{ALTER SUBSCRIPTION chatwebhook_postgres SET (slot_name = NONE)});
$node->safe_psql('postgres', q{DROP SUBSCRIPTION chatwebhook_postgres});
$node->safe_psql('postgres', $subscribe);
all_arrive(30, 'subscribed to anew');

#
# The slot is lost
#
$receiver->reset;
$node->stop;
$outbox->append_conf('postgresql.conf', "max_slot_wal_keep_size = '1MB'");
$outbox->reload;
emit(1, 30);
$outbox->safe_psql('postgres', 'CREATE TABLE wal (n integer)');
foreach (1 .. 4)
{
	$outbox->safe_psql('postgres', 'INSERT INTO wal VALUES (1)');
	$outbox->safe_psql('postgres', 'SELECT pg_switch_wal()');
}
$outbox->safe_psql('postgres', 'CHECKPOINT');
ok($outbox->poll_query_until('postgres', q{SELECT state FROM chatwebhook.outbox_status}, 'lost'), 'the slot is lost');
whole_round();
is($outbox->safe_psql('postgres', $waiting), 30, 'nothing leaves with it');
like(($outbox->psql('postgres', q{SELECT chatwebhook.forget_slot('chatwebhook_postgres')}))[2],
	qr/ERROR:  replication slot "chatwebhook_postgres" exists\nHINT:  Drop the subscription first/, 'it cannot be forgotten while it exists');
$node->start;
$node->safe_psql('postgres', 'DROP SUBSCRIPTION chatwebhook_postgres');
emit(31, 40);
$node->safe_psql('postgres', $subscribe);
all_arrive(40, 'subscribed to anew');

#
# An event that is there already is passed over, and one that is going away is not
#
$receiver->reset;
keep('1h');
emit(1, 20);
ok($receiver->wait_for(20, 'all'), 'some have arrived');
$node->safe_psql('postgres', $subscribe =~ s{SUBSCRIPTION chatwebhook_postgres}{SUBSCRIPTION twice}r =~ s{slot_name = \w+}{slot_name = twice}r);
$node->poll_query_until('postgres', q{SELECT bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel}) or die;
emit(21, 30);
ok($receiver->wait_for(30, 'all'), 'two subscriptions bring more');
$outbox->wait_for_catchup('twice');
$outbox->wait_for_catchup('chatwebhook_postgres');
ok(wait_idle($node), 'idle');
is(arrived(), join(' ', 1 .. 30), 'each is delivered once');
ok($outbox->poll_query_until('postgres', q{SELECT state FROM chatwebhook.outbox_status WHERE slot_name = 'twice'}, 'confirming'), 'both slots confirm');
$node->safe_psql('postgres', 'DROP SUBSCRIPTION twice');
is($outbox->safe_psql('postgres', q{SELECT chatwebhook.forget_slot('twice'), chatwebhook.forget_slot('twice')}), 't|f', 'a slot can be forgotten');

#
# A subscription that copies nothing
#
$node->safe_psql('postgres', $subscribe =~ s{SUBSCRIPTION chatwebhook_postgres}{SUBSCRIPTION late}r =~ s{slot_name = \w+}{slot_name = late, copy_data = false}r);
ok($outbox->poll_query_until('postgres', q{SELECT present FROM chatwebhook.outbox_slot WHERE slot_name = 'late'}), 'another slot');
is($outbox->safe_psql('postgres', q{SELECT state FROM chatwebhook.outbox_status WHERE slot_name = 'late'}), 'uncopied', 'that of a subscription without a copy does not count');
is($outbox->safe_psql('postgres', q{SELECT chatwebhook.confirm_copy('late'), chatwebhook.confirm_copy('late')}), 't|f', 'until an administrator says so');
is($outbox->safe_psql('postgres', q{SELECT state FROM chatwebhook.outbox_status WHERE slot_name = 'late'}), 'confirming', 'then it does');
$node->safe_psql('postgres', 'DROP SUBSCRIPTION late');
like(($outbox->psql('postgres', q{SELECT chatwebhook.confirm_copy('late')}))[2],
	qr/ERROR:  no subscription to this database uses replication slot "late"\nHINT:  The view outbox_status/, 'but not of a slot that does not exist');
$outbox->poll_query_until('postgres', q{SELECT NOT present FROM chatwebhook.outbox_slot WHERE slot_name = 'late'}) or die;
$outbox->safe_psql('postgres', q{SELECT chatwebhook.forget_slot('late')});

#
# The copy of a slot that was dropped is not taken for another's
#
foreach my $how ('publish_outbox()', q{forget_slot('gone')})
{
	$outbox->safe_psql('postgres', qq{SELECT pg_create_logical_replication_slot('$_', 'pgoutput')}) foreach 'gone', 'stays';
	$outbox->poll_query_until('postgres', q{SELECT count(*) = 2 FROM chatwebhook.outbox_slot WHERE present AND slot_name IN ('gone', 'stays')}) or die;
	$outbox->safe_psql('postgres', 'COPY chatwebhook.event TO STDOUT', replication => 'database');
	# before the worker notices
	while_stopped(sub { $outbox->safe_psql('postgres', "SELECT pg_drop_replication_slot('gone'); SELECT chatwebhook.$how") });
	whole_round();
	is($outbox->safe_psql('postgres', q{SELECT state FROM chatwebhook.outbox_status WHERE slot_name = 'stays'}), 'uncopied', "$how: not for that of another slot");
	$outbox->safe_psql('postgres', q{SELECT pg_drop_replication_slot('stays')});
	$outbox->safe_psql('postgres', qq{SELECT chatwebhook.forget_slot('$_')}) foreach 'gone', 'stays';
}
like(($outbox->psql('postgres', q{SELECT chatwebhook.ignore_slot('gone')}))[2],
	qr/ERROR:  no subscription to this database uses replication slot "gone"/, 'a slot that does not exist cannot be ignored');

#
# When to send travels with the event
#
$receiver->reset;
my $emit_with = sub {
	my ($n, $options) = @_;
	return $outbox->safe_psql('postgres', qq{SELECT chatwebhook.emit('message.sent', NULL, 'c', '{"role": "bot", "content": "", "n": $n}', $options)});
};
my $start = time;
$emit_with->(1, q{deliver_at => clock_timestamp() + '2 s'::interval});
$emit_with->(2, q{expires_at => clock_timestamp() - '1 s'::interval});
my $id = $emit_with->(3, q{key => 'once'});
is($emit_with->(4, q{key => 'once'}), $id, 'a key is taken on the outbox');
ok($receiver->wait_for(2, 'all'), 'two events arrive');
my %time = map { $json->decode($_->{body})->{data}{n} => $_->{time} } $receiver->log('all');
is(join(' ', sort keys %time), '1 3', 'neither one that has expired, nor the same again');
cmp_ok($time{1}, '>=', $start + 2, 'and the scheduled one not before its time');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM chatwebhook.delivery WHERE status = 'canceled' AND last_error = 'expired'}),
	'what has expired is canceled on the node');

#
# A role that row-level security applies to would copy nothing, without an error
#
$outbox->safe_psql('postgres', q{
	CREATE ROLE blind LOGIN REPLICATION;
	GRANT USAGE ON SCHEMA chatwebhook TO blind; GRANT SELECT ON chatwebhook.event TO blind});
my $blind = $subscribe =~ s{SUBSCRIPTION chatwebhook_postgres}{SUBSCRIPTION blind}r =~ s{slot_name = \w+}{slot_name = blind}r;
$blind =~ s/user=''\w+''/user=''blind''/ or die;
$node->safe_psql('postgres', $blind);
ok($outbox->wait_for_log(qr/row-level security would hide events from role "blind"/), 'it gets one');
$node->safe_psql('postgres', 'DROP SUBSCRIPTION blind');
$outbox->safe_psql('postgres', q{SELECT chatwebhook.forget_slot('blind')});

#
# Switched off
#
$receiver->reset;
keep('0');
# a session that does not take the new settings before its statement ends
my $lock = $outbox->background_psql('postgres');
$lock->query_safe('SELECT pg_advisory_lock(1)');
my $late = $outbox->background_psql('postgres');
$late->query_until(qr/begun/, q{\echo begun
	DO $$ BEGIN PERFORM pg_advisory_lock(1); PERFORM chatwebhook.emit('message.sent', NULL, NULL, '{"role": "", "content": "", "n": 1}'); END $$;
});
$outbox->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) or die;
$outbox->append_conf('postgresql.conf', "chatwebhook.outbox = off");
$outbox->reload;
ok($outbox->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM chatwebhook.event)'),
	'switched off, what is left is still handed over');
$lock->quit;
ok($receiver->wait_for(1, 'all'), 'so is an event that comes later');
ok($outbox->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM chatwebhook.event)'), 'and leaves');
$late->quit;
$receiver->reset;
is($outbox->safe_psql('postgres', q{SELECT chatwebhook.emit('message.sent', NULL, NULL, '{"role": "", "content": ""}')}), '', 'and new events are not stored');
is($outbox->safe_psql('postgres', 'SELECT count(*) FROM chatwebhook.outbox_status'), 0, 'outbox_status is empty');
$outbox->append_conf('postgresql.conf', "chatwebhook.outbox = on");
$outbox->reload;
$outbox->poll_query_until('postgres', 'SHOW chatwebhook.outbox', 'on') or die;
emit(1, 1);
all_arrive(1, 'on again');

foreach my $server ($outbox, $node)
{
	my @errors = grep { / (?:ERROR|PANIC): / && !/psql|statement/ && /chatwebhook worker/ } split /\n/, slurp_file($server->logfile);
	is("@errors", '', $server->name . ': the worker has met no error');
}

done_testing();
