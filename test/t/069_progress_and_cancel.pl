# Functions that act on many rows: what they say meanwhile, and that they can be
# canceled.
#
# Only a call that takes long can show how far it is, to its client and to others,
# and only one that is stopped in the middle that it leaves everything as it was.
# Here, two rows are locked: the first keeps a call waiting until it has something
# to say, the second until it is canceled.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Chatwebhook;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;

my $n = 12_000;
my $node = new_node('main', 'chatwebhook.enabled' => 'off', 'compute_query_id' => 'on');
my ($id) = create_webhook($node, name => 'many', url => 'https://example.com/');

# That many events of a conversation, and their deliveries in a table of finished ones.
sub fill
{
	my ($table, $status) = @_;
	script(qq{
		SET session_replication_role = replica;
		TRUNCATE chatwebhook.event, chatwebhook.queue, chatwebhook.history, chatwebhook.dead, chatwebhook.attempt;
		INSERT INTO chatwebhook.event (id, type, chatbot_id, conversation_id, created_at, first_delivery, last_delivery, data)
			SELECT chatwebhook.uuidv7(), 'conversation.ended', 'bot', 'long', now(), i, i, '{}' FROM generate_series(1, $n) i;
		INSERT INTO chatwebhook.$table (id, webhook_id, event_id, created_at, completed_at, attempts, chatbot_id, webhook_name, status)
			SELECT first_delivery, '$id', id, created_at, now(), 1, 'bot', 'many', '$status' FROM chatwebhook.event ORDER BY first_delivery;
		INSERT INTO chatwebhook.attempt (delivery_id, attempt, webhook_id, started_at)
			SELECT first_delivery, 1, '$id', now() FROM chatwebhook.event ORDER BY first_delivery;
		ANALYZE});
	return;
}

# All that is there.
sub all
{
	return sql(q{SELECT md5(string_agg(x, '' ORDER BY x)) FROM (
		SELECT e::text FROM chatwebhook.event e UNION ALL SELECT q::text FROM chatwebhook.queue q
		UNION ALL SELECT h::text FROM chatwebhook.history h UNION ALL SELECT d::text FROM chatwebhook.dead d
		UNION ALL SELECT a::text FROM chatwebhook.attempt a) AS t (x)});
}

# Call a function, $call, that waits at the first and then at the last of what
# $lock locks, where it is canceled.
sub interrupt
{
	my ($name, $call, $lock, %options) = @_;
	my $done = $options{total} ? qr/\d+ of $n/ : qr/\d+/;
	my $before = all();
	my @lockers = map { Session->new($node, 'postgres') or die $Session::error } 0, 1;
	foreach my $i (0, 1)
	{
		$lockers[$i]->query('BEGIN');
		my $answer = $lockers[$i]->query($lock->($i));
		die $answer->{error} if defined $answer->{error};
	}
	like(($node->psql('postgres', "SET statement_timeout = '500ms'; SELECT chatwebhook.$call"))[2],
		qr/ERROR:  canceling statement due to statement timeout/, "$name: it can be timed out");
	is(all(), $before, 'which leaves everything as it was');

	my ($out, $err) = ('', '');
	my $psql = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', "SET application_name = 'caller'", '-c', "SELECT chatwebhook.$call" ],
		'>', \$out, '2>', \$err);
	my $caller = q{FROM pg_stat_activity WHERE application_name = 'caller' AND wait_event_type = 'Lock'};
	becomes_true("SELECT count(*) = 1 $caller AND clock_timestamp() - query_start > '2.1 seconds'", "$name: it waits for a lock");
	my $query_id = sql("SELECT query_id $caller");
	isnt($query_id, '', 'its statement has an id');
	$lockers[0]->query('ROLLBACK');
	becomes_true("SELECT count(*) = 1 $caller AND query ~ '^/\\* $name\\(\\): " . ($options{total} ? "[0-9]+ of $n" : '[0-9]+') . " done \\*/ SELECT chatwebhook\\.$name'",
		'others see how far it is, and its statement');
	is(sql("SELECT query_id $caller"), $query_id, 'of which the id is the same');
	sql("SELECT pg_cancel_backend(pid) $caller");
	$psql->finish;
	like($err, qr/NOTICE:  $name\(\): $done done\n/, 'the client, too');
	like($err, qr/ERROR:  canceling statement due to user request/, 'it can be canceled');
	is(all(), $before, 'which leaves everything as it was, too');
	$lockers[1]->query('ROLLBACK');
	$_->close foreach @lockers;
	my ($result, $notices) = ($node->psql('postgres', "SELECT chatwebhook.$call; SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()"))[1, 2];
	like($result, qr/^$n\nSELECT query FROM/, 'afterwards, it does all of it, and is not mentioned any more');
	return;
}

# The lock of the first or the last row of a table, or the other way round.
sub row
{
	my ($table, $column, $newest_first) = @_;
	return sub {
		my $which = ($_[0] xor $newest_first) ? 'max' : 'min';
		return "SELECT FROM chatwebhook.$table WHERE $column = (SELECT $which($column) FROM chatwebhook.$table) FOR UPDATE";
	};
}

subtest 'retry_dead()' => sub {
	fill('dead', 'dead');
	interrupt('retry_dead', 'retry_dead()', row('dead', 'id'), total => 1);
	is(sql('SELECT count(*) FROM chatwebhook.queue'), $n, 'all are pending');
};

subtest 'replay()' => sub {
	fill('history', 'delivered');
	interrupt('replay', "replay('$id')", row('history', 'id', 1), total => 1);
	is(sql('SELECT count(*) FROM chatwebhook.queue'), $n, 'all are pending');
};

subtest 'purge_dead_letters()' => sub {
	fill('dead', 'dead');
	interrupt('purge_dead_letters', 'purge_dead_letters()', row('dead', 'id'), total => 1);
	is(sql('SELECT count(*) FROM chatwebhook.dead'), 0, 'none is left');
};

subtest 'erase_conversation()' => sub {
	fill('history', 'delivered');
	interrupt('erase_conversation', q{erase_conversation('bot', 'long')}, row('event', 'first_delivery'), total => 1);
	is(sql('SELECT count(*) FROM chatwebhook.event'), 0, 'none is left');
};

subtest 'backfill()' => sub {
	fill('history', 'delivered');
	script(qq{
		CREATE TABLE ended (id integer);
		INSERT INTO ended SELECT generate_series(1, $n);
		CREATE FUNCTION waits(id integer) RETURNS integer LANGUAGE plpgsql AS \$\$
		BEGIN
			IF id IN (1, $n) THEN
				PERFORM pg_advisory_xact_lock_shared(id);
			END IF;
			RETURN id;
		END \$\$});
	interrupt('backfill', "backfill('$id', 'ended', 'conversation.ended', query => 'SELECT waits(NEW.id) AS n')",
		sub { return 'SELECT pg_advisory_xact_lock(' . ($_[0] ? $n : 1) . ')' });
	is(sql(q{SELECT count(*) FROM chatwebhook.queue WHERE next_attempt_at = 'infinity'}), $n, 'all are pending');
};

# what does not take long has nothing to say
fill('dead', 'dead');
is(($node->psql('postgres', 'SELECT chatwebhook.retry_dead(dry_run => true)'))[2], '', 'a dry run is quiet');
is(($node->psql('postgres', q{SELECT chatwebhook.retry_dead(since => 'infinity')}))[2], '', 'as is a call without effect');
is(sql(q{SELECT chatwebhook.retry_dead(since => 'infinity')}), 0, 'which acts on none');
# every role may call what says how far a function is
is(sql(q{SELECT chatwebhook._progress(NULL, 0, 10)}), '', 'nor does a function without a name crash the server');
like(($node->psql('postgres', q{SELECT chatwebhook._act(NULL, '{}')}))[1], qr/^0$/, 'nor an unnamed act');

$node->stop;
done_testing();
