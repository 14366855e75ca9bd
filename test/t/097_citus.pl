# Citus: chat tables that are distributed over nodes, each of which is an outbox.
#
# Only a cluster with Citus can show that each row emits one event, on the node that
# has its shard, in the distributed transaction, and none again when shards move; and
# that a delivery node which subscribes to all of them gets every event once.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($sharedir) = run_command([ 'pg_config', '--sharedir' ]);
plan skip_all => 'Citus is not installed' if !-e "$sharedir/extension/citus.control";

my $json = JSON::PP->new;
my $receiver = start_receiver();
my $node = new_node('node', 'max_logical_replication_workers' => 16, 'max_worker_processes' => 32,
	'wal_retrieve_retry_interval' => '100ms');

# A server that is a part of the cluster.
sub server
{
	my ($name) = @_;
	my $server = new_node($name, -extension => 0, -init => [ allows_streaming => 'logical' ],
		'shared_preload_libraries' => 'citus,chatwebhook', 'citus.enable_unsafe_triggers' => 'on',
		'citus.shard_count' => 8, 'max_prepared_transactions' => 50, 'max_worker_processes' => 32,
		'max_replication_slots' => 20, 'max_wal_senders' => 20, 'max_connections' => 60,
		'chatwebhook.outbox' => 'on', 'chatwebhook.outbox_keep' => '1s', 'chatwebhook.poll_interval' => '100ms');
	$server->append_conf('postgresql.conf', "citus.local_hostname = '" . $server->host . "'");
	$server->reload;
	$server->safe_psql('postgres', 'CREATE EXTENSION citus');
	return $server;
}

my ($coordinator, @workers) = map { server($_) } 'coordinator', 'w1', 'w2';
my $query = sub { $coordinator->safe_psql('postgres', $_[0]) };
$query->("SELECT citus_set_coordinator_host('" . $coordinator->host . "', " . $coordinator->port . ')');
$query->("SELECT citus_add_node('" . $_->host . "', " . $_->port . ')') foreach @workers;
$query->('CREATE EXTENSION chatwebhook');

# Run this on each worker, and return the sum.
sub total
{
	my ($sql) = @_;
	my $sum = 0;
	$sum += $_->safe_psql('postgres', $sql) foreach $coordinator, @workers;
	return $sum;
}

my $events = q{SELECT count(*) FROM chatwebhook.event WHERE type = 'message.sent'};
my $keys = '{"chatbotId": "chatbot_id", "conversationId": "conversation_id", "content": "content", "role": "@user", "n": "id"}';

#
# What can be watched
#
$query->(q{
	CREATE TABLE message (chatbot_id text, id bigint, conversation_id text, content text, PRIMARY KEY (chatbot_id, id));
	CREATE TABLE plan (id integer PRIMARY KEY);
	SELECT create_reference_table('plan')});
# rows from before it is distributed
$query->(qq{
	SELECT chatwebhook.watch('message', 'message.sent', '$keys');
	BEGIN;
	SELECT chatwebhook.unwatch('message', 'message.sent');
	INSERT INTO message SELECT 'bot' || n, -n, 'c' || n, 'old' FROM generate_series(1, 50) n;
	SELECT create_distributed_table('message', 'chatbot_id');
	SELECT chatwebhook.watch('message', 'message.sent', '$keys');
	COMMIT});
is(total($events), 0, 'distributing a table emits nothing');
like(($coordinator->psql('postgres', q{SELECT chatwebhook.watch('plan', 'message.sent', '{}')}))[2],
	qr/ERROR:  "plan" is a reference table of Citus\nDETAIL:  .*\nHINT:  Watch a distributed table/, 'a reference table is refused');
like(($coordinator->psql('postgres', q{SELECT chatwebhook.watch('message', 'message.sent', replace => true, query => $$SELECT 'bot' AS role, NEW.content$$)}))[2],
	qr/ERROR:  a watch of a distributed table cannot have a query/, 'so is a query');
like(($coordinator->psql('postgres', qq{SET citus.enable_unsafe_triggers = off; SELECT chatwebhook.watch('message', 'message.sent', '$keys')}))[2],
	qr/ERROR:  "message" is a distributed table.*HINT:  Set citus.enable_unsafe_triggers = on/s, 'and a trigger where Citus allows none');

#
# One event for each row, where the row is
#
$query->(q{INSERT INTO message SELECT 'bot' || n % 20, n, 'c' || n % 20, 'x' FROM generate_series(1, 100) n});
is(total($events), 100, 'each row emits one event');
is($query->($events), 0, 'none of them on the coordinator');
cmp_ok($_->safe_psql('postgres', $events), '>', 0, 'but on ' . $_->name) foreach @workers;
$query->(q{BEGIN; INSERT INTO message SELECT 'bot' || n % 20, n, 'c', 'x' FROM generate_series(1001, 1100) n; ROLLBACK});
is(total($events), 100, 'a distributed transaction that is rolled back emits nothing');
is(total('SELECT count(*) FROM chatwebhook.emit_failure'), 0, 'none failed');

#
# A delivery node that subscribes to all
#
create_webhook($node, name => 'all', ordered => 1, max_in_flight => 8);
foreach my $server ($coordinator, @workers)
{
	my ($name, $host, $port) = ($server->name, $server->host, $server->port);
	my $statement = $server->safe_psql('postgres', 'SELECT chatwebhook.publish_outbox()');
	$statement =~ s/host=''localhost''/host=''$host''/ or die;
	$statement =~ s/SUBSCRIPTION chatwebhook_postgres/SUBSCRIPTION chatwebhook_$name/ or die;
	$node->safe_psql('postgres', $statement);
}

# Whether the numbers up to this one have arrived once each, and the outboxes are empty.
sub all_arrive
{
	my ($n, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($receiver->wait_for($n, 'all'), "$what: all arrive");
	foreach my $server ($coordinator, @workers)
	{
		ok($server->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM chatwebhook.event)'), "$what: " . $server->name . ' is empty');
	}
	is(join(' ', sort { $a <=> $b } map { $json->decode($_->{body})->{data}{n} } $receiver->log('all')), join(' ', 1 .. $n), "$what: once each");
	return;
}
all_arrive(100, 'before the subscriptions');
$query->(qq{INSERT INTO message VALUES ('bot' || $_ % 20, $_, 'c' || $_ % 20, 'x')}) foreach 101 .. 200;
all_arrive(200, 'after them');

#
# A shard moves while rows are inserted
#
my ($shard, $from, $to) = split /\|/, $query->(qq{
	SELECT s.shardid, s.nodeport, o.nodeport FROM citus_shards s, pg_dist_node o
	 WHERE s.table_name = 'message'::regclass AND o.nodeport <> s.nodeport AND o.nodeport <> @{[ $coordinator->port ]}
	   AND s.shardid = get_shard_id_for_distribution_column('message', 'bot1')});
my %host = map { $_->port => $_->host } @workers;
my $session = $coordinator->background_psql('postgres');
$session->query_until(qr/moving/, qq{\\echo moving
SELECT citus_move_shard_placement($shard, '$host{$from}', $from, '$host{$to}', $to, 'force_logical');
});
$query->(qq{INSERT INTO message VALUES ('bot1', $_, 'moving', 'x')}) foreach 201 .. 300;
$session->quit;
is($query->("SELECT nodeport FROM citus_shards WHERE shardid = $shard"), $to, 'the shard has moved');
$query->(qq{INSERT INTO message VALUES ('bot1', $_, 'moved', 'x')}) foreach 301 .. 310;
all_arrive(310, 'a shard that moves');
is(total('SELECT count(*) FROM chatwebhook.emit_failure'), 0, 'none failed');

done_testing();
