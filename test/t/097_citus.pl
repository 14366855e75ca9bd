# Citus: chat tables that are distributed over nodes, each of which is an outbox.
#
# Only a cluster with Citus can show that each row emits one event, on the node that
# has its shard, in the distributed transaction, and none again whatever Citus does
# with the shards; that this stays so when a node crashes; and that a delivery node
# which subscribes to all of them gets every event once.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

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
		'citus.shard_count' => 8, 'citus.recover_2pc_interval' => '1s', 'max_prepared_transactions' => 50,
		'max_worker_processes' => 32, 'max_replication_slots' => 20, 'max_wal_senders' => 20, 'max_connections' => 60,
		'chatwebhook.outbox' => 'on', 'chatwebhook.outbox_keep' => '1s', 'chatwebhook.poll_interval' => '100ms');
	$server->append_conf('postgresql.conf', "citus.local_hostname = '" . $server->host . "'");
	# since 15.20 and the like, which libraries decode is for the administrator to say
	$server->append_conf('postgresql.conf', "output_plugin_libraries = 'pgoutput, citus'")
	  if $server->safe_psql('postgres', q{SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'});
	$server->reload;
	$server->safe_psql('postgres', 'CREATE EXTENSION citus');
	return $server;
}

# Tell the cluster of a server.
sub add_node
{
	my ($server) = @_;
	return $_[1]->safe_psql('postgres', "SELECT citus_add_node('" . $server->host . "', " . $server->port . ')');
}

my ($coordinator, @workers) = map { server($_) } 'coordinator', 'w1', 'w2';
my $query = sub { $coordinator->safe_psql('postgres', $_[0]) };
$query->("SELECT citus_set_coordinator_host('" . $coordinator->host . "', " . $coordinator->port . ')');
add_node($_, $coordinator) foreach @workers;
$query->('CREATE EXTENSION chatwebhook');

# Run this on each server of the cluster, and return the sum.
sub total
{
	my ($sql) = @_;
	my $sum = 0;
	$sum += $_->safe_psql('postgres', $sql) foreach $coordinator, @workers;
	return $sum;
}

# What one is told.
sub messages
{
	my ($sql) = @_;
	return ($coordinator->psql('postgres', $sql))[2];
}

my $events = q{SELECT count(*) FROM chatwebhook.event WHERE type = 'message.sent'};
my $keys = '{"chatbotId": "chatbot_id", "conversationId": "conversation_id", "content": "content", "role": "@user", "n": "id"}';
my $watch = "SELECT chatwebhook.watch('message', 'message.sent', '$keys')";

# Insert this many rows, with the next numbers, for 20 chatbots, in one statement.
my $n = 0;
sub insert
{
	my ($rows, %how) = @_;
	my ($on, $content) = ($how{on} // $coordinator, $how{content} // 'x');
	$on->safe_psql('postgres', "INSERT INTO message
		SELECT 'bot' || n % 20, n, 'c' || n % 20, '$content' FROM generate_series($n + 1, $n + $rows) n");
	$n += $rows;
	return;
}

# The shard of a chatbot, and where it is.
sub shard_of
{
	my ($chatbot) = @_;
	my $shard = $query->("SELECT get_shard_id_for_distribution_column('message', '$chatbot')");
	my $port = $query->("SELECT nodeport FROM citus_shards WHERE shardid = $shard");
	return ($shard, grep { $_->port == $port } @workers);
}

# The statement that moves it to another worker.
sub move
{
	my ($chatbot, $to, $mode) = @_;
	my ($shard, $from) = shard_of($chatbot);
	return sprintf "SELECT citus_move_shard_placement(%d, '%s', %d, '%s', %d, '%s')",
		$shard, $from->host, $from->port, $to->host, $to->port, $mode;
}

#
# What can be watched
#
$query->(q{
	CREATE TABLE message (chatbot_id text, id bigint, conversation_id text, content text, PRIMARY KEY (chatbot_id, id));
	CREATE TABLE plan (id integer PRIMARY KEY);
	CREATE TABLE later (id integer PRIMARY KEY);
	SELECT chatwebhook.watch('plan', 'webhook.test', '{}');
	SELECT chatwebhook.watch('later', 'webhook.test', query => 'SELECT NEW.id');
	SELECT create_reference_table('plan');
	SELECT create_distributed_table('later', 'id')});
is($query->(q{SELECT string_agg(problem, ', ' ORDER BY relation::text) FROM chatwebhook.watched}),
	'table "later" is a distributed table of Citus, on whose nodes there is no query, '
	  . 'table "plan" is a reference table of Citus, each of whose rows emits an event on every node', 'what cannot be watched is a problem');
$query->(q{
	SELECT chatwebhook.unwatch('plan', 'webhook.test');
	SELECT chatwebhook.watch('later', 'webhook.test', '{"id": "id"}', replace => true)});
is($query->('SELECT count(problem) FROM chatwebhook.watched'), 0, 'until it is watched otherwise');
# rows from before it is distributed
$query->(qq{
	$watch;
	BEGIN;
	SELECT chatwebhook.unwatch('message', 'message.sent');
	INSERT INTO message SELECT 'bot' || n, -n, 'c' || n, 'old' FROM generate_series(1, 50) n;
	SELECT create_distributed_table('message', 'chatbot_id');
	$watch;
	COMMIT});
is(total($events), 0, 'distributing a table emits nothing');
like(messages(q{SELECT chatwebhook.watch('plan', 'message.sent', '{}')}),
	qr/ERROR:  "plan" is a reference table of Citus\nDETAIL:  .*\nHINT:  Watch a distributed table/, 'a reference table is refused');
like(messages(q{SELECT chatwebhook.watch('message', 'message.sent', replace => true, query => $$SELECT 'bot' AS role, NEW.content$$)}),
	qr/ERROR:  a watch of a distributed table cannot have a query/, 'so is a query');
like(messages("SET citus.enable_unsafe_triggers = off; $watch"),
	qr/ERROR:  "message" is a distributed table.*HINT:  Set citus.enable_unsafe_triggers = on/s, 'and a trigger where Citus allows none');

#
# One event for each row, where the row is
#
insert(1000);
is(total($events), 1000, 'each row of a statement over all shards emits one event');
is($query->($events), 0, 'none of them on the coordinator');
cmp_ok($_->safe_psql('postgres', $events), '>', 0, 'but on ' . $_->name) foreach @workers;
# a worker has some of the shards itself, while it sends rows to the others
insert(500, on => $workers[0]);
is(total($events), 1500, 'so do rows that are inserted through a worker');
$query->(q{BEGIN; INSERT INTO message SELECT 'bot' || n % 20, n, 'c', 'x' FROM generate_series(10001, 10100) n; ROLLBACK});
is(total($events), 1500, 'a distributed transaction that is rolled back emits nothing');

# a node that cannot prepare it
my ($shard) = shard_of('bot1');
my ($w) = (shard_of('bot1'))[1];
$query->(q{CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not prepared'; END $$});
$w->safe_psql('postgres', "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON message_$shard DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()");
like(messages(q{INSERT INTO message SELECT 'bot' || n % 20, n, 'c', 'x' FROM generate_series(10001, 10100) n}), qr/ERROR:  not prepared/, 'a transaction fails');
like(slurp_file($w->logfile), qr/ERROR:  not prepared.*\n.*\n.*STATEMENT:  PREPARE TRANSACTION/, 'when it is prepared');
$w->safe_psql('postgres', "DROP TRIGGER refuse ON message_$shard");
is(total($events), 1500, 'which emits nothing either');
is(total('SELECT count(*) FROM chatwebhook.emit_failure'), 0, 'none failed');

# a validator has a subtransaction, which cannot begin while rows are being sent to the others
my $set_validator = sub {
	$workers[0]->safe_psql('postgres', "UPDATE chatwebhook.event_type SET schema = $_[0] WHERE name = 'message.sent'; ALTER SYSTEM SET chatwebhook.schema_validator = '$_[1]'");
	$workers[0]->reload;
	$workers[0]->poll_query_until('postgres', 'SHOW chatwebhook.schema_validator', $_[1]) or die;
};
$query->('CREATE FUNCTION public.validate(json, jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN true');
$set_validator->(q('{}'), 'public.validate');
like(($workers[0]->psql('postgres', q{INSERT INTO message SELECT 'bot' || n % 20, n, 'c', 'x' FROM generate_series(10001, 10100) n}))[2],
	qr/\A(?!.*was not emitted).*ERROR:  .*another command is already in progress/s, 'then a statement through a worker fails');
is(total($events), 1500, 'and emits nothing');
$set_validator->('NULL', '');

#
# A delivery node that subscribes to all
#
create_webhook($node, name => 'all', path => '/hang-until-told', ordered => 1, max_in_flight => 50, timeout => '5 min', events => ['message.sent']);

sub subscribe_to
{
	my ($server) = @_;
	my ($name, $host, $port) = ($server->name, $server->host, $server->port);
	my $statement = $server->safe_psql('postgres', 'SELECT chatwebhook.publish_outbox()');
	$statement =~ s/host=''localhost''/host=''$host''/ or die;
	$statement =~ s/SUBSCRIPTION chatwebhook_postgres/SUBSCRIPTION chatwebhook_$name/ or die;
	$node->safe_psql('postgres', $statement);
	return;
}
subscribe_to($_) foreach $coordinator, @workers;

# The numbers that have arrived with a webhook, in this order.
sub numbers
{
	my ($label) = @_;
	return map { $json->decode($_->{body})->{data}{n} } $receiver->log($label);
}

# Whether all numbers have arrived once each, and the outboxes are empty.
sub all_arrive
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($receiver->wait_for($n, 'all'), "$what: all arrive");
	ok($_->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM chatwebhook.event)'), "$what: " . $_->name . ' is empty')
	  foreach $coordinator, @workers;
	is(join(' ', sort { $a <=> $b } numbers('all')), join(' ', 1 .. $n), "$what: once each");
	return;
}

#
# A shard moves while rows of its conversation are inserted, and none is delivered
#
$query->('CREATE TABLE moved (way text)');
my $inserting = fork() // die "fork: $!";
if ($inserting == 0)
{
	exec 'psql', '-X', '-q', '-d', $coordinator->connstr('postgres'), '-c', qq{
		DO \$\$ DECLARE n bigint := $n; BEGIN LOOP
			n := n + 1; INSERT INTO message VALUES ('bot1', n, 'moving', 'x'); COMMIT; PERFORM pg_sleep(0.003);
			EXIT WHEN EXISTS (SELECT FROM moved);
		END LOOP; END \$\$} or die "psql: $!";
}
my $of_moving = q{SELECT count(*) > 20 FROM message WHERE conversation_id = 'moving'};
$coordinator->poll_query_until('postgres', $of_moving) or die 'nothing is inserted';
my ($other) = grep { $_ != $w } @workers;
$query->(move('bot1', $other, 'force_logical'));
$query->(move('bot1', $w, 'block_writes'));
$query->(move('bot1', $other, 'force_logical'));
is((shard_of('bot1'))[1]->name, $other->name, 'the shard has moved');
$query->(q{INSERT INTO moved VALUES ('there and back')});
waitpid $inserting, 0;
is($?, 0, 'no insert fails');
$n = $query->('SELECT max(id) FROM message');
ok($node->poll_query_until('postgres', "SELECT count(*) = $n FROM chatwebhook.event"), "$n events wait on the delivery node");
$receiver->set(up => ['all']);
all_arrive('a shard that moves');
my %last;
my @late = grep { my ($c, $number) = @$_; my $late = $number < ($last{$c} // 0); $last{$c} = $number; $late }
  map { my $event = $json->decode($_->{body}); [ $event->{conversationId}, $event->{data}{n} ] } $receiver->log('all');
is(scalar(@late), 0, 'each conversation in order');

#
# Whatever else Citus does with shards
#
sub survives
{
	my ($what, @statements) = @_;
	$query->($_) foreach @statements;
	insert(40);
	all_arrive($what);
	return;
}
sub split_shard
{
	my ($chatbot, $mode) = @_;
	my ($id) = shard_of($chatbot);
	return $query->(qq{SELECT format('SELECT citus_split_shard_by_split_points(%s, ARRAY[%L], ARRAY[%s], %L)', shardid,
			(shardminvalue::bigint + shardmaxvalue::bigint) / 2, string_agg(nodeid::text, ', '), '$mode')
		FROM pg_dist_shard, pg_dist_node WHERE shardid = $id AND groupid > 0 GROUP BY pg_dist_shard.shardid, shardminvalue, shardmaxvalue});
}
foreach my $mode ('force_logical', 'block_writes')
{
	survives("a tenant that is isolated, $mode",
		"SELECT isolate_tenant_to_new_shard('message', '" . ($mode eq 'block_writes' ? 'bot2' : 'bot3') . "', shard_transfer_mode => '$mode')");
	survives("a shard that is split, $mode", split_shard('bot4', $mode));
}
survives('another number of shards', q{SELECT alter_distributed_table('message', shard_count => 4)});
survives('a table that is distributed no more', q{SELECT undistribute_table('message')});
survives('and is again', qq{
	BEGIN;
	SELECT chatwebhook.unwatch('message', 'message.sent');
	SELECT create_distributed_table('message', 'chatbot_id');
	$watch;
	COMMIT});

#
# examples/chat.sql, as the page says
#
my $root = "$FindBin::RealBin/../..";
my ($distribute) = slurp_file("$root/docs/replication.md") =~ /```sql\n([^`]*'chat\.conversation'[^`]*)```/ or die 'the page does not say';
create_webhook($node, name => 'chat', events => [ 'conversation.*', 'message.received', 'lead.*', 'handoff.*', 'feedback.*', 'sales.*', 'sentiment.*' ]);
$coordinator->psql('postgres', slurp_file("$root/examples/chat.sql"), on_error_die => 1);
$query->($distribute);
# through a worker: the sequences of ids are distributed, too
$workers[1]->safe_psql('postgres', q{
	SET search_path = chat;
	INSERT INTO conversation (chatbot_id, visitor_id, page_url, user_agent) SELECT 'bot' || n, 'v', '/', 'x' FROM generate_series(1, 20) n;
	INSERT INTO message (chatbot_id, conversation_id, role, content, sentiment, sentiment_score) SELECT chatbot_id, id, 'user', 'x', 'negative', 0.9 FROM conversation;
	INSERT INTO lead (chatbot_id, conversation_id, email, summary) SELECT chatbot_id, id, 'a@example.com', 'x' FROM conversation;
	INSERT INTO handoff (chatbot_id, conversation_id, reason) SELECT chatbot_id, id, 'x' FROM conversation;
	INSERT INTO feedback (chatbot_id, conversation_id, rating) SELECT chatbot_id, id, 5 FROM conversation;
	INSERT INTO opportunity (chatbot_id, conversation_id, visitor_id, intent) SELECT chatbot_id, id, 'v', 'x' FROM conversation;
	UPDATE conversation SET ended_at = now()});
$receiver->wait_for(160, 'chat');
my %types;
$types{ $json->decode($_->{body})->{type} }++ foreach $receiver->log('chat');
is_deeply(\%types, { map { $_ => 20 } qw(conversation.started message.received sentiment.negative lead.captured
	handoff.requested feedback.received sales.opportunity conversation.ended) }, 'chat.sql: each row emits its events');
$node->safe_psql('postgres', q{DELETE FROM chatwebhook.webhook WHERE name = 'chat'});

#
# One rate limit for all nodes
#
create_webhook($node, name => 'rate', rate_limit => 10, events => ['message.received']);
$query->(qq{SELECT chatwebhook.watch('message', 'message.received', '$keys', condition => \$\$NEW.content = 'rate'\$\$)});
insert(70, content => 'rate');

#
# A node that is added, and subscribed to later
#
my $added = server('w3');
add_node($added, $coordinator);
$query->(q{SELECT rebalance_table_shards('message', shard_transfer_mode => 'block_writes')});
insert(100);
my $waiting = $added->safe_psql('postgres', $events);
cmp_ok($waiting, '>', 0, 'a node that was added has shards');
ok($receiver->wait_for($n - $waiting, 'all'), 'the events of the others arrive');
subscribe_to($added);
push @workers, $added;
all_arrive('once it is subscribed to');
is($receiver->count('all'), $n, 'and nothing else');

ok($receiver->wait_for(70, 'rate'), 'all arrive at the webhook with a rate limit');
my ($first, $last) = map { $_->{time} } ($receiver->log('rate'))[ 0, 60 ];
note(sprintf '%.2f a second', 60 / ($last - $first));
cmp_ok(60 / ($last - $first), '<=', 11.5, 'as fast as it allows');
cmp_ok($last - $first, '<=', scaled(60 / 9), 'and no slower');
$query->(q{SELECT chatwebhook.unwatch('message', 'message.received')});
insert(40, content => 'rate');
all_arrive('without that watch');
ok(wait_idle($node), 'idle');
is($receiver->count('rate'), 70, 'no shard has it any more');

#
# Workers crash under load
#
my $from = $n;
my $script = PostgreSQL::Test::Utils::tempdir() . '/load.sql';
append_to_file($script, join '', map {
	my $row = $from + 3 * $_;
	'INSERT INTO message VALUES ' . join(', ', map { sprintf "('bot%d', %d, 'c%d', 'load')", $_ % 20, $_, $_ % 20 } $row + 1 .. $row + 3) . ";\n"
} 0 .. 20_000);
my $loading = fork() // die "fork: $!";
if ($loading == 0)
{
	open STDERR, '>', '/dev/null' or die;
	exec 'psql', '-X', '-q', '-d', $coordinator->connstr('postgres'), '-f', $script or die "psql: $!";
}
my $arrived = $n;
my $go_on = sub { ok($receiver->wait_for($arrived = $receiver->count('all') + 300, 'all'), $_[0]) };
$go_on->('deliveries are under way');
my @pids = (split(/\n/, $workers[0]->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity')),
	slurp_file($workers[0]->data_dir . '/postmaster.pid') =~ /^(\d+)/);
$workers[0]->kill9;
my $deadline = time + scaled(60);
sleep 0.01 while (grep { kill 0, $_ } @pids) && time < $deadline;
$workers[0]->start;
$go_on->('they go on after a worker was killed');
$workers[1]->stop('immediate');
$workers[1]->start;
$go_on->('and after another has crashed');
kill 'TERM', $loading;
waitpid $loading, 0;
foreach my $server ($coordinator, @workers)
{
	ok($server->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM pg_prepared_xacts)'), $server->name . ' has no prepared transaction');
}
my $rows = $query->("SELECT string_agg(id::text, ' ' ORDER BY id) FROM message WHERE id > $from");
$n = $from + (() = $rows =~ /\d+/g);
ok($receiver->wait_for($n, 'all'), 'all rows arrive');
ok($_->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM chatwebhook.event)'), $_->name . ' is empty') foreach $coordinator, @workers;
ok(wait_idle($node), 'idle');
is(join(' ', sort { $a <=> $b } grep { $_ > $from } numbers('all')), $rows, 'those that were committed, once each');
is(total('SELECT count(*) FROM chatwebhook.emit_failure'), 0, 'none failed');

done_testing();
