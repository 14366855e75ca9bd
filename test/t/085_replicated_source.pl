# A source without the extension: chat tables that logical replication brings.
#
# Only two servers can show that a subscriber's watches fire for rows that are
# applied there, once for each commit and in its order, and not for the initial copy,
# whichever server crashes; and that neither an error nor on_emit_error stops the
# replication.

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
my $source = PostgreSQL::Test::Cluster->new('source');
$source->init(allows_streaming => 'logical', extra => [ '--encoding=UTF8', '--locale=C' ]);
$source->append_conf('postgresql.conf', 'max_prepared_transactions = 5');
$source->start;
my $node = new_node('node', 'max_logical_replication_workers' => 16, 'max_worker_processes' => 32,
	'chatwebhook.on_emit_error' => 'error', 'wal_retrieve_retry_interval' => '100ms');
my $tables = q{
	CREATE TABLE message (n integer PRIMARY KEY, conversation text, content text);
	CREATE TABLE visit (n integer, at date) PARTITION BY RANGE (n);
	CREATE TABLE visit_1 PARTITION OF visit FOR VALUES FROM (0) TO (100);
	CREATE TABLE visit_2 PARTITION OF visit FOR VALUES FROM (100) TO (200)};

# Have the subscriber apply all that was committed.
sub catch_up
{
	$source->wait_for_catchup('node');
}

# What has arrived, by a path of the body.
sub arrived
{
	my ($label, $what) = @_;
	return map { $what->($json->decode($_->{body})) } $receiver->log($label);
}

# The numbers that have arrived.
sub numbers
{
	my ($label) = @_;
	return join ' ', sort { $a <=> $b } arrived($label, sub { $_[0]{data}{n} });
}

$source->safe_psql('postgres', "$tables;
	CREATE PUBLICATION chat FOR ALL TABLES WITH (publish_via_partition_root = true);
	INSERT INTO message SELECT n, 'c' || n, 'before' FROM generate_series(1, 10) n;
	INSERT INTO visit SELECT n, now() FROM generate_series(1, 10) n");
$node->safe_psql('postgres', "$tables;
	INSERT INTO chatwebhook.event_type (name) VALUES ('message.placed'), ('message.changed'), ('visit.made')");
create_webhook($node, name => 'message', events => ['message.placed']);
create_webhook($node, name => 'changed', events => ['message.changed']);
create_webhook($node, name => 'visit', events => ['visit.made']);
$node->safe_psql('postgres', q{
	SELECT chatwebhook.watch('message', 'message.placed', '{"n": "n", "conversationId": "conversation", "content": "content"}', replicated => true);
	SELECT chatwebhook.watch('message', 'message.changed', operation => 'UPDATE', condition => 'NEW.content <> OLD.content',
		query => 'SELECT NEW.n, OLD.content AS before, NEW.content AS after', replicated => true);
	SELECT chatwebhook.watch('visit', 'visit.made', '{"n": "n", "half": "=10 / (NEW.n - 13)"}', replicated => true)});
my $source_connection = $source->connstr . ' dbname=postgres application_name=node';

#
# The initial copy, and what follows
#
$node->safe_psql('postgres', "CREATE SUBSCRIPTION node CONNECTION '$source_connection' PUBLICATION chat");
ok($node->poll_query_until('postgres', q{SELECT bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel}), 'the tables are copied');
is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM visit)'), '10|10', 'with their rows');
is($node->safe_psql('postgres', 'SELECT count(*) FROM chatwebhook.event'), 0, 'which emit nothing');
$source->safe_psql('postgres', q{
	INSERT INTO message SELECT n, 'c' || n, 'new' FROM generate_series(11, 60) n;
	UPDATE message SET content = 'changed' WHERE n <= 3;
	BEGIN; INSERT INTO message VALUES (1000, 'c', 'rolled back'); ROLLBACK;
	BEGIN; INSERT INTO message VALUES (61, 'c', 'prepared'); PREPARE TRANSACTION 'one';
	BEGIN; INSERT INTO message VALUES (1001, 'c', 'prepared'); PREPARE TRANSACTION 'two';
	COMMIT PREPARED 'one'; ROLLBACK PREPARED 'two';
	INSERT INTO visit SELECT n, now() FROM generate_series(11, 14) n;
	INSERT INTO visit VALUES (110, now())});
catch_up();
ok($receiver->wait_for(51, 'message'), 'new rows arrive');
ok($receiver->wait_for(3, 'changed'), 'and changes');
ok($receiver->wait_for(4, 'visit'), 'and rows of partitions');
is(numbers('message'), join(' ', 11 .. 61), 'each once, and none that was rolled back');
is_deeply([ sort { $a->{n} <=> $b->{n} } arrived('changed', sub { $_[0]{data} }) ],
	[ map { { n => $_, before => 'before', after => 'changed' } } 1 .. 3 ], 'old values are there');
is(numbers('visit'), '11 12 14 110', 'but for a row that could not be emitted');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 AND min(message) = 'division by zero' FROM chatwebhook.emit_failure}),
	'which is counted, and has not stopped the replication');
is($node->safe_psql('postgres', 'SELECT count(*) FROM visit'), 15, 'its row is there');
is($node->safe_psql('postgres', 'SELECT count(problem) FROM chatwebhook.watched'), 0, 'the watches have no problem');

# a row that is written here
$node->safe_psql('postgres', "INSERT INTO message VALUES (5000, 'here', 'own')");
ok($receiver->wait_for(52, 'message'), 'a row that is written here emits, too');
my (undef, undef, $stderr) = $node->psql('postgres', q{
	SELECT chatwebhook.watch('message', 'message.placed', '{"n": "n"}', replace => true)});
like($stderr, qr/NOTICE:  table "message" is in a subscription.*HINT:  .*replicated => true/s, 'a watch without "replicated" is told of it');
like($node->safe_psql('postgres', q{SELECT problem FROM chatwebhook.watched WHERE event_type = 'message.placed'}),
	qr/is in a subscription/, 'and has a problem');
$node->safe_psql('postgres', q{
	SELECT chatwebhook.watch('message', 'message.placed', '{"n": "n", "conversationId": "conversation", "content": "content"}', replace => true, replicated => true)});
is($node->safe_psql('postgres', 'SELECT count(problem) FROM chatwebhook.watched'), 0, 'replaced with it, no more');

#
# Crashes under load, in order
#
$receiver->reset;
$node->safe_psql('postgres', q{
	UPDATE chatwebhook.webhook SET ordered = true, max_in_flight = 8 WHERE name = 'message'});
my $rows = 2000;
my $pid = fork() // die "fork: $!";
if ($pid == 0)
{
	# rows of 20 conversations, each in a transaction of its own
	exec 'psql', '-X', '-q', '-d', $source->connstr('postgres'), '-c', qq{
		DO \$\$ BEGIN FOR n IN 10001 .. 10000 + $rows LOOP
			INSERT INTO message VALUES (n, 'c' || n % 20, 'load'); COMMIT;
			IF n % 10 = 0 THEN PERFORM pg_sleep(0.01); END IF;
		END LOOP; END \$\$} or die "psql: $!";
}
ok($receiver->wait_for(300, 'message'), 'deliveries are under way');
$node->stop('immediate');
$node->start;
ok($receiver->wait_for(800, 'message'), 'they go on after a crash of the node');
waitpid $pid, 0;
is($?, 0, 'all rows are inserted');
$source->stop('immediate');
$source->start;
catch_up();
ok(wait_idle($node), 'idle');
my @got = arrived('message', sub { $_[0] });
my %count;
my %last;
my $disorder = 0;
foreach my $event (@got)
{
	my ($c, $n) = ($event->{conversationId}, $event->{data}{n});

	next if $count{$n}++;
	$disorder++ if $n < ($last{$c} // 0);
	$last{$c} = $n;
}
is(scalar(keys %count), $rows, 'each has arrived');
is($disorder, 0, 'in the order of the commits within each conversation');
# of each of the 20 conversations, one delivery can have been sent and not settled
cmp_ok(scalar(@got) - $rows, '<=', 20, 'repeated are at most those that were not settled');

done_testing();
