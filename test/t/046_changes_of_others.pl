# What a customer changes, others do not pay for, and nobody misses.
#
# Sessions that emit keep what they have read of the table webhook. Only the
# statistics of its index can show that a change of one customer's webhooks does
# not make them read another's again; and only sessions that have read it before
# can show that they notice each change, however it is committed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";

use Chatwebhook;
use Session;
use Test::More;

my $rivals = 3;
my $times = 20;
my $url = 'https://example.com/';
my $receiver = start_receiver();
# new statistics invalidate caches, and would count as changes
my $node = new_node('main', autovacuum => 'off');

# The worker: only the statistics of the vault's index show whose secrets it reads.
my $busy = 20;
my $cycles = 10;
create_webhook($node, name => "busy $_", chatbot_id => 'rival', path => '/hang', timeout => '5 minutes') foreach 1 .. $busy;
my ($toggled) = create_webhook($node, name => 'toggled', chatbot_id => 'other');
sql("SELECT chatwebhook.emit('conversation.ended', 'rival', NULL, '{}')");
becomes_true("SELECT in_flight = $busy FROM chatwebhook.worker_status", 'a rival\'s webhooks have requests under way');
foreach my $i (0 .. $cycles)
{
	sql("UPDATE chatwebhook.webhook SET headers = '{\"X-Version\": \"$i\"}' WHERE id = '$toggled'");
	sql("SELECT chatwebhook.emit('conversation.ended', 'other', NULL, '{}')");
	$receiver->wait_for($i + 1, 'toggled') or last;
	becomes_true("SELECT count(*) = $i + 1 FROM chatwebhook.history", "change $i is known") or last;
}
is(join(' ', map { $_->{headers}{'x-version'} } $receiver->log('toggled')), join(' ', 0 .. $cycles), 'each change counts');
# its statistics come with one of its next transactions
my $reads = "(SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'vault_pkey')";
becomes_true("SELECT chatwebhook.emit('conversation.ended', 'other', NULL, '{}') IS NOT NULL AND $reads > $cycles",
	'the worker has read webhooks');
# to read a webhook reads the index twice
cmp_ok(sql("SELECT $reads"), '<', 2 * 3 * ($busy + $cycles), 'but not each of them after each change');
$node->stop('immediate');
$node->append_conf('postgresql.conf', 'chatwebhook.enabled = off');
$node->start;

# The number of deliveries that a session's event gets.
sub emitted
{
	my ($session, $chatbot, $type) = @_;
	$type //= 'conversation.ended';

	my $answer = $session->query(
		"SELECT chatwebhook.emit('$type', '$chatbot', NULL, '{}') AS id");
	die $answer->{error} if defined $answer->{error};
	chomp(my $id = $answer->{rows});
	return $id eq '' ? 0 : sql("SELECT count(*) FROM chatwebhook.queue WHERE event_id = '$id'");
}

# How often the index has been read, as far as sessions have told.
sub reads
{
	my ($session) = @_;
	$session->query('SELECT pg_stat_force_next_flush()') if server_major() >= 15;
	$session->query('SELECT 1');
	return sql("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'webhook_chatbot_idx'");
}

sql("INSERT INTO chatwebhook.webhook (name, chatbot_id, url) SELECT 'w' || i, 'bot_' || i, '$url' FROM generate_series(0, 1000) AS i");
my $session = Session->new($node, 'postgres');
is(emitted($session, "bot_$_"), 1, "bot_$_ has a webhook") foreach 1 .. $rivals;
my $before = reads($session);
foreach my $i (1 .. $times)
{
	sql("UPDATE chatwebhook.webhook SET enabled = NOT enabled WHERE name = 'w0'");
	emitted($session, "bot_$_") foreach 1 .. $rivals;
}
# two of them could share a counter with the other
cmp_ok(reads($session) - $before, '<=', $times, 'another customer\'s changes make nobody read his own webhooks again');

# each kind of change, in another session, is noticed
sub noticed
{
	my ($what, $chatbot, $n, @statements) = @_;

	script(join ';', @statements);
	is(emitted($session, $chatbot), $n, "noticed: $what");
}

is(emitted($session, 'new'), 0, 'a chatbot without webhooks');
noticed('its first', 'new', 1, "INSERT INTO chatwebhook.webhook (name, chatbot_id, url) VALUES ('new', 'new', '$url')");
noticed('disabled', 'new', 0, "UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'new'");
noticed('enabled', 'new', 1, "UPDATE chatwebhook.webhook SET enabled = true WHERE name = 'new'");
is(emitted($session, 'newer'), 0, 'another without');
noticed('moved to it', 'newer', 1, "UPDATE chatwebhook.webhook SET chatbot_id = 'newer' WHERE name = 'new'");
is(emitted($session, 'new'), 0, 'and away');
noticed('for all', 'new', 1, "UPDATE chatwebhook.webhook SET chatbot_id = NULL WHERE name = 'new'");
is(emitted($session, 'bot_1'), 2, 'of them');
noticed('deleted', 'bot_1', 1, "DELETE FROM chatwebhook.webhook WHERE name = 'new'");
noticed('rolled back', 'bot_1', 1, 'BEGIN', "DELETE FROM chatwebhook.webhook WHERE name = 'w1'", 'ROLLBACK');
noticed('half rolled back', 'bot_1', 2, 'BEGIN',
	"INSERT INTO chatwebhook.webhook (name, chatbot_id, url) VALUES ('w1 too', 'bot_1', '$url')",
	'SAVEPOINT s', "DELETE FROM chatwebhook.webhook WHERE chatbot_id = 'bot_1'", 'ROLLBACK TO s', 'COMMIT');
noticed('as a replica', 'bot_1', 1, 'SET session_replication_role = replica',
	"DELETE FROM chatwebhook.webhook WHERE name = 'w1 too'");
noticed('without triggers, as pg_restore can', 'bot_1', 0,
	'BEGIN', 'ALTER TABLE chatwebhook.webhook DISABLE TRIGGER ALL',
	"UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'w1'",
	'ALTER TABLE chatwebhook.webhook ENABLE TRIGGER ALL', 'COMMIT');
script('ALTER TABLE chatwebhook.webhook ENABLE ALWAYS TRIGGER changed');

# and its own, while they are not committed, and after
$session->query('BEGIN');
$session->query("UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'w2'");
my $answer = $session->query("SELECT chatwebhook.emit('conversation.ended', 'bot_2', NULL, '{}') IS NULL");
is($answer->{rows}, "t\n", 'its own change counts at once');
$session->query('ROLLBACK');
is(emitted($session, 'bot_2'), 1, 'and not after a rollback');

# a transaction that another session commits
$session->close;
$node->append_conf('postgresql.conf', 'max_prepared_transactions = 5');
$node->restart;
$session = Session->new($node, 'postgres');
is(emitted($session, 'bot_2'), 1, 'another server');
script("BEGIN; UPDATE chatwebhook.webhook SET enabled = false WHERE name = 'w2'; PREPARE TRANSACTION 'p'");
is(emitted($session, 'bot_2'), 1, 'prepared is not committed');
noticed('prepared before', 'bot_2', 0, "COMMIT PREPARED 'p'");
$session->close;

# without shared memory
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$session = Session->new($node, 'postgres');
is(emitted($session, 'bot_3'), 1, 'a server that has not preloaded the library');
noticed('without counters', 'bot_3', 0, "DELETE FROM chatwebhook.webhook WHERE name = 'w3'");
$session->close;

$node->stop;
done_testing();
